//! Programs in turn with an empty one, by `BPF_PROG_TEST_RUN`, another address in each packet. What the drawing costs is measured with the empty
//! program behind it, in the same rounds, and taken off.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Result, bail};
use xtask::bpf::{self, ProgramKind};

use crate::driver::{Driver, Sources, constant};
use crate::figure::Rounds;

/// Packets each time: three for each address.
const PACKETS: u32 = 200_000;

/// Results that drop and that pass.
pub(crate) const fn results(kind: ProgramKind) -> [i32; 2] {
    match kind {
        ProgramKind::Tc => [2, -1],
        _ => [1, 2],
    }
}

/// Nanoseconds a packet that each of `programs` takes over an empty one, round by round; each must end with the number beside it.
pub(crate) fn over_empty(
    kind: ProgramKind,
    sources: &Sources,
    frame: &[u8],
    programs: &[(BorrowedFd<'_>, i32)],
    rounds: usize,
) -> Result<Vec<Rounds>> {
    let [_, pass] = results(kind);
    let empty = constant(kind, pass)?;
    let nothing = sources.before(kind, empty.as_fd())?;
    let drivers = programs
        .iter()
        .map(|(program, wanted)| Ok((sources.before(kind, *program)?, *wanted)))
        .collect::<Result<Vec<_>>>()?;
    let mut all = vec![Rounds::default(); programs.len()];
    for round in 0..=rounds {
        let nothing = cost(&nothing, frame, pass)?;
        for ((driver, wanted), times) in drivers.iter().zip(&mut all) {
            let time = cost(driver, frame, *wanted)?;
            // The first round warms up.
            if round > 0 {
                times.0.push(time - nothing);
            }
        }
    }
    Ok(all)
}

/// Nanoseconds a packet.
fn cost(driver: &Driver, frame: &[u8], wanted: i32) -> Result<f64> {
    let ran = bpf::run(driver.as_fd(), frame, PACKETS)?;
    if ran.result != wanted.cast_unsigned() {
        bail!("a program ended with {}, not with {wanted}", ran.result);
    }
    Ok(ran.nanoseconds.into())
}
