//! The bill as a page that stands alone: memory, swap, faults and folios over the time of the run, what each
//! process had, and the bill itself.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::sample::Sample;
use crate::bill;
use crate::out::escape;
use crate::size::human_size;

const STYLE: &str = "\
:root{--a:#2b6cb0;--b:#dd8a1f;--c:#3a8f4d;--d:#a13d63;--e:#6b5bb5;--f:#7a7a7a;--ink:#222;--paper:#fff;--line:#ddd}
@media (prefers-color-scheme:dark){:root{--a:#63a4e8;--b:#f0ab4e;--c:#6cc481;--d:#d9769b;--e:#a396ea;--f:#a0a0a0;\
--ink:#ddd;--paper:#181818;--line:#444}}
body{font:14px/1.4 system-ui,sans-serif;margin:1.5em auto;max-width:920px;color:var(--ink);background:var(--paper)}
svg{width:100%;height:auto;display:block}svg text{fill:var(--ink);font:11px system-ui,sans-serif}
table{border-collapse:collapse}td,th{text-align:right;padding:.15em 1em .15em 0}td:nth-child(2),th:nth-child(2)\
{text-align:left}tr{border-top:1px solid var(--line)}pre{overflow-x:auto;font-size:12px}
";

/// The colours of curves, in the order in which they lie on one another.
const COLOURS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 140.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 8.0;

/// A curve: its name, and a value for each look.
struct Curve {
    name: String,
    values: Vec<u64>,
}

/// How the values of a picture are written.
#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    PerSecond,
}

impl Unit {
    fn text(self, value: u64) -> String {
        match self {
            Self::Bytes => human_size(value),
            Self::PerSecond => format!("{value}/s"),
        }
    }
}

/// Writes the page.
#[must_use]
pub fn page(samples: &[Sample], bill: &Value, program: &str) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>anonmem: {0}</title>\
         <style>{STYLE}</style></head><body><h1>What <code>{0}</code> used</h1>\n",
        escape(program)
    );
    if samples.len() < 2 {
        page += "<p>The run was too short for curves.</p>\n";
    } else {
        pictures(&mut page, samples);
        processes(&mut page, samples);
    }
    let _ =
        write!(page, "<h2>Memory bill</h2>\n<pre>{}</pre></body></html>\n", escape(&bill::render_text(bill)));
    page
}

fn pictures(page: &mut String, samples: &[Sample]) {
    let curve = |name: &str, of: fn(&Sample) -> u64| Curve {
        name: name.into(),
        values: samples.iter().map(of).collect(),
    };
    let memory = [curve("pages of programs", |s| s.user), curve("page tables", |s| s.tables)];
    picture(page, "Memory", samples, &memory, Unit::Bytes);
    if samples.iter().any(|sample| sample.swap > 0 || sample.swap_outs > 0) {
        picture(page, "Swap space in use", samples, &[curve("swap", |s| s.swap)], Unit::Bytes);
        let moved = [
            Curve { name: "pages out".into(), values: rates(samples, |s| s.swap_outs) },
            Curve { name: "pages in".into(), values: rates(samples, |s| s.swap_ins) },
        ];
        picture(page, "Pages swapped", samples, &moved, Unit::PerSecond);
    } else {
        *page += "<p>Nothing was swapped.</p>\n";
    }
    let faults = [Curve { name: "page faults".into(), values: rates(samples, |s| s.faults) }];
    picture(page, "Page faults", samples, &faults, Unit::PerSecond);
    let folios = by_size(samples);
    picture(page, "Memory by the size of its folios", samples, &folios, Unit::Bytes);
}

fn rates(samples: &[Sample], count: fn(&Sample) -> u64) -> Vec<u64> {
    let mut rates = vec![0];
    rates.extend(samples.windows(2).map(|two| two[1].rate(&two[0], count)));
    rates
}

/// Pages of programs, by the size of their folios; sizes of which there is little are together.
fn by_size(samples: &[Sample]) -> Vec<Curve> {
    let mut most: BTreeMap<u64, u64> = BTreeMap::new();
    for sample in samples {
        for (kib, bytes) in sample.large() {
            let there = most.entry(kib).or_default();
            *there = bytes.max(*there);
        }
    }
    let mut sizes: Vec<u64> = most.keys().copied().collect();
    sizes.sort_unstable_by_key(|kib| std::cmp::Reverse(most[kib]));
    let others = sizes.split_off(sizes.len().min(COLOURS.len() - 2));
    sizes.sort_unstable();
    let of = |sample: &Sample, sizes: &[u64]| {
        let large = sample.large();
        sizes.iter().filter_map(|kib| large.get(kib)).sum::<u64>()
    };
    let single = samples.iter().map(|s| s.user.saturating_sub(s.large().values().sum())).collect();
    let mut curves = vec![Curve { name: "single pages".into(), values: single }];
    for kib in sizes {
        let values = samples.iter().map(|sample| of(sample, &[kib])).collect();
        curves.push(Curve { name: human_size(kib * 1024), values });
    }
    if !others.is_empty() {
        let values = samples.iter().map(|sample| of(sample, &others)).collect();
        curves.push(Curve { name: "other sizes".into(), values });
    }
    curves
}

/// One picture: curves that lie on one another, with the highest sum as its scale.
fn picture(page: &mut String, title: &str, samples: &[Sample], curves: &[Curve], unit: Unit) {
    let sum = |nth: usize| curves.iter().map(|curve| curve.values[nth]).sum::<u64>();
    let most = (0..samples.len()).map(sum).max().unwrap_or(0).max(1);
    let (first, last) = (samples[0].ms, samples[samples.len() - 1].ms);
    let span = last.saturating_sub(first).max(1) as f64;
    let x = |nth: usize| LEFT + samples[nth].ms.saturating_sub(first) as f64 / span * (WIDTH - LEFT - 10.0);
    let y = |value: u64| TOP + HEIGHT * (1.0 - value as f64 / most as f64);
    let _ = write!(
        page,
        "<h2>{title}</h2>\n<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{title}\">",
        TOP + HEIGHT + 20.0
    );
    let mut below = vec![0; samples.len()];
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let above: Vec<u64> = below.iter().zip(&curve.values).map(|(below, value)| below + value).collect();
        let point = |nth: usize, value: u64| format!("{:.1},{:.1}", x(nth), y(value));
        let up = above.iter().enumerate().map(|(nth, &value)| point(nth, value));
        let down = below.iter().enumerate().rev().map(|(nth, &value)| point(nth, value));
        let points: Vec<_> = up.chain(down).collect();
        let peak = unit.text(curve.values.iter().copied().max().unwrap_or(0));
        let _ = write!(
            page,
            "<polygon points=\"{}\" fill=\"var(--{colour})\"><title>{}: {peak} at most</title></polygon>",
            points.join(" "),
            escape(&curve.name)
        );
        below = above;
    }
    let (bottom, right) = (TOP + HEIGHT, WIDTH - 10.0);
    let _ = write!(
        page,
        "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"var(--line)\"/>\
         <text x=\"{0}\" y=\"{1}\" text-anchor=\"end\">{2}</text><text x=\"{0}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\
         <text x=\"{LEFT}\" y=\"{3}\">{4:.1} s</text><text x=\"{right}\" y=\"{3}\" text-anchor=\"end\">{5:.1} s</text></svg>\n<p>",
        LEFT - 6.0,
        TOP + 10.0,
        unit.text(most),
        bottom + 15.0,
        first as f64 / 1000.0,
        last as f64 / 1000.0,
    );
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let _ = write!(page, "<span style=\"color:var(--{colour})\">&#9632;</span> {} ", escape(&curve.name));
    }
    *page += "</p>\n";
}

/// What each process that was seen had at most.
fn processes(page: &mut String, samples: &[Sample]) {
    let mut all: BTreeMap<u32, (String, u64, u64, u64)> = BTreeMap::new();
    for process in samples.iter().flat_map(|sample| &sample.processes) {
        let (name, rss, swap, faults) = all.entry(process.pid).or_default();
        name.clone_from(&process.name);
        *rss = process.rss.max(*rss);
        *swap = process.swap.max(*swap);
        *faults = process.faults.max(*faults);
    }
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by_key(|(_, (_, rss, swap, _))| std::cmp::Reverse(rss + swap));
    *page += "<h2>Processes</h2>\n<table><tr><th>PID</th><th>name</th><th>memory at most</th>\
              <th>swap at most</th><th>faults</th></tr>\n";
    for (pid, (name, rss, swap, faults)) in all.iter().take(40) {
        let _ = writeln!(
            page,
            "<tr><td>{pid}</td><td>{}</td><td>{}</td><td>{}</td><td>{faults}</td></tr>",
            escape(name),
            human_size(*rss),
            human_size(*swap)
        );
    }
    *page += "</table>\n";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::sample::Process;

    fn samples() -> Vec<Sample> {
        let at = |ms: u64| {
            let process = Process { pid: 2, name: "<b>".into(), rss: ms << 10, swap: 0, faults: ms };
            let folios = [(16, 1), (32, 1), (64, ms), (128, 1), (256, 1), (2048, 1)].into();
            Sample {
                ms,
                user: (ms * 40) << 12,
                faults: ms * 3,
                folios,
                processes: vec![process],
                ..Sample::default()
            }
        };
        (100..200).map(at).collect()
    }

    #[test]
    fn the_page_stands_alone_and_has_every_curve() {
        let mut samples = samples();
        let page = page(&samples, &serde_json::json!({"forks": 3}), "a <i>");
        assert_eq!(page.matches("<svg").count(), 3, "{page}");
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        for part in [
            "prefers-color-scheme:dark",
            "a &lt;i&gt;",
            "&lt;b&gt;",
            "other sizes",
            "3000/s",
            "Nothing was swapped",
        ] {
            assert!(page.contains(part), "{part}");
        }
        for outside in ["http", "<script", "NaN", "inf"] {
            assert!(!page.contains(outside), "{outside}");
        }
        samples[50].swap = 1 << 20;
        assert_eq!(super::page(&samples, &Value::Null, "a").matches("<svg").count(), 5);
        assert!(super::page(&samples[..1], &Value::Null, "a").contains("too short"));
    }

    #[test]
    fn memory_by_size_adds_up() {
        let samples = samples();
        let curves = by_size(&samples);
        assert!(curves.len() <= COLOURS.len());
        for (nth, sample) in samples.iter().enumerate() {
            assert_eq!(curves.iter().map(|curve| curve.values[nth]).sum::<u64>(), sample.user);
        }
    }
}
