//! Why a mutant survives: the explanations of `mutants/survivors.toml`.
//!
//! An explanation names its mutants by what the source says, not by line, so that it holds as long as the
//! code does.

use serde::Deserialize;

use crate::mutant::Mutant;

/// What kind of survivor it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// No caller can tell the difference.
    Equivalent,
    /// A case or a test is missing.
    Missing,
}

impl Verdict {
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Equivalent => "equivalent",
            Self::Missing => "missing",
        }
    }
}

/// Why some mutants survive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Explanation {
    file: String,
    /// `Type::function`.
    function: String,
    /// The source on one line, as the report prints it; `*` for all of the function.
    original: String,
    /// What it becomes, as the report prints it; `*` for anything.
    mutated: String,
    /// Which of several that are the same; all, if it is not said.
    nth: Option<usize>,
    pub(crate) verdict: Verdict,
    /// One line.
    pub(crate) why: String,
}

impl Explanation {
    /// Whether it is about a mutant.
    pub(crate) fn names(&self, mutant: &Mutant) -> bool {
        let like = |pattern: &str, text: &str| pattern == "*" || pattern == text;
        self.file == mutant.file
            && self.function == mutant.function
            && like(&self.original, &mutant.original)
            && like(&self.mutated, &mutant.mutated)
            && self.nth.is_none_or(|nth| nth == mutant.nth)
    }

    pub(crate) fn describe(&self) -> String {
        format!("{} {}: `{}` -> {}", self.file, self.function, self.original, self.mutated)
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    survivor: Vec<Explanation>,
}

/// Reads the explanations.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn parse(text: &str) -> Result<Vec<Explanation>, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    match file.survivor.iter().find(|e| e.why.trim().is_empty()) {
        Some(empty) => Err(format!("{}: why?", empty.describe())),
        None => Ok(file.survivor),
    }
}

/// The explanations of `files` that name no mutant of theirs any more.
pub(crate) fn stale<'a>(
    explanations: &'a [Explanation],
    files: &[String],
    mutants: &[Mutant],
) -> Vec<&'a Explanation> {
    let here = |e: &&Explanation| files.contains(&e.file);
    explanations.iter().filter(here).filter(|e| !mutants.iter().any(|m| e.names(m))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sites;
    use std::path::Path;

    #[test]
    fn an_explanation_names_what_it_says() {
        let mutants =
            sites::find("a.rs", "fn f(a: u8) { if a == 1 { g(); } if a == 1 { g(); } }", 1).unwrap();
        let toml = "[[survivor]]\nfile = \"a.rs\"\nfunction = \"f\"\noriginal = \"a == 1\"\nmutated = \"*\"\n\
                    nth = 2\nverdict = \"equivalent\"\nwhy = \"twice\"\n";
        let explanations = parse(toml).unwrap();
        let named: Vec<_> = mutants.iter().filter(|m| explanations[0].names(m)).collect();
        assert_eq!(named.len(), 2, "{named:?}");
        assert!(named.iter().all(|m| m.nth == 2));
        let files = ["a.rs".to_owned()];
        assert!(stale(&explanations, &files, &mutants).is_empty());
        assert_eq!(stale(&explanations, &files, &[]).len(), 1);
        assert!(stale(&explanations, &[], &[]).is_empty());
        assert!(parse(&toml.replace("twice", "")).is_err());
    }

    #[test]
    fn every_explanation_of_the_repository_is_about_code_that_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let text = std::fs::read_to_string(root.join(crate::SURVIVORS)).unwrap();
        let explanations = parse(&text).unwrap();
        let mut changed = Vec::new();
        for explanation in &explanations {
            let source = std::fs::read_to_string(root.join(&explanation.file))
                .unwrap_or_else(|e| panic!("{}: {e}", explanation.describe()));
            let mutants = sites::find(&explanation.file, &source, 1).unwrap();
            if !mutants.iter().any(|m| explanation.names(m)) {
                changed.push(explanation.describe());
            }
        }
        assert!(
            changed.is_empty(),
            "{}: about code that has changed; look whether it still holds, and say it of the new code:\n{}",
            crate::SURVIVORS,
            changed.join("\n")
        );
    }
}
