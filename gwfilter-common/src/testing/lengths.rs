//! Cases of lengths that are wrong, and of frames that end early.

use std::format;
use std::vec::Vec;

use super::cases::{Case, REFUSED, REFUSED6, case, denied, denied6, pass, poke};
use crate::packet::{Extension, Packet, Transport};
use crate::reason::Reason;
use crate::wire::{ipv6, l4};

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    // IPv4 total length; the frame has 40 bytes of IP, and is padded to 60.
    for (total, want) in [
        (0_u16, pass(Reason::Unparseable, 0, 0)),
        (19, pass(Reason::Unparseable, 0, 0)),
        (20, pass(Reason::Unparseable, 0, 0)),
        (23, pass(Reason::Unparseable, 0, 0)),
        (24, pass(Reason::Unparseable, 1, 0)),
        (39, pass(Reason::Unparseable, 1, 0)),
        (40, REFUSED),
        (46, REFUSED),
        (47, pass(Reason::Unparseable, 1, 0)),
        (0xffff, pass(Reason::Unparseable, 1, 0)),
    ] {
        let mut c = case(format!("IPv4 total length {total}"), &denied(), want);
        c.frame.resize(60, 0);
        poke(&mut c.frame, 16, &total.to_be_bytes());
        all.push(c);
    }
    // IPv6 payload length; the frame has 20 bytes of TCP and 6 of padding.
    for (length, want) in [
        (0_u16, pass(Reason::Unparseable, 0, 0)),
        (3, pass(Reason::Unparseable, 0, 0)),
        (4, pass(Reason::Unparseable, 2, 0)),
        (19, pass(Reason::Unparseable, 2, 0)),
        (20, REFUSED6),
        (26, REFUSED6),
        (27, pass(Reason::Unparseable, 2, 0)),
        (0xffff, pass(Reason::Unparseable, 2, 0)),
    ] {
        let mut c = case(format!("IPv6 payload length {length}"), &denied6(), want);
        c.frame.resize(80, 0);
        poke(&mut c.frame, 18, &length.to_be_bytes());
        all.push(c);
    }
    // TCP data offset.
    for words in 0..16_u8 {
        let want = if words == 5 {
            REFUSED
        } else {
            pass(Reason::Unparseable, 1, 0)
        };
        let mut c = case(format!("data offset {words}"), &denied(), want);
        poke(&mut c.frame, 14 + 20 + 12, &[words << 4]);
        all.push(c);
        let transport = Transport::Tcp {
            flags: l4::SYN,
            options: &[1; 40],
        };
        let want = if words >= 5 {
            REFUSED
        } else {
            pass(Reason::Unparseable, 1, 0)
        };
        let mut c = case(
            format!("data offset {words} of 15"),
            &Packet {
                transport,
                ..denied()
            },
            want,
        );
        poke(&mut c.frame, 14 + 20 + 12, &[words << 4]);
        all.push(c);
    }
    // An extension header that reaches over the end of its packet.
    let hop = [Extension::Options(ipv6::HOP_BY_HOP, &[1, 4, 0, 0, 0, 0])];
    for (len, want) in [
        (0_u8, REFUSED6),
        (3, pass(Reason::Unparseable, 0, 0)),
        (4, pass(Reason::Unparseable, 0, 0)),
    ] {
        let mut c = case(
            format!("hop-by-hop length {len}"),
            &Packet {
                extensions: &hop,
                ..denied6()
            },
            want,
        );
        poke(&mut c.frame, 14 + 40 + 1, &[len]);
        all.push(c);
    }
    // Truncation at every byte that TEST_RUN takes.
    for (name, whole, refused) in [("v4", denied(), REFUSED), ("v6", denied6(), REFUSED6)] {
        let c = case(format!("{name} whole"), &whole, refused);
        let l4 = c.frame.len() - 20;
        for len in 14..c.frame.len() {
            // Known as a gateway's from the ports on.
            let listener = if len >= l4 + 4 { refused.listener } else { 0 };
            let mut short = c.clone();
            short.frame.truncate(len);
            short.name = format!("{name} truncated to {len}");
            short.want = pass(Reason::Unparseable, listener, 0);
            all.push(short);
        }
    }
    all
}
