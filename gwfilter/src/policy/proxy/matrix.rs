//! From raw cells with their outcomes to classes and a matrix: groups between which no outcome differs become one class.

use std::collections::BTreeMap;
use std::sync::Arc;

use gwfilter_common::abi::{MAX_CELLS, MAX_CLASSES};

use super::super::interval::{Address, cut};
use super::space::{Axis, Space, Stretch, TooMany};
use crate::desired::{Counts, Matrix, Outcome};

/// The outcome of a raw cell: an index into a list of outcomes; `None` passes.
pub(super) type Value = Option<u32>;

/// The classes of one axis.
#[derive(Debug)]
struct Classes {
    /// Per group of the axis.
    of_group: Vec<u16>,
    /// Per class, some group of it.
    groups: Vec<usize>,
}

/// The matrix of a space whose raw cells have these values.
///
/// # Errors
/// [`TooMany`] classes or cells for the kernel's tables.
pub(super) fn build(space: &Space, cells: &[Value], outcomes: &[Outcome]) -> Result<Matrix, TooMany> {
    let [peers, clients, dests, ports] = &space.axes;
    let sizes = [peers.groups, clients.groups, dests.groups, ports.groups];
    let merged = |axis: usize, of: &Axis| merge(cells, sizes, axis, of);
    let [p, c, d, t] = [
        merged(0, peers)?,
        merged(1, clients)?,
        merged(2, dests)?,
        merged(3, ports)?,
    ];
    let count = |classes: &Classes| u16::try_from(classes.groups.len()).map_err(|_| TooMany);
    let counts = Counts {
        peers: count(&p)?,
        clients: count(&c)?,
        dests: count(&d)?,
        ports: count(&t)?,
    };
    if counts.cells() > u64::from(MAX_CELLS) {
        return Err(TooMany);
    }
    let mut verdicts = BTreeMap::new();
    let [_, clients_raw, dests_raw, ports_raw] = sizes;
    for (peer, p_raw) in (0..).zip(&p.groups) {
        for (client, c_raw) in (0..).zip(&c.groups) {
            for (dest, d_raw) in (0..).zip(&d.groups) {
                for (port, t_raw) in (0..).zip(&t.groups) {
                    let raw = ((p_raw * clients_raw + c_raw) * dests_raw + d_raw) * ports_raw + t_raw;
                    let value = cells.get(raw).copied().flatten();
                    let outcome = value.and_then(|v| outcomes.get(usize::try_from(v).ok()?));
                    if let Some(outcome) = outcome {
                        verdicts.insert(counts.cell(peer, client, dest, port), outcome.clone());
                    }
                }
            }
        }
    }
    let numbers = ports
        .ports
        .iter()
        .filter_map(|(port, group)| Some((*port, *t.of_group.get(*group)?)))
        .filter(|(_, class)| *class != 0)
        .collect();
    Ok(Matrix {
        peers4: Arc::new(prefixes(&peers.v4, &p)),
        peers6: Arc::new(prefixes(&peers.v6, &p)),
        clients4: Arc::new(prefixes(&clients.v4, &c)),
        clients6: Arc::new(prefixes(&clients.v6, &c)),
        dests4: Arc::new(prefixes(&dests.v4, &d)),
        dests6: Arc::new(prefixes(&dests.v6, &d)),
        ports: Arc::new(numbers),
        counts,
        verdicts: Arc::new(verdicts),
    })
}

/// Groups whose cells have the same values, whatever the other axes say, are one class. Class 0, which is not written down,
/// is the one that takes the most prefixes.
fn merge(cells: &[Value], sizes: [usize; 4], axis: usize, of: &Axis) -> Result<Classes, TooMany> {
    let inner: usize = sizes.iter().skip(axis + 1).product();
    let groups = of.groups;
    let mut slices: Vec<Vec<Value>> = vec![Vec::new(); groups];
    for (at, run) in cells.chunks(inner.max(1)).enumerate() {
        if let Some(slice) = slices.get_mut(at % groups.max(1)) {
            slice.extend_from_slice(run);
        }
    }
    let mut known: BTreeMap<&[Value], usize> = BTreeMap::new();
    let mut classes: Vec<usize> = Vec::with_capacity(groups);
    for slice in &slices {
        let number = known.len();
        classes.push(*known.entry(slice.as_slice()).or_insert(number));
    }
    if known.len() > usize::from(MAX_CLASSES) {
        return Err(TooMany);
    }
    let mut weights = vec![0_usize; known.len()];
    let mut weigh = |class: usize| {
        if let Some(weight) = weights.get_mut(class) {
            *weight += 1;
        }
    };
    stretches(&of.v4, &classes, |low, high, class| {
        cut(low, high, |_| weigh(class))
    });
    stretches(&of.v6, &classes, |low, high, class| {
        cut(low, high, |_| weigh(class))
    });
    // Of ports, group 0 is all that are not named.
    let by_weight = weights
        .iter()
        .enumerate()
        .rev()
        .max_by_key(|(_, weight)| **weight);
    let zero = if of.v4.is_empty() {
        classes.first().copied()
    } else {
        by_weight.map(|(class, _)| class)
    };
    let zero = zero.unwrap_or(0);
    let renumber = |class: usize| match class {
        class if class == zero => 0,
        class if class < zero => class + 1,
        class => class,
    };
    let mut result = Classes {
        of_group: Vec::with_capacity(groups),
        groups: vec![0; known.len()],
    };
    for (group, class) in classes.into_iter().enumerate().rev() {
        let class = renumber(class);
        result.of_group.push(u16::try_from(class).map_err(|_| TooMany)?);
        if let Some(some) = result.groups.get_mut(class) {
            *some = group;
        }
    }
    result.of_group.reverse();
    Ok(result)
}

/// The stretches with the class of each, neighbours of one class joined.
fn stretches<A: Address>(list: &[Stretch<A>], classes: &[usize], mut emit: impl FnMut(A, A, usize)) {
    let mut pending: Option<Stretch<A>> = None;
    for &(low, high, group) in list {
        let class = classes.get(group).copied().unwrap_or(0);
        match &mut pending {
            Some((_, end, last)) if *last == class => *end = high,
            _ => {
                if let Some((low, high, class)) = pending.replace((low, high, class)) {
                    emit(low, high, class);
                }
            }
        }
    }
    if let Some((low, high, class)) = pending {
        emit(low, high, class);
    }
}

fn prefixes<A: Address>(list: &[Stretch<A>], classes: &Classes) -> BTreeMap<A::Net, u16> {
    let of_group: Vec<usize> = classes.of_group.iter().map(|c| usize::from(*c)).collect();
    let mut entries = Vec::new();
    stretches(list, &of_group, |low, high, class| {
        if let (Ok(class), true) = (u16::try_from(class), class != 0) {
            cut(low, high, |net| entries.push((net, class)));
        }
    });
    entries.into_iter().collect()
}
