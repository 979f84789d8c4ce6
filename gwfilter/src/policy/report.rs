//! What `check` says of a gateway's policies: which refusals happen at the node, and why the others do not.
//!
//! A DENY rule causes the refusal of whom it may match; an ALLOW rule of whom it does not certainly match, as far as no other ALLOW rule
//! does. "At the node" is judged by what the tables really drop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::atoms::{Atom, Place, Sight};
use super::compile::{Compiler, Judged, JudgedListener, JudgedRule, Seen, counts, enforceable};
use super::spec::{Action, Attribute, Field, Policy, Values};
use crate::diagnostic::{Diagnostic, ObjectRef, PER_OBJECT};
use crate::gateway::model::{
    ChainKind, ClientAddress, Gateway, Mesh, Protocol, Tri, TupleKey, Why, Workload,
};
use crate::report::{EnforcedAt, GatewayReport, PolicyReport, PrefixFigures, RuleReport};

const PROBES: &str = "probe-sources-unknown: clients that no ALLOW rule matches are left to the gateway, since the sources of the load \
                      balancer's health probes are not known and must not be cut off (where no DENY rule drops, they are counted as observed); either: annotate the Service with gwfilter.io/never-drop: \
                      \"CIDR,…\" (it may be empty); or: with gwfilter.io/client-address, which vouches for them, too";
const INCOMPLETE: &str = "incomplete-input: clients that no ALLOW rule matches are left to the gateway, since some input could not be read \
                          and may hold another ALLOW rule: correct what the diagnostics name";

/// The report and the diagnostics of one gateway.
pub(super) fn make(
    compiler: &Compiler<'_>,
    listeners: &[JudgedListener<'_>],
) -> (GatewayReport, Vec<Diagnostic>) {
    let gateway = compiler.gateway;
    let found = observe(compiler, listeners);
    let mut diagnostics = Vec::new();
    let mut policies = Vec::new();
    let mut refuses = false;
    for (at, policy) in compiler.policies.iter().enumerate() {
        let attached = |all: &Vec<Tri>| all.get(at).is_some_and(|t| *t != Tri::False);
        if !compiler.attached.iter().any(attached) {
            continue;
        }
        let report = policy_report(compiler, at, policy, &found);
        let mut left = report
            .rules
            .iter()
            .filter(|r| counts(policy) && r.enforced_at != EnforcedAt::Node);
        for rule in left.by_ref().take(PER_OBJECT) {
            let part = if rule.enforced_at == EnforcedAt::Both {
                "partly "
            } else {
                ""
            };
            diagnostics.push(Diagnostic::warning(
                "left-to-gateway",
                ObjectRef::new("AuthorizationPolicy", &policy.namespace, &policy.name),
                format!(
                    "{} is {part}left to gateway {}: {}",
                    rule.id,
                    gateway.id(),
                    rule.whole_why()
                ),
            ));
        }
        let more = left.count();
        if more > 0 {
            diagnostics.push(Diagnostic::warning(
                "left-to-gateway",
                ObjectRef::new("AuthorizationPolicy", &policy.namespace, &policy.name),
                format!(
                    "so are {more} more of its rules, wholly or partly, to gateway {}",
                    gateway.id()
                ),
            ));
        }
        let admits_nobody = policy.action == Action::Allow && policy.rules.is_empty();
        let catches = |rule: usize| found.get(&(at, rule)).is_some_and(|found| found.caught);
        refuses |= counts(policy)
            && report.rules.iter().enumerate().any(|(rule, told)| {
                told.enforced_at != EnforcedAt::Gateway && (admits_nobody || catches(rule))
            });
        policies.push(report);
    }
    // Whatever can be said of its rules: a table that refuses somebody does.
    refuses |= listeners.iter().map(|l| &l.tables).any(|tables| {
        let four = tables.table4.as_ref().is_some_and(|table| !table.is_empty());
        let six = tables.table6.as_ref().is_some_and(|table| !table.is_empty());
        !tables.observe && (four || six)
    });
    let mut tuples: Vec<String> = gateway
        .listeners
        .iter()
        .flat_map(|l| &l.tuples)
        .map(|t| t.key.to_string())
        .collect();
    tuples.sort();
    tuples.dedup();
    let report = GatewayReport {
        name: gateway.id(),
        client_address: gateway.client_address.name(),
        enforced: enforceable(gateway)
            && gateway.observe.is_none()
            && listeners
                .iter()
                .any(|l| !l.places.is_empty() && !l.no_rbac && !l.tables.observe),
        refuses,
        why: reasons(compiler, listeners),
        tuples,
        policies,
        prefixes: figures(compiler, listeners),
    };
    (report, diagnostics)
}

/// What is not enforced for the gateway as a whole.
fn reasons(compiler: &Compiler<'_>, listeners: &[JudgedListener<'_>]) -> Vec<String> {
    let gateway = compiler.gateway;
    let mut why: Vec<String> = whole(gateway).into_iter().collect();
    why.extend(gateway.observe.iter().chain(&gateway.remarks).map(text));
    why.extend(listeners.iter().filter_map(|l| l.tables.left.as_ref()).map(text));
    // Where it is only that nothing listens, a remark of the gateway says it.
    let no_rbac = |l: &&JudgedListener<'_>| {
        l.no_rbac
            && l.listener.receivers.iter().any(|receiver| {
                gateway.workloads.get(receiver.workload).is_none()
                    || receiver.chains.is_empty()
                    || receiver
                        .chains
                        .iter()
                        .any(|chain| chain.kind == ChainKind::NoRbac)
            })
    };
    for listener in listeners.iter().filter(no_rbac) {
        why.push(format!(
            "no-rbac: listener {} may be served by a chain that Envoy does not apply policies to (AUTO_PASSTHROUGH), or by pods of which nothing is known: \
             nothing is dropped there",
            listener.listener.name
        ));
    }
    let mut places = listeners.iter().flat_map(|l| l.places.iter().zip(&l.seen));
    let withheld = |((_, at), seen): (&(Place<'_>, usize), &Arc<Seen>)| {
        let allows = compiler.judged.get(*at).is_some_and(|j| !j.allowing.is_empty());
        allows && (seen.v4.has_closed() || seen.v6.has_closed())
    };
    if enforceable(gateway) && !compiler.default_deny() && places.any(withheld) {
        why.push(if compiler.complete { PROBES } else { INCOMPLETE }.to_owned());
    }
    why.dedup();
    why
}

/// Why no tables are compiled at all.
fn whole(gateway: &Gateway) -> Option<String> {
    if let Some(why) = &gateway.not_enforced {
        return Some(text(why));
    }
    let what = match gateway.client_address {
        ClientAddress::PacketSource | ClientAddress::ProxyHeader => return None,
        ClientAddress::XForwardedFor => {
            "the gateway takes the client address from X-Forwarded-For, which is inside the HTTP request"
        }
        ClientAddress::Unknown => {
            "it is not known where the gateway takes the client address from; state it by gwfilter.io/client-address"
        }
    };
    Some(format!(
        "client-address: {what}: every policy is left to the gateway"
    ))
}

fn text(why: &Why) -> String {
    format!("{}: {}", why.code, why.text)
}

fn figures(compiler: &Compiler<'_>, listeners: &[JudgedListener<'_>]) -> PrefixFigures {
    let ranges = |field: &Field| {
        if let Values::Ranges(r) = &field.values {
            r.len()
        } else {
            0
        }
    };
    let mut figures = PrefixFigures::default();
    let mut tables: Vec<*const ()> = Vec::new();
    let mut rules: BTreeSet<(usize, usize)> = BTreeSet::new();
    for listener in listeners {
        for judged in listener
            .places
            .iter()
            .filter_map(|&(_, at)| compiler.judged.get(at))
        {
            rules.extend(judged.rules.iter().map(|r| (r.policy, r.rule)));
        }
        let mut is_new = |table: *const ()| {
            let new = !tables.contains(&table);
            if new {
                tables.push(table);
            }
            new
        };
        if let Some(table) = &listener.tables.table4
            && is_new(Arc::as_ptr(table).cast())
        {
            figures.v4 += table.len();
            figures.table += table.len();
        }
        if let Some(table) = &listener.tables.table6
            && is_new(Arc::as_ptr(table).cast())
        {
            figures.v6 += table.len();
            figures.table += table.len();
        }
        let matrices = [&listener.tables.matrix, &listener.tables.matrix_without_peer];
        for matrix in matrices.into_iter().flatten() {
            if is_new(Arc::as_ptr(matrix).cast()) {
                figures.v4 += matrix.peers4.len() + matrix.clients4.len() + matrix.dests4.len();
                figures.v6 += matrix.peers6.len() + matrix.clients6.len() + matrix.dests6.len();
                figures.table += matrix.entries();
            }
        }
    }
    for (policy, rule) in rules {
        if let Some(rule) = compiler.policies.get(policy).and_then(|p| p.rules.get(rule)) {
            let entries = rule.from.iter().chain(&rule.to).flat_map(|e| &e.fields);
            figures.written += entries.chain(&rule.when).map(ranges).sum::<usize>();
        }
    }
    figures
}

/// What became of a rule's refusals, over all places.
#[derive(Debug, Default)]
struct Found {
    /// Some are dropped at the node.
    caught: bool,
    /// Some may be left to the gateway.
    missed: bool,
    /// Why.
    why: BTreeSet<String>,
}

fn observe(compiler: &Compiler<'_>, listeners: &[JudgedListener<'_>]) -> BTreeMap<(usize, usize), Found> {
    let mut found: BTreeMap<(usize, usize), Found> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    // UDP is never dropped, so what a UDP listener might do with a rule says nothing of where the rule is enforced.
    let udp = |l: &JudgedListener<'_>| {
        let tuples = &l.listener.tuples;
        !tuples.is_empty() && tuples.iter().all(|t| t.key.protocol == Protocol::Udp)
    };
    for listener in listeners.iter().filter(|l| !udp(l)) {
        for ((place, at), what) in listener.places.iter().zip(&listener.seen) {
            let Some(judged) = compiler.judged.get(*at) else {
                continue;
            };
            if !seen.insert((*at, place.assumed, Arc::as_ptr(what))) {
                continue;
            }
            let view = View {
                compiler,
                listener,
                place,
                judged,
                seen: what,
            };
            for (number, rule) in judged.rules.iter().enumerate() {
                view.look(number, rule, found.entry((rule.policy, rule.rule)).or_default());
            }
        }
    }
    found
}

/// One place behind one listener.
struct View<'a> {
    compiler: &'a Compiler<'a>,
    listener: &'a JudgedListener<'a>,
    place: &'a Place<'a>,
    judged: &'a Judged,
    seen: &'a Seen,
}

impl View<'_> {
    fn look(&self, number: usize, rule: &JudgedRule, found: &mut Found) {
        let Some(policy) = self.compiler.policies.get(rule.policy) else {
            return;
        };
        let mut why = BTreeSet::new();
        let (caught, missed) = if policy.action == Action::Deny {
            let (caught4, missed4) = self.seen.v4.deny(number);
            let (caught6, missed6) = self.seen.v6.deny(number);
            (caught4 || caught6, missed4 || missed6)
        } else {
            let in_force = self.compiler.default_deny() && !self.judged.allowing.is_empty();
            let (caught4, missed4, hidden4) = self.seen.v4.allow(number, in_force);
            let (caught6, missed6, hidden6) = self.seen.v6.allow(number, in_force);
            if self.judged.allowing.is_empty() {
                why.insert(
                    "no ALLOW policy certainly applies, so the gateway may admit by default".to_owned(),
                );
            } else if !in_force {
                why.insert(
                    if self.compiler.complete {
                        PROBES
                    } else {
                        INCOMPLETE
                    }
                    .to_owned(),
                );
            }
            if hidden4 || hidden6 {
                why.insert(self.who_may_admit(rule));
            }
            (caught4 || caught6, missed4 || missed6)
        };
        found.caught |= caught;
        found.missed |= missed;
        if missed {
            self.explain(policy, rule, &mut why);
            found.why.append(&mut why);
        }
    }

    /// Another rule or policy that may admit whom this rule does not.
    fn who_may_admit(&self, rule: &JudgedRule) -> String {
        let policies = self.compiler.policies;
        if let Some(policy) = self.judged.holes.first().and_then(|&at| policies.get(at)) {
            return format!(
                "{}/{} cannot be read and may admit any client",
                policy.namespace, policy.name
            );
        }
        let other = self.judged.rules.iter().find(|r| {
            (r.policy, r.rule) != (rule.policy, rule.rule)
                && policies.get(r.policy).is_some_and(|p| p.action == Action::Allow)
                && (r.sets.v4.maybe.is_full() || r.sets.v6.maybe.is_full())
        });
        match other.and_then(|r| policies.get(r.policy)?.rules.get(r.rule)) {
            Some(other) => format!("{} may admit clients that this rule does not match", other.id),
            None => "the other ALLOW rules may admit clients that this rule does not match".to_owned(),
        }
    }

    /// What the node cannot see of a rule here.
    fn explain(&self, policy: &Policy, rule: &JudgedRule, why: &mut BTreeSet<String>) {
        if let Some(left) = &self.listener.tables.left {
            why.insert(text(left));
        }
        if self.listener.no_rbac {
            why.insert(format!(
                "listener {} may also be served by something that policies do not apply to, so nothing is dropped there",
                self.listener.listener.name
            ));
        }
        if !rule.certain
            && let Some(workload) = self.compiler.gateway.workloads.get(self.place.receiver.workload)
        {
            why.insert(attachment_doubt(self.compiler.mesh, policy, workload));
        }
        let Some(written) = policy.rules.get(rule.rule) else {
            return;
        };
        why.extend(
            written
                .faults
                .iter()
                .map(|fault| format!("it is faulty: {fault}")),
        );
        let entries = || written.from.iter().chain(&written.to);
        why.extend(
            entries()
                .flat_map(|e| &e.unknown)
                .map(|name| format!("the field `{name}` is not known")),
        );
        for field in entries().flat_map(|e| &e.fields).chain(&written.when) {
            let unseen = match Atom::read(field, self.place) {
                Atom::Fixed(v4, v6) => v4 == Tri::Unknown || v6 == Tri::Unknown,
                Atom::Address(_) | Atom::Vanishes => false,
            };
            if unseen {
                why.insert(self.unseen(field));
            }
        }
        if why.is_empty() {
            why.insert("other rules, or other pods or filter chains behind the same port, decide otherwise for some of these clients".to_owned());
        }
    }

    fn unseen(&self, field: &Field) -> String {
        let name = &field.name;
        let headless = self.place.sight == (Sight::Header { peer: false });
        let port = self.place.receiver.port;
        let what = match field.attribute {
            Attribute::Request => "is in the HTTP request, which the node does not see",
            Attribute::Token => {
                "is in a token inside the HTTP request, which the node does not see (where no RequestAuthentication can apply to the gateway, it is known to be absent)"
            }
            Attribute::Identity | Attribute::NewIdentity | Attribute::NewIdentityKey => {
                "is in the client certificate, which the node does not see (a server that asks for none, known from its Gateway object, would settle it)"
            }
            Attribute::Sni => "is in the TLS handshake, which the node does not see",
            Attribute::DestinationIp => {
                "depends on which gateway pod receives the connection, and their addresses are not known or differ"
            }
            Attribute::RemoteIp => {
                "is the client address, which some object in the input that cannot be read may make the gateway take from a header"
            }
            Attribute::SourceIp if headless => {
                "is the load balancer's address as the gateway sees it, which is rewritten on the way by some destinations \
                 (externalTrafficPolicy: Cluster)"
            }
            Attribute::DestinationPort => {
                "is the port in the PROXY header, unless some object in the input that cannot be read changes that"
            }
            _ => "is data of another filter, which the node does not see",
        };
        if self.place.assumed && field.attribute.http_only() {
            return format!(
                "`{name}` {what}, and it is not known whether port {port} is served as HTTP or as TCP (add the Gateway object that opens it)"
            );
        }
        format!("`{name}` {what}")
    }
}

/// Why it is not certain that a policy applies to a workload.
fn attachment_doubt(mesh: &Mesh, policy: &Policy, workload: &Workload) -> String {
    let what = if policy.undecodable.is_some() || policy.target.unclear {
        "it could not be read as a whole"
    } else if mesh.discovery_selectors {
        "istiod has discoverySelectors, which are not evaluated"
    } else if policy.namespace != workload.namespace && mesh.root_namespace.is_none() {
        "the mesh's root namespace is not known"
    } else if policy.revision.is_some() {
        "its label istio.io/rev may be for another istiod than the gateway's"
    } else if !workload.labels_complete {
        "the gateway's pods are not among the objects, and only the labels of the Service's selector are known"
    } else {
        "istiod's setting ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY is not known"
    };
    format!("it is not certain that the policy applies: {what}")
}

fn policy_report(
    compiler: &Compiler<'_>,
    at: usize,
    policy: &Policy,
    found: &BTreeMap<(usize, usize), Found>,
) -> PolicyReport {
    let report = |index: usize, (enforced_at, why): (EnforcedAt, Vec<String>)| RuleReport {
        id: policy.rule_id(index),
        enforced_at,
        why,
    };
    let gateway = compiler.gateway;
    let all = if policy.dry_run && matches!(policy.action, Action::Allow | Action::Deny) {
        Some((
            EnforcedAt::Gateway,
            "dry run: it refuses nobody, here or at the gateway".to_owned(),
        ))
    } else if policy.action == Action::Audit {
        Some((EnforcedAt::Gateway, "AUDIT only logs, at the gateway".to_owned()))
    } else if policy.action == Action::Custom {
        Some((
            EnforcedAt::Gateway,
            "CUSTOM asks an external service, which only the gateway does".to_owned(),
        ))
    } else if let Some(fault) = &policy.undecodable {
        Some((
            EnforcedAt::Gateway,
            format!("the policy cannot be relied on: {fault}"),
        ))
    } else if let Some(whole) = whole(gateway) {
        Some((EnforcedAt::Gateway, whole))
    } else {
        gateway
            .observe
            .as_ref()
            .map(|why| (EnforcedAt::Gateway, text(why)))
    };
    let rules = if let Some(all) = all {
        (0..policy.rules.len().max(1))
            .map(|index| report(index, (all.0, vec![all.1.clone()])))
            .collect()
    } else if policy.rules.is_empty() {
        let (where_to, why) = without_rules(compiler, at, policy);
        let found = (where_to, vec![why]);
        vec![report(0, if rewritten(gateway) { partly(found) } else { found })]
    } else {
        (0..policy.rules.len())
            .map(|index| verdict(policy, found.get(&(at, index))))
            .map(|found| if rewritten(gateway) { partly(found) } else { found })
            .enumerate()
            .map(|(index, found)| report(index, found))
            .collect()
    };
    PolicyReport {
        name: format!("{}/{}", policy.namespace, policy.name),
        action: policy.action.name().to_owned(),
        dry_run: policy.dry_run,
        rules,
    }
}

/// Whether some destinations are not judged as their packets' sources are rewritten on the way.
fn rewritten(gateway: &Gateway) -> bool {
    let judged = |key: &TupleKey| {
        gateway
            .listeners
            .iter()
            .flat_map(|l| &l.tuples)
            .any(|t| t.key == *key)
    };
    // Where a PROXY header names the client, rewritten sources are judged all the same.
    let left = |key: &TupleKey| key.protocol == Protocol::Tcp && !judged(key);
    gateway.rewritten.iter().any(left)
}

/// What is dropped at the node is dropped at some destinations only.
fn partly((at, mut why): (EnforcedAt, Vec<String>)) -> (EnforcedAt, Vec<String>) {
    if at == EnforcedAt::Gateway {
        return (at, why);
    }
    why.push(
        "what comes by the Service's load-balancer, external and node addresses is left to the gateway (externalTrafficPolicy: Cluster)"
            .to_owned(),
    );
    (EnforcedAt::Both, why)
}

fn verdict(policy: &Policy, found: Option<&Found>) -> (EnforcedAt, Vec<String>) {
    let one = |at, why: &str| (at, vec![why.to_owned()]);
    let Some(found) = found else {
        return one(
            EnforcedAt::Gateway,
            "no destination of this gateway is judged on this node",
        );
    };
    let deny = policy.action == Action::Deny;
    let reasons = || found.why.iter().cloned().collect();
    match (found.caught, found.missed) {
        (true, false) if deny => one(EnforcedAt::Node, "it depends on client addresses and ports alone"),
        (true, false) => one(
            EnforcedAt::Node,
            "clients that no ALLOW rule matches are dropped at the node",
        ),
        (false, false) if deny => one(
            EnforcedAt::Node,
            "it matches nobody here that is not dropped already",
        ),
        (false, false) => one(EnforcedAt::Node, "it refuses nobody here"),
        (true, true) => (EnforcedAt::Both, reasons()),
        (false, true) => (EnforcedAt::Gateway, reasons()),
    }
}

/// A policy without rules: ALLOW refuses everyone that no other ALLOW rule admits, DENY nobody.
fn without_rules(compiler: &Compiler<'_>, at: usize, policy: &Policy) -> (EnforcedAt, String) {
    if policy.action == Action::Deny {
        return (EnforcedAt::Node, "it has no rules and refuses nobody".to_owned());
    }
    if !compiler.default_deny() {
        return (
            EnforcedAt::Gateway,
            if compiler.complete { PROBES } else { INCOMPLETE }.to_owned(),
        );
    }
    let doubtful = compiler
        .gateway
        .workloads
        .iter()
        .zip(&compiler.attached)
        .find(|(_, a)| a.get(at) == Some(&Tri::Unknown));
    match doubtful {
        Some((workload, _)) => (
            EnforcedAt::Gateway,
            attachment_doubt(compiler.mesh, policy, workload),
        ),
        None => (
            EnforcedAt::Node,
            "it has no rules: clients that no other ALLOW rule may match are dropped at the node".to_owned(),
        ),
    }
}
