//! What the lab needs from the machine it runs on.

use anyhow::{Result, bail};

/// Fails, with the reason and the way out, unless this process may make namespaces and load programs.
///
/// # Errors
/// If the process is not root, or a namespace cannot be made for another reason (a container without the rights).
pub fn require_root() -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("this needs root: it makes network namespaces and loads eBPF programs; run it again as root");
    }
    Ok(())
}
