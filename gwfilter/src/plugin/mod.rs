//! What `kubectl gwfilter` prints of what the agents of all nodes answered. Pure.
//!
//! Answers are read as plain JSON and by the few keys that are shown, so that a plugin and agents of other versions understand each other as far
//! as they can. A node that does not answer is a row.

mod doctor;
mod explain;
mod status;
mod top;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::palette::Palette;
pub use doctor::doctor;
pub use explain::explain;
pub use status::status;
pub use top::{Reading, top};

/// One node's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The node.
    pub node: String,
    /// Its agent's pod.
    pub pod: String,
    /// The command that shows this pod.
    pub look: String,
    /// What it said, or why nothing.
    pub answer: Result<Value, String>,
}

/// All of it, for programs: `{"nodes":[{"node":…,"pod":…,"answer":…|null,"error":…|null}]}`.
#[must_use]
pub fn json(asked: &[Asked]) -> Value {
    let node = |one: &Asked| {
        let (answer, error) = (one.answer.as_ref().ok(), one.answer.as_ref().err());
        json!({"node": one.node, "pod": one.pod, "answer": answer, "error": error})
    };
    json!({"nodes": asked.iter().map(node).collect::<Vec<_>>()})
}

/// Who answered.
fn answers(asked: &[Asked]) -> impl Iterator<Item = (&str, &Value)> {
    asked
        .iter()
        .filter_map(|one| Some((one.node.as_str(), one.answer.as_ref().ok()?)))
}

/// The rows of who did not, and what that means.
fn silent(asked: &[Asked], palette: Palette) -> String {
    let mut text = String::new();
    for one in asked {
        if let Err(why) = &one.answer {
            text.push_str(&format!(
                "{} {}: {why}\n  look: {}\n",
                palette.bad("no answer from"),
                one.node,
                one.look
            ));
        }
    }
    if !text.is_empty() {
        text.push_str(
            "If the agent there is dead, its last policies go on being enforced until the lease ends (by default an hour, a minute at pods' \
             addresses); changes since do not arrive there.\n",
        );
    }
    text
}

fn word<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

fn words<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a str> {
    items(value, pointer).iter().filter_map(Value::as_str)
}

/// Puts what is equal together, in the order of its first appearance; with the nodes that said so.
fn fold<'a, T: PartialEq>(each: impl Iterator<Item = (&'a str, T)>) -> Vec<(T, Vec<&'a str>)> {
    let mut folded: Vec<(T, Vec<&str>)> = Vec::new();
    for (node, said) in each {
        match folded.iter_mut().find(|(known, _)| *known == said) {
            Some((_, nodes)) => nodes.push(node),
            None => folded.push((said, vec![node])),
        }
    }
    folded
}

/// `node-1, node-2, node-3 and 5 more`.
fn named(nodes: &[&str]) -> String {
    /// Nodes that are named.
    const MOST: usize = 6;
    let shown = nodes.iter().take(MOST).copied().collect::<Vec<_>>().join(", ");
    match nodes.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Rows in columns, two spaces apart; the last cell of a row may be as long as it likes.
fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
    for row in rows {
        for (number, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
            let width = widths.entry(number).or_default();
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (number, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if number + 1 < row.len() {
                let width = widths.get(&number).copied().unwrap_or_default();
                let gap = width.saturating_sub(cell.chars().count()) + 2;
                line.push_str(&" ".repeat(gap));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    pub(super) fn said(node: &str, answer: Value) -> Asked {
        Asked {
            node: node.to_owned(),
            pod: format!("gwfilter-{node}"),
            look: format!("kubectl -n gwfilter-system describe pod gwfilter-{node}"),
            answer: Ok(answer),
        }
    }

    pub(super) fn mute(node: &str) -> Asked {
        Asked {
            answer: Err("the API server cannot reach it: connection refused".to_owned()),
            ..said(node, Value::Null)
        }
    }

    #[test]
    fn answers_and_none_then_json_with_both() {
        let asked = [said("node-1", json!({"agent": "running"})), mute("node-2")];
        assert_snapshot!(json(&asked).to_string(), @r#"{"nodes":[{"answer":{"agent":"running"},"error":null,"node":"node-1","pod":"gwfilter-node-1"},{"answer":null,"error":"the API server cannot reach it: connection refused","node":"node-2","pod":"gwfilter-node-2"}]}"#);
    }

    #[test]
    fn many_nodes_then_some_are_named() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        assert_eq!(named(&names), "a, b, c, d, e, f and 2 more");
        assert_eq!(named(&["a"]), "a");
    }
}
