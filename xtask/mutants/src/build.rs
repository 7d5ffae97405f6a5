//! Building the copy: once for all mutants, without those that do not compile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::mutant::Mutant;
use crate::plant;
use crate::tree::{self, DRIVER_NAME};

/// A program of the copy.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The target that it is.
    pub(crate) target: String,
    pub(crate) path: PathBuf,
}

/// The copy and where it is built.
pub(crate) struct Copy<'a> {
    pub(crate) root: &'a Path,
    pub(crate) tree: &'a Path,
    pub(crate) target: &'a Path,
}

impl Copy<'_> {
    /// Plants `mutants` and takes back those that do not compile, until the rest does. Returns those that
    /// were taken back, each with what the compiler said.
    pub(crate) fn plant(&self, mutants: &mut Vec<Mutant>) -> Result<Vec<(Mutant, String)>, String> {
        let packages: BTreeSet<String> =
            mutants.iter().map(|m| tree::package_of(&m.file).to_owned()).collect();
        let mut refused = Vec::new();
        // In a tree of its own: what is built changes where the code does, and is not built again otherwise.
        let tree = self.tree.with_file_name("checked");
        let write = |tree: &Path, mutants: &[Mutant]| {
            tree::write(self.root, tree, mutants).map_err(|e| format!("cannot copy the tree: {e}"))
        };
        loop {
            write(&tree, mutants)?;
            let mut cargo = self.cargo("check");
            cargo.current_dir(&tree);
            cargo.arg("--lib");
            for package in &packages {
                cargo.args(["--package", package]);
            }
            let errors = errors(&messages(&mut cargo)?.0);
            if errors.is_empty() {
                write(self.tree, mutants)?;
                return Ok(refused);
            }
            let mut guilty = Vec::new();
            for error in &errors {
                for id in owners(&tree, error)? {
                    guilty.push((id, error.text.clone()));
                }
            }
            if guilty.is_empty() {
                let said: Vec<_> = errors.iter().map(|e| e.text.as_str()).collect();
                return Err(format!("the copy does not compile:\n{}", said.join("\n")));
            }
            for (id, text) in guilty {
                // A patch has several of one number, and goes as a whole.
                if let Some(one) = mutants.iter().find(|m| m.id == id).cloned() {
                    mutants.retain(|m| m.id != id);
                    refused.push((one, text));
                }
            }
        }
    }

    /// Builds the lab's driver and the tests.
    /// Also the tests of whole crates that `more` names: package and target.
    pub(crate) fn build(
        &self,
        packages: &BTreeSet<String>,
        more: &[(&str, &[&str])],
    ) -> Result<Vec<Program>, String> {
        let mut lab = self.cargo("build");
        lab.args(["--package", "anonmem-lab", "--example", DRIVER_NAME]);
        let mut unit = self.cargo("test");
        unit.args(["--no-run", "--lib"]);
        for package in packages {
            unit.args(["--package", package]);
        }
        let mut hosted = self.cargo("test");
        hosted.args(["--no-run", "--package", "anonmem-hosted"]);
        hosted.args(["--test", "machine", "--test", "oracle", "--test", "stress"]);
        let mut commands = vec![lab, unit, hosted];
        for (package, targets) in more {
            let mut command = self.cargo("test");
            command.args(["--no-run", "--package", package]);
            command.args(targets.iter().flat_map(|target| ["--test", target]));
            commands.push(command);
        }
        let mut programs = Vec::new();
        for mut command in commands {
            let (messages, success) = messages(&mut command)?;
            if !success {
                let said: Vec<_> = errors(&messages).into_iter().map(|e| e.text).collect();
                return Err(format!("the copy does not build:\n{}", said.join("\n")));
            }
            programs.extend(messages.iter().filter_map(program));
        }
        Ok(programs)
    }

    /// Cargo in the copy, for programs that are as fast as tests of a memory manager should be.
    fn cargo(&self, what: &str) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(self.tree).env("CARGO_TARGET_DIR", self.target);
        cargo.args([what, "--quiet", "--locked", "--message-format", "json"]);
        cargo.args(["--config", "profile.dev.opt-level=2", "--config", "profile.dev.debug=0"]);
        cargo
    }
}

/// What the compiler did not like.
struct Complaint {
    text: String,
    /// File and offset, the main one first.
    spans: Vec<(String, usize)>,
}

/// The mutants that an error is about: of its first span that is in one.
fn owners(tree: &Path, error: &Complaint) -> Result<Vec<u32>, String> {
    for (file, offset) in &error.spans {
        let rendered = fs::read_to_string(tree.join(file)).map_err(|e| format!("{file}: {e}"))?;
        let owners = plant::owners(&rendered, *offset);
        if !owners.is_empty() {
            return Ok(owners);
        }
    }
    Ok(Vec::new())
}

fn messages(cargo: &mut Command) -> Result<(Vec<Value>, bool), String> {
    let output = cargo.output().map_err(|e| format!("cannot start cargo: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if !output.status.success() && errors(&messages).is_empty() {
        return Err(format!("cargo failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok((messages, output.status.success()))
}

fn errors(messages: &[Value]) -> Vec<Complaint> {
    let is_error = |m: &&Value| m["reason"] == "compiler-message" && m["message"]["level"] == "error";
    let spans = |m: &Value| {
        let mut spans: Vec<&Value> = m["message"]["spans"].as_array().into_iter().flatten().collect();
        spans.sort_by_key(|s| s["is_primary"] != true);
        let place = |s: &&Value| {
            Some((s["file_name"].as_str()?.to_owned(), usize::try_from(s["byte_start"].as_u64()?).ok()?))
        };
        spans.iter().filter_map(place).collect::<Vec<_>>()
    };
    let text = |m: &Value| m["message"]["message"].as_str().unwrap_or_default().to_owned();
    messages
        .iter()
        .filter(is_error)
        .map(|m| Complaint { text: text(m), spans: spans(m) })
        .filter(|c| !c.spans.is_empty())
        .collect()
}

fn program(message: &Value) -> Option<Program> {
    let path = message["executable"].as_str()?.into();
    let target = message["target"]["name"].as_str()?.to_owned();
    Some(Program { target, path })
}
