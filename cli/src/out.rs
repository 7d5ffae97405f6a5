//! What the command itself prints: a closed pipe ends it quietly, a full disk is one line.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Prints to standard output, all of it or an error.
///
/// # Errors
///
/// [`Error::ClosedPipe`] if nobody reads any more; a line that says why else it cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| failed(&e))
}

/// The error of a write to standard output.
#[must_use]
pub fn failed(error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::BrokenPipe => Error::ClosedPipe,
        _ => Error::usage(format_args!("cannot write to standard output: {error}")),
    }
}

/// Makes text safe inside XML and HTML.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Says one line on standard error. That nobody can read it is no error.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "anonmem: {text}");
}

/// Checks that files can be written before hours are spent on what goes into them.
///
/// # Errors
///
/// One line that names the first file that cannot.
pub fn check_writable<'a>(paths: impl IntoIterator<Item = Option<&'a Path>>) -> Result<()> {
    for path in paths.into_iter().flatten().filter(|path| *path != Path::new("-")) {
        File::options().append(true).create(true).open(path).map_err(|e| cannot_write(path, &e))?;
    }
    Ok(())
}

/// Writes a file.
///
/// # Errors
///
/// One line that names it.
pub fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| cannot_write(path, &e))
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    Error::usage(format_args!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_is_text_in_xml() {
        assert_eq!(super::escape("<a & \"b\">"), "&lt;a &amp; &quot;b&quot;&gt;");
    }
}
