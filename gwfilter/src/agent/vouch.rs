//! Lease and pause in the loop: when the leases are renewed, and what is new of either.

use tracing::error;

use super::Agent;
use super::past::Lapse;
use super::pulse::Beat;
use crate::dataplane::control::now_ns;
use crate::dataplane::tables::TablesError;
use crate::telemetry::chain;

impl Agent {
    /// Renews the leases, if the tables are vouched for.
    pub(super) fn beat(&mut self, Beat { at, answer }: Beat) {
        let view = answer
            .and_then(|()| self.feed.confirmed())
            .and_then(|()| self.enforcer.vouched())
            .and_then(|()| self.interfaces.vouched())
            .and_then(|()| self.sweep.vouched());
        let renewed = self.renew(at, view);
        self.tell_control(renewed);
        self.look_at_lease();
    }

    fn renew(&mut self, at: u64, view: Result<(), String>) -> Result<(), TablesError> {
        let before = self.dataplane.control().words()?;
        let lapse = Lapse::of(before, now_ns());
        let view = view.and_then(|()| self.drain_anew(lapse));
        let words = self.lease.beat(before, at, view);
        let control = self.dataplane.control();
        if words != before {
            control.lease(words.lease)?;
            control.pod_lease(words.pod_lease)?;
        }
        Ok(())
    }

    /// Before refusals begin again after a lapse: what a policy that was not seen let in meanwhile may have connections that the gateway
    /// drains, so the node does.
    fn drain_anew(&mut self, lapse: Lapse) -> Result<(), String> {
        if lapse == Lapse::None {
            return Ok(());
        }
        self.enforcer.let_in(lapse);
        self.enforce();
        self.enforcer.vouched()
    }

    /// Says what is new of lease and pause.
    pub(super) fn look_at_lease(&mut self) {
        let words = self.dataplane.control().words();
        let pods = self.enforcer.judges_pods();
        let told = words.map(|words| self.lease.tell(words, now_ns(), pods));
        self.tell_control(told);
    }

    pub(super) fn tell_control(&mut self, outcome: Result<(), TablesError>) {
        let error = outcome.err().map(|e| chain(&e));
        match &error {
            Some(error) if self.control_error.as_ref() != Some(error) => error!(
                error,
                "lease and pause cannot be read or written; the lease runs out if that lasts"
            ),
            _ => {}
        }
        self.control_error = error;
    }
}
