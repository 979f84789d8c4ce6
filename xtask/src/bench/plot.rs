//! Plots as SVG: length of the list against what was measured, both with a logarithmic scale.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use plotters::coord::combinators::IntoLogRange as _;
use plotters::prelude::{
    BLACK, ChartBuilder, Circle, Color as _, IntoDrawingArea as _, LineSeries, Palette as _, Palette99,
    PathElement, SVGBackend, SeriesLabelPosition, WHITE,
};
use serde_json::Value;

use super::text::{entries_text, list, number, words};

/// Width and height in pixels.
const SIZE: (u32, u32) = (900, 560);

/// A line: who, and points.
type Line = (String, Vec<(f64, f64)>);

/// Each plot of a report that has something to draw, by its id.
pub(super) fn all(report: &Value) -> Result<BTreeMap<String, String>> {
    let mut plots: BTreeMap<String, (String, String, Vec<Line>)> = BTreeMap::new();
    for series in list(report, "series") {
        let plot = plots.entry(words(series, "plot").to_owned()).or_insert_with(|| {
            (
                words(series, "title").to_owned(),
                words(series, "unit").to_owned(),
                Vec::new(),
            )
        });
        let points = list(series, "points")
            .iter()
            .map(|point| (number(point.get("entries")), number(point.get("value"))));
        // What is not above zero has no place on this scale.
        let points: Vec<_> = points.filter(|(x, y)| *x >= 1.0 && *y > 0.0).collect();
        if !points.is_empty() {
            plot.2.push((words(series, "line").to_owned(), points));
        }
    }
    let drawn = plots.into_iter().filter(|(_, (_, _, lines))| !lines.is_empty());
    drawn
        .map(|(id, (title, unit, lines))| Ok((id, draw(&title, &unit, &lines)?)))
        .collect()
}

fn draw(title: &str, unit: &str, lines: &[Line]) -> Result<String> {
    let mut svg = String::new();
    {
        let points = || lines.iter().flat_map(|(_, points)| points);
        let low = points().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
        let high = points().map(|(_, y)| *y).fold(0.0, f64::max);
        let far = points().map(|(x, _)| *x).fold(1.0, f64::max);
        let near = points().map(|(x, _)| *x).fold(f64::INFINITY, f64::min);
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let failed = |error: &dyn std::fmt::Display| anyhow!("drawing `{title}`: {error}");
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(70)
            // Room above the lines for their names.
            .build_cartesian_2d(
                (near * 0.8..far * 1.3).log_scale(),
                (low * 0.7..high * 12.0).log_scale(),
            )
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .x_desc("prefixes in the list")
            .y_desc(unit)
            .x_label_formatter(&|x| entries_text(*x))
            .y_label_formatter(&|y| entries_text(*y))
            .light_line_style(BLACK.mix(0.05))
            .draw()
            .map_err(|e| failed(&e))?;
        for (index, (name, points)) in lines.iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))
                .map_err(|e| failed(&e))?
                .label(name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(3)));
            let dots = points.iter().map(|point| Circle::new(*point, 3, color.filled()));
            chart.draw_series(dots).map_err(|e| failed(&e))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(|e| failed(&e))?;
        area.present().map_err(|e| failed(&e))?;
    }
    svg.push('\n');
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_then_one_plot_with_their_names_and_nothing_without_points() {
        let point = serde_json::json!({"entries": 1000, "value": 5.0});
        let line = |plot: &str, name: &str, points: Vec<Value>| serde_json::json!({"plot": plot, "title": "T", "unit": "ns", "line": name, "points": points});
        let report = serde_json::json!({"series": [
            line("p", "us", vec![point.clone()]), line("p", "them", vec![point]), line("empty", "x", Vec::new()),
        ]});
        let plots = all(&report).unwrap();
        assert_eq!(plots.len(), 1);
        let svg = &plots["p"];
        assert!(
            svg.starts_with("<svg") && svg.contains("them") && svg.contains("us"),
            "{svg}"
        );
    }
}
