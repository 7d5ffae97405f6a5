//! What the command says and how it ends, without a microVM.

mod common;

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::anonmem;
use serde_json::Value;

fn run(words: &[&str]) -> Output {
    anonmem().args(words).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A case of a small model, which is explored in no time, and one of its planted bugs.
const CASE: &str = "anon-vma-2010";
const BUG: &str = "no-recheck";

#[test]
fn a_closed_pipe_ends_it_quietly() {
    for words in [&["cases"][..], &["race", CASE], &["bench", "--list"]] {
        // The reader is gone before the command begins: what is said first already finds nobody.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = anonmem().args(words).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(141), String::new()), "{words:?}");
    }
}

#[test]
fn a_full_disk_is_one_line() {
    for words in [&["cases"][..], &["race", CASE], &["check", CASE], &["bench", "--list"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = anonmem().args(words).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = stderr(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{words:?}: {said}");
        assert!(said.contains("cannot write to standard output"), "{said}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_found_out_first() {
    let bad = "/no/such/dir/file";
    let lines: [&[&str]; 5] = [
        &["check", "--json", bad],
        &["check", "--junit", bad],
        &["race", CASE, "--svg", bad],
        &["bench", "--json", bad],
        &["run", "--bill-file", bad, "--", "true"],
    ];
    for words in lines {
        let start = Instant::now();
        let output = run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(
            stderr(&output).contains(bad) && stdout(&output).is_empty(),
            "{words:?}: {}",
            stderr(&output)
        );
        assert!(start.elapsed() < Duration::from_secs(5), "{words:?}");
    }
}

#[test]
fn a_race_says_by_its_status_whether_a_rule_broke() {
    assert_eq!(run(&["race", CASE]).status.code(), Some(0));
    let broken = run(&["race", CASE, "--mutant", BUG]);
    assert_eq!(broken.status.code(), Some(1), "{}", stdout(&broken));
    let unknown = run(&["race", CASE, "--mutant", "nonsense"]);
    assert!(unknown.status.code() == Some(2) && stderr(&unknown).contains(BUG));
}

#[test]
fn a_check_counts_its_verdicts() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("verdicts.json");
    let output = anonmem().args(["check", CASE, "--budget", "2", "--json"]).arg(&json).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let last = text.lines().last().unwrap();
    assert!(last.contains(" hold, ") && last.contains(" not broken so far, 0 broken"), "{last}");
    let json: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(json["cases"][0]["case"], CASE);
}

#[test]
fn cases_are_explored_over_either_reverse_map() {
    // A case whose worlds have what is asked for, and one whose worlds have families anyway.
    for rmap in ["anon_vma", "family"] {
        let output = run(&["check", "cow-stamps", "rmap-exit-too-early", "--rmap", rmap, "--budget", "3"]);
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).contains(" 0 broken"), "{}", stdout(&output));
    }
    let unknown = run(&["check", CASE, "--rmap", "hash"]);
    assert!(unknown.status.code() == Some(2) && stderr(&unknown).contains("hash"), "{}", stderr(&unknown));
}

#[test]
fn a_bench_says_which_reverse_map_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("bench.json");
    for rmap in ["anon_vma", "family"] {
        let words = ["bench", "metadata", "--against", "none", "--runs", "1", "--rmap", rmap, "--json"];
        let output = anonmem().args(words).arg(&json).output().unwrap();
        // 3: others kept the machine busy, which is nobody's fault here.
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}", stderr(&output));
        let found: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!(found["reverse_map"], rmap);
        assert_eq!(stdout(&output).contains("reverse map \"family\""), rmap == "family");
    }
}

#[test]
fn an_interrupted_check_keeps_the_table_so_far() {
    let mut child = anonmem()
        .args(["check", "--budget", "120"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Something is explored by now on any machine; a slow one has less of it.
    std::thread::sleep(Duration::from_secs(3));
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(text.starts_with("case") && text.contains(" not explored"), "{text}");
}

#[test]
fn the_picture_of_the_readme_is_what_the_command_draws() {
    // What moves with every change of the case's file: line numbers, and the fingerprint in the replay id.
    fn steady(svg: &str) -> String {
        let without_lines =
            svg.split(".rs:").map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
        let joined = without_lines.collect::<Vec<_>>().join(".rs:");
        joined.lines().filter(|line| !line.contains("--replay")).collect::<Vec<_>>().join("\n")
    }
    let drawn = tempfile::NamedTempFile::new().unwrap();
    let output = run(&["race", CASE, "--mutant", BUG, "--svg", drawn.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let shown = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/pictures/race.svg");
    let (shown, drawn) =
        (std::fs::read_to_string(shown).unwrap(), std::fs::read_to_string(drawn.path()).unwrap());
    assert_eq!(
        steady(&shown),
        steady(&drawn),
        "anonmem race {CASE} --mutant {BUG} --svg docs/pictures/race.svg draws it anew"
    );
}

#[test]
fn the_catalogue_can_be_searched() {
    let all = stdout(&run(&["cases"]));
    let some = stdout(&run(&["cases", "2010", "anon"]));
    assert!(some.contains(CASE) && some.len() < all.len() / 2);
    assert!(some.contains("+ no-recheck:"), "a variant runs at once: {some}");
    assert!(all.contains("\n    * "), "a patch is built first");
    let json: Value = serde_json::from_str(&stdout(&run(&["cases", "--json", "2010"]))).unwrap();
    assert_eq!(json["cases"][0]["mutants"][0]["is_built_first"], false);
    assert_eq!(run(&["cases", "no-such-word"]).status.code(), Some(2));
}

#[test]
fn what_was_meant_is_guessed() {
    let said = stderr(&run(&["run", "--cpu", "2", "--", "true"]));
    assert!(said.contains("'--cpus'") && said.contains("see anonmem run --help"), "{said}");
    let said = stderr(&run(&["chek"]));
    assert!(said.contains("'check'") && said.contains("see anonmem --help"), "{said}");
}

#[test]
fn a_program_needs_no_dashes_before_it() {
    let said = stderr(&run(&["run", "no-such-program", "-l", "--ram", "x"]));
    assert!(said.contains("no-such-program"), "{said}");
}

#[test]
fn help_is_wrapped_once_and_tells_the_exit_statuses() {
    for command in ["run", "bench", "cases", "check", "race", "scale"] {
        let help = stdout(&run(&[command, "--help"]));
        assert!(help.contains("Exit status:"), "{command}");
        // A line of prose that is broken twice leaves a short one in the middle of a sentence.
        let lines: Vec<&str> = help.lines().collect();
        for pair in lines.windows(2) {
            let is_prose = |line: &str| line.starts_with(|c: char| c.is_alphabetic()) && line.contains(' ');
            let [first, second] = pair else { continue };
            let is_short = first.len() < 60 && !first.ends_with([':', '.', ',', ';']);
            assert!(!(is_prose(first) && is_prose(second) && is_short), "{command}: {first:?} {second:?}");
        }
    }
}
