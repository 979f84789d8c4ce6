//! From the index to the kernel's tables: compile, plan, apply, commit; what fails leaves the generation in force whole.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::told::Told;
use super::{millis, moment};
use crate::dataplane::tables::{Tables, TablesError};
use crate::diagnostic::{Diagnostic, Severity};
use crate::index::Index;
use crate::node::NodeFacts;
use crate::pipeline::{self, Built};
use crate::plan::{self, Names, Op, Plan, PlanError, Planner};
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
    settings: pipeline::Settings,
    start: Instant,
    deadline: Option<Instant>,
    retry: Option<(Instant, Duration)>,
    failure: Option<String>,
    diagnostics: Told<Diagnostic>,
    gateways: Told<(String, bool, Vec<String>)>,
    uncounted: Told<Arc<str>>,
}

impl Enforcer {
    pub(super) fn new(plan: plan::Settings, settings: pipeline::Settings) -> Self {
        Self {
            planner: Planner::new(plan),
            settings,
            start: Instant::now(),
            deadline: None,
            retry: None,
            failure: None,
            diagnostics: Told::default(),
            gateways: Told::default(),
            uncounted: Told::default(),
        }
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
                        "the new tables are not in force; those of this generation stay, and it is tried again"
                    );
                    self.failure = Some(text);
                }
            }
        }
    }

    /// Compiles what the index says and brings it into force.
    pub(super) fn enforce(
        &mut self,
        index: &Index,
        facts: &NodeFacts,
        tables: &mut impl Apply,
    ) -> Result<(), EnforceError> {
        let built = pipeline::build(&index.snapshot(), facts, &self.settings);
        self.tell(&built);
        let plan = self.planner.plan(&built.desired, millis(self.start.elapsed()))?;
        let not_freed = tables.apply(&plan.ops)?;
        self.planner.commit(&plan);
        self.deadline = plan.next_deadline_ms.and_then(|ms| moment(self.start, ms));
        self.tell_plan(&plan, &built);
        for e in not_freed {
            // The memory is in use until the index is built again; nothing else is wrong.
            warn!(error = chain(&e), "an old table could not be freed");
        }
        Ok(())
    }

    /// Logs findings that appeared and went.
    fn tell(&mut self, built: &Built) {
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
        let state = |r: &GatewayReport| (r.name.clone(), r.enforced, r.why.clone());
        let news = self.gateways.update(built.reports.iter().map(state));
        for (name, _, _) in &news.over {
            if !news.new.iter().any(|(n, _, _)| n == name) {
                info!(gateway = name, "gateway is gone");
            }
        }
        for (name, enforced, why) in &news.new {
            let why = why.join("; ");
            if *enforced {
                info!(gateway = name, why, "gateway is enforced");
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
