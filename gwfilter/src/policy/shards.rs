//! The tables of a listener, shard by shard: where the rules say what they said, so do the tables.
//!
//! What a rule says of one address depends on nothing else, so each shard of the address space is compiled by itself, from what of the rules' sets
//! lies in it. A shard is compiled again if some rule changed there, and all are if anything else changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::interval::{Address, Set};
use super::look::{Line, Looked};
use super::rules::{Known, RuleSets};
use super::voice::{RuleLine, Side, Voice, refused_by_all, side};
use crate::desired::Outcome;
use crate::table::{Shard, Table};

/// How tables are cut into shards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Intervals that a shard is to have, …
    pub(super) per_shard: usize,
    /// … unless there are fewer than this in all.
    pub(super) from: usize,
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            per_shard: 256,
            from: 16_384,
        }
    }
}

/// Shards of a family.
const SHARDS: usize = 4096;
/// Rules times shards.
const EFFORT: usize = 1 << 20;

/// The half of something that is of one family.
pub(super) trait Half: Address {
    fn of(sets: &RuleSets) -> &Known<Self>;
    /// Bits of an address that do not matter for where a shard begins: what the flat tables treat as one is not cut apart.
    const LOOSE: u32;
}

impl Half for u32 {
    const LOOSE: u32 = 14;

    fn of(sets: &RuleSets) -> &Known<Self> {
        &sets.v4
    }
}

impl Half for u128 {
    const LOOSE: u32 = 64;

    fn of(sets: &RuleSets) -> &Known<Self> {
        &sets.v6
    }
}

/// What holds for all places, besides their rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// All input could be read.
    pub(super) complete: bool,
    /// What no ALLOW rule may match is dropped.
    pub(super) default_deny: bool,
    /// What is refused is dropped.
    pub(super) drops: bool,
}

/// One shard.
#[derive(Debug)]
struct Part<A> {
    refused: Arc<Shard<A>>,
    withheld: Arc<Shard<A>>,
    looks: Vec<PlaceLook>,
}

/// What was seen at one place: its bits, and those of its rules by their number. A DENY rule that says nothing here is not among them.
#[derive(Debug)]
struct PlaceLook {
    place: u8,
    rules: Box<[(u32, u8)]>,
}

/// What is kept of one family of a listener's tables.
#[derive(Debug)]
pub(super) struct Kept<A: Address> {
    terms: Terms,
    voices: Vec<Voice>,
    starts: Arc<Vec<A>>,
    parts: Vec<Arc<Part<A>>>,
    /// Pieces of the largest shard when they were cut.
    largest: usize,
    pub(super) refused: Arc<Table<A::Net>>,
    pub(super) withheld: Arc<Table<A::Net>>,
    /// Per place.
    pub(super) looked: Vec<Looked>,
}

impl<A: Half> Kept<A> {
    /// Compiles, with what is still right of what was kept. `numbers`: by rank; `outcomes`: by number.
    pub(super) fn renew(
        before: Option<Self>,
        cut: Cut,
        terms: Terms,
        voices: &[Voice],
        numbers: &[u32],
        outcomes: &Arc<Vec<Outcome>>,
    ) -> Self {
        let compile = |starts: &[A], at: usize| {
            let low = starts.get(at).copied().unwrap_or(A::MIN);
            let next = starts.get(at + 1).and_then(|next| next.previous());
            Arc::new(part(terms, voices, numbers, low, next.unwrap_or(A::MAX)))
        };
        if let Some(before) = before
            && let Some(dirty) = before.dirty(terms, voices)
        {
            let anew = |(at, old): (usize, &Arc<Part<A>>)| {
                if dirty.get(at).copied().unwrap_or(true) {
                    compile(&before.starts, at)
                } else {
                    Arc::clone(old)
                }
            };
            let parts: Vec<_> = before.parts.iter().enumerate().map(anew).collect();
            if largest(&parts) <= 4 * before.largest + cut.per_shard {
                return Self::finish(
                    terms,
                    voices,
                    Arc::clone(&before.starts),
                    parts,
                    before.largest,
                    outcomes,
                )
                .sharing(&before);
            }
        }
        let starts = cuts(cut, voices);
        let parts: Vec<_> = (0..starts.len()).map(|at| compile(&starts, at)).collect();
        let largest = largest(&parts);
        Self::finish(terms, voices, Arc::new(starts), parts, largest, outcomes)
    }

    fn finish(
        terms: Terms,
        voices: &[Voice],
        starts: Arc<Vec<A>>,
        parts: Vec<Arc<Part<A>>>,
        largest: usize,
        outcomes: &Arc<Vec<Outcome>>,
    ) -> Self {
        let table = |of: fn(&Part<A>) -> &Arc<Shard<A>>| {
            let shards = parts.iter().map(|part| Arc::clone(of(part))).collect();
            Arc::new(Table::new(Arc::clone(outcomes), Arc::clone(&starts), shards))
        };
        Self {
            refused: table(|part| &part.refused),
            withheld: table(|part| &part.withheld),
            looked: looked(voices, &parts),
            terms,
            voices: voices.to_vec(),
            starts,
            parts,
            largest,
        }
    }

    /// Tables that say the same stay the same.
    fn sharing(mut self, before: &Self) -> Self {
        for (new, old) in [
            (&mut self.refused, &before.refused),
            (&mut self.withheld, &before.withheld),
        ] {
            if Arc::ptr_eq(new.outcomes(), old.outcomes()) && new.same(old) {
                *new = Arc::clone(old);
            }
        }
        self
    }

    /// Which shards are to be compiled again; `None`: all, and they are to be cut anew.
    fn dirty(&self, terms: Terms, voices: &[Voice]) -> Option<Vec<bool>> {
        if self.terms != terms || self.voices.len() != voices.len() {
            return None;
        }
        let mut dirty = vec![false; self.parts.len()];
        let mut mark = |low: A, high: A| {
            let from = self
                .starts
                .partition_point(|start| *start <= low)
                .saturating_sub(1);
            let to = self.starts.partition_point(|start| *start <= high);
            dirty
                .iter_mut()
                .take(to)
                .skip(from)
                .for_each(|shard| *shard = true);
        };
        for (old, new) in self.voices.iter().zip(voices) {
            if (old.closes, old.holes) != (new.closes, new.holes) {
                return None;
            }
            let mut gone: BTreeMap<u32, _> = old.lines.iter().map(|line| (line.number, line)).collect();
            if gone.len() != old.lines.len() {
                return None;
            }
            for line in &new.lines {
                let known = A::of(&line.sets);
                match gone.remove(&line.number) {
                    Some(before) if (before.deny, before.certain) != (line.deny, line.certain) => {
                        return None;
                    }
                    Some(before) if Arc::ptr_eq(&before.sets, &line.sets) => {}
                    Some(before) => {
                        let before = A::of(&before.sets);
                        known.yes.differences(&before.yes, &mut mark);
                        known.maybe.differences(&before.maybe, &mut mark);
                    }
                    None if line.deny => known.maybe.differences(&Set::empty(), &mut mark),
                    None => return None,
                }
            }
            for line in gone.into_values() {
                if !line.deny {
                    return None;
                }
                A::of(&line.sets).maybe.differences(&Set::empty(), &mut mark);
            }
        }
        Some(dirty)
    }
}

fn largest<A: Address>(parts: &[Arc<Part<A>>]) -> usize {
    let sizes = parts
        .iter()
        .map(|part| part.refused.pieces().len().max(part.withheld.pieces().len()));
    sizes.max().unwrap_or(0)
}

/// Where shards begin, so that all have about as many intervals.
fn cuts<A: Half>(cut: Cut, voices: &[Voice]) -> Vec<A> {
    let lines = || voices.iter().flat_map(|voice| &voice.lines);
    let all: usize = lines().map(|line| A::of(&line.sets).maybe.ranges().len()).sum();
    let mut starts = vec![A::MIN];
    if all < cut.from {
        return starts;
    }
    let shards = (all / cut.per_shard.max(1))
        .min(SHARDS)
        .min(EFFORT / lines().count().max(1))
        .max(1);
    // A sample is as good.
    let sample = (all / shards / 16).max(1);
    let ranges = lines().flat_map(|line| A::of(&line.sets).maybe.ranges());
    let mut sampled: Vec<A> = ranges.step_by(sample).map(|&(low, _)| low).collect();
    sampled.sort_unstable();
    let step = (sampled.len() / shards).max(1);
    let loose = sampled.into_iter().step_by(step).skip(1);
    starts.extend(loose.map(|low| A::narrow(low.wide() >> A::LOOSE << A::LOOSE)));
    starts.dedup();
    starts
}

/// Compiles what lies between two addresses, ends included.
fn part<A: Half>(terms: Terms, voices: &[Voice], numbers: &[u32], low: A, high: A) -> Part<A> {
    let mut heard = Vec::with_capacity(voices.len());
    for voice in voices {
        let speaks = |line: &&RuleLine| !line.deny || !A::of(&line.sets).maybe.touching(low, high).is_empty();
        let lines: Vec<_> = voice
            .lines
            .iter()
            .filter(speaks)
            .map(|line| (line, A::of(&line.sets).clip(low, high)))
            .collect();
        let of = lines.iter().map(|(line, known)| (*line, known));
        let side = side(voice, of, terms.complete, terms.default_deny, (low, high));
        heard.push((lines, side));
    }
    let sides = || heard.iter().map(|(_, side)| side);
    let refused = refused_by_all(sides().map(|side: &Side<A>| side.segments(false)));
    let withheld = refused_by_all(sides().map(|side| side.segments(true)));
    let dropped = if terms.drops { refused.set() } else { Set::empty() };
    let looks = heard.iter().map(|(lines, side)| {
        let bare: Vec<Line<'_, A>> = lines
            .iter()
            .map(|(line, known)| Line {
                deny: line.deny,
                certain: line.certain,
                known,
            })
            .collect();
        let looked = Looked::at(side, &dropped, &bare, (low, high));
        let rules = lines.iter().zip(looked.rules);
        PlaceLook {
            place: looked.place,
            rules: rules.map(|((line, _), bits)| (line.number, bits)).collect(),
        }
    });
    Part {
        looks: looks.collect(),
        refused: Arc::new(refused.shard(numbers)),
        withheld: Arc::new(withheld.shard(numbers)),
    }
}

/// What was seen in all shards.
fn looked<A: Address>(voices: &[Voice], parts: &[Arc<Part<A>>]) -> Vec<Looked> {
    let one = |(at, voice): (usize, &Voice)| {
        let numbers = voice
            .lines
            .iter()
            .map(|line| line.number)
            .max()
            .map_or(0, |max| max + 1);
        let mut bits = vec![0_u8; numbers as usize];
        let mut place = 0;
        for look in parts.iter().filter_map(|part| part.looks.get(at)) {
            place |= look.place;
            for (number, more) in &look.rules {
                if let Some(bits) = bits.get_mut(*number as usize) {
                    *bits |= more;
                }
            }
        }
        let of = |number: u32| bits.get(number as usize).copied().unwrap_or(0);
        Looked {
            place,
            rules: voice.lines.iter().map(|line| of(line.number)).collect(),
        }
    };
    voices.iter().enumerate().map(one).collect()
}
