//! [`Counted`] for people: two tables with the same columns, so that figures stand under figures. Pure.

use super::{Count, Counted};
use crate::palette::Palette;
use crate::status::{RUNNING, clock, span};

/// A row: what, which part of it, figures. `None`: nothing was counted there, which stands as nothing.
type Row = (String, String, [String; 3]);

const NO_DESTINATION: &str = "(no known destination)";

impl Counted {
    /// The counters; with rates if there was a reading before, and then only what stirred.
    #[must_use]
    pub fn text(&self, p: Palette) -> String {
        let rated = self.seconds.is_some();
        let shown = |count: &Count| !rated || count.stirs();
        let mut rows = vec![head("gateway", "reason")];
        for (name, block) in &self.gateways {
            rows.push((name.clone(), "(all)".to_owned(), figures(&block.all)));
            for (reason, count) in block.reasons.iter().filter(|(_, count)| shown(count)) {
                rows.push((String::new(), reason.clone(), figures(count)));
            }
        }
        if self.unattributed.all.stirs() {
            let mut first = NO_DESTINATION;
            for (reason, count) in self.unattributed.reasons.iter().filter(|(_, c)| shown(c)) {
                rows.push((first.to_owned(), reason.clone(), figures(count)));
                first = "";
            }
        }
        let of_rules = self.rules.iter().filter(|(_, count)| shown(count));
        let rules: Vec<Row> = of_rules
            .map(|(name, count)| (name.clone(), String::new(), figures(count)))
            .collect();
        let mut text = self.headline(p);
        if self.gateways.is_empty() && rows.len() == 1 {
            text += "no gateway has a counter, and nothing was counted\n";
        } else {
            text += &table(&rows, p);
        }
        let would = |count: &Count| count.packets.would_drop > 0;
        let would = self.gateways.values().any(|block| would(&block.all));
        if !rules.is_empty() {
            text.push('\n');
            let rules: Vec<Row> = [head("rule", "")].into_iter().chain(rules).collect();
            text += &table(&rules, p);
        }
        // Between two readings the columns are known.
        if would && !rated {
            text += "\nwould-drop is a part of passed: paused, or observed only\n";
        }
        text
    }

    fn headline(&self, p: Palette) -> String {
        let mut line = clock(self.at);
        match (self.seconds, self.since) {
            (Some(seconds), _) => line += &format!(": packets a second, over {seconds:.1}s"),
            (None, Some(since)) => {
                line += &format!(
                    ": packets since {} ({})",
                    clock(since),
                    span(self.at.saturating_sub(since))
                );
            }
            (None, None) => line += ": packets since the counters began",
        }
        if self.agent != RUNNING {
            line += &format!(
                "; {}; what it left goes on counting, and dropping until the lease ends (`gwfilter status`)",
                p.bad("no agent runs")
            );
        }
        line + "\n"
    }
}

fn head(what: &str, part: &str) -> Row {
    let figures = ["passed", "dropped", "would-drop"].map(str::to_owned);
    (what.to_owned(), part.to_owned(), figures)
}

fn figures(count: &Count) -> [String; 3] {
    match count.per_second {
        Some(rates) => [rates.passed, rates.dropped, rates.would_drop].map(rate),
        None => {
            let p = count.packets;
            [p.passed, p.dropped, p.would_drop].map(|n| n.to_string())
        }
    }
}

/// A rate, so that little is not told as nothing.
fn rate(n: f64) -> String {
    if n > 0.0 && n < 10.0 {
        format!("{n:.1}")
    } else {
        format!("{n:.0}")
    }
}

/// The first row is the columns' heads.
fn table(rows: &[Row], p: Palette) -> String {
    let width = |of: fn(&Row) -> &str| rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0);
    let (first, second) = (width(|row| &row.0), width(|row| &row.1));
    let mut text = String::new();
    let gap = if second > 0 { "  " } else { "" };
    for (number, (what, part, [passed, dropped, would])) in rows.iter().enumerate() {
        let line = format!("{what:first$}{gap}{part:second$}  {passed:>12}  {dropped:>12}  {would:>12}");
        text += &match number {
            0 => format!("{}\n", p.strong(line)),
            _ => line + "\n",
        };
    }
    text
}
