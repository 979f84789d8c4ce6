//! Linux capabilities of the calling thread, as a container runtime sets them for a process that it is about to start.

use anyhow::{Context as _, Result, bail};

/// All names, in the kernel's order (include/uapi/linux/capability.h), as Kubernetes writes them: without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containerd gives a container that asks for nothing.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The set that a container's `add` and `drop` lists end in: containerd's default, less what is dropped, and what is added.
    ///
    /// # Errors
    /// If a name is none.
    pub fn of_container(add: &[&str], drop: &[&str]) -> Result<Self> {
        let listed = |names: &[&str]| {
            names.iter().try_fold(0, |set, name| -> Result<u64> {
                Ok(set | if *name == "ALL" { ALL } else { bit(name)? })
            })
        };
        Ok(Self(listed(&DEFAULT)? & !listed(drop)? | listed(add)?))
    }

    /// The set as `/proc/PID/status` shows it.
    ///
    /// # Errors
    /// If the text is no such set.
    pub fn from_hex(text: &str) -> Result<Self> {
        u64::from_str_radix(text.trim(), 16)
            .map(Self)
            .with_context(|| format!("`{text}` is no capability set"))
    }

    /// The names in it.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let held = |at: &usize| self.0 & (1 << at) != 0;
        (0..NAMES.len())
            .filter(held)
            .filter_map(|at| NAMES.get(at).copied())
            .collect()
    }

    /// Gives the calling thread these as its bounding, permitted and effective sets and nothing inheritable or ambient: what root
    /// in a container has. A program that it starts has the same, for good.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn confine(self) -> Result<()> {
        // SAFETY: no pointers are passed.
        let cleared = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
        if cleared != 0 {
            return Err(std::io::Error::last_os_error()).context("clearing the ambient capabilities");
        }
        for at in 0..u32::BITS * 2 {
            if self.0 & (1 << at) != 0 {
                continue;
            }
            // SAFETY: no pointers are passed. A number beyond the kernel's last is refused with EINVAL.
            let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, at, 0, 0, 0) };
            let error = std::io::Error::last_os_error();
            if dropped != 0 && error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error).with_context(|| format!("dropping capability {at} from the bounding set"));
            }
        }
        let header = Header {
            version: 0x2008_0522,
            pid: 0,
        };
        let half = |shift: u32| {
            let bits = u32::try_from((self.0 >> shift) & u64::from(u32::MAX)).unwrap_or(0);
            Half {
                effective: bits,
                permitted: bits,
                inheritable: 0,
            }
        };
        let halves = [half(0), half(32)];
        // SAFETY: both pointers are to live values in the kernel's layout of version 3, which has two halves.
        let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) };
        if set != 0 {
            return Err(std::io::Error::last_os_error()).context("setting the capabilities");
        }
        Ok(())
    }
}

const ALL: u64 = (1 << NAMES.len()) - 1;

fn bit(name: &str) -> Result<u64> {
    match NAMES.iter().position(|known| *known == name) {
        Some(at) => Ok(1 << at),
        None => bail!("`{name}` is no capability as Kubernetes writes them"),
    }
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_a_container_then_the_set() {
        let set = |add: &[&str], drop: &[&str]| Capabilities::of_container(add, drop).expect("names");
        assert_eq!(
            set(&["BPF", "NET_ADMIN", "PERFMON"], &["ALL"]).names(),
            ["NET_ADMIN", "PERFMON", "BPF"]
        );
        assert_eq!(set(&[], &[]).names().len(), DEFAULT.len());
        assert_eq!(set(&["ALL"], &[]).names().len(), NAMES.len());
        assert!(!set(&[], &["NET_RAW"]).names().contains(&"NET_RAW"));
        assert!(
            Capabilities::of_container(&["CAP_BPF"], &[]).is_err(),
            "Kubernetes leaves CAP_ out"
        );
        assert_eq!(
            Capabilities::from_hex("000000c000001000").expect("a set"),
            set(&["BPF", "NET_ADMIN", "PERFMON"], &["ALL"])
        );
    }
}
