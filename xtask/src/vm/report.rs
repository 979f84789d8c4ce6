//! Reads what a guest's jobs said: passed and failed tests, and the lines of `gwfilter/tests/kernel_matrix`.

use serde_json::Value;

use crate::run::say;
use crate::test::{Tally, closing_line};

/// One job's words, and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Job<'a> {
    name: &'a str,
    lines: Vec<&'a str>,
    status: &'a str,
}

/// The jobs of a guest.
pub(crate) fn jobs(said: &str) -> Vec<Job<'_>> {
    let mut jobs: Vec<Job<'_>> = Vec::new();
    for line in said.lines() {
        if let Some(name) = line.strip_prefix("job ") {
            jobs.push(Job {
                name,
                ..Job::default()
            });
        } else if let Some(job) = jobs.last_mut() {
            if let Some(line) = line.strip_prefix('|') {
                job.lines.push(line);
            } else if let Some(status) = line.strip_prefix("end ") {
                job.status = status.strip_prefix(job.name).unwrap_or(status).trim();
            }
        }
    }
    jobs
}

impl Job<'_> {
    /// `NAME STATUS after N s`.
    pub(crate) fn closing(&self) -> String {
        format!("{} {}", self.name, self.status)
    }

    /// How many tests passed and failed; what a job with failed ones said is shown. A job that ran no test has failed.
    pub(crate) fn tally(&self, kernel: &str) -> Tally {
        let mut tally = Tally::default();
        let closing = || self.lines.iter().filter_map(|line| closing_line(line));
        closing().for_each(|part| tally.add(part));
        if tally == Tally::default() {
            tally.failed = 1;
        }
        if tally.failed > 0 {
            say(format_args!(
                "Linux {kernel}: {} ended with {}",
                self.name, self.status
            ));
            for line in self.lines.iter().filter(|line| !line.ends_with("... ok")) {
                say(format_args!("  {line}"));
            }
        }
        tally
    }

    /// What the job told of the kernel.
    pub(crate) fn figures(&self) -> Vec<Value> {
        self.lines
            .iter()
            .filter_map(|line| serde_json::from_str(line.split_once("matrix: ")?.1).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_then_its_jobs() {
        let said = "job a\n|running 1 test\n|test x ... matrix: {\"a\":1}\n|test result: ok. 1 passed; 0 failed; 0 ignored\n\
                    end a exit status: 0\njob b\nend b not started: no\ndone\n";
        let found = jobs(said);
        let names: Vec<_> = found.iter().map(|job| (job.name, job.status)).collect();
        assert_eq!(names, [("a", "exit status: 0"), ("b", "not started: no")]);
        let tallies: Vec<Tally> = found.iter().map(|job| job.tally("x")).collect();
        let tally = |passed, failed| Tally { passed, failed };
        assert_eq!(tallies, [tally(1, 0), tally(0, 1)], "no test ran: failed");
        assert_eq!(found[0].figures(), [serde_json::json!({"a": 1})]);
    }
}
