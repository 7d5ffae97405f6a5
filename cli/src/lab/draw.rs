//! Columns as pictures: SVG for a slide or a mail, HTML for a browser.

use std::fmt::Write;

use anonmem_lab::Trace;
use anonmem_lab::cases::Case;

use crate::out::escape;

/// What a picture says besides the columns.
pub(super) struct Page<'a> {
    pub(super) name: &'a str,
    /// A word for each text: what happened, the locks, the rule, the cause, the id to replay.
    pub(super) notes: Vec<(&'static str, String)>,
    pub(super) title: &'a str,
}

impl<'a> Page<'a> {
    /// The page of a case; `replay` names the execution.
    pub(super) fn new(case: &'a Case, trace: &Trace, replay: Option<&str>) -> Self {
        let mut notes = vec![
            ("happened", case.happened.to_owned()),
            ("locks", case.environment.to_owned()),
            ("rule", case.rule.to_owned()),
        ];
        notes.extend(trace.verdict.clone().map(|cause| ("cause", cause)));
        notes.extend(replay.map(|id| ("replay", format!("anonmem race {} --replay '{id}'", case.name))));
        Self { name: case.name, notes, title: case.title }
    }
}

/// Height of a line and width of a letter, in SVG units.
const LINE: usize = 17;
const MARGIN: usize = 16;
/// A letter of the 12-unit monospaced font is 7.23 wide; a little more, for fonts that are wider.
const TENTHS_A_LETTER: usize = 74;
/// Letters of a line of notes.
const NOTE: usize = 110;

const HUES: [&str; 8] =
    ["#1f5fa8", "#a8501f", "#2b7a3d", "#7a2b6f", "#8a6d00", "#00757a", "#a01f3c", "#4a4a4a"];
const HUES_IN_THE_DARK: [&str; 8] =
    ["#7db4f0", "#f0a070", "#7fd394", "#d694cc", "#dcc04a", "#5cc8cd", "#f08aa2", "#b8b8b8"];

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
            if !line.function.is_empty() {
                let text = format!("{}:", line.function);
                rows.push(Row { cpu: line.cpu, text, kind: RowKind::Function });
            }
        }
        // Only what was folded has no function.
        let kind = match (line.breaks, line.function.is_empty()) {
            (true, _) => RowKind::Breaks,
            (false, true) => RowKind::Function,
            (false, false) => RowKind::Access,
        };
        rows.push(Row { cpu: line.cpu, text: line.full_text(), kind });
    }
    rows
}

fn heading(cpu: usize, caption: &str) -> String {
    format!("CPU{cpu}: {caption}")
}

/// Cuts a text at blanks into lines of at most [`NOTE`] letters; what has no blanks is cut anywhere.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        for piece in word.chars().collect::<Vec<_>>().chunks(NOTE) {
            let piece: String = piece.iter().collect();
            let last = lines.last_mut().expect("never empty");
            if last.is_empty() {
                *last = piece;
            } else if last.chars().count() + 1 + piece.chars().count() <= NOTE {
                *last += " ";
                *last += &piece;
            } else {
                lines.push(piece);
            }
        }
    }
    lines
}

fn letters(n: usize) -> usize {
    (n * TENTHS_A_LETTER).div_ceil(10)
}

/// Where each column begins, and where the last one ends: each is as wide as its text.
fn columns(trace: &Trace, rows: &[Row]) -> Vec<usize> {
    let heading = |(cpu, caption): (usize, &String)| heading(cpu, caption).chars().count();
    let mut widths: Vec<_> = trace.captions.iter().enumerate().map(heading).collect();
    widths.resize(widths.len().max(1), 8);
    for row in rows {
        widths[row.cpu] = widths[row.cpu].max(row.text.chars().count() + 2);
    }
    let mut at = MARGIN;
    let mut starts = vec![at];
    for width in widths {
        at += letters(width) + 2 * MARGIN;
        starts.push(at);
    }
    starts
}

/// A picture that grows downwards.
struct Picture {
    out: String,
    y: usize,
}

impl Picture {
    fn text(&mut self, x: usize, style: &str, text: &str) {
        let (y, text) = (self.y, escape(text));
        writeln!(self.out, "<text x=\"{x}\" y=\"{y}\" {style}>{text}</text>").expect("strings take all");
    }

    fn down(&mut self) {
        self.y += LINE;
    }

    fn notes(&mut self, page: &Page<'_>) {
        for (word, text) in &page.notes {
            let style = if *word == "cause" { "class=\"broken\"" } else { "class=\"plain\"" };
            for (i, line) in wrap(text).iter().enumerate() {
                if i == 0 {
                    self.text(MARGIN, "class=\"quiet\"", word);
                }
                self.text(MARGIN + letters(10), style, line);
                self.down();
            }
        }
    }

    fn row(&mut self, x: usize, end: usize, row: &Row) {
        if row.kind == RowKind::Breaks {
            let (x, y, width) = (x - 6, self.y - 13, end - x - MARGIN);
            writeln!(
                self.out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{LINE}\" class=\"here\"/>"
            )
            .expect("strings take all");
        }
        let (indent, class) = match row.kind {
            RowKind::Function => (0, "quiet"),
            RowKind::Access => (12, "plain"),
            RowKind::Breaks => (12, "broken"),
        };
        self.text(x + indent, &format!("class=\"{class}\""), &row.text);
        self.down();
    }
}

/// Draws the columns as SVG.
pub(super) fn svg(page: &Page<'_>, trace: &Trace) -> String {
    let rows = rows(trace);
    let starts = columns(trace, &rows);
    let mut picture = Picture { out: String::new(), y: MARGIN + LINE };
    picture.text(MARGIN, "class=\"plain\" font-weight=\"bold\"", &format!("{}: {}", page.name, page.title));
    picture.down();
    picture.notes(page);
    picture.down();
    let top = picture.y;
    for (cpu, caption) in trace.captions.iter().enumerate() {
        let style = format!("class=\"cpu{}\" font-weight=\"bold\"", cpu % HUES.len());
        picture.text(starts[cpu], &style, &heading(cpu, caption));
    }
    picture.y += LINE + LINE / 2;
    for row in &rows {
        picture.row(starts[row.cpu], starts[row.cpu + 1], row);
    }
    for (cpu, start) in starts.iter().take(trace.captions.len()).enumerate() {
        let (x, end, cpu_hue) = (start - 8, picture.y - LINE, cpu % HUES.len());
        writeln!(
            picture.out,
            "<line x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{end}\" class=\"line{cpu_hue}\"/>",
            top - 12
        )
        .expect("strings take all");
    }
    let notes = page.notes.iter().flat_map(|(_, text)| wrap(text)).map(|l| l.chars().count() + 12).max();
    let width = starts.last().copied().unwrap_or(0).max(letters(notes.unwrap_or(0)) + 2 * MARGIN);
    let height = picture.y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"DejaVu Sans Mono, monospace\" font-size=\"12\" xml:space=\"preserve\">\n\
         <title>{}</title>\n<style>\n{}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
        escape(page.name),
        svg_style(),
        picture.out
    )
}

fn svg_style() -> String {
    let mut style = String::from(
        ".plain { fill: #111111; } .quiet { fill: #777777; } .broken { fill: #b00000; } .here { fill: #ffd9d9; }\n",
    );
    for (i, hue) in HUES.iter().enumerate() {
        writeln!(style, ".cpu{i} {{ fill: {hue}; }} .line{i} {{ stroke: {hue}; stroke-opacity: 0.4; }}")
            .expect("strings take all");
    }
    style
}

/// Draws the columns as a page.
pub(super) fn html(page: &Page<'_>, trace: &Trace) -> String {
    let mut out = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>{0}</title>\n<style>\n{1}</style>\n<h1>{0}</h1>\n<p>{2}</p>\n<dl>\n",
        escape(page.name),
        html_style(),
        escape(page.title)
    );
    for (word, text) in &page.notes {
        let class = if *word == "cause" { " class=\"broken\"" } else { "" };
        writeln!(out, "<dt>{word}</dt><dd{class}>{}</dd>", escape(text)).expect("strings take all");
    }
    out.push_str("</dl>\n<table>\n<thead><tr>");
    for (cpu, caption) in trace.captions.iter().enumerate() {
        write!(out, "<th class=\"cpu{}\">{}</th>", cpu % HUES.len(), escape(&heading(cpu, caption)))
            .expect("strings take all");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in rows(trace) {
        out.push_str("<tr>");
        for cpu in 0..trace.captions.len().max(1) {
            let kind = match row.kind {
                _ if row.cpu != cpu => "",
                RowKind::Function => " quiet",
                RowKind::Access => " access",
                RowKind::Breaks => " access broken",
            };
            let text = if row.cpu == cpu { escape(&row.text) } else { String::new() };
            write!(out, "<td class=\"cpu{}{kind}\">{text}</td>", cpu % HUES.len()).expect("strings take all");
        }
        out.push_str("</tr>\n");
    }
    out + "</tbody>\n</table>\n"
}

fn html_style() -> String {
    let mut style = String::from(
        ":root { color-scheme: light dark; --paper: #fff; --ink: #111; --quiet: #777; --broken: #b00000; --here: #ffd9d9;",
    );
    let hues = |style: &mut String, hues: &[&str]| {
        for (i, hue) in hues.iter().enumerate() {
            write!(style, " --cpu{i}: {hue};").expect("strings take all");
        }
        style.push_str(" }\n");
    };
    hues(&mut style, &HUES);
    style += "@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e4e4e4; --quiet: #8c8c8c; \
              --broken: #ff9a9a; --here: #5a1f1f;";
    hues(&mut style, &HUES_IN_THE_DARK);
    style += "}\nbody { font: 15px sans-serif; margin: 2em; background: var(--paper); color: var(--ink); }\n\
              dl { display: grid; grid-template-columns: max-content minmax(0, 60em); gap: 0.2em 1em; }\n\
              dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }\n\
              table { border-collapse: collapse; font: 13px monospace; }\n\
              th { position: sticky; top: 0; background: var(--paper); }\n\
              th, td { text-align: left; vertical-align: top; white-space: pre; padding: 1px 1.2em 1px 0.6em; \
              border-left: 2px solid; }\n\
              .access { padding-left: 1.8em; } .broken { color: var(--broken); }\n\
              td.broken { background: var(--here); } td.quiet { color: var(--quiet); }\n";
    for i in 0..HUES.len() {
        writeln!(style, ".cpu{i} {{ border-color: var(--cpu{i}); }} th.cpu{i} {{ color: var(--cpu{i}); }}")
            .expect("strings take all");
    }
    style
}

#[cfg(test)]
mod tests {
    use super::*;
    use anonmem_lab::trace::Line;

    fn page() -> Page<'static> {
        let notes = vec![("rule", "x < y".to_owned()), ("replay", "9".repeat(300))];
        Page { name: "a-case", notes, title: "a & b" }
    }

    fn trace(text: &str) -> Trace {
        let line = |cpu, what: &str| Line { cpu, what: what.into(), function: "f".into(), ..Line::default() };
        let captions = vec!["one".into(), "two".into()];
        Trace { captions, lines: vec![line(0, text), line(1, "z")], verdict: None }
    }

    #[test]
    fn text_cannot_break_out_of_the_picture() {
        for picture in [svg(&page(), &trace("<script>")), html(&page(), &trace("<script>"))] {
            assert!(!picture.contains("<script>") && picture.contains("&lt;script&gt;"));
            assert!(picture.contains("a &amp; b") && picture.contains("x &lt; y"));
        }
    }

    #[test]
    fn a_column_is_as_wide_as_its_text_and_nothing_is_cut_off() {
        let (short, long) = (trace("x"), trace(&"x".repeat(200)));
        let second = |trace: &Trace| columns(trace, &rows(trace))[1];
        assert!(second(&short) < 200 && second(&long) > letters(200), "{} {}", second(&short), second(&long));
        assert!(svg(&page(), &long).contains(&"x".repeat(200)));
        assert_eq!(wrap(&"9".repeat(300)).iter().map(String::len).sum::<usize>(), 300);
    }
}
