//! Listeners whose clients are named in a PROXY header: peer, client and the header's destination decide together.
//!
//! The rules are those of packets ([`super::rules`]), read over numbered cells instead of addresses; what comes out is a
//! [`Matrix`]. The reference evaluator ([`super::evaluate()`]) knows nothing of classes, and tests hold the two equal.

mod matrix;
mod space;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::atoms::{Atom, Input, Place, Sight};
use super::compile::{CompiledListener, Compiler, Judged, JudgedListener, JudgedRule, PlaceKey, Seen};
use super::flatten::Segments;
use super::interval::Set;
use super::look::{Line, Looked};
use super::rules::{self, Known, RuleSets};
use super::spec::Values;
use super::voice::{Side, Voice, refused_by_all, side};
use crate::desired::{Matrix, Outcome};
use crate::gateway::model::{Listener, Why};
use space::{Space, TooMany};

/// Matrices, each computed once for each set of places.
#[derive(Debug, Default)]
pub(super) struct Cache {
    known: BTreeMap<(Vec<PlaceKey>, bool), Flat>,
}

/// What came of a set of places.
#[derive(Clone, Debug)]
struct Flat {
    matrix: Result<Arc<Matrix>, TooMany>,
    /// Indices into [`Compiler::judged`], in the order of the places.
    judged: Vec<usize>,
    /// What was seen at each place, with what is dropped, and where nothing is.
    seen: Vec<[Arc<Seen>; 2]>,
    drops: bool,
}

/// A listener as it is for tuples with and without knowledge of the gateway's peer, as far as it has such.
pub(super) fn listeners<'a>(compiler: &mut Compiler<'a>, listener: &'a Listener) -> Vec<JudgedListener<'a>> {
    let has = |peer: bool| listener.tuples.is_empty() || listener.tuples.iter().any(|t| t.peer_known == peer);
    let peers: Vec<bool> = [true, false].into_iter().filter(|peer| has(*peer)).collect();
    let found: Vec<(JudgedListener<'a>, bool)> =
        peers.iter().map(|p| one(compiler, listener, *p, false)).collect();
    // Only a whole listener can be observed, so where a DENY rule drops, default-deny is not even counted.
    let withheld = compiler.complete && !compiler.gateway.probe_sources_known;
    if !withheld || found.iter().any(|(_, drops)| *drops) {
        return found.into_iter().map(|(part, _)| part).collect();
    }
    let observed = peers.iter().map(|p| one(compiler, listener, *p, true).0);
    observed.collect()
}

/// `withheld`: with the default-deny that is counted only. And whether anything is dropped.
fn one<'a>(
    compiler: &mut Compiler<'a>,
    listener: &'a Listener,
    peer: bool,
    withheld: bool,
) -> (JudgedListener<'a>, bool) {
    let mut result = JudgedListener::new(listener);
    let places = compiler.places(listener, Sight::Header { peer }, &mut result.no_rbac);
    let keys: Vec<PlaceKey> = places.iter().map(|place| compiler.place_key(place)).collect();
    let key = (keys, withheld);
    let flat = match compiler.matrices.known.get(&key) {
        Some(flat) => flat.clone(),
        None => {
            let flat = flatten(compiler, &places, &key.0, withheld);
            compiler.matrices.known.insert(key.clone(), flat.clone());
            flat
        }
    };
    result.places = places.into_iter().zip(flat.judged).collect();
    let speaks = key.0.iter().any(|key| !key.is_empty());
    let judged = !result.no_rbac && speaks && super::compile::enforceable(compiler.gateway);
    let dropped = judged && !withheld;
    let seen = flat
        .seen
        .into_iter()
        .map(|[with, without]| if dropped { with } else { without });
    result.seen = seen.collect();
    if !judged {
        return (result, false);
    }
    let mut tables = CompiledListener::default();
    match flat.matrix {
        Ok(matrix) => {
            tables.observe = withheld && !matrix.verdicts.is_empty();
            if peer {
                tables.matrix = Some(matrix);
            } else {
                tables.matrix_without_peer = Some(matrix);
            }
        }
        Err(TooMany) => {
            tables.left = Some(Why {
                code: "too-many-classes",
                text: format!(
                    "the rules for listener {} tell more combinations of peers, clients and destinations apart than the node's tables \
                     hold: its policies are left to the gateway; merge rules that name different addresses for the same purpose",
                    listener.name
                ),
            });
        }
    }
    result.tables = tables;
    (result, dropped && flat.drops)
}

/// Compiles what holds at all of these places.
fn flatten(compiler: &mut Compiler<'_>, places: &[Place<'_>], keys: &[PlaceKey], withheld: bool) -> Flat {
    let space = space_of(compiler, places, keys);
    let mut judged = Vec::with_capacity(places.len());
    let mut sides: Vec<(Side<u32>, Voice)> = Vec::with_capacity(places.len());
    for (place, key) in places.iter().zip(keys) {
        // Without a space nothing is dropped; the report still says what each rule depends on.
        let found = judge(compiler, place, key, space.as_ref().ok());
        let voice = compiler.voice_of(&found);
        let lines = voice.lines.iter().map(|line| (line, &line.sets.v4));
        let (complete, default_deny) = (compiler.complete, compiler.default_deny());
        let side = side(&voice, lines, complete, default_deny, (u32::MIN, u32::MAX));
        sides.push((side, voice));
        compiler.judged.push(found);
        judged.push(compiler.judged.len() - 1);
    }
    let segments = match &space {
        Ok(_) => refused_by_all(sides.iter().map(|(side, _)| side.segments(withheld))),
        Err(TooMany) => Segments::none(),
    };
    let matrix = space.and_then(|space| {
        let cells = values(&segments, space.cells());
        matrix::build(&space, &cells, compiler.outcomes()).or_else(|TooMany| {
            // Which rule refuses may tell classes apart that have the same verdict.
            let (outcomes, cells) = without_rules(compiler.outcomes(), &cells);
            matrix::build(&space, &cells, &outcomes)
        })
    });
    let dropped = match &matrix {
        Ok(_) => segments.set(),
        Err(TooMany) => Set::empty(),
    };
    let look = |(side, voice): &(Side<u32>, Voice)| {
        let lines = voice.lines.iter().map(|line| Line {
            deny: line.deny,
            certain: line.certain,
            known: &line.sets.v4,
        });
        let lines: Vec<Line<'_, u32>> = lines.collect();
        [&dropped, &Set::empty()].map(|dropped| {
            Arc::new(Seen {
                v4: Looked::at(side, dropped, &lines, (u32::MIN, u32::MAX)),
                // Sets of cells are of one family; the other says nothing.
                v6: Looked::default(),
            })
        })
    };
    Flat {
        matrix: matrix.map(Arc::new),
        judged,
        seen: sides.iter().map(look).collect(),
        drops: !dropped.is_empty(),
    }
}

/// The conditions of all rules at the places.
fn space_of(compiler: &Compiler<'_>, places: &[Place<'_>], keys: &[PlaceKey]) -> Result<Space, TooMany> {
    let mut conditions: Vec<(Input, &Values)> = Vec::new();
    for (place, key) in places.iter().zip(keys) {
        for (policy, _, _) in key {
            let rules = compiler.policies.get(*policy).map(|p| p.rules.as_slice());
            for field in rules.unwrap_or_default().iter().flat_map(rules::fields) {
                if let Atom::Address(input) = Atom::read(field, place) {
                    conditions.push((input, &field.values));
                }
            }
        }
    }
    Space::new(conditions)
}

fn judge(compiler: &Compiler<'_>, place: &Place<'_>, key: &PlaceKey, space: Option<&Space>) -> Judged {
    let attached = compiler.at(place);
    let mut judged_rules = Vec::new();
    for (at, certain) in &attached.policies {
        let Some(policy) = compiler.policies.get(*at).filter(|p| p.undecodable.is_none()) else {
            continue;
        };
        for (index, rule) in policy.rules.iter().enumerate() {
            let cells = match space {
                Some(space) => rules::known(policy.action, rule, place, space),
                None => rules::known(policy.action, rule, place, &rules::Unseen),
            };
            // The other family is left empty in such a way that it says nothing.
            let neutral = if policy.action == super::spec::Action::Deny {
                Known::none()
            } else {
                Known::all()
            };
            judged_rules.push(JudgedRule {
                policy: *at,
                rule: index,
                certain: *certain,
                sets: Arc::new(RuleSets {
                    v4: cells,
                    v6: neutral,
                }),
            });
        }
    }
    Judged {
        spoken: !key.is_empty(),
        rules: judged_rules,
        allowing: attached.allowing,
        holes: attached.holes,
    }
}

/// Per raw cell, the index of what refuses it.
fn values(segments: &Segments<u32>, cells: usize) -> Vec<matrix::Value> {
    let mut values = vec![None; cells];
    for &(low, high, rank) in segments.list() {
        let low = usize::try_from(low).unwrap_or(usize::MAX);
        let high = usize::try_from(high).unwrap_or(usize::MAX);
        let inside = values.iter_mut().skip(low).take((high - low).saturating_add(1));
        inside.for_each(|value| *value = Some(rank));
    }
    values
}

/// The same refusals, without the rules that cause them: they are counted under the listener only.
fn without_rules(outcomes: &[Outcome], cells: &[matrix::Value]) -> (Vec<Outcome>, Vec<matrix::Value>) {
    let nameless = |outcome: &Outcome| Outcome {
        rule: None,
        ..outcome.clone()
    };
    let mut all: Vec<Outcome> = outcomes.iter().map(nameless).collect();
    all.sort();
    all.dedup();
    let index = |value: u32| {
        let outcome = outcomes.get(usize::try_from(value).ok()?)?;
        let at = all.binary_search(&nameless(outcome)).ok()?;
        u32::try_from(at).ok()
    };
    let cells = cells.iter().map(|value| value.and_then(index)).collect();
    (all, cells)
}
