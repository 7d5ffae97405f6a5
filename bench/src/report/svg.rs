//! The figure: for each row the time of anonmem relative to the host's Linux, on a logarithmic scale.
//!
//! A dot is the median of the runs' ratios, its bar goes from the smallest to the largest. The vertical line
//! is the host; an open circle says where the host would be without the cost of entering its kernel; a grey
//! tick is the physical limit.
//!
//! Written by hand: the figure is text with coordinates, and a plotting library would have to be taught its
//! form.

use super::{
    line::{Line, lines},
    table::number,
};
use crate::outcome::Outcome;
use std::fmt::Write;

const WIDTH: f64 = 960.0;
/// The plot between the names and the numbers.
const LEFT: f64 = 300.0;
const RIGHT: f64 = 770.0;
const TOP: f64 = 84.0;
const ROW: f64 = 24.0;
/// Below the last row: axis, legend, the machine.
const BOTTOM: f64 = 118.0;

const OURS: &str = "#0b5fa5";
const WORSE: &str = "#b3341f";
const INK: &str = "#1c1c1c";
const FAINT: &str = "#7a7a7a";
const GRID: &str = "#dcdcdc";

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// One that shows all of `values`, in whole steps of 1, 2, 5.
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .filter(|v| v.is_finite() && *v > 0.0)
            .fold((0.5f64, 1.3f64), |(low, high), v| (low.min(v), high.max(v)));
        let low = ticks().rfind(|t| *t <= low * 0.9).unwrap_or(low);
        let high = ticks().find(|t| *t >= high * 1.05).unwrap_or(high);
        Self { low, high }
    }

    fn x(&self, value: f64) -> f64 {
        let share = (value / self.low).ln() / (self.high / self.low).ln();
        LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (low, high) = (self.low * 0.999, self.high * 1.001);
        ticks().filter(move |t| (low..=high).contains(t))
    }
}

/// 1, 2 and 5 times the powers of ten, ascending.
fn ticks() -> impl DoubleEndedIterator<Item = f64> {
    (-4..4).flat_map(|power| [1.0, 2.0, 5.0].map(|n| n * 10f64.powi(power)))
}

/// The figure of all rows that were measured on both sides.
pub fn text(outcome: &Outcome) -> String {
    let all = lines(outcome);
    let shown: Vec<&Line> = all.iter().filter(|l| l.to_host.is_some() && l.unit.starts_with("ns")).collect();
    let values = shown.iter().flat_map(|l| marks(l));
    let axis = Axis::over(values);
    let end = TOP + ROW * shown.len() as f64;
    let height = end + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"Helvetica, Arial, 'Liberation Sans', sans-serif\" \
         font-size=\"13\" fill=\"{INK}\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    heading(&mut svg);
    grid(&mut svg, &axis, end);
    for (i, line) in shown.iter().enumerate() {
        draw_row(&mut svg, &axis, line, TOP + ROW * (i as f64 + 0.5));
    }
    if shown.is_empty() {
        let middle = f64::midpoint(LEFT, RIGHT);
        put(&mut svg, middle, TOP - 8.0, "text-anchor=\"middle\"", "no row was timed on both sides");
    }
    legend(&mut svg, &shown, end + 62.0);
    caption(&mut svg, outcome, end + 86.0);
    svg += "</svg>\n";
    svg
}

/// Everything that is drawn of a row, as ratios to the host.
fn marks(line: &Line) -> Vec<f64> {
    let ratio = line.to_host.map(|r| [r.min, r.max]).into_iter().flatten();
    ratio.chain(limit_mark(line)).chain(entry_mark(line)).collect()
}

fn limit_mark(line: &Line) -> Option<f64> {
    Some(line.limit?.median / line.host?.median)
}

/// The host without the cost of its entries.
fn entry_mark(line: &Line) -> Option<f64> {
    let host = line.host?.median;
    let without = (host - line.host_entry) / host;
    (line.host_entry > 0.0 && without > 0.0).then_some(without)
}

fn put(svg: &mut String, x: f64, y: f64, attributes: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>");
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), attributes: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(svg, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {attributes}/>");
}

fn heading(svg: &mut String) {
    put(svg, 24.0, 32.0, "font-size=\"18\" font-weight=\"bold\"", "anonmem beside the host's Linux");
    let faint = format!("fill=\"{FAINT}\"");
    put(svg, 24.0, 54.0, &faint, "Time for the same work, relative to Linux; further left is faster.");
    let small = format!("{faint} font-size=\"11\" text-anchor=\"end\"");
    put(svg, 850.0, TOP - 8.0, &small, "anonmem");
    put(svg, 936.0, TOP - 8.0, &small, "Linux");
}

fn grid(svg: &mut String, axis: &Axis, end: f64) {
    for tick in axis.ticks() {
        let x = axis.x(tick);
        let is_host = (tick - 1.0).abs() < 1e-9;
        let style = if is_host {
            format!("stroke=\"{INK}\" stroke-width=\"1.4\"")
        } else {
            format!("stroke=\"{GRID}\" stroke-width=\"1\"")
        };
        line(svg, (x, TOP), (x, end), &style);
        let label = if is_host { "Linux = 1".into() } else { format!("{tick}") };
        put(svg, x, end + 18.0, "text-anchor=\"middle\" font-size=\"11\"", &label);
    }
    line(svg, (LEFT, end), (RIGHT, end), &format!("stroke=\"{INK}\" stroke-width=\"1\""));
    let middle = f64::midpoint(LEFT, RIGHT);
    put(
        svg,
        middle,
        end + 36.0,
        "text-anchor=\"middle\" font-size=\"12\"",
        "time ÷ time of Linux (log scale)",
    );
}

fn draw_row(svg: &mut String, axis: &Axis, row: &Line, y: f64) {
    let Some(ratio) = row.to_host else { return };
    put(svg, LEFT - 12.0, y + 4.5, "text-anchor=\"end\"", row.title);
    line(svg, (LEFT, y), (RIGHT, y), &format!("stroke=\"{GRID}\" stroke-dasharray=\"1 4\""));
    if let Some(limit) = limit_mark(row) {
        let x = axis.x(limit);
        line(svg, (x, y - 7.0), (x, y + 7.0), &format!("stroke=\"{FAINT}\" stroke-width=\"3\""));
    }
    if let Some(entry) = entry_mark(row) {
        circle(svg, axis.x(entry), y, &format!("r=\"3.5\" fill=\"white\" stroke=\"{INK}\""));
    }
    let color = if ratio.median <= 1.0 { OURS } else { WORSE };
    let stroke = format!("stroke=\"{color}\" stroke-width=\"1.6\"");
    let (low, high) = (axis.x(ratio.min), axis.x(ratio.max));
    line(svg, (low, y), (high, y), &stroke);
    for x in [low, high] {
        line(svg, (x, y - 4.0), (x, y + 4.0), &stroke);
    }
    circle(svg, axis.x(ratio.median), y, &format!("r=\"4.6\" fill=\"{color}\""));
    let of = |side: Option<crate::series::Summary>| side.map_or("-".into(), |s| number(s.median));
    put(
        svg,
        850.0,
        y + 4.5,
        &format!("text-anchor=\"end\" fill=\"{color}\""),
        &format!("{} ns", of(row.ours)),
    );
    put(svg, 936.0, y + 4.5, "text-anchor=\"end\"", &format!("{} ns", of(row.host)));
}

fn circle(svg: &mut String, x: f64, y: f64, attributes: &str) {
    let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" {attributes}/>");
}

/// What the marks are, those that are there.
fn legend(svg: &mut String, shown: &[&Line], y: f64) {
    let small = "font-size=\"12\"";
    circle(svg, 32.0, y - 4.0, &format!("r=\"4.6\" fill=\"{OURS}\""));
    put(svg, 44.0, y, small, "anonmem: median, smallest and largest ratio");
    if shown.iter().any(|line| entry_mark(line).is_some()) {
        circle(svg, 334.0, y - 4.0, &format!("r=\"3.5\" fill=\"white\" stroke=\"{INK}\""));
        put(svg, 346.0, y, small, "Linux without its exceptions and system-call entries");
    }
    if shown.iter().any(|line| limit_mark(line).is_some()) {
        line(svg, (684.0, y - 11.0), (684.0, y + 3.0), &format!("stroke=\"{FAINT}\" stroke-width=\"3\""));
        put(svg, 696.0, y, small, "zeroing or copying alone");
    }
}

fn caption(svg: &mut String, outcome: &Outcome, y: f64) {
    let faint = format!("fill=\"{FAINT}\" font-size=\"11\"");
    let busy =
        if outcome.load.is_too_much() { " The machine was too busy for trustworthy times." } else { "" };
    put(svg, 24.0, y, &faint, &format!("{}.{busy}", outcome.machine.line()));
    let s = if outcome.runs == 1 { "" } else { "s" };
    let how = format!(
        "{} run{s}, sides in turns; ns per 4 KiB page, or per call. anonmem is called as a library: it pays no exceptions, \
         TLB flushes, memory cgroups or statistics.",
        outcome.runs
    );
    put(svg, 24.0, y + 17.0, &faint, &how);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::Summary;

    #[test]
    fn an_axis_is_logarithmic_and_holds_its_values() {
        let axis = Axis::over([0.013, 0.4].into_iter());
        assert_eq!((axis.low, axis.high), (0.01, 2.0));
        assert!((axis.x(0.1) - axis.x(0.01) - (axis.x(1.0) - axis.x(0.1))).abs() < 1e-6);
        assert_eq!(axis.x(0.01), LEFT);
    }

    /// A row whose host takes 100 ns.
    fn row(ours: [f64; 3], limit: Option<f64>) -> Line {
        let summary = |[min, median, max]: [f64; 3]| Summary { median, min, max };
        let exactly = |n| summary([n, n, n]);
        Line {
            row: "row",
            title: "a < b",
            unit: "ns/page",
            ours: Some(summary(ours)),
            ours_64k: None,
            ours_2m: None,
            host: Some(exactly(100.0)),
            host_64k: None,
            host_2m: None,
            peer: None,
            to_peer: None,
            host_only: &[],
            host_entry: 25.0,
            limit: limit.map(exactly),
            to_host: Some(summary(ours.map(|n| n / 100.0))),
            to_host_64k: None,
            to_host_2m: None,
            to_limit: None,
            aim: None,
            aim_text: String::new(),
            faults: None,
            cannot: Vec::new(),
            ours_does: "",
            host_does: "",
            peer_does: "",
        }
    }

    #[test]
    fn a_row_has_its_bar_its_limit_and_the_host_without_entries() {
        let row = row([2.0, 4.0, 250.0], Some(1.0));
        let axis = Axis::over(marks(&row).into_iter());
        assert!(axis.low < 0.01 && axis.high > 2.5, "everything is on the axis");
        let mut svg = String::new();
        draw_row(&mut svg, &axis, &row, 100.0);
        assert!(svg.contains("a &lt; b") && svg.contains(OURS) && svg.contains("4.00 ns"), "{svg}");
        let at = |value: f64| format!("x1=\"{:.1}\"", axis.x(value));
        assert!([0.01, 0.02, 2.5].into_iter().all(|mark| svg.contains(&at(mark))), "{svg}");
        assert!(svg.contains(&format!("cx=\"{:.1}\"", axis.x(0.75))), "{svg}");
    }

    #[test]
    fn a_slower_row_is_red_and_the_legend_tells_what_is_there() {
        let row = row([150.0, 160.0, 170.0], None);
        let axis = Axis::over(marks(&row).into_iter());
        let (mut drawn, mut told) = (String::new(), String::new());
        draw_row(&mut drawn, &axis, &row, 100.0);
        assert!(drawn.contains(WORSE) && !drawn.contains(OURS), "{drawn}");
        legend(&mut told, &[&row], 200.0);
        assert!(told.contains("Linux without") && !told.contains("zeroing"), "{told}");
    }
}
