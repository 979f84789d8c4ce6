//! What the policies can tell apart: on each axis (peer, client, header destination and its port) the values are grouped by which
//! conditions hold for them, and the product of the groups is numbered. Where a rule matches is then a set of those numbers.
//!
//! A number is called a *raw cell*: the groups are merged again ([`super::matrix`]) when it is known what becomes of them.

use std::collections::BTreeMap;

use super::super::atoms::Input;
use super::super::interval::{Address, Set};
use super::super::rules::Lift;
use super::super::spec::Values;
use crate::gateway::model::Tri;

/// Raw cells that are looked at, at most.
const RAW_CELLS: usize = 1 << 16;
/// Intervals of raw cells that all conditions may have together.
const EFFORT: usize = 1 << 23;

/// The axes, slowest first.
pub(super) const AXES: [Input; 4] = [Input::Peer, Input::Client, Input::Destination, Input::Port];

/// More groups than are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// A stretch of one family with its group, ends included.
pub(super) type Stretch<A> = (A, A, usize);

/// One axis: which value is in which group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Axis {
    /// The IPv4 addresses, all of them, in order.
    pub(super) v4: Vec<Stretch<u32>>,
    /// The IPv6 addresses.
    pub(super) v6: Vec<Stretch<u128>>,
    /// Ports that some condition names. All others are in group 0.
    pub(super) ports: BTreeMap<u16, usize>,
    /// How many groups there are; at least one.
    pub(super) groups: usize,
    /// Per condition, per group: whether it holds.
    holds: Vec<Vec<bool>>,
}

/// Which conditions hold, one bit for each.
type Signature = Vec<u64>;

/// Numbers signatures as they come.
struct Numbers {
    known: BTreeMap<Signature, usize>,
}

impl Numbers {
    fn of(&mut self, signature: &Signature) -> Result<usize, TooMany> {
        if let Some(&known) = self.known.get(signature) {
            return Ok(known);
        }
        let number = self.known.len();
        if number >= RAW_CELLS {
            return Err(TooMany);
        }
        self.known.insert(signature.clone(), number);
        Ok(number)
    }

    fn holds(&self, conditions: usize) -> Vec<Vec<bool>> {
        let mut holds = vec![vec![false; self.known.len()]; conditions];
        for (signature, &group) in &self.known {
            for (at, groups) in holds.iter_mut().enumerate() {
                if let Some(hold) = groups.get_mut(group) {
                    *hold = has(signature, at);
                }
            }
        }
        holds
    }
}

fn has(signature: &Signature, at: usize) -> bool {
    signature
        .get(at / 64)
        .is_some_and(|word| word >> (at % 64) & 1 == 1)
}

fn toggle(signature: &mut Signature, at: usize) {
    if let Some(word) = signature.get_mut(at / 64) {
        *word ^= 1 << (at % 64);
    }
}

/// One sweep over a family: at each end of a range some conditions change.
fn sweep<A: Address>(sets: &[Set<A>], numbers: &mut Numbers) -> Result<Vec<Stretch<A>>, TooMany> {
    let mut changes: Vec<(A, usize)> = Vec::new();
    for (at, set) in sets.iter().enumerate() {
        for &(low, high) in set.ranges() {
            changes.push((low, at));
            changes.extend(high.next().map(|next| (next, at)));
        }
    }
    changes.sort_unstable();
    let mut changes = changes.into_iter().peekable();
    let mut signature: Signature = vec![0; sets.len().div_ceil(64)];
    let mut list: Vec<Stretch<A>> = Vec::new();
    let mut from = A::MIN;
    loop {
        while let Some((_, at)) = changes.next_if(|&(position, _)| position <= from) {
            toggle(&mut signature, at);
        }
        let next = changes.peek().map(|&(position, _)| position);
        let to = next.and_then(A::previous).unwrap_or(A::MAX);
        let group = numbers.of(&signature)?;
        match list.last_mut() {
            Some((_, end, last)) if *last == group => *end = to,
            _ => list.push((from, to, group)),
        }
        match next {
            Some(next) => from = next,
            None => return Ok(list),
        }
    }
}

impl Axis {
    fn of_addresses(conditions: &[&Values]) -> Result<Self, TooMany> {
        let ranges = |values: &&Values| match values {
            Values::Ranges(ranges) => ranges.clone(),
            _ => Vec::new(),
        };
        let all: Vec<Vec<ipnet::IpNet>> = conditions.iter().map(ranges).collect();
        let sets4: Vec<Set<u32>> = all.iter().map(|r| Set::from_nets(r)).collect();
        let sets6: Vec<Set<u128>> = all.iter().map(|r| Set::from_nets(r)).collect();
        let mut numbers = Numbers {
            known: BTreeMap::new(),
        };
        let (v4, v6) = (sweep(&sets4, &mut numbers)?, sweep(&sets6, &mut numbers)?);
        Ok(Self {
            v4,
            v6,
            ports: BTreeMap::new(),
            groups: numbers.known.len(),
            holds: numbers.holds(conditions.len()),
        })
    }

    fn of_ports(conditions: &[&Values]) -> Result<Self, TooMany> {
        let nothing: Signature = vec![0; conditions.len().div_ceil(64)];
        let mut signatures: BTreeMap<u16, Signature> = BTreeMap::new();
        for (at, values) in conditions.iter().enumerate() {
            if let Values::Ports(ports) = values {
                for port in ports {
                    let signature = signatures.entry(*port).or_insert_with(|| nothing.clone());
                    if !has(signature, at) {
                        toggle(signature, at);
                    }
                }
            }
        }
        let mut numbers = Numbers {
            known: BTreeMap::from([(nothing, 0)]),
        };
        let ports = signatures
            .into_iter()
            .map(|(port, signature)| Ok((port, numbers.of(&signature)?)))
            .collect::<Result<_, TooMany>>()?;
        Ok(Self {
            v4: Vec::new(),
            v6: Vec::new(),
            ports,
            groups: numbers.known.len(),
            holds: numbers.holds(conditions.len()),
        })
    }
}

/// The axes, and where each condition holds.
#[derive(Clone, Debug)]
pub(super) struct Space {
    /// In the order of [`AXES`].
    pub(super) axes: [Axis; 4],
    sets: BTreeMap<(Input, Values), Set<u32>>,
}

impl Space {
    /// The space of these conditions.
    ///
    /// # Errors
    /// [`TooMany`].
    pub(super) fn new(mut conditions: Vec<(Input, &Values)>) -> Result<Self, TooMany> {
        conditions.sort_unstable();
        conditions.dedup();
        let on = |input: Input| -> Vec<&Values> {
            let these = conditions.iter().filter(|(i, _)| *i == input);
            these.map(|(_, values)| *values).collect()
        };
        let axes = [
            Axis::of_addresses(&on(Input::Peer))?,
            Axis::of_addresses(&on(Input::Client))?,
            Axis::of_addresses(&on(Input::Destination))?,
            Axis::of_ports(&on(Input::Port))?,
        ];
        let cells = axes
            .iter()
            .try_fold(1_usize, |n, axis| n.checked_mul(axis.groups))
            .filter(|n| *n <= RAW_CELLS && n.saturating_mul(conditions.len()) <= EFFORT)
            .ok_or(TooMany)?;
        let mut sets = BTreeMap::new();
        let mut outer = 1;
        for (axis, input) in axes.iter().zip(AXES) {
            let inner = cells / (outer * axis.groups);
            for (values, holds) in on(input).into_iter().zip(&axis.holds) {
                let set = cells_where(holds, outer, inner, cells);
                sets.insert((input, values.clone()), set);
            }
            outer *= axis.groups;
        }
        Ok(Self { axes, sets })
    }

    /// How many raw cells there are.
    pub(super) fn cells(&self) -> usize {
        self.axes.iter().map(|axis| axis.groups).product()
    }
}

/// The raw cells of which a condition of one axis holds. The last cell stands for all numbers behind it too, so that the
/// complement of a set is one of cells again.
fn cells_where(holds: &[bool], outer: usize, inner: usize, cells: usize) -> Set<u32> {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut ranges = Vec::new();
    for block in 0..outer {
        for (group, _) in holds.iter().enumerate().filter(|(_, holds)| **holds) {
            let from = (block * holds.len() + group) * inner;
            let end = from + inner;
            let last = if end == cells { u32::MAX } else { number(end - 1) };
            ranges.push((number(from), last));
        }
    }
    Set::from_ranges(ranges)
}

impl Lift<u32> for Space {
    fn set(&self, input: Input, values: &Values) -> Option<Set<u32>> {
        self.sets.get(&(input, values.clone())).cloned()
    }

    fn fixed(&self, v4: Tri, v6: Tri) -> Tri {
        if v4 == v6 { v4 } else { Tri::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[&str]) -> Values {
        Values::Ranges(list.iter().map(|r| r.parse().unwrap()).collect())
    }

    #[test]
    fn addresses_are_grouped_by_the_conditions_that_hold() {
        let (a, b) = (
            ranges(&["10.0.0.0/8", "2001:db8::/32"]),
            ranges(&["10.1.0.0/16", "10.1.2.0/24"]),
        );
        let axis = Axis::of_addresses(&[&a, &b]).unwrap();
        // Neither, a alone, both.
        assert_eq!(axis.groups, 3);
        let at = |addr: &str| {
            let addr: std::net::Ipv4Addr = addr.parse().unwrap();
            let addr = addr.to_bits();
            axis.v4
                .iter()
                .find(|(l, h, _)| *l <= addr && addr <= *h)
                .unwrap()
                .2
        };
        assert_eq!(
            ["0.0.0.0", "9.255.255.255", "11.0.0.0", "255.255.255.255"].map(at),
            [at("0.0.0.0"); 4]
        );
        assert_eq!(at("10.1.0.0"), at("10.1.2.3"));
        assert_ne!(at("10.0.0.0"), at("10.1.0.0"));
        assert_eq!(axis.v6.len(), 3);
        assert_eq!(
            (axis.v6[1].2, axis.v6[0].2),
            (at("10.0.0.0"), at("0.0.0.0")),
            "numbered across families"
        );
        assert_eq!(axis.v4.first().map(|s| s.0), Some(0));
        assert_eq!(axis.v4.last().map(|s| s.1), Some(u32::MAX));
    }

    #[test]
    fn conditions_on_all_axes_then_sets_of_cells_that_agree_with_the_numbering() {
        let client = ranges(&["10.0.0.0/8"]);
        let peer = ranges(&["192.0.2.0/24"]);
        let ports = Values::Ports(vec![80, 80, 443]);
        let space = Space::new(vec![
            (Input::Client, &client),
            (Input::Peer, &peer),
            (Input::Port, &ports),
            (Input::Client, &client),
        ])
        .unwrap();
        assert_eq!(space.cells(), 8);
        for (input, values, stride) in [
            (Input::Peer, &peer, 4),
            (Input::Client, &client, 2),
            (Input::Port, &ports, 1),
        ] {
            let set = space.set(input, values).unwrap();
            for cell in 0..8_u32 {
                let inside = set.ranges().iter().any(|&(l, h)| l <= cell && cell <= h);
                // Group 0 of each axis is what no condition names: address 0 and port 0.
                assert_eq!(inside, cell / stride % 2 == 1, "{input:?} {cell}");
            }
            assert!(set.and(&set.not()).is_empty());
        }
        assert_eq!(space.set(Input::Destination, &client), None);
    }

    #[test]
    fn more_groups_than_are_looked_at_then_too_many() {
        let conditions: Vec<Values> = (0..40).map(|n| ranges(&[&format!("10.{n}.0.0/16")])).collect();
        let on = |inputs: &[Input]| {
            let of = |v| inputs.iter().map(move |i| (*i, v));
            Space::new(conditions.iter().flat_map(of).collect()).map(|s| s.cells())
        };
        assert_eq!(on(&[Input::Client, Input::Peer]), Ok(41 * 41));
        assert_eq!(
            on(&[Input::Client, Input::Peer, Input::Destination]),
            Err(TooMany)
        );
    }
}
