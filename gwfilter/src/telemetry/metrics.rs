//! What `/metrics` says, in the OpenMetrics text form. Pure: figures in, text out.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use gwfilter_common::reason::Reason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::counters::Reading;

/// The media type of [`render`]'s text.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The generation in force.
    pub generation: u64,
    /// As `/readyz` says.
    pub ready: bool,
    /// `--observe`.
    pub observe: bool,
    /// By `ns/service`: whether it is enforced on this node.
    pub gateways: BTreeMap<String, bool>,
    /// Network interfaces that are served.
    pub interfaces: u64,
    /// Seconds until enforcement ends by itself, unless the agent renews it; by kind of lease. Empty: there is none.
    pub leases: BTreeMap<&'static str, f64>,
    /// `gwfilter pause` is in force.
    pub paused: bool,
    /// The kernel's counters; `None`: they could not be read.
    pub reading: Option<Reading>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Gateway {
    gateway: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lease {
    lease: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Packets {
    gateway: String,
    reason: String,
    verdict: &'static str,
}

/// The text of one answer. Its size is bounded by the gateways of this node, times reasons.
///
/// # Errors
/// The text could not be put together.
pub fn render(figures: &Figures) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("gwfilter");
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    registry.register("build", "The agent's version", Info::new(version));
    let gauge = |value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };
    registry.register(
        "generation",
        "Generations of tables since the agent started; grows by one with each that comes into force",
        gauge(figures.generation),
    );
    registry.register(
        "ready",
        "1 if everything that is wanted is enforced, as /readyz says",
        gauge(figures.ready.into()),
    );
    registry.register(
        "observe",
        "1 if the agent judges and counts and drops nothing",
        gauge(figures.observe.into()),
    );
    registry.register(
        "paused",
        "1 if all enforcement on this node is paused: judged and counted, nothing dropped",
        gauge(figures.paused.into()),
    );
    registry.register(
        "interfaces",
        "Network interfaces with a program of gwfilter",
        gauge(figures.interfaces),
    );
    let enforced = Family::<Gateway, Gauge>::default();
    for (gateway, is) in &figures.gateways {
        let label = Gateway {
            gateway: gateway.clone(),
        };
        enforced.get_or_create(&label).set((*is).into());
    }
    registry.register(
        "gateway_enforced",
        "1 if the gateway's policies are enforced on this node, wholly or in part",
        enforced,
    );
    if !figures.leases.is_empty() {
        let leases = Family::<Lease, Gauge<f64, AtomicU64>>::default();
        for (lease, left) in &figures.leases {
            leases
                .get_or_create(&Lease {
                    lease: (*lease).to_owned(),
                })
                .set(*left);
        }
        registry.register_with_unit(
            "lease_remaining",
            "Time until enforcement ends by itself, unless the agent renews its lease",
            Unit::Seconds,
            leases,
        );
    }
    registry.register(
        "counters_readable",
        "1 if the kernel's counters could be read for this answer",
        gauge(figures.reading.is_some().into()),
    );
    if let Some(reading) = &figures.reading {
        registry.register(
            "packets",
            "Packets to gateways, by reason and by what became of them",
            packets(reading),
        );
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn packets(reading: &Reading) -> Family<Packets, Counter> {
    let family = Family::<Packets, Counter>::default();
    let count = |gateway: &str, tallies: &[gwfilter_common::abi::Tally]| {
        for (code, tally) in tallies.iter().enumerate() {
            let reason = u8::try_from(code).ok().and_then(Reason::from_code);
            let Some(reason) = reason else { continue };
            for (verdict, n) in [
                ("pass", tally.passed),
                ("drop", tally.dropped),
                ("would-drop", tally.would_drop),
            ] {
                if n > 0 {
                    let label = Packets {
                        gateway: gateway.to_owned(),
                        reason: reason.name().to_owned(),
                        verdict,
                    };
                    family.get_or_create(&label).inc_by(n);
                }
            }
        }
    };
    for ((gateway, _), tallies) in &reading.listeners {
        count(gateway, tallies);
    }
    count("", &reading.unattributed);
    family
}

#[cfg(test)]
mod tests {
    use gwfilter_common::abi::Tally;

    use super::*;

    fn lines(figures: &Figures) -> Vec<String> {
        let text = render(figures).unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn figures_then_names_and_units_of_the_convention() {
        let mut tallies = vec![Tally::default(); 4];
        tallies[3] = Tally {
            passed: 0,
            dropped: 7,
            would_drop: 0,
        };
        let mut reading = Reading::default();
        // Two listeners of one gateway: one sum.
        for listener in ["80", "443"] {
            reading
                .listeners
                .insert(("a/gw".into(), listener.into()), tallies.clone());
        }
        let figures = Figures {
            generation: 5,
            ready: true,
            gateways: [("a/gw".to_owned(), true), ("b/gw".to_owned(), false)].into(),
            leases: [("node", 3599.5)].into(),
            reading: Some(reading),
            ..Figures::default()
        };
        let lines = lines(&figures);
        for wanted in [
            "gwfilter_generation 5",
            "gwfilter_ready 1",
            "gwfilter_observe 0",
            "gwfilter_gateway_enforced{gateway=\"a/gw\"} 1",
            "gwfilter_gateway_enforced{gateway=\"b/gw\"} 0",
            "gwfilter_lease_remaining_seconds{lease=\"node\"} 3599.5",
            "gwfilter_counters_readable 1",
            "gwfilter_packets_total{gateway=\"a/gw\",reason=\"denied-by-rule\",verdict=\"drop\"} 14",
        ] {
            assert!(lines.iter().any(|line| line == wanted), "{wanted} in {lines:#?}");
        }
    }

    #[test]
    fn counters_that_cannot_be_read_then_said_and_no_zeros_in_their_place() {
        let lines = lines(&Figures::default());
        assert!(
            lines.iter().any(|line| line == "gwfilter_counters_readable 0"),
            "{lines:#?}"
        );
        assert!(!lines.iter().any(|line| line.contains("packets")), "{lines:#?}");
    }
}
