//! From the index to the kernel's tables: compile, plan, apply, commit. What fails leaves the generation in
//! force, but for what it refuses and the new one would not.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::past::Lapse;
use super::told::Told;
use super::{millis, moment};
use crate::dataplane::tables::{Tables, TablesError};
use crate::desired::Desired;
use crate::diagnostic::{Diagnostic, Severity};
use crate::index::Index;
use crate::node::NodeFacts;
use crate::pipeline::{self, Built};
use crate::plan::{self, Counters, Draining, Names, Op, Past, Plan, PlanError, Planner};
use crate::policy::Memo;
use crate::report::GatewayReport;
use crate::telemetry::chain;

/// First and longest wait before a failed attempt is repeated.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why a generation did not come into force.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// It does not fit.
    #[error("the tables do not fit")]
    Plan(#[from] PlanError),
    /// The kernel refused a part of it.
    #[error("the kernel's tables cannot be written")]
    Apply(#[from] TablesError),
}

/// What is applied to: the kernel's maps, or in tests something that fails on purpose.
pub(super) trait Apply {
    /// See [`Tables::apply`].
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<TablesError>, TablesError>;

    /// Notes for the next agent who has which counter.
    fn note(&mut self, _: &Counters) {}
}

impl Apply for Tables {
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<TablesError>, TablesError> {
        Tables::apply(self, ops)
    }
}

/// Brings generations into force, one after the other.
#[derive(Debug)]
pub(super) struct Enforcer {
    planner: Planner,
    /// What the planner's generation says.
    in_force: Desired,
    settings: pipeline::Settings,
    start: Instant,
    /// `start` in milliseconds of CLOCK_MONOTONIC: the kernel compares the beginnings of connections with the planner's times.
    start_ms: u64,
    deadline: Option<Instant>,
    /// When the generation in force came into force, by the clock of the wall.
    swapped: Option<SystemTime>,
    retry: Option<(Instant, Duration)>,
    failure: Option<String>,
    /// Tables are in force that may refuse what is let in now.
    stale: bool,
    /// Tables are in force that may cut off connections from a lapse of the lease.
    lapsed: bool,
    diagnostics: Told<Diagnostic>,
    gateways: Told<(String, bool, Vec<String>)>,
    uncounted: Told<Arc<str>>,
    /// There was no gateway at the last look, and that was told.
    idle: bool,
    /// What was compiled last.
    built: Option<Built>,
    /// What of it need not be compiled again.
    memo: Memo,
}

impl Enforcer {
    /// `counters` and `past`: what an earlier agent has left.
    pub(super) fn new(
        plan: plan::Settings,
        settings: pipeline::Settings,
        counters: Option<&Counters>,
        past: Past,
    ) -> Self {
        Self {
            planner: Planner::resume(plan, counters, past),
            in_force: Desired::default(),
            settings,
            start: Instant::now(),
            start_ms: monotonic_ms(),
            deadline: None,
            swapped: None,
            retry: None,
            failure: None,
            stale: false,
            lapsed: false,
            diagnostics: Told::default(),
            gateways: Told::default(),
            uncounted: Told::default(),
            idle: false,
            built: None,
            memo: Memo::default(),
        }
    }

    /// How gateways are found.
    pub(super) const fn gateway_settings(&self) -> &crate::gateway::Settings {
        &self.settings.gateway
    }

    /// What was compiled last, whether or not it is in force.
    pub(super) const fn built(&self) -> Option<&Built> {
        self.built.as_ref()
    }

    pub(super) fn generation(&self) -> u64 {
        self.planner.generation()
    }

    /// When it came into force, in seconds since 1970.
    pub(super) fn swapped_at(&self) -> Option<f64> {
        let since = self.swapped?.duration_since(UNIX_EPOCH);
        since.ok().map(|since| since.as_secs_f64())
    }

    /// How many rules have no counter.
    pub(super) fn uncounted(&self) -> u64 {
        self.uncounted.len()
    }

    /// Why the wanted generation is not in force, if it is not.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether what is in force refuses nothing that is let in now.
    pub(super) fn vouched(&self) -> Result<(), String> {
        if self.stale {
            return Err("old tables that refuse what is let in now could not be withdrawn".to_owned());
        }
        if self.lapsed {
            return Err(
                "tables that spare the connections from without a lease could not be written".to_owned(),
            );
        }
        Ok(())
    }

    /// What is refused was let in for a time; the next tables spare those connections for a drain window.
    pub(super) fn let_in(&mut self, lapse: Lapse) {
        self.planner.revise(|past| lapse.revise(past));
        self.lapsed = true;
    }

    /// Whether something is judged at an address of a pod.
    pub(super) fn judges_pods(&self) -> bool {
        self.in_force.tuples.values().any(|target| target.pod_address)
    }

    /// What the next agent is to know of connections.
    pub(super) fn draining(&self) -> Draining {
        self.planner.draining()
    }

    pub(super) fn names(&self) -> &Names {
        self.planner.names()
    }

    /// When to enforce again, if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.deadline, self.retry.map(|(at, _)| at)]
            .into_iter()
            .flatten()
            .min()
    }

    /// As [`Self::enforce`]; a failure is logged once, and repeated with growing pauses.
    pub(super) fn try_enforce(&mut self, index: &Index, facts: &NodeFacts, tables: &mut impl Apply) {
        match self.enforce(index, facts, tables) {
            Ok(()) => {
                self.retry = None;
                if self.failure.take().is_some() {
                    info!(
                        generation = self.planner.generation(),
                        "tables can be written again"
                    );
                }
            }
            Err(e) => {
                let pause = self.retry.map_or(RETRY.0, |(_, last)| (last * 2).min(RETRY.1));
                self.retry = Some((Instant::now() + pause, pause));
                // A deadline that has passed would wake the loop at once, for ever.
                self.deadline = None;
                let text = chain(&e);
                if self.failure.as_ref() != Some(&text) {
                    error!(
                        error = text,
                        generation = self.planner.generation(),
                        "the new tables are not in force; what is in force and still right stays, and it is tried again"
                    );
                    self.failure = Some(text);
                }
            }
        }
    }

    /// Compiles what the index says and brings it into force. If that fails, what is in force and refuses more than it
    /// should by now is withdrawn.
    pub(super) fn enforce(
        &mut self,
        index: &Index,
        facts: &NodeFacts,
        tables: &mut impl Apply,
    ) -> Result<(), EnforceError> {
        let built = pipeline::build_after(&mut self.memo, &index.snapshot(), facts, &self.settings);
        self.tell_findings(&built);
        let outcome = self.bring(&built.desired, tables);
        match &outcome {
            Ok(plan) => {
                self.stale = false;
                self.tell_gateways(&built);
                self.tell_plan(plan, &built);
            }
            Err(_) => self.withdraw(&built.desired, tables),
        }
        self.built = Some(built);
        outcome.map(|_| ())
    }

    /// Plans, applies, commits.
    fn bring(&mut self, desired: &Desired, tables: &mut impl Apply) -> Result<Plan, EnforceError> {
        let now_ms = self.start_ms.saturating_add(millis(self.start.elapsed()));
        let plan = self.planner.plan(desired, now_ms)?;
        // Whoever comes next must know the owner of a counter before anything is counted there.
        let (zero, rest) = plan.parts();
        let mut not_freed = Vec::new();
        if !zero.is_empty() {
            not_freed = tables.apply(zero)?;
            tables.note(&self.planner.counters(Some(&plan)));
        }
        not_freed.extend(tables.apply(rest)?);
        self.planner.commit(&plan);
        if !plan.ops.is_empty() {
            self.swapped = Some(SystemTime::now());
        }
        self.lapsed = false;
        if !rest.is_empty() {
            tables.note(&self.planner.counters(None));
        }
        self.in_force = desired.clone();
        let since_start = plan.next_deadline_ms.map(|ms| ms.saturating_sub(self.start_ms));
        self.deadline = since_start.and_then(|ms| moment(self.start, ms));
        for e in not_freed {
            // The memory is in use until the index is built again; nothing else is wrong.
            warn!(
                error = chain(&e),
                "a table could not be pinned, or an old one not be freed"
            );
        }
        Ok(plan)
    }

    /// A stale refusal is an outage: destinations that refuse what `wanted` lets in are judged no longer.
    fn withdraw(&mut self, wanted: &Desired, tables: &mut impl Apply) {
        let rest = plan::withdraw(&self.in_force, wanted);
        let destinations = self.in_force.tuples.len().saturating_sub(rest.tuples.len());
        let outcome = self.bring(&rest, tables);
        self.stale = outcome.is_err() && destinations > 0;
        match outcome {
            Ok(_) if destinations == 0 => {}
            Ok(_) => warn!(
                destinations,
                "destinations that refused what is let in now are left to the gateway until the new tables are in force"
            ),
            Err(_) if destinations == 0 || self.failure.is_some() => {}
            Err(e) => error!(
                error = chain(&e),
                destinations,
                "old tables that refuse what is let in now could not be withdrawn; `gwfilter unload` takes all off"
            ),
        }
    }

    /// Logs findings that appeared and went.
    fn tell_findings(&mut self, built: &Built) {
        let news = self.diagnostics.update(built.diagnostics.iter().cloned());
        for d in news.new {
            let (code, object, message) = (d.code, &d.object, &d.message);
            match d.severity {
                Severity::Error => error!(code, %object, reason = %message, "finding"),
                Severity::Warning => warn!(code, %object, reason = %message, "finding"),
                Severity::Info => info!(code, %object, reason = %message, "finding"),
            }
        }
        for d in news.over {
            info!(code = d.code, object = %d.object, "finding is over");
        }
    }

    /// Logs what became of gateways. Said once it is so: not before the kernel's tables say it too.
    fn tell_gateways(&mut self, built: &Built) {
        let state = |r: &GatewayReport| (r.name.clone(), r.enforced, r.why.clone());
        let news = self.gateways.update(built.reports.iter().map(state));
        for (name, _, _) in &news.over {
            if !news.new.iter().any(|(n, _, _)| n == name) {
                info!(gateway = name, "gateway is gone");
            }
        }
        let idle = built.gateways.is_empty();
        if idle && !self.idle {
            warn!("no gateway is known: nothing is judged and every packet passes");
        }
        self.idle = idle;
        for (name, enforced, why) in &news.new {
            let why = why.join("; ");
            if *enforced && why.is_empty() {
                info!(gateway = name, why, "gateway is enforced");
            } else if *enforced {
                warn!(gateway = name, why, "gateway is enforced in part");
            } else if why.starts_with("no-local-endpoint: ") {
                // As on most nodes of a cluster: nothing to mend.
                info!(gateway = name, why, "gateway is not enforced");
            } else {
                warn!(gateway = name, why, "gateway is not enforced");
            }
        }
    }

    fn tell_plan(&mut self, plan: &Plan, built: &Built) {
        let news = self.uncounted.update(plan.uncounted_rules.iter().cloned());
        if !news.new.is_empty() {
            let rules = plan.uncounted_rules.len();
            warn!(
                rules,
                "more policy rules than counters: these are counted under their gateway only"
            );
        }
        if !plan.ops.is_empty() {
            info!(
                generation = plan.generation,
                gateways = built.gateways.len(),
                destinations = built.desired.tuples.len(),
                operations = plan.ops.len(),
                "generation in force"
            );
        }
    }
}

/// What `bpf_ktime_get_ns` counts, in milliseconds. Linux has the clock always; were it not so, no connection would be taken for an old one.
fn monotonic_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use aya::maps::MapError;

    use super::*;

    /// Takes operations and fails on command.
    #[derive(Default)]
    struct Fake {
        fails: bool,
        /// Only what needs a new table.
        fails_to_build: bool,
        leaks: bool,
        applied: Vec<Op>,
    }

    fn failure() -> TablesError {
        TablesError::Access {
            what: "set",
            map: "GWF_ROOT",
            index: 0,
            source: Box::new(MapError::ElementNotFound),
        }
    }

    impl Apply for Fake {
        fn apply(&mut self, ops: &[Op]) -> Result<Vec<TablesError>, TablesError> {
            let builds = || {
                ops.iter()
                    .any(|op| matches!(op, Op::Build4 { .. } | Op::Build6 { .. } | Op::BuildFlat { .. }))
            };
            if self.fails || (self.fails_to_build && builds()) {
                return Err(failure());
            }
            self.applied.extend_from_slice(ops);
            Ok(if self.leaks { vec![failure()] } else { Vec::new() })
        }
    }

    const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: gw, namespace: a}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {istio: gw}
  ports: [{name: http, port: 80, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.80}]}}
";

    fn policy(blocks: &str) -> String {
        format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: a}}
spec:
  action: DENY
  rules: [{{from: [{{source: {{ipBlocks: [{blocks}]}}}}]}}]
"
        )
    }

    fn index(policy: &str) -> Index {
        let mut index = Index::new();
        index.load("s", SERVICE.as_bytes()).unwrap();
        index.load("p", policy.as_bytes()).unwrap();
        index
    }

    fn enforcer() -> Enforcer {
        let plan = plan::Settings {
            drain_ms: 60_000,
            rewritten_drain_ms: 60_000,
        };
        let gateway = crate::gateway::Settings {
            never_drop: Vec::new(),
            from_files: true,
        };
        Enforcer::new(
            plan,
            pipeline::Settings {
                gateway,
                ..pipeline::Settings::default()
            },
            None,
            Past::default(),
        )
    }

    fn facts() -> NodeFacts {
        NodeFacts {
            name: None,
            local_addresses: Some(["192.0.2.1".parse().unwrap()].into()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_the_generation_and_is_repeated_ever_more_slowly_until_it_works() {
        let (mut enforcer, mut fake) = (enforcer(), Fake::default());
        fake.fails = true;
        enforcer.try_enforce(&index(&policy("198.51.100.7")), &facts(), &mut fake);
        let said = |enforcer: &mut Enforcer| enforcer.gateways.update(Vec::new()).over.len();
        assert_eq!(
            said(&mut enforcer),
            0,
            "nothing is enforced, so nothing is said to be"
        );
        fake.fails = false;
        enforcer
            .enforce(&index(&policy("198.51.100.7")), &facts(), &mut fake)
            .unwrap();
        assert_eq!(said(&mut enforcer), 1);
        enforcer.retry = None;
        let (generation, names) = (enforcer.planner.generation(), enforcer.names().clone());
        assert_eq!(generation, 1);

        fake.fails = true;
        let next = index(&policy("198.51.100.8"));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            enforcer.try_enforce(&next, &facts(), &mut fake);
            assert_eq!(
                (enforcer.planner.generation(), enforcer.names()),
                (generation, &names)
            );
            let due = enforcer.due().unwrap();
            pauses.push((due - Instant::now()).as_secs());
            tokio::time::sleep_until(due).await;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(enforcer.failure.is_some());

        fake.fails = false;
        fake.applied.clear();
        enforcer.try_enforce(&next, &facts(), &mut fake);
        assert_eq!(enforcer.planner.generation(), generation + 1);
        assert!(fake.applied.iter().any(|op| matches!(op, Op::Swap { .. })));
        assert_eq!((enforcer.failure.as_deref(), enforcer.retry), (None, None));
    }

    /// Destinations of the last generation that was applied.
    fn destinations(fake: &Fake) -> Option<u32> {
        fake.applied.iter().rev().find_map(|op| match op {
            Op::Swap { root } => Some(root.header().tuples),
            _ => None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn tables_that_cannot_be_loosened_are_withdrawn_and_those_that_are_right_stay() {
        let (mut enforcer, mut fake) = (enforcer(), Fake::default());
        enforcer
            .enforce(&index(&policy("198.51.100.7, 198.51.100.9")), &facts(), &mut fake)
            .unwrap();
        let all = destinations(&fake);
        assert!(all.is_some_and(|n| n > 0));
        fake.fails_to_build = true;
        // Tighter: what is in force is right as far as it goes.
        let tighter = index(&policy("198.51.100.0/24"));
        enforcer.enforce(&tighter, &facts(), &mut fake).unwrap_err();
        assert_eq!((destinations(&fake), enforcer.planner.generation()), (all, 1));
        // Looser: the gateway lets 198.51.100.7 in now.
        let looser = index(&policy("198.51.100.9"));
        enforcer.enforce(&looser, &facts(), &mut fake).unwrap_err();
        assert_eq!((destinations(&fake), enforcer.planner.generation()), (Some(0), 2));
        fake.fails_to_build = false;
        enforcer.enforce(&looser, &facts(), &mut fake).unwrap();
        assert_eq!(destinations(&fake), all);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_that_cannot_be_freed_does_not_keep_a_generation_out_of_force() {
        let (mut enforcer, mut fake) = (
            enforcer(),
            Fake {
                leaks: true,
                ..Fake::default()
            },
        );
        enforcer
            .enforce(&index(&policy("198.51.100.7")), &facts(), &mut fake)
            .unwrap();
        assert_eq!(enforcer.planner.generation(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_drain_window_is_due_and_then_nothing_is() {
        let (mut enforcer, mut fake) = (enforcer(), Fake::default());
        let index = index(&policy("198.51.100.7"));
        enforcer.enforce(&index, &facts(), &mut fake).unwrap();
        let due = enforcer.due().unwrap();
        assert_eq!((due - enforcer.start).as_secs(), 60);
        tokio::time::sleep_until(due).await;
        enforcer.try_enforce(&index, &facts(), &mut fake);
        assert_eq!(enforcer.planner.generation(), 2, "the same policy, drained");
        assert_eq!(enforcer.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_breaks_changes_nothing_in_force() {
        let (mut enforcer, mut fake) = (enforcer(), Fake::default());
        let mut index = index(&policy("198.51.100.7"));
        enforcer.enforce(&index, &facts(), &mut fake).unwrap();
        fake.applied.clear();
        index.load("p", b"kind: [").unwrap_err();
        enforcer.enforce(&index, &facts(), &mut fake).unwrap();
        assert!(fake.applied.is_empty(), "{:?}", fake.applied);
    }
}
