//! The bench over families of address spaces: the same source as the usual bench, compiled with another
//! reverse map. To the compiler its types are others, so they are told over here.

use anonmem_bench::{
    Error, Options, Trust,
    rmap_study::{Line, Size, markdown},
};
use anonmem_bench_families as families;
use clap::ValueEnum;

/// Measures over families what the options ask for, and reports it.
///
/// # Errors
/// As the usual bench.
pub fn bench(options: &Options) -> Result<Trust, Error> {
    match families::bench(&told(options)) {
        Ok(families::Trust::Good) => Ok(Trust::Good),
        Ok(families::Trust::Disturbed) => Ok(Trust::Disturbed),
        Err(families::Error::NoSuchRow(name)) => Err(Error::NoSuchRow(name)),
        Err(families::Error::Write(path, e)) => Err(Error::Write(path, e)),
        Err(families::Error::Print(e)) => Err(Error::Print(e)),
        Err(families::Error::Baseline(path, why)) => Err(Error::Baseline(path, why)),
        Err(families::Error::Host(e)) => Err(Error::Host(e)),
    }
}

fn told(options: &Options) -> families::Options {
    let Options { rows, against, folios, runs, baseline, json, csv, svg, markdown, rmap, rmap_study, list } =
        options;
    families::Options {
        rows: rows.clone(),
        against: same(*against),
        folios: folios.iter().map(|&size| same(size)).collect(),
        runs: *runs,
        baseline: baseline.clone(),
        json: json.clone(),
        csv: csv.clone(),
        svg: svg.clone(),
        markdown: markdown.clone(),
        rmap: same(*rmap),
        rmap_study: *rmap_study,
        list: *list,
    }
}

/// The value of the same name.
fn same<A: ValueEnum, B: ValueEnum>(value: A) -> B {
    let name = value.to_possible_value().expect("no value is hidden");
    B::from_str(name.get_name(), false).expect("both are compiled from one source")
}

/// The study of all reverse maps, and of the peer that is none of ours, as a table.
pub fn study() -> String {
    use families::rmap_study as other;

    let told = |lines: Vec<other::Line>| -> Vec<_> {
        lines.into_iter().map(|other::Line { what, unit, found }| Line { what, unit, found }).collect()
    };
    let anon_vmas = anonmem_bench::rmap_study::study(Size::FULL);
    let found = told(other::study(other::Size::FULL));
    let contexts = told(other::cow_context(other::Size::FULL));
    markdown(&[("anon_vma", &anon_vmas), ("family", &found), ("cow-context", &contexts)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use anonmem_bench::options::{Against, Rmap};

    #[test]
    fn values_keep_their_names() {
        assert_eq!(same::<_, families::options::Against>(Against::Rust), families::options::Against::Rust);
        assert_eq!(same::<_, families::options::Rmap>(Rmap::Family), families::options::Rmap::Family);
    }
}
