//! Columns as pictures: SVG for a slide or a mail, HTML for a browser.

use std::fmt::Write;

use anonmem_lab::Trace;

/// Width of a column, height of a line and of a letter, in SVG units.
const COLUMN: usize = 340;
const LINE: usize = 17;
const MARGIN: usize = 16;
/// Letters that fit into a column.
const LETTERS: usize = 46;

const HUES: [&str; 8] =
    ["#1f5fa8", "#a8501f", "#2b7a3d", "#7a2b6f", "#8a6d00", "#00757a", "#a01f3c", "#4a4a4a"];

/// Makes text safe inside XML and HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn clip(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    text.chars().take(letters - 1).chain(['…']).collect()
}

/// The rows of a picture: a function's name where a CPU enters another one, then its accesses.
struct Row {
    cpu: usize,
    text: String,
    kind: RowKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RowKind {
    Function,
    Access,
    Breaks,
}

fn rows(trace: &Trace) -> Vec<Row> {
    let mut function = vec![String::new(); trace.captions.len().max(1)];
    let mut rows = Vec::new();
    for line in &trace.lines {
        if function[line.cpu] != line.function {
            function[line.cpu].clone_from(&line.function);
            rows.push(Row { cpu: line.cpu, text: format!("{}:", line.function), kind: RowKind::Function });
        }
        let held = if line.held.is_empty() { String::new() } else { format!("  [{}]", line.held.join(" ")) };
        let kind = if line.breaks { RowKind::Breaks } else { RowKind::Access };
        rows.push(Row { cpu: line.cpu, text: format!("{}{held}", line.text()), kind });
    }
    rows
}

/// Draws the columns as SVG.
pub(super) fn svg(name: &str, trace: &Trace) -> String {
    let rows = rows(trace);
    let width = COLUMN * trace.captions.len().max(1) + 2 * MARGIN;
    let height = LINE * (rows.len() + 5) + 2 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"DejaVu Sans Mono, monospace\" font-size=\"12\">\n\
         <title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        escape(name)
    );
    for (cpu, caption) in trace.captions.iter().enumerate() {
        let x = MARGIN + cpu * COLUMN;
        let hue = HUES[cpu % HUES.len()];
        let text = escape(&clip(&format!("CPU{cpu}: {caption}"), LETTERS));
        writeln!(
            out,
            "<text x=\"{x}\" y=\"{}\" fill=\"{hue}\" font-weight=\"bold\">{text}</text>",
            MARGIN + LINE
        )
        .expect("strings take all");
        writeln!(
            out,
            "<line x1=\"{0}\" x2=\"{0}\" y1=\"{1}\" y2=\"{2}\" stroke=\"{hue}\" stroke-opacity=\"0.3\"/>",
            x - 6,
            MARGIN + LINE + 6,
            height - 2 * LINE
        )
        .expect("strings take all");
    }
    for (i, row) in rows.iter().enumerate() {
        let (x, y) = (MARGIN + row.cpu * COLUMN, MARGIN + (i + 3) * LINE);
        if row.kind == RowKind::Breaks {
            writeln!(
                out,
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{LINE}\" fill=\"#ffd9d9\"/>",
                x - 6,
                y - 13,
                COLUMN - 4
            )
            .expect("strings take all");
        }
        let (indent, fill) = match row.kind {
            RowKind::Function => (0, "#888888"),
            RowKind::Access => (12, "#111111"),
            RowKind::Breaks => (12, "#b00000"),
        };
        writeln!(
            out,
            "<text x=\"{}\" y=\"{y}\" fill=\"{fill}\">{}</text>",
            x + indent,
            escape(&clip(&row.text, LETTERS))
        )
        .expect("strings take all");
    }
    if let Some(verdict) = &trace.verdict {
        writeln!(
            out,
            "<text x=\"{MARGIN}\" y=\"{}\" fill=\"#b00000\" font-weight=\"bold\">{}</text>",
            height - MARGIN,
            escape(verdict)
        )
        .expect("strings take all");
    }
    out + "</svg>\n"
}

/// Draws the columns as a page.
pub(super) fn html(name: &str, title: &str, trace: &Trace) -> String {
    let mut out = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>{0}</title>\n<style>\nbody {{ font: 15px sans-serif; margin: 2em; }}\n\
         table {{ border-collapse: collapse; font: 13px monospace; }}\n\
         th, td {{ text-align: left; vertical-align: top; padding: 1px 1em 1px 0.6em; border-left: 2px solid #ddd; }}\n\
         .f {{ color: #888; }} .b {{ background: #ffd9d9; color: #b00000; }}\n</style>\n<h1>{0}</h1>\n<p>{1}</p>\n<table>\n<tr>",
        escape(name),
        escape(title)
    );
    for (cpu, caption) in trace.captions.iter().enumerate() {
        write!(out, "<th>CPU{cpu}: {}</th>", escape(caption)).expect("strings take all");
    }
    out.push_str("</tr>\n");
    for row in rows(trace) {
        let class = match row.kind {
            RowKind::Function => " class=\"f\"",
            RowKind::Access => "",
            RowKind::Breaks => " class=\"b\"",
        };
        let (before, after) = (row.cpu, trace.captions.len().saturating_sub(row.cpu + 1));
        writeln!(
            out,
            "<tr>{}<td{class}>{}</td>{}</tr>",
            "<td></td>".repeat(before),
            escape(&row.text),
            "<td></td>".repeat(after)
        )
        .expect("strings take all");
    }
    out.push_str("</table>\n");
    if let Some(verdict) = &trace.verdict {
        writeln!(out, "<p><strong class=\"b\">{}</strong></p>", escape(verdict)).expect("strings take all");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_out_of_the_picture() {
        assert_eq!(escape("<a & \"b\">"), "&lt;a &amp; &quot;b&quot;&gt;");
        assert_eq!(clip("abcdef", 4), "abc…");
    }
}
