//! What the whole verdict of a segment costs that begins with a PROXY header, another client in each.
//!
//! The header is of version 2, in one segment of a connection whose SYN was seen; all come from one balancer over IPv4. A refused segment and
//! one that is let in may both come again, so each packet is judged from its first byte.

use anyhow::{Context as _, Result, bail};
use gwfilter_common::testing::proxied::{header2, segment};
use gwfilter_common::wire::l4;
use xtask::bpf::{self, ProgramKind};

use crate::Size;
use crate::driver::{Place, Sources, folded, words};
use crate::figure::{Lines, Plot, Rounds, attempt};
use crate::judged::{Judged, gateway};
use crate::object::Hook;
use crate::sources::{Family, List};
use crate::turns::{over_empty, results};

/// The balancer's port.
const PORT: u16 = 40_000;
/// Where the segment begins, and its checksum is; where the header's source is.
const SEGMENT: usize = 14 + 20;
const CHECKSUM: usize = SEGMENT + 16;
const CLIENT: i16 = 14 + 20 + 20 + 16;

/// Measures all of it.
pub(crate) fn measure(size: &Size) -> Result<()> {
    for family in Family::ALL {
        let mut lines = [Lines::default(), Lines::default()];
        let ids = ["refused", "let-in"].map(|what| format!("header-{}-{what}-tc", family.name()));
        let lengths = size
            .entries
            .iter()
            .filter(|entries| ![1_000, 100_000].contains(*entries) || size.entries.len() == 1);
        for &entries in [0].iter().chain(lengths) {
            attempt(
                &format!("PROXY headers, {entries} {} prefixes", family.name()),
                || {
                    let list = List::mixed(family, entries);
                    let judged = Judged::by_header(&list)?;
                    for (refused, (id, lines)) in [true, false].into_iter().zip(ids.iter().zip(&mut lines)) {
                        if refused && entries == 0 {
                            continue;
                        }
                        let times = times(&judged, &list, refused, size.rounds)?;
                        lines.add(id, "gwfilter beside its XDP program", entries, times);
                    }
                    Ok(())
                },
            )?;
        }
        for (id, lines) in ids.iter().zip(&lines) {
            let title =
                format!("The verdict of a PROXY header over an empty program, 65,536 random clients: {id}");
            lines.tell(&Plot {
                id,
                title: &title,
                unit: "ns a segment",
            })?;
        }
    }
    Ok(())
}

fn times(judged: &Judged, list: &List, refused: bool, rounds: usize) -> Result<Rounds> {
    let family = list.family();
    let kind = ProgramKind::Tc;
    let [drop, pass] = results(kind);
    let program = judged.program(Hook::TcProxy)?;
    let to = gateway(Family::V4)?.to_string();
    // From now on it is known where the stream begins.
    let syn = segment(PORT, &to, l4::SYN, 0, &[]);
    if bpf::run(program, &syn, 1)?.result != pass.cast_unsigned() {
        bail!("a SYN from a balancer is not let in");
    }
    let header = match family {
        Family::V4 => header2(1, "192.0.2.1:50000", &to),
        Family::V6 => header2(1, "[2001:db8:1::1]:50000", "[2001:db8:113::1]:443"),
    };
    let mut frame = segment(PORT, &to, l4::ACK | 0x08, 1, &header);
    let right = checksum(&frame).context("a short frame")?;
    let place = frame.get_mut(CHECKSUM..CHECKSUM + 2).context("a short frame")?;
    place.copy_from_slice(&right);
    let pool = if refused { list.inside() } else { list.outside() };
    let place = Place {
        address: CLIENT,
        checksum: Some(i16::try_from(CHECKSUM)?),
        headers: i32::from(CLIENT + 4 * family.words()),
    };
    let clients = Sources::at(place, &pool, &frame)?;
    let wanted = if refused { drop } else { pass };
    let all = over_empty(kind, &clients, &frame, &[(program, wanted)], rounds)?;
    all.into_iter().next().context("nothing was measured")
}

/// The checksum of a TCP segment over IPv4 (RFC 9293, section 3.1), as bytes of the wire.
fn checksum(frame: &[u8]) -> Option<[u8; 2]> {
    let (ends, segment) = (frame.get(26..SEGMENT)?, frame.get(SEGMENT..)?);
    let length = u32::try_from(segment.len()).ok()?;
    let old = frame.get(CHECKSUM..CHECKSUM + 2)?;
    let sum = words(ends, 0) + u32::from(l4::TCP) + length + words(segment, 0) + words(old, 0xffff);
    Some((!folded(sum)).to_be_bytes())
}
