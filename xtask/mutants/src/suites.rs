//! What a mutant is shown to: the lab's cases, then the tests; nothing that does not come past it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::build::Program;
use crate::process::{self, End};
use crate::tree::DRIVER_NAME;

/// How long a case may explore, in each of its ways: at first, and then.
const FIRST_BUDGET: Duration = Duration::from_millis(500);
const CASE_BUDGET: Duration = Duration::from_secs(2);
/// How long a case may explore a bug that nobody has named it for: at first, and then.
const GLANCE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_secs(1);
/// As long as the lab itself gives a case that a patch names.
const NAMED_BUDGET: Duration = Duration::from_secs(30);
/// What takes less is asked first.
const QUICK: Duration = Duration::from_millis(500);
/// So many cases are shown to a generated mutant in one process.
const TOGETHER: usize = 24;
const STRESS_SECONDS: &str = "3";
const ORACLE_RUNS: &str = "8";

/// Who found a mutant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Suite {
    /// A case of the lab.
    Lab,
    /// A unit test.
    Unit,
    /// Random operations against the oracle, and progress while memory is short.
    Oracle,
    /// Threads on the hosted machine.
    Stress,
}

impl Suite {
    pub(crate) const ALL: [Self; 4] = [Self::Lab, Self::Unit, Self::Oracle, Self::Stress];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Lab => "lab",
            Self::Unit => "unit tests",
            Self::Oracle => "oracle",
            Self::Stress => "stress",
        }
    }
}

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub(crate) enum Outcome {
    /// A test failed.
    Caught { suite: Suite, by: String, why: String },
    /// A test did not end.
    TimedOut { suite: Suite, by: String },
    /// All passed. Whether any of them ran the code.
    Survived { reached: bool },
}

/// The reverse map that a test runs over, of those that every test of the library can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Over {
    AnonVmas,
    Families,
}

/// One program with its arguments, and what the unbroken code needs for it.
struct Stage {
    suite: Suite,
    over: Over,
    /// The case of the lab, or the unit test.
    name: Option<String>,
    program: PathBuf,
    /// The mutants that it comes past; unknown if it was not measured.
    reached: Option<HashSet<u32>>,
    /// Of a processor's time.
    took: Duration,
}

impl Stage {
    fn reaches(&self, id: u32) -> bool {
        self.reached.as_ref().is_none_or(|ids| ids.contains(&id))
    }
}

/// Which of the tests a mutant is shown to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// Those that take no time: many in one process.
    Quick,
    /// All others, one by one.
    Slow,
}

/// All that a mutant is shown to.
pub(crate) struct Suites {
    stages: Vec<Stage>,
    logs: PathBuf,
    /// How many generated mutants each case has found so far.
    found: Mutex<BTreeMap<String, u32>>,
}

impl Suites {
    /// Runs everything once without a mutant: it has to pass, and says what it comes past.
    ///
    /// The mutants `of_families` are shown to tests over families, all others to tests over anon_vmas. A test
    /// that is about anon_vmas fails over families, and is left out there.
    ///
    /// # Errors
    /// What fails without a mutant.
    pub(crate) fn measure(
        programs: &[Program],
        logs: PathBuf,
        of_families: &HashSet<u32>,
    ) -> Result<Self, String> {
        let mut suites = Self::unmeasured(programs, logs)?;
        for i in 0..suites.stages.len() {
            suites.measure_one(i, GLANCE)?;
        }
        if !of_families.is_empty() {
            suites.measure_over_families(of_families)?;
        }
        suites.stages.sort_by_key(|s| (s.suite, s.took));
        Ok(suites)
    }

    /// Adds the tests over families that come past mutants `of_families`: they alone are shown these mutants.
    fn measure_over_families(&mut self, of_families: &HashSet<u32>) -> Result<(), String> {
        for i in 0..self.stages.len() {
            if let Some(reached) = &mut self.stages[i].reached {
                reached.retain(|id| !of_families.contains(id));
            }
            let Stage { suite, ref name, ref program, took, .. } = self.stages[i];
            let (name, program) = (name.clone(), program.clone());
            self.stages.push(Stage { suite, over: Over::Families, name, program, reached: None, took });
            let last = self.stages.len() - 1;
            let passes = self.measure_one(last, GLANCE).is_ok();
            let reached = self.stages[last].reached.as_mut().filter(|_| passes);
            let is_of_use = reached.is_some_and(|reached| {
                reached.retain(|id| of_families.contains(id));
                !reached.is_empty()
            });
            if !is_of_use {
                self.stages.pop();
            }
        }
        Ok(())
    }

    /// Runs the cases once without a mutant, for a moment: they have to pass, and say what they come past.
    ///
    /// # Errors
    /// A case that fails without a mutant.
    pub(crate) fn measure_cases(programs: &[Program], logs: PathBuf) -> Result<Self, String> {
        let mut suites = Self::unmeasured(programs, logs)?;
        let kept = suites.logs.join("reached.json");
        let mut known = measured_before(&kept, programs);
        for i in 0..suites.stages.len() {
            if suites.stages[i].suite != Suite::Lab {
                continue;
            }
            let name = suites.stages[i].name.clone().unwrap_or_default();
            match known.get(&name) {
                Some((reached, took)) => {
                    let stage = &mut suites.stages[i];
                    (stage.reached, stage.took) = (Some(reached.clone()), *took);
                }
                None => {
                    suites.measure_one(i, GLANCE)?;
                    let stage = &suites.stages[i];
                    known.insert(name, (stage.reached.clone().unwrap_or_default(), stage.took));
                }
            }
        }
        let text = serde_json::to_string(&known).map_err(|e| e.to_string())?;
        fs::write(&kept, text).map_err(|e| format!("{}: {e}", kept.display()))?;
        suites.stages.sort_by_key(|s| (s.suite, s.took));
        Ok(suites)
    }

    /// All cases and tests, of which nobody knows yet how long they take and what they come past.
    pub(crate) fn unmeasured(programs: &[Program], logs: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&logs).map_err(|e| format!("{}: {e}", logs.display()))?;
        let mut stages = Vec::new();
        let mut add = |suite, name, program: &Program| {
            let took = Duration::from_millis(if suite == Suite::Unit { 200 } else { 20_000 });
            let program = program.path.clone();
            stages.push(Stage { suite, over: Over::AnonVmas, name, program, reached: None, took });
        };
        for program in programs {
            match program.target.as_str() {
                DRIVER_NAME => {
                    names(&program.path, &[])?.into_iter().for_each(|n| add(Suite::Lab, Some(n), program));
                }
                "oracle" => add(Suite::Oracle, None, program),
                "stress" => add(Suite::Stress, None, program),
                "machine" => {
                    let tests = names(&program.path, &["--list", "--format", "terse"])?;
                    for test in tests {
                        if let Some(suite) = of_machine(&test) {
                            add(suite, Some(test), program);
                        }
                    }
                }
                _ => {
                    let tests = names(&program.path, &["--list", "--format", "terse"])?;
                    tests.into_iter().for_each(|n| add(Suite::Unit, Some(n), program));
                }
            }
        }
        Ok(Self { stages, logs, found: Mutex::default() })
    }

    fn measure_one(&mut self, i: usize, budget: Duration) -> Result<(), String> {
        let reached = self.logs.join("reached");
        let _ = fs::remove_file(&reached);
        let stage = &mut self.stages[i];
        let mut command = command(&[stage], budget);
        command.env("ANONMEM_MUTANT_REACHED", &reached);
        let before = process::used_by_ended();
        let end = process::run(&command, Duration::from_secs(240), &self.logs.join("unbroken.log"))?;
        stage.took = process::used_by_ended() - before;
        if let End::Failed(said) | End::TimedOut(said) = end {
            let name = stage.name.as_deref().unwrap_or(stage.suite.title());
            return Err(format!("{name} does not pass without a mutant:\n{said}"));
        }
        let ids = fs::read_to_string(&reached).unwrap_or_default();
        stage.reached = Some(ids.lines().filter_map(|id| id.parse().ok()).collect());
        Ok(())
    }

    /// Whether anything comes past a mutant.
    pub(crate) fn reach(&self, id: u32) -> bool {
        self.stages.iter().any(|s| s.reaches(id))
    }

    /// Shows one mutant to all cases that come past it, to the unit tests, to the same cases for longer, and
    /// to the random operations. Of the cases only those count that break a rule: who does not come to an end
    /// has found nothing.
    ///
    /// With [`Pace::Quick`] only the first look at the cases and the unit tests.
    pub(crate) fn find(&self, id: u32, pace: Pace) -> Result<Option<Outcome>, String> {
        let of = |suite| self.stages.iter().filter(|s| s.suite == suite && s.reaches(id)).collect::<Vec<_>>();
        let lab = by_program(&of(Suite::Lab));
        let together = |budget| lab.iter().map(move |group| (group.clone(), budget));
        let unit = by_program(&of(Suite::Unit)).into_iter().map(|group| (group, CASE_BUDGET));
        let long = of(Suite::Oracle).into_iter().map(|s| (vec![s], CASE_BUDGET));
        let slow = together(LOOK).chain(long).filter(|_| pace == Pace::Slow);
        for (group, budget) in together(GLANCE).chain(unit).chain(slow) {
            match self.show_to(id, &group, budget)? {
                Some(Outcome::TimedOut { suite: Suite::Lab, .. }) | None => {}
                // A test may wait for others, such as the compiler: only who hangs twice hangs.
                Some(Outcome::TimedOut { .. }) if self.show_to(id, &group, budget)?.is_none() => {}
                outcome => return Ok(outcome),
            }
        }
        Ok(None)
    }

    /// Shows one mutant to what comes past it, quick or slow as `pace` says, until something fails.
    ///
    /// Quick are the unit tests that take no time, and a glance at the cases: those first that have found the
    /// most so far. Slow are the other unit tests, a longer look at the cases, random operations and threads.
    pub(crate) fn show(&self, id: u32, pace: Pace) -> Result<Option<Outcome>, String> {
        let of = |suite| self.stages.iter().filter(move |s| s.suite == suite && s.reaches(id));
        let quick = |s: &&Stage| s.took < QUICK;
        let alone = |suite| of(suite).map(|s| vec![s]);
        let mut cases: Vec<&Stage> = of(Suite::Lab).collect();
        self.best_first(&mut cases)?;
        let groups: Vec<(Vec<&Stage>, Duration)> = match pace {
            Pace::Quick => {
                let unit = by_program(&of(Suite::Unit).filter(quick).collect::<Vec<_>>());
                let unit = unit.into_iter().map(|group| (group, GLANCE));
                unit.chain(cases.chunks(TOGETHER).map(|group| (group.to_vec(), GLANCE))).collect()
            }
            Pace::Slow => {
                let cases = cases.chunks(TOGETHER).map(|group| (group.to_vec(), LOOK));
                let unit = alone(Suite::Unit).filter(|group| !quick(&group[0]));
                let long = alone(Suite::Oracle).chain(alone(Suite::Stress));
                let with_budget = |group| (group, CASE_BUDGET);
                unit.map(with_budget).chain(cases).chain(long.map(with_budget)).collect()
            }
        };
        for (group, budget) in &groups {
            let outcome = self.show_to(id, group, *budget)?;
            if let Some(Outcome::Caught { suite: Suite::Lab, by, .. }) = &outcome {
                *self.found.lock().map_err(|_| "a worker panicked")?.entry(by.clone()).or_default() += 1;
            }
            if outcome.is_some() {
                return Ok(outcome);
            }
        }
        Ok(None)
    }

    /// Sorts cases by how many mutants each has found so far.
    fn best_first(&self, cases: &mut [&Stage]) -> Result<(), String> {
        let found = self.found.lock().map_err(|_| "a worker panicked")?;
        let nr = |stage: &Stage| stage.name.as_ref().and_then(|name| found.get(name)).copied().unwrap_or(0);
        cases.sort_by_key(|stage| std::cmp::Reverse(nr(stage)));
        Ok(())
    }

    /// Shows one mutant to the case of that name, as long as the lab itself explores it.
    ///
    /// # Errors
    /// There is no such case.
    pub(crate) fn show_case(&self, id: u32, name: &str) -> Result<Option<Outcome>, String> {
        let is_it = |s: &&Stage| s.suite == Suite::Lab && s.name.as_deref() == Some(name);
        let stage = self.stages.iter().find(is_it).ok_or_else(|| format!("no case {name}"))?;
        let outcome = self.show_to(id, &[stage], NAMED_BUDGET)?;
        Ok(outcome.filter(|o| matches!(o, Outcome::Caught { .. })))
    }

    /// Shows one mutant to the tests whose names contain `part`.
    ///
    /// # Errors
    /// There is no such test.
    pub(crate) fn show_tests(&self, id: u32, part: &str) -> Result<Option<Outcome>, String> {
        let is_it = |s: &&Stage| s.suite == Suite::Unit && s.name.as_ref().is_some_and(|n| n.contains(part));
        let tests: Vec<&Stage> = self.stages.iter().filter(is_it).collect();
        if tests.is_empty() {
            return Err(format!("no test {part}"));
        }
        for group in by_program(&tests) {
            if let Some(outcome) = self.show_to(id, &group, CASE_BUDGET)? {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    /// Whether what has found a mutant fails without it, too: then it says nothing.
    pub(crate) fn fails_anyway(&self, outcome: &Outcome) -> Result<bool, String> {
        let (Outcome::Caught { suite, by, .. } | Outcome::TimedOut { suite, by }) = outcome else {
            return Ok(false);
        };
        let is_it = |s: &&Stage| s.suite == *suite && (s.name.is_none() || s.name.as_deref() == Some(by));
        for stage in self.stages.iter().filter(is_it) {
            if self.show_to(0, &[stage], FIRST_BUDGET)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn show_to(&self, id: u32, group: &[&Stage], budget: Duration) -> Result<Option<Outcome>, String> {
        let suite = group[0].suite;
        let mut command = command(group, budget);
        command.env("ANONMEM_MUTANT", id.to_string());
        let took: Duration = group.iter().map(|s| s.took).sum();
        // Threads that spin use every processor. A case has several ways, each with its budget.
        let times = match suite {
            Suite::Stress => 3,
            Suite::Lab if budget > FIRST_BUDGET => 20,
            Suite::Lab | Suite::Unit | Suite::Oracle => 2,
        };
        let cpu = (Duration::from_secs(10) + took * times).max(budget * 4);
        let log = self.logs.join(format!("{id}-{suite:?}.log"));
        Ok(match process::run(&command, cpu, &log)? {
            End::Passed => None,
            End::Failed(said) => Some(Outcome::Caught { suite, by: who(suite, &said), why: why(&said) }),
            End::TimedOut(said) => Some(Outcome::TimedOut { suite, by: who(suite, &said) }),
        })
    }

    /// How many cases and tests there are, for the report.
    pub(crate) fn cases(&self) -> usize {
        self.stages.iter().filter(|s| s.suite == Suite::Lab).count()
    }

    /// All mutants that anything comes past.
    pub(crate) fn reached(&self) -> BTreeSet<u32> {
        self.stages.iter().flat_map(|s| s.reached.iter().flatten().copied()).collect()
    }
}

/// What a case came past, and how long it took, by its name.
type Known = BTreeMap<String, (HashSet<u32>, Duration)>;

/// What was written to `kept`, if that was after the programs were built.
fn measured_before(kept: &Path, programs: &[Program]) -> Known {
    let made = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    let newest = programs.iter().filter_map(|p| made(&p.path)).max();
    let text = if made(kept) > newest { fs::read_to_string(kept).ok() } else { None };
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// The stages of each program.
fn by_program<'a>(stages: &[&'a Stage]) -> Vec<Vec<&'a Stage>> {
    let programs: BTreeSet<&Path> = stages.iter().map(|s| s.program.as_path()).collect();
    let of = |program| stages.iter().copied().filter(|s| s.program == program).collect();
    programs.into_iter().map(of).collect()
}

fn command(group: &[&Stage], budget: Duration) -> Command {
    let mut command = Command::new(&group[0].program);
    match group[0].suite {
        Suite::Unit => {
            command.arg("--exact");
        }
        // Short memory is what the oracle has; its threads count what came back from swap, which takes
        // longer.
        Suite::Stress => {
            command.args(["--skip", "memory_is_short"]);
        }
        Suite::Lab | Suite::Oracle => {}
    }
    command.args(group.iter().filter_map(|s| s.name.as_deref()));
    command.env("ANONMEM_BUDGET_MS", budget.as_millis().to_string());
    command.env("ANONMEM_RUNS", ORACLE_RUNS).env("ANONMEM_STRESS_SECONDS", STRESS_SECONDS);
    match group[0].over {
        Over::AnonVmas => command.env("ANONMEM_RMAP", "anon_vma"),
        Over::Families => command.env("ANONMEM_RMAP", "family"),
    };
    command
}

/// What a test of the hosted machine is, of those that take seconds and find what others do not.
fn of_machine(test: &str) -> Option<Suite> {
    match test.split("::").next()? {
        "progress" => Some(Suite::Oracle),
        "device" | "vast" => Some(Suite::Unit),
        _ => None,
    }
}

/// The cases or tests that a program has.
fn names(program: &Path, arguments: &[&str]) -> Result<Vec<String>, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|e| format!("{}: {e}", program.display()))?;
    let listed = String::from_utf8_lossy(&output.stdout);
    Ok(listed.lines().map(|name| name.strip_suffix(": test").unwrap_or(name).to_owned()).collect())
}

/// The case or the test that failed, or that was running.
fn who(suite: Suite, said: &str) -> String {
    let name = match suite {
        Suite::Lab => said.lines().rev().find_map(|l| l.strip_prefix("case: ")),
        Suite::Unit | Suite::Oracle | Suite::Stress => {
            let failed = |l: &&str| l.starts_with("test ") && l.ends_with("FAILED");
            let panicked = said.lines().find_map(|l| l.strip_prefix("thread '")?.split('\'').next());
            said.lines()
                .find(failed)
                .and_then(|l| l.strip_prefix("test ")?.split(" ...").next())
                // So its line says of a test that has to panic.
                .map(|name| name.strip_suffix(" - should panic").unwrap_or(name))
                .or(panicked.filter(|name| *name != "main"))
        }
    };
    name.unwrap_or("?").to_owned()
}

/// What it said about it, on one line.
fn why(said: &str) -> String {
    let found = said.lines().find_map(|l| l.strip_prefix("found: "));
    let after_panic = || said.lines().skip_while(|l| !l.contains("panicked at")).nth(1);
    found.or_else(after_panic).unwrap_or("it crashed").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_found_it_is_read_from_what_was_printed() {
        let lab = "case: a\ncase: b\nfound: data race\n";
        assert_eq!((who(Suite::Lab, lab).as_str(), why(lab).as_str()), ("b", "data race"));
        let unit =
            "test fork::x ... ok\ntest zap::y ... FAILED\n\nthread 'zap::y' (1) panicked at a.rs:1:\nleft\n";
        assert_eq!((who(Suite::Unit, unit).as_str(), why(unit).as_str()), ("zap::y", "left"));
        let panics = "test space::full - should panic ... FAILED\n";
        assert_eq!(who(Suite::Unit, panics), "space::full");
        let abort = "thread 'zap::y' panicked at a.rs:1:\nleft\nthread aborted\n";
        assert_eq!(who(Suite::Unit, abort), "zap::y");
        assert_eq!((who(Suite::Lab, "").as_str(), why("").as_str()), ("?", "it crashed"));
    }
}
