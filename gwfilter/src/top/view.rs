//! Draws [`Top`]: a head line, the drops of the last minutes, four tables (or, where there is no room, one), and the keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line as Words, Span};
use ratatui::widgets::{Block as Box_, Paragraph, Row, Sparkline, Table};

use super::heavy::Heavy;
use super::{Data, Pane, Sampling, Sort, Top, all, total};
use crate::counted::{Count, Counted, Rates};
use crate::status::{RUNNING, Status, span};

/// Less than this, and one table takes all the room.
const WIDE: u16 = 100;
const HIGH: u16 = 20;

/// The keys, and with more room what they stand for.
const KEYS: &str = "q quit  p pause display  Tab table  ↑↓ scroll  d a w n order  v verdict";
const ALL_KEYS: &str =
    "q quit  p pause display  Tab table  ↑↓ scroll  order: d dropped a passed w would-drop n name  v verdict";

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn loud() -> Style {
    Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED)
}

/// Draws all of it. `now` is in seconds since 1970.
pub fn draw(top: &Top, now: u64, frame: &mut Frame<'_>) {
    let data = top.shown();
    let area = frame.area();
    let drops = if area.height >= HIGH { 5 } else { 0 };
    let rows = [
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(drops),
        Constraint::Min(3),
        Constraint::Length(1),
    ];
    let [head, line, past, middle, keys] = Layout::vertical(rows).areas(area);
    frame.render_widget(Paragraph::new(head_line(top, now)), head);
    frame.render_widget(Paragraph::new(figures(data)), line);
    past_drops(data, past, frame);
    if area.width >= WIDE && area.height >= HIGH {
        let halves = [Constraint::Percentage(50); 2];
        let [above, below] = Layout::vertical(halves).areas(middle);
        let sides = [Constraint::Percentage(65), Constraint::Percentage(35)];
        let [gateways, prefixes] = Layout::horizontal(sides).areas(above);
        let [rules, sources] = Layout::horizontal(sides).areas(below);
        for (pane, area) in Pane::ALL.into_iter().zip([gateways, rules, prefixes, sources]) {
            pane_at(top, pane, area, frame);
        }
    } else {
        pane_at(top, top.pane, middle, frame);
    }
    let words = if keys.width > WIDE + 5 { ALL_KEYS } else { KEYS };
    frame.render_widget(
        Paragraph::new(words).style(Style::new().add_modifier(Modifier::DIM)),
        keys,
    );
}

/// What a person has to know before any figure.
fn head_line(top: &Top, now: u64) -> Words<'static> {
    let mut words = vec![Span::styled("gwfilter top", bold())];
    let mut say = |text: String, style: Style| {
        words.push(Span::raw("  "));
        words.push(Span::styled(text, style));
    };
    if top.stopped.is_some() {
        say("DISPLAY PAUSED".to_owned(), loud());
    }
    let data = top.shown();
    if let Some(why) = &data.failure {
        say(format!("NO FIGURES: {why}"), loud());
    }
    let Some(status) = &data.status else {
        return Words::from(words);
    };
    for text in alarms(status) {
        say(text, loud());
    }
    if status.agent == RUNNING {
        say("agent running".to_owned(), Style::new());
    }
    if let Some(generation) = status.generation {
        let age = status
            .generation_since
            .map(|since| span(now.saturating_sub(since)));
        let age = age.map_or_else(String::new, |age| format!(", {age}"));
        say(format!("generation {generation}{age}"), Style::new());
    }
    if let Some(seconds) = status.control.as_ref().and_then(|control| control.lease_seconds) {
        say(format!("lease {}", span(seconds)), Style::new());
    }
    Words::from(words)
}

/// Why less is refused than one may think.
fn alarms(status: &Status) -> Vec<String> {
    let mut alarms = Vec::new();
    if status.attached.is_empty() {
        alarms.push("NOTHING ATTACHED".to_owned());
    }
    if let Some(control) = &status.control {
        if control.lease == "expired" {
            alarms.push("LEASE EXPIRED".to_owned());
        }
        if control.paused {
            alarms.push(control.paused_seconds.map_or_else(
                || "PAUSED".to_owned(),
                |seconds| format!("PAUSED for {}", span(seconds)),
            ));
        }
    }
    if status.control.is_none() && !status.attached.is_empty() {
        alarms.push("LEASE NOT KNOWN".to_owned());
    }
    if status.last.as_ref().is_some_and(|last| last.observe) {
        alarms.push("OBSERVE".to_owned());
    }
    if status.agent != RUNNING {
        alarms.push("NO AGENT".to_owned());
    }
    alarms
}

/// All gateways together, and what is known of sources.
fn figures(data: &Data) -> Words<'static> {
    let Some(counted) = &data.counted else {
        return Words::from("reading counters");
    };
    let mut text = match counted.seconds {
        Some(_) => {
            let Rates {
                passed,
                dropped,
                would_drop,
            } = all(counted);
            format!("a second: passed {passed:.0}, dropped {dropped:.0}, would-drop {would_drop:.0}")
        }
        None => {
            let all = total(counted);
            format!("so far: passed {}, dropped {}", all.passed, all.dropped)
        }
    };
    let (samples, verdicts) = data.samples;
    if data.sampling == Sampling::Live && samples > 0.0 {
        text += &format!(
            " · 1 of {:.0} sampled, {} lost",
            (verdicts / samples).max(1.0),
            data.lost
        );
    }
    Words::from(text)
}

fn past_drops(data: &Data, area: Rect, frame: &mut Frame<'_>) {
    if area.height == 0 {
        return;
    }
    let most = data.drops.iter().max().copied().unwrap_or(0);
    let inside = usize::from(area.width.saturating_sub(2));
    let shown: Vec<u64> = data.drops.iter().rev().take(inside).rev().copied().collect();
    let block = Box_::bordered().title(format!("dropped a second, at most {most}"));
    frame.render_widget(Sparkline::default().data(shown).block(block), area);
}

fn pane_at(top: &Top, pane: Pane, area: Rect, frame: &mut Frame<'_>) {
    let data = top.shown();
    let has_keys = pane == top.pane;
    let rows = match pane {
        Pane::Gateways => counts(data.counted.as_ref(), top.sort, "gateway", true, |counted| {
            let mut all: Vec<(String, Count)> =
                counted.gateways.iter().map(|(n, b)| (n.clone(), b.all)).collect();
            if counted.unattributed.all.packets != crate::status::Packets::default() {
                all.push(("(no known destination)".to_owned(), counted.unattributed.all));
            }
            all
        }),
        Pane::Rules => counts(data.counted.as_ref(), top.sort, "rule", false, |counted| {
            counted.rules.iter().map(|(n, c)| (n.clone(), *c)).collect()
        }),
        Pane::Prefixes => sources(data, data.prefixes.get(&top.verdict), "prefix (/24, /48)"),
        Pane::Sources => sources(data, data.sources.get(&top.verdict), "source"),
    };
    let title = match pane {
        Pane::Gateways => format!("gateways, a second, by {}", top.sort.name()),
        Pane::Rules => format!("rules, a second, by {}", top.sort.name()),
        Pane::Prefixes | Pane::Sources => {
            let heavy = data.sources.get(&top.verdict).is_some_and(Heavy::is_approximate);
            let what = if pane == Pane::Prefixes {
                "prefixes"
            } else {
                "sources"
            };
            let how = if heavy { "at least" } else { "estimated" };
            format!("{what}: {}, {how}", top.verdict.name())
        }
    };
    let mut block = Box_::bordered().title(title);
    if has_keys {
        block = block.border_style(bold()).title_style(bold());
    }
    match rows {
        Err(why) => {
            let text = Paragraph::new(why).wrap(ratatui::widgets::Wrap { trim: true });
            frame.render_widget(text.block(block), area);
        }
        Ok((head, rows)) => {
            let columns = head.len().saturating_sub(1);
            let widths = [Constraint::Min(12)]
                .into_iter()
                .chain(std::iter::repeat_n(Constraint::Length(11), columns));
            let skip = if has_keys { top.scroll } else { 0 };
            let figures = u16::try_from(columns * 12).unwrap_or(u16::MAX);
            let room = usize::from(area.width.saturating_sub(2).saturating_sub(figures));
            let rows = rows.into_iter().skip(skip).map(|mut row: Vec<String>| {
                if let Some(name) = row.first_mut() {
                    *name = end_of(name, room);
                }
                Row::new(row)
            });
            let table = Table::new(rows, widths)
                .header(Row::new(head).style(bold()))
                .block(block);
            frame.render_widget(table, area);
        }
    }
}

/// Head and rows of a table; an error says why there is none.
type Rows = Result<(Vec<String>, Vec<Vec<String>>), String>;

fn counts(
    counted: Option<&Counted>,
    sort: Sort,
    what: &str,
    passed: bool,
    of: impl FnOnce(&Counted) -> Vec<(String, Count)>,
) -> Rows {
    let Some(counted) = counted else {
        return Err("not read yet".to_owned());
    };
    let mut rows: Vec<(String, Rates)> = of(counted)
        .into_iter()
        .map(|(name, count)| (name, count.per_second.unwrap_or_default()))
        .collect();
    rows.sort_by(|(a, x), (b, y)| {
        let figures = match sort {
            Sort::Dropped => y.dropped.total_cmp(&x.dropped),
            Sort::Passed => y.passed.total_cmp(&x.passed),
            Sort::WouldDrop => y.would_drop.total_cmp(&x.would_drop),
            Sort::Name => std::cmp::Ordering::Equal,
        };
        figures.then_with(|| a.cmp(b))
    });
    if rows.is_empty() {
        return Err(format!("no {what} has a counter here"));
    }
    // What a rule lets in it does not count.
    let columns = |dropped: String, let_in: String, would: String| {
        let let_in = passed.then_some(let_in);
        [Some(dropped), let_in, Some(would)].into_iter().flatten()
    };
    let head = columns(
        "    dropped".to_owned(),
        "     passed".to_owned(),
        " would-drop".to_owned(),
    );
    let rows = rows.into_iter().map(|(name, rates)| {
        let figures = columns(
            figure(rates.dropped),
            figure(rates.passed),
            figure(rates.would_drop),
        );
        [name].into_iter().chain(figures).collect()
    });
    Ok((
        [what.to_owned()].into_iter().chain(head).collect(),
        rows.collect(),
    ))
}

/// The end of a name that is too long: what tells names apart stands there.
fn end_of(name: &str, room: usize) -> String {
    let long = name.chars().count();
    if long <= room {
        return name.to_owned();
    }
    let end = name.chars().skip((long + 1).saturating_sub(room.max(1)));
    ['…'].into_iter().chain(end).collect()
}

fn figure(rate: f64) -> String {
    let text = if rate > 0.0 && rate < 10.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    };
    format!("{text:>11}")
}

fn sources<K: Ord + Clone + std::fmt::Display>(data: &Data, heavy: Option<&Heavy<K>>, what: &str) -> Rows {
    match &data.sampling {
        Sampling::None(why) => return Err(why.clone()),
        Sampling::Asked => return Err("the agent is asked for samples".to_owned()),
        Sampling::Live => {}
    }
    let top = heavy.map(Heavy::top).unwrap_or_default();
    if top.is_empty() {
        return Err("no such verdict was sampled in the last seconds".to_owned());
    }
    let head = [what, "~  a second"].map(str::to_owned);
    let rows = top.into_iter().map(|(key, weight)| {
        let rate = weight.least() / data.scale.max(1e-9);
        vec![key.to_string(), figure(if data.scale > 0.0 { rate } else { 0.0 })]
    });
    Ok((head.into(), rows.collect()))
}
