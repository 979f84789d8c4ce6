//! Somebody else's programs: two instructions that pass every packet, attached by netlink as `ip link set … xdp` does, or by a link at the
//! head of the TC line; and what somebody else may do to our links.
//!
//! They stand for the programs of a CNI or a load balancer, and for a person with `bpftool`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::bpf::{self, ProgramKind, links};
use crate::netns::Namespace;

/// What the kernel shows as the program's name.
pub const NAME: &str = "someone_elses";

/// `r0 = 2 (XDP_PASS); exit`, as `struct bpf_insn`s.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

/// `r0 = -1 (TCX_NEXT); exit`.
const NEXT: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
/// `r0 = 0 (TCX_PASS); exit`: later programs are not asked.
const DONE: [u64; 2] = [0x0000_0000_0000_00b7, 0x95];

/// Attaches the program to `device` in the driver; it stays until the device goes or somebody takes it off.
///
/// # Errors
/// If the kernel refuses the program or the device has one already.
pub fn attach_xdp(namespace: &Namespace, device: &str) -> Result<()> {
    const PATH: &str = "/sys/fs/bpf/someone-elses";
    namespace
        .enter(|| load(ProgramKind::Xdp).and_then(|program| links::pin(&program, Path::new(PATH))))?
        .context("loading a two-instruction XDP program")?;
    namespace
        .ip(&["link", "set", "dev", device, "xdpdrv", "pinned", PATH])
        .map(|_| ())
}

/// The id of the XDP program at `device`, as `ip` shows it.
///
/// # Errors
/// If the device is not there.
pub fn xdp_id(namespace: &Namespace, device: &str) -> Result<Option<u32>> {
    let shown = namespace.ip(&["-details", "link", "show", device])?;
    let id = shown
        .split_once("prog/xdp id ")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    Ok(id)
}

/// What somebody else's TC program does with every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// The next program is asked.
    Next,
    /// The packet passes, and no later program is asked.
    Done,
}

/// A TC program of somebody else. It goes when this is dropped.
#[derive(Debug)]
pub struct Tc {
    #[expect(dead_code, reason = "held, not used")]
    link: OwnedFd,
}

/// Attaches a TC program before all others.
///
/// # Errors
/// If the kernel refuses it.
pub fn attach_tc_first(namespace: &Namespace, device: &str, says: Says) -> Result<Tc> {
    let program = match says {
        Says::Next => &NEXT,
        Says::Done => &DONE,
    };
    let link = namespace.enter(|| {
        let program = bpf::load_as(ProgramKind::Tc, NAME, program)?;
        links::attach_tcx_first(&program, device)
    })?;
    Ok(Tc {
        link: link.context("attaching a two-instruction TC program before all others")?,
    })
}

/// Detaches the link that is pinned at `path`, by force: the pin stays, and holds a link to nothing.
///
/// # Errors
/// If there is no link.
pub fn detach_link(namespace: &Namespace, path: &Path) -> Result<()> {
    let detach = || links::detach(&links::pinned(path)?);
    namespace
        .enter(detach)?
        .with_context(|| format!("detaching the link at {}", path.display()))
}

/// Puts a program that passes every packet behind the link that is pinned at `path`: `xdp` tells of which kind it is.
///
/// # Errors
/// If there is no link, or the kernel refuses.
pub fn replace_program(namespace: &Namespace, path: &Path, xdp: bool) -> Result<()> {
    let kind = if xdp { ProgramKind::Xdp } else { ProgramKind::Tc };
    let replace = || links::update(&links::pinned(path)?, &load(kind)?);
    namespace
        .enter(replace)?
        .with_context(|| format!("replacing the program of the link at {}", path.display()))
}

/// Loads the program that passes every packet.
fn load(kind: ProgramKind) -> io::Result<OwnedFd> {
    let program = match kind {
        ProgramKind::Xdp | ProgramKind::XdpFrags => &PASS,
        ProgramKind::Tc => &NEXT,
    };
    bpf::load_as(kind, NAME, program)
}
