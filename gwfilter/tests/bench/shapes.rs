//! Other structures for a list of prefixes, each as maps of the kernel's and a program that does nothing but look a packet's source up.
//!
//! They are what was weighed against flat tables (`docs/adr/0026-flat-source-tables.md`): all answer alike, and are measured beside them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use xtask::bpf::insn::{
    ABOVE, ALWAYS, EQUAL, MAP_LOOKUP_ELEM, R0, R1, R2, R3, R4, R6, R7, R8, R9, STACK, UNEQUAL, add,
    add_register, and, call, exit, from_network, jump, jump_above, load_byte, load_word, map, mov,
    mov_register, only_value, shift_left, shift_right, store_word,
};
use xtask::bpf::{self, Map, MapKind, ProgramKind};

use crate::driver::{HEADERS, SOURCE4, SOURCE6, bounds};
use crate::sources::{Family, List};

/// The top 24 bits of an address.
const TOP: usize = 1 << 24;

/// Answers of a byte or a word of an array; larger words of the first array name a block.
const OTHER: u8 = 0;
const FOUND: u8 = 1;
const ASK: u8 = 2;

/// A list in some shape.
#[derive(Debug)]
pub(crate) struct Shape {
    family: Family,
    maps: Maps,
}

#[derive(Debug)]
enum Maps {
    /// The kernel's longest-prefix trie.
    Trie(Map),
    /// A byte for each /24 in front of the trie: the answer, or to ask the trie.
    Front { front: Map, trie: Map },
    /// A hash table for each length that occurs, the longest first.
    Lengths(Vec<(u8, Map)>),
    /// DIR-24-8: a word for each /24, which is the answer or names a block of 256 bytes.
    Blocks { first: Map, blocks: Map, last: i32 },
}

impl Shape {
    /// The kernel's own.
    pub(crate) fn trie(list: &List) -> Result<Self> {
        Ok(Self {
            family: list.family(),
            maps: Maps::Trie(trie(list)?),
        })
    }

    /// A byte for each /24 in front of the trie.
    pub(crate) fn front(list: &List) -> Result<Self> {
        let mut bytes = vec![OTHER; TOP];
        for (network, bits) in list.networks() {
            let answer = if bits > 24 { ASK } else { FOUND };
            for byte in covered(&mut bytes, network, bits) {
                *byte = answer;
            }
        }
        Ok(Self {
            family: list.family(),
            maps: Maps::Front {
                front: one_value(&bytes).context("making a byte for each /24")?,
                trie: trie(list)?,
            },
        })
    }

    /// A hash table for each length.
    pub(crate) fn lengths(list: &List) -> Result<Self> {
        let mut keys: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let size = key_size(list.family());
        for (network, bits) in list.networks() {
            let keys = keys.entry(bits).or_default();
            keys.extend(network.iter().take(size));
        }
        let longest_first = keys.into_iter().rev();
        let tables = longest_first.map(|(bits, keys)| {
            let count = keys.len() / size;
            let map = Map::new(MapKind::Hash, u32::try_from(size)?, 8, u32::try_from(count)?)
                .context("making a hash table")?;
            map.set_all(&keys, &1_u64.to_ne_bytes().repeat(count))
                .context("filling a hash table")?;
            Ok((bits, map))
        });
        Ok(Self {
            family: list.family(),
            maps: Maps::Lengths(tables.collect::<Result<_>>()?),
        })
    }

    /// DIR-24-8. Of IPv4 only.
    pub(crate) fn blocks(list: &List) -> Result<Self> {
        let mut first = vec![u32::from(OTHER); TOP];
        let mut blocks: Vec<u8> = Vec::new();
        for (network, bits) in list.networks() {
            if bits <= 24 {
                for word in covered(&mut first, network, bits) {
                    *word = FOUND.into();
                }
                continue;
            }
            let place = covered(&mut first, network, 24).first_mut();
            let place = place.context("an address beyond the array")?;
            if *place < u32::from(ASK) {
                *place = u32::from(ASK) + u32::try_from(blocks.len() / 256)?;
                blocks.resize(blocks.len() + 256, OTHER);
            }
            let begin = usize::try_from(*place - u32::from(ASK))? * 256 + usize::from(network[3]);
            let ones = blocks.get_mut(begin..begin + (1 << (32 - bits)));
            ones.context("a prefix beyond its block")?.fill(FOUND);
        }
        if blocks.is_empty() {
            blocks.resize(256, OTHER);
        }
        let words: Vec<u8> = first.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(Self {
            family: list.family(),
            maps: Maps::Blocks {
                first: one_value(&words).context("making a word for each /24")?,
                last: i32::try_from(blocks.len() / 256 - 1)?,
                blocks: one_value(&blocks).context("making blocks")?,
            },
        })
    }

    /// The program: it ends with `found` or with `other`.
    pub(crate) fn program(&self, kind: ProgramKind, [found, other]: [i32; 2]) -> io::Result<OwnedFd> {
        let (begin, end) = bounds(kind);
        let mut code = vec![
            Step::Do(load_word(R2, R1, begin)),
            Step::Do(load_word(R3, R1, end)),
            Step::Do(mov_register(R4, R2)),
            Step::Do(add(R4, HEADERS)),
            Step::Other(jump_above(R4, R3, 0)),
        ];
        code.extend(match &self.maps {
            Maps::Trie(map) => in_trie(self.family, map),
            Maps::Front { front, trie } => in_front(front, trie),
            Maps::Lengths(tables) => in_lengths(self.family, tables),
            Maps::Blocks { first, blocks, last } => in_blocks(first, blocks, *last),
        });
        bpf::load(kind, &assembled(&code, found, other))
    }
}

/// An instruction, or a jump whose offset is still to be known.
#[derive(Clone, Copy)]
enum Step {
    Do(u64),
    Found(u64),
    Other(u64),
}

/// What comes out at the end of the steps was found.
fn assembled(steps: &[Step], found: i32, other: i32) -> Vec<u64> {
    let jump = |jump: u64, at: usize, ends: usize| {
        let off = i16::try_from(ends - at - 1).unwrap_or_default();
        jump | u64::from(off.cast_unsigned()) << 16
    };
    let ends = steps.len();
    let mut code: Vec<u64> = (0..)
        .zip(steps)
        .map(|(at, step)| match step {
            Step::Do(insn) => *insn,
            Step::Found(insn) => jump(*insn, at, ends),
            Step::Other(insn) => jump(*insn, at, ends + 2),
        })
        .collect();
    code.extend([mov(R0, found), exit(), mov(R0, other), exit()]);
    code
}

fn steps<const N: usize>(code: [u64; N]) -> impl Iterator<Item = Step> {
    code.into_iter().map(Step::Do)
}

/// Looks the source of the frame at `r2` up in a trie.
fn in_trie(family: Family, trie: &Map) -> Vec<Step> {
    let (at, key) = match family {
        Family::V4 => (SOURCE4, -8),
        Family::V6 => (SOURCE6, -20),
    };
    let bits = 32 * i32::from(family.words());
    let mut code: Vec<Step> = steps([mov(R3, bits), store_word(STACK, key, R3)]).collect();
    for word in 0..family.words() {
        code.extend(steps([
            load_word(R3, R2, at + 4 * word),
            store_word(STACK, key + 4 + 4 * word, R3),
        ]));
    }
    code.extend(steps(map(R1, trie.as_fd())));
    code.extend(steps([
        mov_register(R2, STACK),
        add(R2, i32::from(key)),
        call(MAP_LOOKUP_ELEM),
    ]));
    code.push(Step::Other(jump(EQUAL, R0, 0, 0)));
    code
}

/// The top 24 bits of the source of the frame at `r2` to `r3`, all of it to `r4`.
fn top() -> impl Iterator<Item = Step> {
    steps([
        load_word(R4, R2, SOURCE4),
        from_network(R4),
        mov_register(R3, R4),
        shift_right(R3, 8),
        and(R3, 0x00ff_ffff),
    ])
}

fn in_front(front: &Map, trie: &Map) -> Vec<Step> {
    let mut code: Vec<Step> = top().collect();
    code.extend(steps(only_value(R1, front.as_fd())));
    code.extend(steps([add_register(R1, R3), load_byte(R1, R1, 0)]));
    code.push(Step::Other(jump(EQUAL, R1, OTHER.into(), 0)));
    code.push(Step::Found(jump(EQUAL, R1, FOUND.into(), 0)));
    code.extend(in_trie(Family::V4, trie));
    code
}

fn in_blocks(first: &Map, blocks: &Map, last: i32) -> Vec<Step> {
    let mut code: Vec<Step> = top().collect();
    code.extend(steps(only_value(R1, first.as_fd())));
    code.extend(steps([
        shift_left(R3, 2),
        add_register(R1, R3),
        load_word(R3, R1, 0),
    ]));
    code.push(Step::Other(jump(EQUAL, R3, OTHER.into(), 0)));
    code.push(Step::Found(jump(EQUAL, R3, FOUND.into(), 0)));
    code.extend(steps([add(R3, -i32::from(ASK))]));
    code.push(Step::Other(jump(ABOVE, R3, last, 0)));
    code.extend(steps([shift_left(R3, 8), and(R4, 0xff), add_register(R3, R4)]));
    code.extend(steps(only_value(R1, blocks.as_fd())));
    code.extend(steps([add_register(R1, R3), load_byte(R1, R1, 0)]));
    code.push(Step::Other(jump(EQUAL, R1, OTHER.into(), 0)));
    code
}

fn in_lengths(family: Family, tables: &[(u8, Map)]) -> Vec<Step> {
    let at = match family {
        Family::V4 => SOURCE4,
        Family::V6 => SOURCE6,
    };
    let key = -4 * family.words();
    let words = || (0..family.words()).zip([R6, R7, R8, R9]);
    let mut code: Vec<Step> = words()
        .map(|(word, register)| Step::Do(load_word(register, R2, at + 4 * word)))
        .collect();
    for (bits, table) in tables {
        for (word, register) in words() {
            code.extend(steps([
                mov_register(R3, register),
                and(R3, mask(*bits, word)),
                store_word(STACK, key + 4 * word, R3),
            ]));
        }
        code.extend(steps(map(R1, table.as_fd())));
        code.extend(steps([
            mov_register(R2, STACK),
            add(R2, i32::from(key)),
            call(MAP_LOOKUP_ELEM),
        ]));
        code.push(Step::Found(jump(UNEQUAL, R0, 0, 0)));
    }
    code.push(Step::Other(jump(ALWAYS, 0, 0, 0)));
    code
}

/// Which bits of a word, as it is in the packet, a prefix has.
fn mask(bits: u8, word: i16) -> i32 {
    let of = i32::from(bits) - 32 * i32::from(word);
    let mask = match of {
        ..=0 => 0,
        32.. => u32::MAX,
        _ => !(u32::MAX >> of),
    };
    i32::from_ne_bytes(mask.to_be_bytes())
}

/// The elements of an array over /24s that a prefix covers; it lies in one of them where it is longer.
fn covered<T>(array: &mut [T], network: [u8; 16], bits: u8) -> &mut [T] {
    let [a, b, c, ..] = network.map(usize::from);
    let begin = a << 16 | b << 8 | c;
    let count = 1_usize << 24_u8.saturating_sub(bits);
    array.get_mut(begin..begin + count).unwrap_or_default()
}

const fn key_size(family: Family) -> usize {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

/// An array with a single value, which programs reach without a call.
fn one_value(bytes: &[u8]) -> Result<Map> {
    let map = Map::new(MapKind::Array, 4, u32::try_from(bytes.len())?, 1)?;
    map.set(&0_u32.to_ne_bytes(), bytes)?;
    Ok(map)
}

/// The kernel's own table with the same prefixes.
fn trie(list: &List) -> Result<Map> {
    let size = key_size(list.family());
    let map = Map::new(
        MapKind::Trie,
        4 + u32::try_from(size)?,
        8,
        u32::try_from(list.len())?.max(1),
    )
    .context("making a trie")?;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for (network, bits) in list.networks() {
        keys.extend(u32::from(bits).to_ne_bytes());
        keys.extend(network.iter().take(size));
        values.extend(1_u64.to_ne_bytes());
    }
    map.set_all(&keys, &values).context("filling a trie")?;
    Ok(map)
}
