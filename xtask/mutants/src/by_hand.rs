//! Shows the bugs of `mutants/*.patch` and `mutants/holes/*.patch` to the lab and the tests: `mutants/run`.
//!
//! A patch of `mutants/` names the cases and tests that must find it, each of them. A patch of `holes/` names
//! none, and any case or test may. All are planted in one copy. Those that change more than the bodies of
//! functions follow, each built alone.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Deserialize;

use crate::build::{Copy, Program};
use crate::mutant::Mutant;
use crate::patch::Patch;
use crate::suites::{self, Pace, Suites};
use crate::{Options, SURVIVORS, each, into_docs, tree};

/// With fewer patches of `holes/` it takes longer to learn what comes past each than to show them to all.
const WORTH_MEASURING: usize = 4;
/// The number of a bug that a copy has for good.
const ALONE: u32 = u32::MAX - 2;
/// Tests of whole crates, beside those of the generated mutants.
const MORE: [(&str, &[&str]); 1] = [("anonmem-pgtable", &["space", "batch", "entries", "leaves", "walls"])];

/// Who found a patch, and what that said; otherwise who missed it.
type Outcome = Result<(String, String), String>;

/// What became of a patch.
struct Row {
    patch: Patch,
    result: Outcome,
}

/// The rows so far, a line each, for a run that is stopped: `--again` goes on with it.
struct SoFar {
    path: PathBuf,
    known: HashMap<String, Outcome>,
    rows: Mutex<Vec<Row>>,
}

impl SoFar {
    fn start(path: PathBuf, again: bool) -> Result<Self, String> {
        let text = if again { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let lines = text.lines().filter_map(|line| serde_json::from_str::<(String, Outcome)>(line).ok());
        let known = lines.filter(|(_, outcome)| outcome.is_ok()).collect();
        if !again && path.exists() {
            fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(Self { path, known, rows: Mutex::default() })
    }

    /// What the last run found.
    fn take(&self, patch: &Patch) -> Option<Row> {
        Some(Row { patch: patch.clone(), result: self.known.get(&patch.name)?.clone() })
    }

    fn done(&self, row: Row) -> Result<(), String> {
        let io = |e: std::io::Error| format!("{}: {e}", self.path.display());
        match &row.result {
            Ok((by, why)) => println!("found    {} by {by}: {why}", row.patch.name),
            Err(by) => println!("MISSED   {}: {by}", row.patch.name),
        }
        let line = serde_json::to_string(&(&row.patch.name, &row.result)).map_err(|e| e.to_string())?;
        let mut rows = self.rows.lock().map_err(|_| "a worker panicked")?;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.path).map_err(io)?;
        writeln!(file, "{line}").map_err(io)?;
        rows.push(row);
        Ok(())
    }
}

/// Plants the patches that are named and says who finds them; whether that is good enough.
///
/// # Errors
/// A patch that does not apply; a test that fails without any.
pub(crate) fn run(root: &Path, work: &Path, options: &Options) -> Result<bool, String> {
    let patches = patches(root, &options.paths)?;
    let explained = explained(root)?;
    let copy = Copy { root, tree: &work.join("tree"), target: &work.join("target") };
    let (mut mutants, mut alone) = (Vec::new(), Vec::new());
    for (patch, id) in patches.iter().zip(1..) {
        match patch.mutants(root, &work.join("scratch"), id) {
            Ok(of_patch) => mutants.extend(of_patch),
            Err(why) => alone.push((id, why)),
        }
    }
    if options.list {
        let why = |id: u32| alone.iter().find(|(a, _)| *a == id).map_or("together", |(_, why)| why);
        (1..).zip(&patches).for_each(|(id, patch)| println!("{id} {}: {}", patch.name, why(id)));
        return Ok(true);
    }
    alone.extend(copy.plant(&mut mutants)?.into_iter().map(|(mutant, why)| (mutant.id, why)));
    eprintln!("{} patches together, {} alone", patches.len() - alone.len(), alone.len());
    let so_far = SoFar::start(work.join("rows.json"), options.again)?;
    let known = |patch: &Patch| options.again && so_far.known.contains_key(&patch.name);
    let together: Vec<(u32, &Patch)> = (1..)
        .zip(&patches)
        .filter(|(id, patch)| !known(patch) && alone.iter().all(|(a, _)| a != id))
        .collect();
    alone.retain(|(id, _)| !known(&patches[*id as usize - 1]));
    if !together.is_empty() {
        let suites = measured(&copy, &together, &mutants, work.join("logs"))?;
        each(&together, options.jobs, |(id, patch)| so_far.done(show(&suites, *id, patch, options.pace())?))?;
    }
    for (id, why) in &alone {
        let patch = &patches[*id as usize - 1];
        eprintln!("alone: {}: {why}", patch.name);
        so_far.done(show_alone(&copy, patch, work.join("logs"), options.pace())?)?;
    }
    let before = patches.iter().filter_map(|patch| so_far.take(patch)).collect::<Vec<_>>();
    let mut rows = so_far.rows.into_inner().map_err(|_| "a worker panicked")?;
    rows.extend(before);
    rows.sort_by(|a, b| a.patch.name.cmp(&b.patch.name));
    publish(root, work, options, &rows, &explained)
}

/// The patches that are named, or all. "named" and "holes" are those of a folder.
fn patches(root: &Path, names: &[String]) -> Result<Vec<Patch>, String> {
    let folder = root.join("mutants");
    let holes = folder.join("holes");
    let mut paths = Vec::new();
    let mut all = |folder: &Path| -> Result<(), String> {
        let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let is_patch = |path: &PathBuf| path.extension().is_some_and(|e| e == "patch");
        paths.extend(entries.flatten().map(|e| e.path()).filter(is_patch));
        Ok(())
    };
    let (of_folders, rest): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|n| *n == "holes" || *n == "named");
    for (name, folder) in [("holes", &holes), ("named", &folder)] {
        if names.is_empty() || of_folders.iter().any(|n| *n == name) {
            all(folder)?;
        }
    }
    for name in rest {
        let file = format!("{name}.patch");
        let found = [&folder, &holes].into_iter().map(|f| f.join(&file)).find(|p| p.exists());
        paths.push(found.ok_or_else(|| format!("mutants/ has no {file}"))?);
    }
    // Those that name nothing first.
    let mut patches = paths.iter().map(|path| Patch::read(path)).collect::<Result<Vec<_>, _>>()?;
    patches.sort_by_key(|p| (p.kind.is_none(), p.name.clone()));
    Ok(patches)
}

/// Builds the copy with what is planted, and looks what comes past each, where many have to be found by any.
fn measured(
    copy: &Copy<'_>,
    together: &[(u32, &Patch)],
    mutants: &[Mutant],
    logs: PathBuf,
) -> Result<Suites, String> {
    let programs = build(copy)?;
    if together.iter().filter(|(_, patch)| patch.kind.is_some()).count() < WORTH_MEASURING {
        return Suites::unmeasured(&programs, logs);
    }
    eprintln!("running all cases once without a bug, for {} changed functions", mutants.len());
    Suites::measure_cases(&programs, logs)
}

fn build(copy: &Copy<'_>) -> Result<Vec<Program>, String> {
    let packages = ["anonmem", "anonmem-frame", "anonmem-pgtable", "anonmem-sync"];
    let packages: BTreeSet<String> = packages.into_iter().map(str::to_owned).collect();
    copy.build(&packages, &MORE)
}

/// A copy with this patch alone in it.
fn show_alone(copy: &Copy<'_>, patch: &Patch, logs: PathBuf, pace: Pace) -> Result<Row, String> {
    tree::write(copy.root, copy.tree, &[]).map_err(|e| format!("cannot copy the tree: {e}"))?;
    patch.apply(copy.tree)?;
    // What fails without the patch, too, was asked when the others were shown.
    match build(copy) {
        Ok(programs) => show(&Suites::unmeasured(&programs, logs)?, ALONE, patch, pace),
        // The others are asked all the same.
        Err(why) => Ok(Row { patch: patch.clone(), result: Err(why) }),
    }
}

fn show(suites: &Suites, id: u32, patch: &Patch, pace: Pace) -> Result<Row, String> {
    let result = if patch.kind.is_some() { any(suites, id, pace)? } else { named(suites, id, patch)? };
    Ok(Row { patch: patch.clone(), result })
}

/// The first case or test that fails has found it.
fn any(suites: &Suites, id: u32, pace: Pace) -> Result<Outcome, String> {
    match suites.find(id, pace)? {
        Some(shown) => found(suites, id, &shown),
        None => Ok(Err(if suites.reach(id) { "everything passes" } else { "nothing runs it" }.into())),
    }
}

/// Each case and each test that it names must fail.
fn named(suites: &Suites, id: u32, patch: &Patch) -> Result<Outcome, String> {
    let (mut by, mut why) = (Vec::new(), String::new());
    let cases = patch.cases.iter().map(|case| (case, suites.show_case(id, case)));
    let tests = patch.tests.iter().map(|test| (test, suites.show_tests(id, test)));
    for (name, shown) in cases.chain(tests) {
        let Some(shown) = shown.map_err(|e| format!("{}: {e}", patch.name))? else {
            return Ok(Err(name.clone()));
        };
        match found(suites, id, &shown)? {
            Ok((who, said)) => {
                by.push(who);
                why = said;
            }
            Err(missed) => return Ok(Err(missed)),
        }
    }
    Ok(if by.is_empty() { Err("nothing that it names".into()) } else { Ok((by.join(", "), why)) })
}

/// Who found it and what that said. What fails without the bug, too, has found nothing. A copy that has the
/// bug for good cannot be asked that.
fn found(suites: &Suites, id: u32, shown: &suites::Outcome) -> Result<Outcome, String> {
    let (suite, by, why) = match shown {
        suites::Outcome::Caught { suite, by, why } => (suite, by, why.as_str()),
        suites::Outcome::TimedOut { suite, by } => (suite, by, "it does not come to its end"),
        suites::Outcome::Survived { .. } => return Ok(Err("everything passes".into())),
    };
    if id != ALONE && suites.fails_anyway(shown)? {
        return Ok(Err(format!("{by} fails without the bug, too")));
    }
    Ok(Ok((format!("{} `{by}`", suite.title()), why.to_owned())))
}

/// Why a planted bug survives.
#[derive(Deserialize)]
struct Planted {
    patch: String,
    verdict: crate::survivors::Verdict,
    why: String,
}

fn explained(root: &Path) -> Result<Vec<Planted>, String> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        planted: Vec<Planted>,
    }
    let text = fs::read_to_string(root.join(SURVIVORS)).map_err(|e| format!("{SURVIVORS}: {e}"))?;
    let file: File = toml::from_str(&text).map_err(|e| format!("{SURVIVORS}: {e}"))?;
    Ok(file.planted)
}

/// Prints and writes what came of it; whether it is good enough.
fn publish(
    root: &Path,
    work: &Path,
    options: &Options,
    rows: &[Row],
    explained: &[Planted],
) -> Result<bool, String> {
    let (any, named): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|r| r.patch.kind.is_some());
    let code = tree::code(root)?;
    let mut good = true;
    for (what, rows) in [("holes", any), ("named", named)] {
        if rows.is_empty() {
            continue;
        }
        let missed: Vec<&&Row> = rows.iter().filter(|r| r.result.is_err()).collect();
        let unexplained = missed.iter().filter(|r| explanation(r, explained).is_none()).count();
        let found = (rows.len() - missed.len()) * 1000 / rows.len();
        let summary = format!(
            "{} patches, {} of them found: **{}.{} %**. Code of {code}.",
            rows.len(),
            rows.len() - missed.len(),
            found / 10,
            found % 10
        );
        let text = format!("{summary}\n\n{}", table(&rows, explained));
        let path = work.join(format!("{what}.md"));
        fs::write(&path, &text).map_err(|e| format!("{}: {e}", path.display()))?;
        if options.docs {
            into_docs(root, what, &text)?;
        }
        println!("{summary} {unexplained} survivors are not explained. {}", path.display());
        good &= unexplained == 0 && missed.len() * 10 <= rows.len() && (what == "holes" || missed.is_empty());
    }
    Ok(good)
}

fn explanation<'a>(row: &Row, explained: &'a [Planted]) -> Option<&'a Planted> {
    explained.iter().find(|e| e.patch == row.patch.name)
}

fn table(rows: &[&Row], explained: &[Planted]) -> String {
    let mut text = "| patch | what it breaks | kind | found by |\n|---|---|---|---|\n".to_owned();
    for row in rows {
        let by = match (&row.result, explanation(row, explained)) {
            (Ok((by, _)), _) => by.clone(),
            (Err(_), Some(e)) => format!("nothing; {}: {}", e.verdict.title(), e.why),
            (Err(by), None) => format!("**missed**: {by}"),
        };
        let Patch { name, breaks, kind, .. } = &row.patch;
        let _ = writeln!(text, "| {name} | {breaks} | {} | {by} |", kind.as_deref().unwrap_or("named"));
    }
    text
}
