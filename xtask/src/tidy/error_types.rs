//! Errors of the library can be handed on: each is a `core::error::Error`, and so has a text.

use std::path::Path;

use super::finding::Finding;
use super::place::is_below_the_heap;
use super::source::Source;

/// Checks that the public types of a library's file whose name ends in `Error` implement it in that file.
pub(crate) fn check(path: &Path, text: &str) -> Vec<Finding> {
    if !is_below_the_heap(path) || !text.contains("Error") {
        return Vec::new();
    }
    let lines = Source::parse(text).lines;
    let implements = |name: &str| {
        let wanted = format!("error::Error for {name}");
        lines.iter().any(|line| line.code.contains(&wanted))
    };
    let declared = lines.iter().enumerate().filter(|(_, line)| !line.in_test).filter_map(|(number, line)| {
        let rest = line
            .code
            .trim()
            .strip_prefix("pub struct ")
            .or_else(|| line.code.trim().strip_prefix("pub enum "))?;
        let name = rest.split(|c: char| !c.is_alphanumeric()).next()?;
        name.ends_with("Error").then_some((number, name))
    });
    declared
        .filter(|(_, name)| !implements(name))
        .map(|(number, name)| Finding {
            path: path.into(),
            line: number + 1,
            rule: "errors",
            message: format!("{name} is no core::error::Error: implement Display and Error beside it"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_an_error() {
        let path = Path::new("crates/anonmem-hal/src/a.rs");
        let text = "pub struct LostError;\npub(crate) struct OwnError;\n";
        assert_eq!(check(path, text).len(), 1);
        assert_eq!(check(path, &format!("{text}impl core::error::Error for LostError {{}}\n")), []);
        assert_eq!(check(Path::new("cli/src/a.rs"), text), []);
    }
}
