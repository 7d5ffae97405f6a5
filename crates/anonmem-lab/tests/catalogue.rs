//! The catalogue: every case passes, every variant is caught, and the folder of mutants agrees with it.

use anonmem_lab::cases::{Case, Extent, Mutant, all};
use std::{
    collections::HashSet,
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::Duration,
};

/// Of a processor's time: much more than any exploration takes.
const WHOLE: Duration = Duration::from_secs(600);
/// What each way of a case gets of the time of all tests. Nine in ten end before.
const SHARE: Duration = Duration::from_secs(15);

/// With `ANONMEM_LAB=whole` (`make lab`) every way of every case comes to its end; otherwise it has a share.
#[test]
fn every_case_passes() {
    let whole = std::env::var("ANONMEM_LAB").is_ok_and(|how| how == "whole");
    let cut_short = AtomicUsize::new(0);
    // They take minutes: each processor takes the next one.
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some(case) = all().get(next.fetch_add(1, Relaxed)) {
                    cut_short.fetch_add(passes(case, whole), Relaxed);
                }
            });
        }
    });
    println!("cut short: {}", cut_short.into_inner());
}

/// Explores a case; gives how many of its ways did not come to their end.
fn passes(case: &Case, whole: bool) -> usize {
    let budget = if whole { WHOLE } else { SHARE };
    let mut cut_short = 0;
    for (report, run) in case.check(None, budget).iter().zip(case.runs) {
        println!("{report}");
        report.assert_passed();
        if matches!(run.extent, Extent::Sample(_)) {
            continue;
        }
        assert!(report.exhausted || (!whole && !report.ended), "{report}");
        assert!(report.ended || !whole, "the bound that was asked for was not reached: {report}");
        cut_short += usize::from(!report.ended);
    }
    cut_short
}

#[test]
fn every_variant_is_caught_under_the_models_it_names_and_no_other() {
    for case in all() {
        for mutant in case.mutants {
            let Mutant::Variant { name, shows_under, .. } = mutant else { continue };
            let program = (case.program)(Some(name));
            for run in case.runs {
                let report = run.explore(&*program, WHOLE);
                println!("{name}: {report}");
                assert_eq!(report.found.is_some(), shows_under.contains(&run.model), "{name}: {report}");
            }
        }
    }
}

/// `mutants/run` plants them; here only that the folder and the catalogue agree.
#[test]
fn every_patch_names_its_cases_and_is_named_by_them() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../mutants");
    let mut named = HashSet::new();
    for case in all() {
        for mutant in case.mutants {
            let Mutant::Patch { name, .. } = mutant else { continue };
            let patch = std::fs::read_to_string(format!("{folder}/{name}.patch")).expect(name);
            let cases = patch.lines().find_map(|l| l.strip_prefix("cases: ")).expect("a line of cases");
            assert!(cases.split(' ').any(|c| c == case.name), "{name}.patch does not name {}", case.name);
            named.insert(format!("{name}.patch"));
        }
    }
    for file in std::fs::read_dir(folder).expect("mutants/") {
        let path = file.expect("readable").path();
        let file = path.file_name().expect("a file").to_str().expect("UTF-8").to_owned();
        // What only a unit test can show says so.
        let by_test = || std::fs::read_to_string(&path).expect("readable").contains("\ntests: ");
        assert!(!file.ends_with(".patch") || named.contains(&file) || by_test(), "no case names {file}");
    }
}

#[test]
fn names_are_unique_and_pages_complete() {
    let mut names = HashSet::new();
    for case in all() {
        assert!(names.insert(case.name), "{} twice", case.name);
        assert!(!case.mutants.is_empty(), "{} has no mutant", case.name);
        for text in [case.title, case.happened, case.environment, case.rule] {
            assert!(!text.is_empty(), "{} is silent", case.name);
        }
    }
}
