//! How much memory the pinned maps take, as the kernel reckons it.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::maps::MapData;

/// The sum over all maps that are pinned in `dir`, in bytes: those in force, those that outlive the agent, and those that are being freed.
/// `None`: the directory cannot be read, or no map of it.
#[must_use]
pub fn pinned_bytes(dir: &Path) -> Option<u64> {
    let pins = fs::read_dir(dir).ok()?;
    // What is no map, or vanishes meanwhile, has no share.
    let each = pins.filter_map(|pin| bytes(&pin.ok()?.path()));
    each.fold(None, |sum, bytes| {
        Some(sum.unwrap_or(0_u64).saturating_add(bytes))
    })
}

fn bytes(pin: &Path) -> Option<u64> {
    let map = MapData::from_pin(pin).ok()?;
    let number = map.fd().as_fd().as_raw_fd();
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    memlock(&told)
}

/// The line `memlock:` of a map's file information.
fn memlock(told: &str) -> Option<u64> {
    let line = told.lines().find_map(|line| line.strip_prefix("memlock:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_information_of_a_map_then_its_bytes_and_of_anything_else_none() {
        let told = "pos:\t0\nflags:\t02\nmap_type:\t2\nmemlock:\t4096\nmap_id:\t7\n";
        assert_eq!(memlock(told), Some(4096));
        assert_eq!(memlock("pos:\t0\nprog_type:\t6\n"), None);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "no map").unwrap();
        assert_eq!(pinned_bytes(dir.path()), None);
        assert_eq!(pinned_bytes(&dir.path().join("nowhere")), None);
    }
}
