//! Programs that give each packet another source and hand it on: to the program under test, or to a cable.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use gwfilter_common::packet::Packet;
use xtask::bpf::insn::{
    EQUAL, GET_PRANDOM_U32, MAP_LOOKUP_ELEM, R0, R1, R2, R3, R4, R5, R6, REDIRECT, STACK, TAIL_CALL, add,
    and, call, exit, jump, jump_above, load_half, load_word, map, mov, mov_register, store_half, store_word,
};
use xtask::bpf::{self, Map, MapKind, ProgramKind};

use crate::sources::{Family, Pool};

/// The length of a frame: the shortest of Ethernet, but for IPv6 what its headers take.
const ETHERNET: usize = 14;
/// Where the checksum and the source of an IPv4 header are, and the source of an IPv6 header.
const CHECKSUM: i16 = 14 + 10;
const SOURCE4: i16 = 14 + 12;
const SOURCE6: i16 = 14 + 8;
/// What a program must see of a frame before it writes.
const HEADERS: i32 = 14 + 40;

/// What an element of a pool's map holds: an address, and the IPv4 checksum that goes with it.
const ELEMENT: u32 = 20;
const AT_CHECKSUM: i16 = 16;

/// Where a context says that the frame begins and ends: `struct xdp_md` and `struct __sk_buff`.
const fn bounds(kind: ProgramKind) -> (i16, i16) {
    match kind {
        ProgramKind::Tc => (76, 80),
        _ => (0, 4),
    }
}

/// A SYN between these, with the device's address in front where it goes over a cable.
pub(crate) fn syn(destination: SocketAddr, to: [u8; 6]) -> Result<Vec<u8>> {
    let source = if destination.is_ipv4() {
        "192.0.2.1:40000"
    } else {
        "[2001:db8:1::1]:40000"
    };
    let packet = Packet::syn(source.parse()?, destination);
    let mut frame = packet.build().context("a frame")?.bytes().to_vec();
    frame.resize(frame.len().max(60), 0);
    for (byte, of) in frame.iter_mut().zip(to) {
        *byte = of;
    }
    Ok(frame)
}

/// Sources, as a map that programs draw from.
#[derive(Debug)]
pub(crate) struct Sources {
    map: Map,
    family: Family,
    mask: i32,
}

impl Sources {
    /// `frame`: the one whose checksum is to fit. The number of addresses must be a power of two.
    pub(crate) fn new(pool: &Pool, frame: &[u8]) -> Result<Self> {
        let addresses = pool.octets();
        let count = u32::try_from(addresses.len())?;
        let map = Map::new(MapKind::Array, 4, ELEMENT, count).context("making an array of sources")?;
        let mut keys = Vec::new();
        let mut values = Vec::new();
        for (index, address) in (0..count).zip(addresses) {
            keys.extend(index.to_ne_bytes());
            values.extend(address);
            values.extend(checksum(frame, address));
            values.extend([0; 2]);
        }
        map.set_all(&keys, &values)
            .context("filling an array of sources")?;
        Ok(Self {
            map,
            family: pool.family,
            mask: i32::try_from(count - 1)?,
        })
    }

    /// Instructions that write a source into the frame of the context in `r6`; they jump `over` instructions too far where
    /// that cannot be.
    fn write(&self, kind: ProgramKind) -> Vec<u64> {
        let (begin, end) = bounds(kind);
        let mut code = vec![
            mov_register(R6, R1),
            call(GET_PRANDOM_U32),
            and(R0, self.mask),
            store_word(STACK, -4, R0),
        ];
        code.extend(map(R1, self.map.as_fd()));
        code.extend([mov_register(R2, STACK), add(R2, -4), call(MAP_LOOKUP_ELEM)]);
        let mut copy = vec![
            load_word(R2, R6, begin),
            load_word(R3, R6, end),
            mov_register(R4, R2),
            add(R4, HEADERS),
        ];
        let body = match self.family {
            Family::V4 => vec![
                load_word(R5, R0, 0),
                store_word(R2, SOURCE4, R5),
                load_half(R5, R0, AT_CHECKSUM),
                store_half(R2, CHECKSUM, R5),
            ],
            Family::V6 => (0..4)
                .flat_map(|word| {
                    [
                        load_word(R5, R0, 4 * word),
                        store_word(R2, SOURCE6 + 4 * word, R5),
                    ]
                })
                .collect(),
        };
        // Past the body are two instructions that end the program with 0.
        copy.push(jump_above(R4, R3, short(body.len() + 1)));
        copy.extend(body);
        code.push(jump(EQUAL, R0, 0, short(copy.len() + 1)));
        code.extend(copy);
        // Not taken away: over the end.
        code.push(jump(0x05, 0, 0, 2));
        code.extend([mov(R0, 0), exit()]);
        code
    }

    /// A program that gives the packet a source and goes on to `next`, in the same run. It ends with 0 if it cannot.
    pub(crate) fn before(&self, kind: ProgramKind, next: BorrowedFd<'_>) -> Result<Driver> {
        let programs = Map::new(MapKind::Programs, 4, 4, 1).context("making an array of programs")?;
        let number = u32::try_from(std::os::fd::AsRawFd::as_raw_fd(&next))?;
        let mut code = self.write(kind);
        code.push(mov_register(R1, R6));
        code.extend(map(R2, programs.as_fd()));
        code.extend([mov(R3, 0), call(TAIL_CALL), mov(R0, 0), exit()]);
        let program = bpf::load(kind, &code).context("loading the program that draws sources")?;
        programs
            .set(&0_u32.to_ne_bytes(), &number.to_ne_bytes())
            .context("setting the program to go on to")?;
        Ok(Driver {
            program,
            _programs: programs,
        })
    }

    /// A program that gives the frame a source and sends it to a device.
    pub(crate) fn to_device(&self, ifindex: u32) -> Result<OwnedFd> {
        let mut code = self.write(ProgramKind::Xdp);
        code.extend([
            mov(R1, i32::try_from(ifindex)?),
            mov(R2, 0),
            call(REDIRECT),
            exit(),
        ]);
        bpf::load(ProgramKind::Xdp, &code).context("loading the program that sends frames")
    }
}

/// A program that draws sources, and what it goes on to.
#[derive(Debug)]
pub(crate) struct Driver {
    program: OwnedFd,
    /// Emptied by the kernel when nobody holds it.
    _programs: Map,
}

impl AsFd for Driver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// A program that returns a number.
pub(crate) fn constant(kind: ProgramKind, result: i32) -> io::Result<OwnedFd> {
    bpf::load(kind, &[mov(R0, result), exit()])
}

/// A program that does nothing but look the packet's source up in a trie: it ends with `found` or with `other`.
pub(crate) fn lookup(
    kind: ProgramKind,
    family: Family,
    trie: BorrowedFd<'_>,
    [found, other]: [i32; 2],
) -> io::Result<OwnedFd> {
    let (begin, end) = bounds(kind);
    let (at, words, key) = match family {
        Family::V4 => (SOURCE4, 1, -8),
        Family::V6 => (SOURCE6, 4, -20),
    };
    let mut body = vec![mov(R3, 32 * i32::from(words)), store_word(STACK, key, R3)];
    for word in 0..words {
        body.push(load_word(R3, R2, at + 4 * word));
        body.push(store_word(STACK, key + 4 + 4 * word, R3));
    }
    body.extend(map(R1, trie));
    body.extend([
        mov_register(R2, STACK),
        add(R2, i32::from(key)),
        call(MAP_LOOKUP_ELEM),
        mov_register(R1, R0),
        mov(R0, found),
        jump(EQUAL, R1, 0, 1),
        exit(),
    ]);
    let mut code = vec![
        load_word(R2, R1, begin),
        load_word(R3, R1, end),
        mov_register(R4, R2),
        add(R4, HEADERS),
        jump_above(R4, R3, short(body.len())),
    ];
    code.extend(body);
    code.extend([mov(R0, other), exit()]);
    bpf::load(kind, &code)
}

/// The checksum of the IPv4 header of `frame` with another source, as bytes of the wire; zeros for IPv6.
fn checksum(frame: &[u8], source: [u8; 16]) -> [u8; 2] {
    let Some(header) = frame.get(ETHERNET..ETHERNET + 20) else {
        return [0; 2];
    };
    if header.first() != Some(&0x45) {
        return [0; 2];
    }
    let mut header = header.to_vec();
    for (byte, of) in header.iter_mut().skip(10).zip([0, 0].iter().chain(&source[..4])) {
        *byte = *of;
    }
    let mut sum: u32 = 0;
    for pair in header.chunks(2) {
        if let [high, low] = pair {
            sum += u32::from(u16::from_be_bytes([*high, *low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    [high, low]
}

fn short(count: usize) -> i16 {
    i16::try_from(count).unwrap_or(i16::MAX)
}
