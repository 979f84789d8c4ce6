//! Label values that come from closed lists. What is not in its list is `other`, so that no label can grow without bound. Pure.

use crate::code;

/// Stands for what has no name of its own here.
pub const OTHER: &str = "other";

/// What the agent finds otherwise than it left it.
pub const FINDS: [&str; 14] = [
    "foreign-xdp",
    "interface-gone",
    "interface-new",
    "link-detached",
    "map-pin-gone",
    "mtu-changed",
    "not-first-in-line",
    "pin-removed",
    "program-replaced",
    "table-changed",
    "table-pin-gone",
    "table-replaced",
    "table-unreadable",
    "tail-program-gone",
];

/// The code at the beginning of a reason, `code: text`, if it is one of the reference's.
#[must_use]
pub fn code(why: &str) -> &'static str {
    let code = why.split(": ").next().unwrap_or_default();
    code::find(code).map_or(OTHER, |code| code.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands in backquotes in the first column of the tables between two headings.
    fn first_column(page: &'static str, from: &str, to: &str) -> Vec<&'static str> {
        let part = page.split(from).nth(1).unwrap().split(to).next().unwrap();
        let cells = part
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        let mut codes: Vec<&str> = cells
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    }

    #[test]
    fn the_reference_then_exactly_the_finds_that_are_counted() {
        let page = include_str!("../../../../docs/reference/logs.md");
        let mut finds = first_column(page, "## Finds", "## Counters");
        finds.retain(|name| *name != "find");
        assert_eq!(finds, FINDS);
    }

    #[test]
    fn a_reason_then_its_code_and_one_that_is_not_known_then_other() {
        assert_eq!(code("no-tuples: no address is known: mend it"), "no-tuples");
        assert_eq!(code("no-tuples"), "no-tuples");
        assert_eq!(code("198.51.100.7: an address is no reason"), OTHER);
        assert!(FINDS.is_sorted());
    }
}
