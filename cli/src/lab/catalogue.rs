//! `anonmem cases`: what there is, or what of it has certain words.

use anonmem_lab::cases::{self, Case, Mutant};
use serde_json::{Value, json};

use super::CasesOptions;
use crate::error::{Error, Result};
use crate::out;

/// Lists the catalogue.
///
/// # Errors
///
/// Nothing has these words, or the list cannot be written.
pub fn list(options: &CasesOptions) -> Result<u8> {
    let chosen: Vec<&Case> = cases::all().iter().copied().filter(|case| has(case, &options.words)).collect();
    if chosen.is_empty() {
        return Err(Error::usage(format_args!("no case has {}", options.words.join(" and "))));
    }
    let text = if options.json {
        format!(
            "{:#}\n",
            json!({ "version": 1, "cases": chosen.iter().map(|c| as_json(c)).collect::<Vec<_>>() })
        )
    } else {
        chosen.iter().map(|case| as_text(case)).chain([LEGEND.to_string()]).collect()
    };
    out::print(&text)?;
    Ok(0)
}

const LEGEND: &str = "
Planted bugs: + runs at once (a variant of the case's own model); * is a patch of the production source, which is
built first, for minutes, from a checkout. anonmem race CASE --mutant NAME
";

fn has(case: &Case, words: &[String]) -> bool {
    let mut all = format!("{} {} {} {}", case.name, case.title, case.happened, case.rule);
    for mutant in case.mutants {
        all += &format!(" {} {}", mutant.name(), mutant.what());
    }
    let all = all.to_lowercase();
    words.iter().all(|word| all.contains(&word.to_lowercase()))
}

fn is_built_first(mutant: &Mutant) -> bool {
    match mutant {
        Mutant::Patch { .. } => true,
        Mutant::Variant { .. } => false,
    }
}

fn as_text(case: &Case) -> String {
    let mut text = format!("{}\n    {}\n    weak memory: {}\n", case.name, case.title, case.weak_memory());
    for mutant in case.mutants {
        let mark = if is_built_first(mutant) { '*' } else { '+' };
        text += &format!("    {mark} {}: {}\n", mutant.name(), mutant.what());
    }
    text
}

fn as_json(case: &Case) -> Value {
    let mutants: Vec<_> = case
        .mutants
        .iter()
        .map(|mutant| {
            json!({ "name": mutant.name(), "what": mutant.what(), "is_built_first": is_built_first(mutant) })
        })
        .collect();
    json!({
        "name": case.name,
        "title": case.title,
        "happened": case.happened,
        "environment": case.environment,
        "rule": case.rule,
        "weak_memory": case.weak_memory(),
        "mutants": mutants,
    })
}
