//! The capabilities that loading and attaching need, named before anything is tried.

use std::fs;

/// Bit numbers of `linux/capability.h`.
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// What each capability is needed for.
const NEEDED: [(u32, &str); 3] = [
    (BPF, "CAP_BPF (to load programs and make maps)"),
    (NET_ADMIN, "CAP_NET_ADMIN (to attach programs to interfaces)"),
    (
        PERFMON,
        "CAP_PERFMON (the verifier refuses variable packet offsets without it)",
    ),
];

/// The capabilities that this thread lacks; empty if it has all, or if `/proc` does not tell (the kernel then will).
#[must_use]
pub fn missing() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    effective(&status).map(lacking).unwrap_or_default()
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn lacking(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    // CAP_SYS_ADMIN held both rights before they got names of their own, and still does.
    let granted = |bit: u32| has(bit) || (bit != NET_ADMIN && has(SYS_ADMIN));
    NEEDED
        .iter()
        .filter(|(bit, _)| !granted(*bit))
        .map(|(_, name)| *name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_right_is_named() {
        let all = (1 << NET_ADMIN) | (1 << PERFMON) | (1 << BPF);
        let first_words = |set| {
            lacking(set)
                .iter()
                .map(|s| s.split(' ').next().unwrap())
                .collect::<Vec<_>>()
        };
        assert!(lacking(all).is_empty());
        assert_eq!(first_words(0), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert_eq!(first_words(all & !(1 << PERFMON)), ["CAP_PERFMON"]);
        assert_eq!(first_words(1 << SYS_ADMIN), ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn the_effective_set_is_read_from_proc() {
        assert_eq!(
            effective("Name:\tx\nCapPrm:\t01\nCapEff:\t000001ffffffffff\n"),
            Some(0x1ff_ffff_ffff)
        );
        assert_eq!(effective("Name:\tx\n"), None);
        assert_eq!(effective("CapEff:\tnonsense\n"), None);
    }
}
