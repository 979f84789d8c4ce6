//! What each frame must come to under the tables of [`image`]: read by the host tests and by the kernel tests.

use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use super::tables::addr;
pub use super::tables::*;
use crate::decide::{Action, Decision};
use crate::packet::{Extension, Fragment, Packet, Transport};
use crate::reason::Reason;
use crate::wire::{eth, ipv6, l4};

/// What a frame must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Pass or drop.
    pub action: Action,
    /// The reason counted.
    pub reason: Reason,
    /// The block of counters.
    pub listener: u32,
    /// The rule that decided.
    pub rule: u32,
    /// Whether observe mode alone let it pass.
    pub would_drop: bool,
}

impl Want {
    /// The same where everything is only observed.
    #[must_use]
    pub fn observed(self) -> Self {
        match self.action {
            Action::Pass | Action::Look => self,
            Action::Drop => Self {
                action: Action::Pass,
                reason: Reason::Observed,
                would_drop: true,
                ..self
            },
        }
    }
}

impl From<Decision> for Want {
    fn from(d: Decision) -> Self {
        Self {
            action: d.action,
            reason: d.reason,
            listener: d.listener,
            rule: d.rule,
            would_drop: d.would_drop,
        }
    }
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about.
    pub name: String,
    /// The frame.
    pub frame: Vec<u8>,
    /// What it must come to.
    pub want: Want,
}

/// Every case of [`image`] with no header flags.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all = sources();
    all.extend(flags());
    all.extend(link());
    all.extend(options());
    all.extend(extensions());
    all.extend(fragments());
    all.extend(super::lengths::cases());
    all.extend(transports());
    all
}

const UNTOUCHED: Want = pass(Reason::NotAGateway, 0, 0);
pub(super) const REFUSED: Want = drop(Reason::DeniedByRule, 1, 1);
pub(super) const REFUSED6: Want = drop(Reason::DeniedByRule, 2, 1);

pub(super) const fn pass(reason: Reason, listener: u32, rule: u32) -> Want {
    Want {
        action: Action::Pass,
        reason,
        listener,
        rule,
        would_drop: false,
    }
}

const fn drop(reason: Reason, listener: u32, rule: u32) -> Want {
    Want {
        action: Action::Drop,
        ..pass(reason, listener, rule)
    }
}

#[expect(clippy::unwrap_used, reason = "the cases fit the builder")]
pub(super) fn case(name: impl Into<String>, packet: &Packet<'_>, want: Want) -> Case {
    Case {
        name: name.into(),
        frame: packet.build().unwrap().bytes().to_vec(),
        want,
    }
}

/// A SYN between these.
fn syn(source: &str, destination: &str) -> Packet<'static> {
    Packet::syn(addr(source), addr(destination))
}

/// [`syn`] from a denied source to the gateway, for either family.
pub(super) fn denied() -> Packet<'static> {
    syn(DENIED, GATEWAY)
}

const DENIED6: &str = "[2001:db8:51::20]:40000";

pub(super) fn denied6() -> Packet<'static> {
    syn(DENIED6, GATEWAY6)
}

fn sources() -> Vec<Case> {
    let rows: [(&str, &str, Want); 37] = [
        (DENIED, GATEWAY, REFUSED),
        (ALLOWED, GATEWAY, pass(Reason::Allowed, 1, 2)),
        (UNKNOWN, GATEWAY, pass(Reason::Allowed, 1, 0)),
        (UNLISTED, GATEWAY, drop(Reason::NoRuleAllows, 1, 3)),
        (DRAINING, GATEWAY, drop(Reason::DeniedByRule, 1, 4)),
        (NEVER, GATEWAY, pass(Reason::NeverDropSource, 1, 0)),
        ("198.51.100.6:1", GATEWAY, REFUSED),
        ("198.51.100.8:1", GATEWAY, REFUSED),
        ("198.51.100.0:1", GATEWAY, REFUSED),
        ("198.51.100.255:1", GATEWAY, REFUSED),
        ("198.51.99.255:1", GATEWAY, pass(Reason::Allowed, 1, 0)),
        ("198.51.101.0:1", GATEWAY, pass(Reason::Allowed, 1, 0)),
        ("192.0.4.1:1", GATEWAY, pass(Reason::TableMissing, 1, 0)),
        ("192.0.5.1:1", GATEWAY, pass(Reason::TableMissing, 1, 0)),
        ("192.0.6.1:1", GATEWAY, pass(Reason::TableMissing, 1, 0)),
        ("0.0.0.0:1", GATEWAY, pass(Reason::OddSource, 1, 0)),
        ("0.0.0.1:1", GATEWAY, REFUSED),
        ("127.0.0.1:1", GATEWAY, pass(Reason::OddSource, 1, 0)),
        ("224.0.0.1:1", GATEWAY, pass(Reason::OddSource, 1, 0)),
        ("239.255.255.255:1", GATEWAY, pass(Reason::OddSource, 1, 0)),
        ("240.0.0.1:1", GATEWAY, REFUSED),
        ("255.255.255.255:1", GATEWAY, pass(Reason::OddSource, 1, 0)),
        (DENIED, "203.0.113.9:444", UNTOUCHED),
        (DENIED, "203.0.113.9:22", UNTOUCHED),
        (DENIED, "203.0.113.8:443", UNTOUCHED),
        (DENIED, NO_TABLE, pass(Reason::NoPolicy, 6, 0)),
        (DENIED, LOST_TABLE, pass(Reason::TableMissing, 7, 0)),
        (DENIED, LOST_NEVER, pass(Reason::TableMissing, 8, 0)),
        (DENIED, BAD_LISTENER, pass(Reason::TableMissing, 0, 0)),
        (DENIED6, GATEWAY6, REFUSED6),
        ("[2001:db8:51:40::1]:1", GATEWAY6, pass(Reason::Allowed, 2, 2)),
        (
            "[2001:db8:51:7::1]:1",
            GATEWAY6,
            pass(Reason::NeverDropSource, 2, 0),
        ),
        ("[2001:db8:52::1]:1", GATEWAY6, pass(Reason::Allowed, 2, 0)),
        ("[::]:1", GATEWAY6, pass(Reason::OddSource, 2, 0)),
        ("[::1]:1", GATEWAY6, pass(Reason::OddSource, 2, 0)),
        ("[ff02::1]:1", GATEWAY6, pass(Reason::OddSource, 2, 0)),
        // A v4-mapped source is an IPv6 source: 198.51.100.20 is denied in the IPv4 table, 8.8.8.8 in the IPv6 table.
        ("[::ffff:198.51.100.20]:1", GATEWAY6, pass(Reason::Allowed, 2, 0)),
    ];
    let mut all: Vec<Case> = rows
        .iter()
        .map(|(s, d, want)| case(format!("SYN {s} to {d}"), &syn(s, d), *want))
        .collect();
    all.push(case(
        "v4-mapped in the IPv6 table",
        &syn("[::ffff:8.8.8.8]:1", GATEWAY6),
        REFUSED6,
    ));
    all
}

fn flags() -> Vec<Case> {
    let mut all = Vec::new();
    for flags in 0..=u8::MAX {
        let opens = flags & 0x12 == 0x02;
        let rows = [
            (DENIED, GATEWAY, REFUSED),
            (ALLOWED, GATEWAY, pass(Reason::Allowed, 1, 2)),
            (
                DRAINING,
                GATEWAY,
                if opens {
                    drop(Reason::DeniedByRule, 1, 4)
                } else {
                    pass(Reason::Draining, 1, 4)
                },
            ),
            (
                DENIED,
                NEW_ONLY,
                if opens {
                    drop(Reason::DeniedByRule, 4, 1)
                } else {
                    pass(Reason::Draining, 4, 1)
                },
            ),
            (
                DENIED,
                NODE,
                if opens {
                    drop(Reason::DeniedByRule, 5, 1)
                } else {
                    pass(Reason::MaybeReply, 5, 1)
                },
            ),
            (
                DRAINING,
                NODE,
                if opens {
                    drop(Reason::DeniedByRule, 5, 4)
                } else {
                    pass(Reason::MaybeReply, 5, 4)
                },
            ),
            (
                DENIED,
                OBSERVED,
                Want {
                    would_drop: true,
                    ..pass(Reason::Observed, 3, 1)
                },
            ),
            (
                DRAINING,
                OBSERVED,
                if opens {
                    Want {
                        would_drop: true,
                        ..pass(Reason::Observed, 3, 4)
                    }
                } else {
                    pass(Reason::Draining, 3, 4)
                },
            ),
            (ALLOWED, OBSERVED, pass(Reason::Allowed, 3, 2)),
        ];
        for (s, d, want) in rows {
            let packet = Packet::tcp(addr(s), addr(d), flags);
            all.push(case(format!("flags {flags:#04x} {s} to {d}"), &packet, want));
        }
    }
    all
}

fn link() -> Vec<Case> {
    const V: u16 = eth::VLAN;
    const S: u16 = eth::SERVICE_VLAN;
    let mut all = Vec::new();
    let rows: [(&[u16], bool); 6] = [
        (&[V], true),
        (&[S], true),
        (&[S, V], true),
        (&[V, V], true),
        (&[0x9100], false),
        (&[V, 0x9100], false),
    ];
    for (tags, judged) in rows {
        let name = format!("tags {tags:x?}");
        all.push(case(
            name.clone() + " v4",
            &Packet { tags, ..denied() },
            if judged { REFUSED } else { UNTOUCHED },
        ));
        all.push(case(
            name + " v6",
            &Packet { tags, ..denied6() },
            if judged { REFUSED6 } else { UNTOUCHED },
        ));
    }
    all.push(case(
        "three tags",
        &Packet {
            tags: &[S, V, V],
            ..denied()
        },
        pass(Reason::TooManyHeaders, 0, 0),
    ));
    for kind in [0x0806_u16, 0x88cc, 0x8847, 0x0026, 0x86de, 0x0801, 0] {
        let mut c = case(format!("type {kind:#06x}"), &denied(), UNTOUCHED);
        poke(&mut c.frame, 12, &kind.to_be_bytes());
        all.push(c);
    }
    let mut c = case(
        "IPv6 type, IPv4 header",
        &denied(),
        pass(Reason::Unparseable, 0, 0),
    );
    poke(&mut c.frame, 12, &eth::IPV6.to_be_bytes());
    all.push(c);
    let mut c = case(
        "IPv4 type, IPv6 header",
        &denied6(),
        pass(Reason::Unparseable, 0, 0),
    );
    poke(&mut c.frame, 12, &eth::IPV4.to_be_bytes());
    all.push(c);
    all
}

#[expect(
    clippy::indexing_slicing,
    reason = "the cases are longer than what is changed"
)]
pub(super) fn poke(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
}

fn options() -> Vec<Case> {
    let mut all: Vec<Case> = (1..=10_usize)
        .map(|words| {
            let nops = [1_u8; 40];
            let options = nops.get(..4 * words).unwrap_or_default();
            case(
                format!("{words} words of options"),
                &Packet { options, ..denied() },
                REFUSED,
            )
        })
        .collect();
    for kind in [131, 137] {
        for at in [0, 1, 7, 39] {
            let mut options = [1_u8; 40];
            poke(&mut options, at, &[kind]);
            let packet = Packet {
                options: &options,
                ..denied()
            };
            all.push(case(
                format!("source route {kind} at {at}"),
                &packet,
                pass(Reason::Unparseable, 1, 0),
            ));
        }
    }
    for words in 0..5 {
        let mut c = case(
            format!("header of {words} words"),
            &denied(),
            pass(Reason::Unparseable, 0, 0),
        );
        poke(&mut c.frame, 14, &[0x40 | words]);
        all.push(c);
    }
    all
}

fn extensions() -> Vec<Case> {
    const HOP: Extension<'_> = Extension::Options(ipv6::HOP_BY_HOP, &[1, 4, 0, 0, 0, 0]);
    const DEST: Extension<'_> = Extension::Options(ipv6::DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]);
    const DEST16: Extension<'_> = Extension::Options(ipv6::DESTINATION_OPTIONS, &[1, 12, 0, 0, 0, 0, 0, 0]);
    const HOME: Extension<'_> = Extension::Options(
        ipv6::DESTINATION_OPTIONS,
        &[0xc9, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    const ROUTE: Extension<'_> = Extension::Routing {
        kind: 4,
        segments_left: 0,
    };
    const ROUTE1: Extension<'_> = Extension::Routing {
        kind: 4,
        segments_left: 1,
    };
    const ATOMIC: Extension<'_> = Extension::Fragment(Fragment {
        offset: 0,
        more: false,
    });
    const AH: Extension<'_> = Extension::Authentication(12);
    const SHORT_AH: Extension<'_> = Extension::Options(ipv6::AUTHENTICATION, &[0; 6]);
    const AH16: Extension<'_> = Extension::Authentication(16);
    const DOUBT: Want = pass(Reason::Unparseable, 2, 0);
    let rows: [(&str, &[Extension<'_>], Want); 21] = [
        ("hop-by-hop", &[HOP], REFUSED6),
        ("destination options", &[DEST], REFUSED6),
        ("destination options, 16 bytes", &[DEST16], REFUSED6),
        ("home address", &[HOME], DOUBT),
        ("routing, at the last stop", &[ROUTE], REFUSED6),
        ("routing, on the way", &[ROUTE1], DOUBT),
        ("atomic fragment", &[ATOMIC], REFUSED6),
        ("authentication", &[AH], REFUSED6),
        ("authentication, 16 bytes", &[AH16], REFUSED6),
        ("authentication, too short", &[SHORT_AH], DOUBT),
        ("all five kinds", &[HOP, DEST, ROUTE, ATOMIC, AH], REFUSED6),
        ("six headers", &[HOP, DEST, ROUTE, ATOMIC, AH, DEST], REFUSED6),
        ("hop-by-hop not first", &[DEST, HOP], DOUBT),
        (
            "seven headers",
            &[HOP, DEST, ROUTE, ATOMIC, AH, DEST, DEST],
            pass(Reason::TooManyHeaders, 0, 0),
        ),
        ("doubt survives what follows", &[HOP, HOME, DEST], DOUBT),
        ("mobility", &[Extension::Options(135, &[0; 6])], UNTOUCHED),
        ("HIP", &[Extension::Options(139, &[0; 6])], UNTOUCHED),
        ("shim6", &[Extension::Options(140, &[0; 6])], UNTOUCHED),
        ("ESP", &[Extension::Options(50, &[0; 6])], UNTOUCHED),
        ("no next header", &[Extension::Options(59, &[0; 6])], UNTOUCHED),
        (
            "experimental",
            &[HOP, Extension::Options(253, &[0; 6])],
            UNTOUCHED,
        ),
    ];
    rows.iter()
        .map(|(name, extensions, want)| {
            case(
                *name,
                &Packet {
                    extensions,
                    ..denied6()
                },
                *want,
            )
        })
        .collect()
}

fn fragments() -> Vec<Case> {
    let mut all = Vec::new();
    for (offset, more, judged) in [
        (0, false, true),
        (0, true, true),
        (1, true, false),
        (0x1fff, false, false),
    ] {
        let fragment = Fragment { offset, more };
        let want = if judged {
            REFUSED
        } else {
            pass(Reason::Fragment, 0, 0)
        };
        let packet = Packet {
            fragment: Some(fragment),
            ..denied()
        };
        all.push(case(format!("IPv4 {fragment:?}"), &packet, want));
        let want = if judged {
            REFUSED6
        } else {
            pass(Reason::Fragment, 0, 0)
        };
        let packet = Packet {
            extensions: &[Extension::Fragment(fragment)],
            ..denied6()
        };
        all.push(case(format!("IPv6 {fragment:?}"), &packet, want));
    }
    let fragment = Some(Fragment {
        offset: 0,
        more: true,
    });
    let tiny = |name: &str, bytes: &'static [u8], want| {
        let transport = Transport::Raw(l4::TCP);
        case(
            name,
            &Packet {
                fragment,
                transport,
                payload: bytes,
                ..denied()
            },
            want,
        )
    };
    all.push(tiny(
        "first fragment with only ports",
        &[0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1],
        pass(Reason::Unparseable, 1, 0),
    ));
    all.push(tiny(
        "first fragment without ports",
        &[],
        pass(Reason::Unparseable, 0, 0),
    ));
    all
}

fn transports() -> Vec<Case> {
    let udp = |s, d| Packet::udp(addr(s), addr(d));
    let mut all = vec![
        case("UDP v4", &udp(DENIED, GATEWAY), pass(Reason::LeftToGateway, 1, 0)),
        case(
            "UDP v6",
            &udp(DENIED6, GATEWAY6),
            pass(Reason::LeftToGateway, 2, 0),
        ),
        case("UDP to a TCP tuple", &udp(DENIED, NODE), UNTOUCHED),
        case(
            "SYN with payload",
            &Packet {
                payload: &[0; 1000],
                ..denied()
            },
            REFUSED,
        ),
        case(
            "v6 with payload",
            &Packet {
                payload: &[0; 1000],
                ..denied6()
            },
            REFUSED6,
        ),
    ];
    for protocol in [0, 1, 2, 4, 41, 47, 50, 51, 58, 89, 132, 136, 255] {
        let raw = |p: Packet<'static>| Packet {
            transport: Transport::Raw(protocol),
            payload: &[
                0x9c, 0x40, 1, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
            ],
            ..p
        };
        all.push(case(
            format!("IPv4 protocol {protocol}"),
            &raw(denied()),
            UNTOUCHED,
        ));
        if ![0, 51].contains(&protocol) {
            all.push(case(
                format!("IPv6 next header {protocol}"),
                &raw(denied6()),
                UNTOUCHED,
            ));
        }
    }
    all
}
