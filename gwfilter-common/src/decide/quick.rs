//! The short way for what nearly every packet is: TCP in the plainest of shapes, that is for no gateway, or data in the middle of a stream to a
//! gateway in PROXY mode.
//!
//! It takes the steps of [`decide_in`](super::decide_in) at offsets that are known when it is compiled, and knows one answer: on, not to be
//! counted. Whatever else a packet is, it says nothing, and the long way is taken from its beginning.

use super::{Action, Scope, Tables, lookup, proxy};
use crate::abi;
use crate::read::PacketRead;
use crate::reason::Reason;
use crate::wire::{Family, Transport, eth, ipv4, ipv6, l4};

/// Whether [`decide_in`](super::decide_in) surely lets this frame pass for a reason that is not counted; `false` says nothing.
#[inline(always)]
pub fn passes<R: PacketRead, T: Tables>(packet: &R, tables: &T, scope: Scope) -> bool {
    nothing(packet, tables, scope) == Some(())
}

#[inline(always)]
fn nothing<R: PacketRead, T: Tables>(packet: &R, tables: &T, scope: Scope) -> Option<()> {
    // One call for each family, so that each has offsets of its own.
    match u16::from_be_bytes(packet.read::<2>(eth::TYPE)?) {
        eth::IPV4 => at(packet, tables, &plain4(packet)?, scope),
        eth::IPV6 => at(packet, tables, &plain6(packet)?, scope),
        _ => None,
    }
}

/// IPv4 without options, whole, with room for a TCP header.
#[inline(always)]
fn plain4<R: PacketRead>(packet: &R) -> Option<Transport> {
    let l3 = eth::HEADER_LEN;
    let [first, _, len0, len1, _, _, frag0, frag1, _, protocol] = packet.read::<10>(l3)?;
    let total = u16::from_be_bytes([len0, len1]);
    let fragment = u16::from_be_bytes([frag0, frag1]) & (ipv4::OFFSET_MASK | ipv4::MORE_FRAGMENTS);
    let room = u32::from(total) >= ipv4::HEADER_LEN + l4::TCP_HEADER_LEN;
    let plain = first == 0x45 && protocol == l4::TCP && fragment == 0 && room;
    plain.then_some(Transport {
        family: Family::V4,
        protocol: l4::TCP,
        l3,
        l4: l3 + ipv4::HEADER_LEN,
        end: l3 + u32::from(total),
        unclear: false,
    })
}

/// IPv6 without extension headers, with room for a TCP header.
#[inline(always)]
fn plain6<R: PacketRead>(packet: &R) -> Option<Transport> {
    let l3 = eth::HEADER_LEN;
    let [first, _, _, _, len0, len1, next, _] = packet.read::<8>(l3)?;
    let length = u16::from_be_bytes([len0, len1]);
    let room = u32::from(length) >= l4::TCP_HEADER_LEN;
    let plain = first >> 4 == 6 && next == l4::TCP && room;
    let at = l3 + ipv6::HEADER_LEN;
    plain.then_some(Transport {
        family: Family::V6,
        protocol: l4::TCP,
        l3,
        l4: at,
        end: at + u32::from(length),
        unclear: false,
    })
}

#[inline(always)]
fn at<R: PacketRead, T: Tables>(packet: &R, tables: &T, at: &Transport, scope: Scope) -> Option<()> {
    let (_, port) = at.ports(packet)?;
    let found = match lookup(packet, tables, at, port) {
        Ok(found) => found,
        Err(decision) => return (decision.reason == Reason::NotAGateway).then_some(()),
    };
    if !scope.takes(found.tuple.flags) {
        return Some(());
    }
    if scope == Scope::Xdp || found.tuple.flags & abi::TUPLE_PROXY == 0 {
        return None;
    }
    let tcp = at.judgeable(packet)?;
    (proxy::glance(packet, at, &found.tuple, tcp).action == Action::Pass).then_some(())
}
