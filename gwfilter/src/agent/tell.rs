//! What `gwfilter status` is to show.

use super::{Agent, aside};
use crate::status::{GatewayState, Left, Prefixes};

impl Agent {
    /// What `gwfilter status` shows.
    pub(super) fn left(&self) -> Left {
        let ready = self.ready();
        let reports = self.enforcer.built().map(|built| &built.reports);
        let gateways = reports.into_iter().flatten().map(|report| GatewayState {
            name: report.name.clone(),
            client_address: report.client_address.to_owned(),
            enforced: report.enforced,
            why: report.why.clone(),
            prefixes: Some(Prefixes {
                v4: report.prefixes.v4,
                v6: report.prefixes.v6,
            }),
        });
        Left {
            written_at: aside::now(),
            from: self.settings.from.to_string(),
            generation: self.enforcer.generation(),
            observe: self.settings.observe,
            ready: ready.is_ok(),
            not_ready: ready.err(),
            gateways: gateways.collect(),
            finds: self.interfaces.finds(),
            lease_length: self.settings.lease.lease.map(|length| length.as_secs()),
        }
    }
}
