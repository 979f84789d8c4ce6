//! What `/metrics` is to say, gathered when it is asked.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use gwfilter_common::abi::MAX_TUPLES;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use tokio::time::Instant;

use super::Agent;
use crate::control::Span;
use crate::dataplane::control::now_ns;
use crate::dataplane::memory::pinned_bytes;
use crate::telemetry::metrics::Figures;
use crate::telemetry::metrics::figures::{GatewayFigures, LeaseFigures};
use crate::telemetry::metrics::process::{Process, Texts};

impl Agent {
    /// What is known now.
    pub(super) fn figures(&mut self) -> Figures {
        let (mut leases, mut paused) = (BTreeMap::new(), false);
        let granted = self.settings.lease;
        if let Ok(words) = self.dataplane.control().words() {
            let now = now_ns();
            for (name, until, granted) in [
                ("node", words.lease, granted.lease),
                ("pods", words.pod_lease, granted.pods),
            ] {
                let remaining = match Span::of(now, until) {
                    Span::Forever => continue,
                    Span::Over => 0.0,
                    Span::For(left) => left.as_secs_f64(),
                };
                let granted = granted.map(|span| span.as_secs_f64());
                leases.insert(name, LeaseFigures { remaining, granted });
            }
            paused = Span::of(now, words.paused) != Span::Over;
        }
        let reports = self.enforcer.built().map(|built| built.reports.as_slice());
        let reports = reports.unwrap_or_default().iter();
        let gateways = reports
            .map(|report| (report.name.clone(), GatewayFigures::of(report)))
            .collect();
        let (reading, lost_lines) = self.read_counters().ok().unzip();
        let (gateways, reading) = self.groups.fold(gateways, reading);
        let rules: Vec<_> = self.enforcer.names().rules.values().map(Arc::clone).collect();
        let carried = reading.as_ref().map(|reading| self.carry.beside(reading, &rules));
        Figures {
            generation: self.enforcer.generation(),
            generation_at: self.enforcer.swapped_at(),
            changes: self.changes.took().clone(),
            pending: self.changes.waits(Instant::now()).as_secs_f64(),
            ready: self.ready().is_ok(),
            observe: self.settings.observe,
            gateways,
            summed: self.groups.summed(),
            interfaces: self.interfaces.count(),
            leases,
            paused,
            reading,
            carried: carried.unwrap_or_default(),
            rules,
            uncounted: self.enforcer.uncounted(),
            finds: self.interfaces.finds(),
            sources: self.feed.sources(),
            lost_lines,
            tuples: self.dataplane.tables().tuples(),
            tuples_limit: u64::try_from(MAX_TUPLES).unwrap_or(u64::MAX),
            map_bytes: pinned_bytes(self.dataplane.pins().dir()),
            process: process(),
        }
    }
}

/// The agent itself; `None`: `/proc` does not say.
fn process() -> Option<Process> {
    let positive = |var| sysconf(var).ok().flatten().and_then(|n| u64::try_from(n).ok());
    let (stat, machine) = (
        fs::read_to_string("/proc/self/stat").ok()?,
        fs::read_to_string("/proc/stat").ok()?,
    );
    // The directory itself is open while it is read.
    let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let texts = Texts {
        stat: &stat,
        machine: &machine,
        ticks: positive(SysconfVar::CLK_TCK)?,
        page: positive(SysconfVar::PAGE_SIZE)?,
    };
    Process::parse(
        texts,
        u64::try_from(open).unwrap_or(u64::MAX),
        (soft != nix::sys::resource::RLIM_INFINITY).then_some(soft),
    )
}
