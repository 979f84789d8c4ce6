//! The list of all metrics: name, kind, unit, labels, help, and where its samples come from. Pure. The page of the reference is made from
//! it, too.
//!
//! No label has a value that grows with traffic, and none is an address, a port or a pod.

use super::figures::{self, Figures};
use super::samples::{
    Sample, Value, each_gateway, finds, labelled, packets, plain, process, real, rules, truth, whole,
};

/// So many policy rules have samples of their own.
pub const RULES: usize = 200;

/// What kind of metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until it begins anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
    /// Always 1: its labels are what it says.
    Info,
}

impl Kind {
    /// As the text forms have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// A base unit of the conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Base {
    /// As names and texts have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }
}

/// A label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it may be, for people.
    pub values: &'static str,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name in queries.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its unit, which is a part of its name; `None`: a number of things, a truth, a number.
    pub unit: Option<Base>,
    /// Its labels.
    pub labels: &'static [Label],
    /// One sentence.
    pub help: &'static str,
    take: fn(&Figures) -> Vec<Sample>,
}

impl Metric {
    /// None: what it says is not known.
    pub(super) fn samples(&self, figures: &Figures) -> Vec<Sample> {
        (self.take)(figures)
    }
}

/// The rows of the reference, one for each metric, as Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut rows = String::from("| name | kind | labels | |\n|---|---|---|---|\n");
    for metric in METRICS {
        let labels = metric.labels.iter();
        let labels: Vec<String> = labels
            .map(|label| format!("`{}`: {}", label.name, label.values))
            .collect();
        let (name, kind, help) = (metric.name, metric.kind.name(), metric.help);
        rows.push_str(&format!(
            "| `{name}` | {kind} | {} | {help} |\n",
            labels.join("; ")
        ));
    }
    rows
}

/// The name without what its kind and its unit add.
pub(super) fn stem(metric: &Metric) -> &'static str {
    let kind = match metric.kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram => "",
    };
    let name = metric.name.strip_suffix(kind).unwrap_or(metric.name);
    let unit = metric
        .unit
        .and_then(|unit| name.strip_suffix(unit.name())?.strip_suffix('_'));
    unit.unwrap_or(name)
}

const GATEWAY: Label = Label {
    name: "gateway",
    values: "`namespace/service`, or `namespace/(other)`",
};
const CODE: Label = Label {
    name: "reason",
    values: "a [code](reasons.md#codes)",
};
const LEASE: Label = Label {
    name: "lease",
    values: "`node`, `pods`",
};

/// A row of the list, with what most have none of.
const fn gauge(name: &'static str, help: &'static str, take: fn(&Figures) -> Vec<Sample>) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        unit: None,
        labels: &[],
        help,
        take,
    }
}

const fn counter(name: &'static str, help: &'static str, take: fn(&Figures) -> Vec<Sample>) -> Metric {
    Metric {
        kind: Kind::Counter,
        ..gauge(name, help, take)
    }
}

/// All of them, in the order in which they are told.
pub const METRICS: &[Metric] = &[
    Metric {
        kind: Kind::Info,
        labels: &[Label {
            name: "version",
            values: "the agent's",
        }],
        ..gauge("gwfilter_build_info", "The agent's version.", |_| {
            vec![labelled(
                [("version", env!("CARGO_PKG_VERSION"))],
                Value::Whole(1),
            )]
        })
    },
    gauge(
        "gwfilter_ready",
        "1 if everything that is wanted is enforced, as /readyz says.",
        |f| truth(f.ready),
    ),
    gauge(
        "gwfilter_observe",
        "1 if the agent runs with --observe: it judges and counts, and drops nothing.",
        |f| truth(f.observe),
    ),
    gauge(
        "gwfilter_paused",
        "1 if gwfilter pause is in force on this node: judged and counted, nothing dropped.",
        |f| truth(f.paused),
    ),
    gauge(
        "gwfilter_interfaces",
        "Network interfaces with a program of gwfilter.",
        |f| whole(f.interfaces),
    ),
    gauge(
        "gwfilter_generation",
        "Generations of tables since the agent started; grows by one with each that comes into force.",
        |f| whole(f.generation),
    ),
    Metric {
        unit: Some(Base::Seconds),
        ..gauge(
            "gwfilter_generation_timestamp_seconds",
            "When the generation in force came into force, in seconds since 1970.",
            |f| f.generation_at.map(Value::Real).into_iter().map(plain).collect(),
        )
    },
    Metric {
        kind: Kind::Histogram,
        unit: Some(Base::Seconds),
        ..gauge(
            "gwfilter_change_to_enforced_seconds",
            "From the moment a change of objects was received to the one when the tables that follow from it were in force; changes that change no table are not counted.",
            |f| vec![plain(Value::Spread(f.changes.clone()))],
        )
    },
    Metric {
        unit: Some(Base::Seconds),
        ..gauge(
            "gwfilter_change_pending_seconds",
            "For how long the oldest change that was received has not come into force; 0 if none waits.",
            |f| real(f.pending),
        )
    },
    Metric {
        labels: &[
            GATEWAY,
            Label {
                name: "reason",
                values: "empty, or the weightiest [code](reasons.md#codes)",
            },
        ],
        ..gauge(
            "gwfilter_gateway_enforced",
            "1 if the gateway's policies are enforced on this node, wholly or in part.",
            |f| {
                each_gateway(f, |name, gateway| {
                    let states = gateway.enforced.iter();
                    let state = |(reason, enforced): (&&str, &bool)| {
                        labelled(
                            [("gateway", name), ("reason", reason)],
                            Value::Whole((*enforced).into()),
                        )
                    };
                    states.map(state).collect()
                })
            },
        )
    },
    Metric {
        labels: &[GATEWAY, CODE],
        ..gauge(
            "gwfilter_gateway_left",
            "1 for each reason why something of the gateway is left to the gateway on this node.",
            |f| {
                each_gateway(f, |name, gateway| {
                    let reasons = gateway.left.iter();
                    reasons
                        .map(|reason| labelled([("gateway", name), ("reason", reason)], Value::Whole(1)))
                        .collect()
                })
            },
        )
    },
    Metric {
        labels: &[
            GATEWAY,
            Label {
                name: "enforced_at",
                values: "`node`, `gateway`, `both`",
            },
        ],
        ..gauge(
            "gwfilter_gateway_rules",
            "Policy rules that bear on the gateway, by where what they refuse is refused.",
            |f| {
                each_gateway(f, |name, gateway| {
                    let rules = gateway.rules.iter();
                    rules
                        .map(|(at, n)| labelled([("gateway", name), ("enforced_at", at)], Value::Whole(*n)))
                        .collect()
                })
            },
        )
    },
    Metric {
        labels: &[GATEWAY],
        ..gauge(
            "gwfilter_gateway_prefixes",
            "Prefixes in the tables of the gateway.",
            |f| {
                each_gateway(f, |name, gateway| {
                    vec![labelled([("gateway", name)], Value::Whole(gateway.prefixes))]
                })
            },
        )
    },
    Metric {
        labels: &[GATEWAY],
        ..gauge(
            "gwfilter_gateway_tuples",
            "Destinations (address, protocol, port) of the gateway.",
            |f| {
                each_gateway(f, |name, gateway| {
                    vec![labelled([("gateway", name)], Value::Whole(gateway.tuples))]
                })
            },
        )
    },
    Metric {
        labels: &[
            GATEWAY,
            Label {
                name: "reason",
                values: "as in [reasons.md](reasons.md)",
            },
            Label {
                name: "verdict",
                values: "`pass`, `drop`, `would-drop`",
            },
        ],
        ..counter(
            "gwfilter_packets_total",
            "Packets to gateways, by reason and by what became of them; an empty gateway: none could be named.",
            packets,
        )
    },
    Metric {
        labels: &[
            Label {
                name: "policy",
                values: "Envoy's policy id, or `other`",
            },
            Label {
                name: "verdict",
                values: "`drop`, `would-drop`",
            },
        ],
        ..counter(
            "gwfilter_rule_packets_total",
            "Packets refused, by policy rule; the first 200 rules in order of their counters have samples of their own, the rest is summed as other.",
            rules,
        )
    },
    gauge(
        "gwfilter_gateways_summed",
        "Gateways without samples of their own. Each namespace has them for 32, which keep them; a place that is free goes to an enforced one first. The rest is one gateway (other), with a sample for each reason.",
        |f| whole(f.summed),
    ),
    gauge(
        "gwfilter_rules_summed",
        "Policy rules that are summed as other in gwfilter_rule_packets_total.",
        |f| whole(figures::rules(f, RULES).2),
    ),
    gauge(
        "gwfilter_rules_uncounted",
        "Policy rules in force for which there was no counter left: they are counted under their gateway only.",
        |f| whole(f.uncounted),
    ),
    gauge(
        "gwfilter_counters_readable",
        "1 if the kernel's counters could be read for this answer; 0: those of packets are missing.",
        |f| truth(f.reading.is_some()),
    ),
    Metric {
        unit: Some(Base::Seconds),
        labels: &[LEASE],
        ..gauge(
            "gwfilter_lease_remaining_seconds",
            "Time until enforcement ends by itself, unless the agent renews its lease; missing where the lease is off.",
            |f| {
                let leases = f.leases.iter();
                leases
                    .map(|(name, lease)| labelled([("lease", name)], Value::Real(lease.remaining)))
                    .collect()
            },
        )
    },
    Metric {
        unit: Some(Base::Seconds),
        labels: &[LEASE],
        ..gauge(
            "gwfilter_lease_duration_seconds",
            "For how long a renewal of the lease grants enforcement.",
            |f| {
                let leases = f.leases.iter();
                let granted = leases.filter_map(|(name, lease)| Some((name, lease.granted?)));
                granted
                    .map(|(name, granted)| labelled([("lease", name)], Value::Real(granted)))
                    .collect()
            },
        )
    },
    Metric {
        labels: &[Label {
            name: "source",
            values: "a kind of the cluster, or `manifests`",
        }],
        ..gauge(
            "gwfilter_source_unread",
            "1 if what objects come from cannot be read now, or was not read yet.",
            |f| {
                let sources = f.sources.iter();
                sources
                    .map(|(name, unread)| labelled([("source", name)], Value::Whole((*unread).into())))
                    .collect()
            },
        )
    },
    Metric {
        labels: &[Label {
            name: "find",
            values: "as in [logs.md](logs.md#finds)",
        }],
        ..counter(
            "gwfilter_finds_total",
            "How often the agent found something in the kernel otherwise than it had left it, by name.",
            finds,
        )
    },
    counter(
        "gwfilter_packet_log_lost_lines_total",
        "Lines of the packet log that were left out, as there were too many.",
        |f| f.lost_lines.map(Value::Whole).into_iter().map(plain).collect(),
    ),
    gauge(
        "gwfilter_tuples",
        "Gateway destinations in the tables in force.",
        |f| whole(f.tuples),
    ),
    gauge(
        "gwfilter_tuples_limit",
        "Gateway destinations that fit into a generation.",
        |f| whole(f.tuples_limit),
    ),
    Metric {
        unit: Some(Base::Bytes),
        ..gauge(
            "gwfilter_map_memory_bytes",
            "Memory of the pinned maps, as the kernel reckons it.",
            |f| f.map_bytes.map(Value::Whole).into_iter().map(plain).collect(),
        )
    },
    Metric {
        unit: Some(Base::Seconds),
        ..counter(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            |f| process(f, |p| Some(Value::Real(p.cpu_seconds))),
        )
    },
    Metric {
        unit: Some(Base::Bytes),
        ..gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            |f| process(f, |p| Some(Value::Whole(p.resident_bytes))),
        )
    },
    Metric {
        unit: Some(Base::Bytes),
        ..gauge(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            |f| process(f, |p| Some(Value::Whole(p.virtual_bytes))),
        )
    },
    gauge("process_open_fds", "Number of open file descriptors.", |f| {
        process(f, |p| Some(Value::Whole(p.open_fds)))
    }),
    gauge(
        "process_max_fds",
        "Maximum number of open file descriptors.",
        |f| process(f, |p| p.max_fds.map(Value::Whole)),
    ),
    Metric {
        unit: Some(Base::Seconds),
        ..gauge(
            "process_start_time_seconds",
            "Start time of the process since 1970 in seconds.",
            |f| process(f, |p| Some(Value::Real(p.start_seconds))),
        )
    },
];
