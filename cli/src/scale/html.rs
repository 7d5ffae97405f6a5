//! The picture and all lines in conflict, as a page.

use std::fmt::Write;

use anonmem_lab::scale::mode_name;

use super::found::Found;
use super::svg;
use crate::out::escape;

const STYLE: &str = "\
body{font:14px/1.4 system-ui,sans-serif;margin:1.5em;color:#222;background:#fff}
code,td{font-family:ui-monospace,monospace;font-size:12px}
table{border-collapse:collapse}td,th{text-align:left;padding:.15em .8em .15em 0;vertical-align:top}
tr{border-top:1px solid #ddd}
@media (prefers-color-scheme:dark){body{color:#ddd;background:#181818}tr{border-color:#444}}
";

pub(super) fn text(found: &Found) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>anonmem scale</title><style>{STYLE}</style>\
         </head><body><h1>Operations that commute, and the cache lines in conflict</h1>\n\
         <p>Each square is a pair of operations on two simulated CPUs: green if neither writes a cache line that the other \
         reads or writes. The curves are bounds by arithmetic from simulated accesses, with {:.0} ns for a transfer ({}). \
         Nothing simulated is a measurement.</p>\n",
        found.prices.transfer_ns,
        super::curves::source(found)
    );
    page += &svg::text(found);
    page += "<h2>Lines in conflict</h2>\n<table><tr><th>how</th><th>operations</th><th>line</th><th>who does what</th></tr>\n";
    for pair in &found.study.pairs {
        for conflict in &pair.conflicts {
            let uses: Vec<_> = pair
                .ops
                .iter()
                .zip(&conflict.uses)
                .map(|(op, of)| {
                    let does = if of.writes { "writes" } else { "reads" };
                    format!("{} {does} {} at {}", op.name, escape(&of.field), escape(&of.at))
                })
                .collect();
            let _ = writeln!(
                page,
                "<tr><td>{}, {}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                pair.relation.name(),
                mode_name(pair.mode),
                pair.ops.map(|op| op.name).join(", "),
                escape(&conflict.name),
                uses.join("<br>")
            );
        }
    }
    page + "</table></body></html>\n"
}
