//! `dashboard`: runs the shipped Grafana dashboard's queries over two minutes of a real agent with traffic, and draws what its panels show.
//!
//! The pictures are this verb's, not Grafana's: it has the queries, the titles and the units from the dashboard, and the data from Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, anyhow, bail};
use plotters::prelude::{
    BLACK, ChartBuilder, Color as _, IntoDrawingArea as _, LineSeries, Palette as _, Palette99, PathElement,
    SVGBackend, SeriesLabelPosition, WHITE,
};
use serde_json::Value;
use xtask::rights;

use crate::build_ebpf;
use crate::run::{cargo, say};
use crate::setup::{self, Part, Voice};

/// Width and height in pixels.
const SIZE: (u32, u32) = (760, 320);

/// What `dashboard` is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where pictures and their page go
    #[arg(long, value_name = "FOLDER", default_value = "docs/book/src/dashboard")]
    write: PathBuf,
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    rights::require_root()?;
    setup::ensure(&[Part::Ebpf, Part::Lab, Part::Prometheus], Voice::Changes)?;
    build_ebpf::build_if_stale()?;
    let scratch = tempfile::tempdir().context("a scratch folder")?;
    let told = scratch.path().join("dashboard.json");
    let test = "dashboard::an_agent_with_traffic_then_every_query_of_the_dashboard_gives_data";
    let mut cargo = cargo();
    cargo
        // As the tests are built: what one of the two has built serves the other.
        .args([
            "test",
            "--quiet",
            "--locked",
            "--all-features",
            "--test",
            "prometheus",
        ])
        .args(["--", "--exact", test])
        .env("GWFILTER_DASHBOARD_OUT", &told)
        .stdin(Stdio::null());
    let status = cargo.status().context("starting the test of the dashboard")?;
    if !status.success() {
        bail!("the test of the dashboard ended with {status}");
    }
    let text = fs::read_to_string(&told).context("reading what the panels show")?;
    let told: Value = serde_json::from_str(&text).context("what the panels show is no JSON")?;
    let panels = panels(&told);
    if panels.is_empty() {
        bail!("no panel has anything to draw");
    }
    write(&options.write, &panels)?;
    say(format_args!(
        "{} pictures in {}",
        panels.len(),
        options.write.display()
    ));
    Ok(())
}

/// A panel: its title, its unit, and its lines.
#[derive(Debug, Default, PartialEq)]
struct Panel {
    title: String,
    unit: String,
    queries: Vec<String>,
    lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// The panels that have something to draw, by their numbers.
fn panels(told: &Value) -> BTreeMap<u64, Panel> {
    let mut panels: BTreeMap<u64, Panel> = BTreeMap::new();
    let list = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let text = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let start = first(told);
    for query in list(told, "queries") {
        let number = query.get("panel").and_then(Value::as_u64).unwrap_or_default();
        let panel = panels.entry(number).or_default();
        (panel.title, panel.unit) = (text(&query, "title"), text(&query, "unit"));
        panel.queries.push(text(&query, "expr"));
        for series in list(&query, "series") {
            let labels = series.get("metric").cloned().unwrap_or_default();
            let values = list(&series, "values");
            let points = values
                .iter()
                .filter_map(|pair| Some((pair.get(0)?.as_f64()? - start, value(pair.get(1)?)?)));
            let points: Vec<(f64, f64)> = points.collect();
            if !points.is_empty() {
                panel.lines.push((name(&text(&query, "legend"), &labels), points));
            }
        }
    }
    panels.retain(|_, panel| !panel.lines.is_empty());
    panels
}

/// The first moment of all.
fn first(told: &Value) -> f64 {
    let queries = told
        .get("queries")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let series = queries
        .filter_map(|query| query.get("series")?.as_array())
        .flatten();
    let times = series.filter_map(|series| series.pointer("/values/0/0")?.as_f64());
    times.fold(f64::INFINITY, f64::min)
}

/// Prometheus writes numbers as texts; of those that are none, nothing is drawn.
fn value(text: &Value) -> Option<f64> {
    text.as_str()?
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
}

/// The legend with its labels filled in.
fn name(legend: &str, labels: &Value) -> String {
    let mut name = String::new();
    for (at, part) in legend.split("{{").enumerate() {
        match part.split_once("}}").filter(|_| at > 0) {
            Some((label, rest)) => {
                let label = labels.get(label.trim()).and_then(Value::as_str);
                name.push_str(label.filter(|label| !label.is_empty()).unwrap_or("(none)"));
                name.push_str(rest);
            }
            None => name.push_str(part),
        }
    }
    name
}

/// Pictures, and the page that shows them.
fn write(folder: &Path, panels: &BTreeMap<u64, Panel>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut page = String::from(PAGE);
    for (number, panel) in panels {
        let file = format!("panel-{number}.svg");
        let path = folder.join(&file);
        fs::write(&path, draw(panel)?).with_context(|| format!("writing {}", path.display()))?;
        let (title, queries) = (&panel.title, panel.queries.join("`\n\n`"));
        write!(page, "\n## {title}\n\n![{title}]({file})\n\n`{queries}`\n").context("a page")?;
    }
    let path = folder.join("README.md");
    fs::write(&path, page).with_context(|| format!("writing {}", path.display()))
}

const PAGE: &str = "\
# The dashboard, by its data

**These pictures are not Grafana's.** `cargo xtask dashboard` drew them: it takes title, unit and queries of each panel from [`deploy/monitoring/dashboard.json`](../../../../deploy/monitoring/dashboard.json), and the data from a real Prometheus that scraped a real agent each second for two
minutes, with `$__rate_interval` as ten seconds. Panels that show one number or a table are left out. How to install it: [deploying](../deploy/README.md#metrics-alerts-and-a-dashboard).

What happened: two clients connect all the time, one of which a policy refuses. After 24 s that one becomes a flood, and the policy changes; after 48 s somebody pauses the node; after 72 s it is resumed, and the policy changed so that it refuses neither; after 96 s it refuses the first one again. A second gateway has
an annotation that cannot be read.
";

fn draw(panel: &Panel) -> Result<String> {
    let mut svg = String::new();
    {
        let points = || panel.lines.iter().flat_map(|(_, points)| points);
        let high = points().map(|(_, y)| *y).fold(0.0, f64::max);
        let end = points().map(|(x, _)| *x).fold(1.0, f64::max);
        let failed = |error: &dyn std::fmt::Display| anyhow!("drawing `{}`: {error}", panel.title);
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        // Room above the lines for their names.
        let room = 1.15 + 0.1 * f64::from(u32::try_from(panel.lines.len().min(8)).unwrap_or(8));
        let top = if high > 0.0 { high * room } else { 1.0 };
        let mut chart = ChartBuilder::on(&area)
            .caption(&panel.title, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..end, 0.0..top)
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .x_desc("seconds")
            .x_labels(9)
            .y_labels(6)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| shown(*y, &panel.unit))
            .light_line_style(BLACK.mix(0.05))
            .draw()
            .map_err(|e| failed(&e))?;
        for (index, (name, points)) in panel.lines.iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))
                .map_err(|e| failed(&e))?
                .label(name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(3)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(("sans-serif", 12))
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .draw()
            .map_err(|e| failed(&e))?;
        area.present().map_err(|e| failed(&e))?;
    }
    svg.push('\n');
    Ok(svg)
}

/// A value with Grafana's name of its unit.
fn shown(value: f64, unit: &str) -> String {
    let (value, scale) = match unit {
        "bytes" if value >= 1_048_576.0 => (value / 1_048_576.0, " MiB"),
        "bytes" => (value / 1024.0, " KiB"),
        "percentunit" => (value * 100.0, " %"),
        "s" if value != 0.0 && value < 1.0 => (value * 1000.0, " ms"),
        "s" => (value, " s"),
        "pps" => (value, " p/s"),
        _ => (value, ""),
    };
    let digits = if value.abs() >= 10.0 || value == 0.0 { 0 } else { 1 };
    format!("{value:.digits$}{scale}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_then_panels_with_named_lines_from_the_first_moment_on() {
        let told = serde_json::json!({"queries": [
            {"panel": 3, "title": "T", "unit": "pps", "expr": "q", "legend": "{{a}} x", "series": [
                {"metric": {"a": "b"}, "values": [[100, "1"], [101, "NaN"], [102, "2.5"]]},
                {"metric": {}, "values": [[101, "7"]]},
            ]},
            {"panel": 4, "title": "empty", "unit": "s", "expr": "q", "legend": "", "series": []},
        ]});
        let panels = panels(&told);
        let panel = Panel {
            title: "T".to_owned(),
            unit: "pps".to_owned(),
            queries: vec!["q".to_owned()],
            lines: vec![
                ("b x".to_owned(), vec![(0.0, 1.0), (2.0, 2.5)]),
                ("(none) x".to_owned(), vec![(1.0, 7.0)]),
            ],
        };
        assert_eq!(panels, [(3, panel)].into());
        let svg = draw(&panels[&3]).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("b x"), "{svg}");
    }

    #[test]
    fn a_value_then_it_is_shown_in_its_unit() {
        for (value, unit, wanted) in [
            (2_097_152.0, "bytes", "2.0 MiB"),
            (0.05, "s", "50 ms"),
            (90.0, "s", "90 s"),
            (0.25, "percentunit", "25 %"),
            (0.0, "pps", "0 p/s"),
            (3.0, "short", "3.0"),
        ] {
            assert_eq!(shown(value, unit), wanted);
        }
    }
}
