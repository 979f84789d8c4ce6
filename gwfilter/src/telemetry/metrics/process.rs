//! The agent as a process, from what the kernel says below `/proc`. Pure: texts in, figures out.
//!
//! Names and meaning are those that all Prometheus clients have for a process.

/// What the process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Time of processors in its code and in the kernel for it, in seconds.
    pub cpu_seconds: f64,
    /// Memory in use, in bytes.
    pub resident_bytes: u64,
    /// Memory that has an address, in bytes.
    pub virtual_bytes: u64,
    /// Open files.
    pub open_fds: u64,
    /// How many it may have open; `None`: as many as it likes.
    pub max_fds: Option<u64>,
    /// When it began, in seconds since 1970.
    pub start_seconds: f64,
}

/// What is read for it.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    /// `/proc/self/stat`.
    pub stat: &'a str,
    /// `/proc/stat`, for when the machine started.
    pub machine: &'a str,
    /// Clock ticks a second.
    pub ticks: u64,
    /// Bytes of a page.
    pub page: u64,
}

impl Process {
    /// `None`: the texts are not what Linux writes (`proc_pid_stat(5)`).
    #[must_use]
    pub fn parse(texts: Texts<'_>, open_fds: u64, max_fds: Option<u64>) -> Option<Self> {
        // The name is in brackets and may hold anything; what follows the last one begins with the third field.
        let fields: Vec<&str> = texts.stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<u64>().ok();
        let boot: u64 = texts
            .machine
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?
            .trim()
            .parse()
            .ok()?;
        let ticks = u32::try_from(texts.ticks).ok().filter(|ticks| *ticks > 0)?;
        let seconds = |n: u64| exact(n) / f64::from(ticks);
        Some(Self {
            cpu_seconds: seconds(field(14)?.saturating_add(field(15)?)),
            start_seconds: exact(boot) + seconds(field(22)?),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?.saturating_mul(texts.page),
            open_fds,
            max_fds,
        })
    }
}

/// Of numbers below 2⁵³, which ticks and seconds are for millions of years.
#[expect(
    clippy::cast_precision_loss,
    reason = "smaller than what an f64 holds exactly"
)]
const fn exact(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_writes_then_figures_and_nonsense_then_none() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 3 0 1234 8192000 500 18446744073709551615 1";
        let texts = Texts {
            stat,
            machine: "cpu 1 2 3\nbtime 1700000000\nprocesses 9\n",
            ticks: 100,
            page: 4096,
        };
        let process = Process::parse(texts, 12, Some(1024)).unwrap();
        let wanted = Process {
            cpu_seconds: 3.0,
            resident_bytes: 500 * 4096,
            virtual_bytes: 8_192_000,
            open_fds: 12,
            max_fds: Some(1024),
            start_seconds: 1_700_000_012.34,
        };
        assert_eq!(process, wanted);
        for texts in [
            Texts {
                stat: "7 (a) S 1",
                ..texts
            },
            Texts { stat: "", ..texts },
            Texts { machine: "", ..texts },
            Texts { ticks: 0, ..texts },
        ] {
            assert_eq!(Process::parse(texts, 0, None), None, "{texts:?}");
        }
    }
}
