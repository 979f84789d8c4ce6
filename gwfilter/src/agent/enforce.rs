//! From the index to the kernel's tables: compile, plan, apply, commit. What fails leaves the generation in
//! force, but for what it refuses and the new one would not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::past::Lapse;
use super::told::Told;
use super::{millis, moment};
use crate::code;
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

/// The code of gateways whose tables are not in force.
const NOT_IN_FORCE: &str = "tables-not-in-force";

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
                let text = self.failed(&e);
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

    /// As [`Self::try_enforce`], for maps in which nothing is in force yet. If the wanted generation fails, one comes into force that refuses
    /// nothing: what an agent before has left may refuse what is let in by now, and nobody else can take it away.
    ///
    /// # Errors
    /// Not even that one can be brought into force.
    pub(super) fn first(
        &mut self,
        index: &Index,
        facts: &NodeFacts,
        tables: &mut impl Apply,
    ) -> Result<(), EnforceError> {
        let Err(e) = self.enforce(index, facts, tables) else {
            return Ok(());
        };
        if self.swapped.is_none() {
            return Err(e);
        }
        let text = self.failed(&e);
        error!(
            error = text,
            "the first tables are not in force; until they are, nothing is refused here, nor by what an earlier agent left, and it is tried again"
        );
        self.failure = Some(text);
        Ok(())
    }

    /// When to try again, and what failed.
    fn failed(&mut self, error: &EnforceError) -> String {
        let pause = self.retry.map_or(RETRY.0, |(_, last)| (last * 2).min(RETRY.1));
        self.retry = Some((Instant::now() + pause, pause));
        // A deadline that has passed would wake the loop at once, for ever.
        self.deadline = None;
        chain(error)
    }

    /// Compiles what the index says and brings it into force. If that fails, what is in force and refuses more than it
    /// should by now is withdrawn.
    pub(super) fn enforce(
        &mut self,
        index: &Index,
        facts: &NodeFacts,
        tables: &mut impl Apply,
    ) -> Result<(), EnforceError> {
        let mut built = pipeline::build_after(&mut self.memo, &index.snapshot(), facts, &self.settings);
        self.tell_findings(&built);
        let mut outcome = self.bring(&built.desired, tables);
        if matches!(outcome, Err(EnforceError::Apply(_))) && self.swapped.is_none() {
            // One call that fails once must not open what an earlier agent closed.
            outcome = self.bring(&built.desired, tables);
        }
        match &outcome {
            Ok(plan) => {
                self.stale = false;
                self.tell_gateways(&built);
                self.tell_plan(plan, &built);
            }
            Err(_) => {
                self.withdraw(&built.desired, tables);
                self.remark(&mut built);
            }
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

    /// What reports are to say while what they speak of is not in force.
    fn remark(&self, built: &mut Built) {
        let mut wanted: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (key, owners) in &built.owners {
            let gateways: BTreeSet<usize> = owners.iter().map(|owner| owner.gateway).collect();
            for gateway in gateways {
                let (all, there) = wanted.entry(gateway).or_default();
                *all += 1;
                *there += usize::from(self.in_force.tuples.contains_key(key));
            }
        }
        for (index, report) in built.reports.iter_mut().enumerate() {
            let (Some((all, there)), true) = (wanted.get(&index), report.enforced) else {
                continue;
            };
            let why = format!(
                "{NOT_IN_FORCE}: the tables of its policies cannot be written; {there} of its {all} destinations are judged meanwhile, by \
                 tables from before that refuse nobody whom the policies let in; the log and `gwfilter status` say what failed"
            );
            report.enforced = *there > 0;
            report.why.insert(0, why);
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
            let in_part = why.iter().any(|why| code::leaves_out(why));
            let why = why.join("; ");
            if *enforced && !in_part {
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
mod tests;
