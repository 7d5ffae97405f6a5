//! The matrices and the curves as a picture.

use std::fmt::Write;

use anonmem_lab::scale::model::cpus;
use anonmem_lab::scale::{Relation, mode_name};

use super::curves::curve;
use super::found::Found;
use super::matrix::{Cell, cell};

/// A square of the matrix, in SVG units.
const SQUARE: usize = 13;
const MARGIN: usize = 16;
/// Room for the operations' names.
const NAMES: usize = 118;
/// Height of the names above the columns.
const HEAD: usize = 30;
/// The curves' field.
const FIELD: (usize, usize) = (280, 200);

const FREE: &str = "#2f9e62";
const ONE: &str = "#e8b04b";
const MANY: &str = "#c8452f";
const NO_PAIR: &str = "#d8d8d8";

pub(super) fn colour(cell: Cell) -> Option<&'static str> {
    match cell {
        Cell::Mirror => None,
        Cell::DoesNotCommute => Some(NO_PAIR),
        Cell::Conflicts(0) => Some(FREE),
        Cell::Conflicts(1) => Some(ONE),
        Cell::Conflicts(_) => Some(MANY),
    }
}

pub(super) fn text(found: &Found) -> String {
    let side = found.ops.len() * SQUARE;
    let panel = (NAMES + side + 2 * MARGIN).max(FIELD.0 + 3 * MARGIN + 40);
    let width = panel * found.modes.len();
    let rows = Relation::ALL.len();
    let matrices = rows * (HEAD + side + MARGIN);
    let height = matrices + FIELD.1 + 6 * MARGIN + found.ops.len() * 12;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"ui-monospace, monospace\" font-size=\"10\">\n\
         <title>anonmem scale: green pairs run without a cache line in conflict</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (row, relation) in Relation::ALL.into_iter().enumerate() {
        for mode in 0..found.modes.len() {
            let (x, y) = (mode * panel + MARGIN, row * (HEAD + side + MARGIN) + MARGIN);
            matrix(&mut svg, found, (relation, mode), (x, y));
        }
    }
    for mode in 0..found.modes.len() {
        curves(&mut svg, found, mode, (mode * panel + 3 * MARGIN, matrices + 3 * MARGIN));
    }
    svg + "</svg>\n"
}

fn matrix(svg: &mut String, found: &Found, (relation, mode): (Relation, usize), (x, y): (usize, usize)) {
    let share = found.study.share(Some(relation), found.modes[mode]);
    let title =
        format!("{}, {}: {:.1} % free", relation.name(), mode_name(found.modes[mode]), share.percent());
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{}\" font-weight=\"bold\">{title}</text>", y + 10);
    for row in 0..found.ops.len() {
        let top = y + HEAD + row * SQUARE;
        let (right, base) = (x + NAMES - 4, top + SQUARE - 3);
        let name = found.ops[row].name;
        let _ = writeln!(svg, "<text x=\"{right}\" y=\"{base}\" text-anchor=\"end\">{name}</text>");
        for column in row..found.ops.len() {
            let cell = cell(found, relation, mode, row, column);
            let Some(colour) = colour(cell) else { continue };
            let left = x + NAMES + column * SQUARE;
            let said = said(cell);
            let _ = writeln!(
                svg,
                "<rect x=\"{left}\" y=\"{top}\" width=\"{0}\" height=\"{0}\" fill=\"{colour}\"><title>{name}, {1}: \
                 {said}</title></rect>",
                SQUARE - 1,
                found.ops[column].name
            );
        }
    }
}

fn said(cell: Cell) -> String {
    match cell {
        Cell::Mirror => String::new(),
        Cell::DoesNotCommute => "do not commute".into(),
        Cell::Conflicts(0) => "no line in conflict".into(),
        Cell::Conflicts(n) => format!("{n} lines in conflict"),
    }
}

/// One curve for each operation: speedup over CPUs, both by powers of two.
fn curves(svg: &mut String, found: &Found, mode: usize, (x, y): (usize, usize)) {
    let steps = cpus().count() - 1;
    let place = |i: usize, speedup: f64| {
        let right = x as f64 + i as f64 * FIELD.0 as f64 / steps as f64;
        let up = speedup.log2().clamp(-1.0, steps as f64) + 1.0;
        (right, (y + FIELD.1) as f64 - up * FIELD.1 as f64 / (steps + 1) as f64)
    };
    let name = mode_name(found.modes[mode]);
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{}\" font-weight=\"bold\">{name}: times one CPU (model, not measured)</text>",
        y - 8
    );
    for (i, n) in cpus().enumerate() {
        let ((right, _), (_, up)) = (place(i, 1.0), place(0, f64::from(n)));
        let (bottom, left) = (y + FIELD.1, x + FIELD.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{right:.1}\" y1=\"{y}\" x2=\"{right:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{right:.1}\" y=\"{}\" text-anchor=\"middle\">{n}</text>\
             <line x1=\"{x}\" y1=\"{up:.1}\" x2=\"{left}\" y2=\"{up:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{n}</text>",
            bottom + 12,
            x - 4,
            up + 3.0
        );
    }
    for (i, op) in found.ops.iter().enumerate() {
        let Some(rates) = curve(found, mode, op) else { continue };
        let hue = i * 360 / found.ops.len();
        let points: Vec<_> = rates
            .iter()
            .enumerate()
            .map(|(i, rate)| place(i, rate / rates[0]))
            .map(|(right, up)| format!("{right:.1},{up:.1}"))
            .collect();
        let last = rates[rates.len() - 1] / rates[0];
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"hsl({hue},60%,42%)\" stroke-width=\"1.5\"/>\
             <text x=\"{x}\" y=\"{}\" fill=\"hsl({hue},60%,36%)\">{} {last:.1} at 256</text>",
            points.join(" "),
            y + FIELD.1 + 28 + i * 12,
            op.name
        );
    }
}
