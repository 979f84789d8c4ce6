//! Destinations that are judged by the PROXY header: their elements of the root table, and since when they refuse.
//!
//! No verdict is kept per connection there, and only its first segment is judged. So what a change can do wrong is small: a connection whose
//! SYN came before it and whose header comes after it is one that the gateway may still judge by the old rules. While the drain window is
//! open, such connections pass. Every change of a destination's tables opens the window anew; it costs nothing but those.

use std::collections::BTreeMap;
use std::sync::Arc;

use gwfilter_common::abi::{Leaf, PROXY_SLOTS, PROXY_START, Proxy, Slot, VERDICT_CLASS, VERDICT_DROP};
use ipnet::{Ipv4Net, Ipv6Net};

use super::drain::ended;
use super::leaves;
use super::names::Indices;
use super::op::PlanError;
use super::slots::{Family, Next};
use crate::desired::{Matrix, ProxyTables};
use crate::gateway::model::TupleKey;

/// What a destination had before.
#[derive(Clone, Debug)]
pub(super) struct Past {
    tables: Arc<ProxyTables>,
    observe: bool,
    /// When these tables came into force, in milliseconds.
    since_ms: u64,
    /// When the window is over.
    pub(super) until_ms: u64,
}

/// The pools of the next generation.
pub(super) struct Pools<'p, 'a> {
    pub(super) source4: &'p mut Next<'a, Ipv4Net>,
    pub(super) source6: &'p mut Next<'a, Ipv6Net>,
    pub(super) never4: &'p mut Next<'a, Ipv4Net>,
    pub(super) never6: &'p mut Next<'a, Ipv6Net>,
}

/// Where a destination's tables are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    /// Element of the root table.
    pub(super) element: u32,
    /// Only connections from after the change may be refused.
    pub(super) new_only: bool,
}

/// The elements of a generation in the making.
#[derive(Debug, Default)]
pub(super) struct Elements {
    slots: Vec<Slot>,
    /// Tables by where they lie.
    placed: BTreeMap<usize, Proxy>,
    /// Whether two sets of tables are the same, by where they lie.
    compared: BTreeMap<(usize, usize), bool>,
    pub(super) pasts: BTreeMap<TupleKey, Past>,
}

impl Elements {
    /// The elements in order, the first one at [`PROXY_START`].
    ///
    /// # Errors
    /// [`PlanError::TooManyProxies`].
    pub(super) fn finish(&self) -> Result<&[Slot], PlanError> {
        let max = PROXY_SLOTS;
        match u32::try_from(self.slots.len()) {
            Ok(wanted) if wanted <= max => Ok(&self.slots),
            _ => Err(PlanError::TooManyProxies {
                wanted: self.slots.len(),
                max,
            }),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call site; what is decided here depends on all of it"
    )]
    pub(super) fn place(
        &mut self,
        key: TupleKey,
        tables: &Arc<ProxyTables>,
        observe: bool,
        before: Option<&Past>,
        now_ms: u64,
        drain_ms: u64,
        rules: &Indices,
        pools: &mut Pools<'_, '_>,
    ) -> Placed {
        let same = before.filter(|past| past.observe == observe && self.same(&past.tables, tables));
        let (since_ms, until_ms) = match same {
            Some(past) => (
                past.since_ms,
                ended(past.until_ms, now_ms.saturating_add(drain_ms)),
            ),
            None => (now_ms, now_ms.saturating_add(drain_ms)),
        };
        let past = Past {
            tables: tables.clone(),
            observe,
            since_ms,
            until_ms,
        };
        self.pasts.insert(key, past);
        let new_only = until_ms > now_ms;
        let address = Arc::as_ptr(tables).addr();
        let proxy = match self.placed.get(&address) {
            Some(proxy) => *proxy,
            None => {
                let proxy = element(tables, rules, pools);
                self.placed.insert(address, proxy);
                proxy
            }
        };
        // Those whose window is over share an element.
        let since_ms = if new_only { since_ms } else { 0 };
        let slot = Proxy { since_ms, ..proxy }.to_slot();
        let at = self.slots.iter().position(|s| *s == slot).unwrap_or_else(|| {
            self.slots.push(slot);
            self.slots.len() - 1
        });
        Placed {
            element: u32::try_from(at).map_or(0, |at| PROXY_START.saturating_add(at)),
            new_only,
        }
    }

    fn same(&mut self, a: &Arc<ProxyTables>, b: &Arc<ProxyTables>) -> bool {
        let by = (Arc::as_ptr(a).addr(), Arc::as_ptr(b).addr());
        by.0 == by.1 || *self.compared.entry(by).or_insert_with(|| a == b)
    }
}

fn element(tables: &ProxyTables, rules: &Indices, pools: &mut Pools<'_, '_>) -> Proxy {
    let mut proxy = match &tables.matrix {
        Some(matrix) => of_matrix(matrix, rules, pools),
        None => Proxy {
            client_classes: 1,
            dest_classes: 1,
            port_classes: 1,
            ..Proxy::default()
        },
    };
    if !tables.never4.is_empty() {
        proxy.never4 = pools.never4.place(&leaves::never(&tables.never4));
    }
    if !tables.never6.is_empty() {
        proxy.never6 = pools.never6.place(&leaves::never(&tables.never6));
    }
    // An empty list is a list: nobody is on it.
    if let Some(trusted) = &tables.trusted4 {
        proxy.trusted4 = pools.never4.place(&leaves::never(trusted));
    }
    if let Some(trusted) = &tables.trusted6 {
        proxy.trusted6 = pools.never6.place(&leaves::never(trusted));
    }
    proxy
}

fn of_matrix(matrix: &Matrix, rules: &Indices, pools: &mut Pools<'_, '_>) -> Proxy {
    let mut classes4 = |classes: &BTreeMap<Ipv4Net, u16>| place(pools.source4, classes);
    let (peer4, client4, dest4) = (
        classes4(&matrix.peers4),
        classes4(&matrix.clients4),
        classes4(&matrix.dests4),
    );
    let ports: BTreeMap<Ipv4Net, u16> = matrix
        .ports
        .iter()
        .filter_map(|(port, class)| Some((ports_key(*port)?, *class)))
        .collect();
    let ports = match entries(&ports) {
        Some(entries) => pools.source4.place_trie(&entries),
        None => 0,
    };
    let mut classes6 = |classes: &BTreeMap<Ipv6Net, u16>| place(pools.source6, classes);
    let (peer6, client6, dest6) = (
        classes6(&matrix.peers6),
        classes6(&matrix.clients6),
        classes6(&matrix.dests6),
    );
    let cells = matrix.verdicts.iter().map(|(cell, outcome)| {
        let net = Ipv4Net::from(std::net::Ipv4Addr::from_bits(*cell));
        (net, leaves::leaf(outcome, VERDICT_DROP, rules))
    });
    // It stays even if it is empty: policies speak of the destination.
    let verdicts = pools.source4.place_trie(&Arc::new(cells.collect()));
    Proxy {
        peer4,
        peer6,
        client4,
        client6,
        dest4,
        dest6,
        ports,
        verdicts,
        client_classes: matrix.counts.clients,
        dest_classes: matrix.counts.dests,
        port_classes: matrix.counts.ports,
        ..Proxy::default()
    }
}

/// A port as the key of a trie: its two bytes and nothing behind them.
fn ports_key(port: u16) -> Option<Ipv4Net> {
    let [high, low] = port.to_be_bytes();
    Ipv4Net::new([high, low, 0, 0].into(), 16).ok()
}

/// The number of a table of classes; everything is class 0 where there is none.
fn place<N: Family>(pool: &mut Next<'_, N>, classes: &BTreeMap<N, u16>) -> u32 {
    entries(classes).map_or(0, |entries| pool.place(&entries))
}

/// The entries of a table of classes, if it has any.
fn entries<N: Copy>(classes: &BTreeMap<N, u16>) -> Option<Arc<Vec<(N, Leaf)>>> {
    let leaf = |class: u16| Leaf {
        verdict: VERDICT_CLASS,
        reason: 0,
        _pad: 0,
        rule: class.into(),
    };
    let entries = classes.iter().map(|(net, class)| (*net, leaf(*class)));
    (!classes.is_empty()).then(|| Arc::new(entries.collect()))
}

#[cfg(test)]
mod tests;
