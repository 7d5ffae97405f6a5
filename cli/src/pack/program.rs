//! From what the user typed to what the kernel starts: PATH, scripts, version managers' shims.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::elf::{FileKind, Shebang, file_kind};
use crate::error::{Error, Result};

/// Scripts whose interpreter is a script, at most this deep; Linux allows five as well.
const MAX_SCRIPTS: usize = 5;

/// What to start, after every indirection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The ELF file, an absolute path on the host and in the guest.
    pub exe: PathBuf,
    /// Its arguments, the name first.
    pub args: Vec<OsString>,
    /// Scripts on the way, to be packed.
    pub scripts: Vec<PathBuf>,
}

/// Follows a command line to the ELF file that it runs.
///
/// # Errors
///
/// One line: no such program, not executable, for another machine, neither ELF nor script.
pub fn resolve(command: &[OsString], search_path: &OsStr) -> Result<Program> {
    let Some(name) = command.first() else {
        return Err(Error::usage("no program was named; write it after --"));
    };
    let mut exe = find(name, search_path)?;
    let mut args = command.to_vec();
    if let Some(real) = behind_rustup(&exe)? {
        args[0] = real.clone().into();
        exe = real;
    }
    let mut scripts = Vec::new();
    while scripts.len() <= MAX_SCRIPTS {
        let kind =
            file_kind(&exe).map_err(|e| Error::usage(format_args!("cannot read {}: {e}", exe.display())))?;
        match kind {
            FileKind::Elf(_) => return Ok(Program { exe, args, scripts }),
            FileKind::Script(shebang) => {
                if let Some(real) = behind_shim(&exe)? {
                    args[0] = real.clone().into();
                    exe = real;
                } else {
                    let script = exe;
                    args[0] = script.clone().into();
                    exe = interpreter(&shebang, &script, search_path, &mut args)?;
                    scripts.push(script);
                }
            }
            FileKind::ForeignElf => {
                return Err(Error::usage(format_args!(
                    "{} is not for 64-bit x86; only x86-64 programs can run",
                    exe.display()
                )));
            }
            FileKind::Other => {
                return Err(Error::usage(format_args!(
                    "{} is neither an ELF program nor a script with a #! line",
                    exe.display()
                )));
            }
        }
    }
    Err(Error::usage(format_args!("{}: scripts that interpret scripts go on for too long", exe.display())))
}

/// Finds a program as a shell would: a path as it is, a name on the search path.
///
/// # Errors
///
/// One line that says what is not there or not executable.
pub fn find(name: &OsStr, search_path: &OsStr) -> Result<PathBuf> {
    let shown = name.to_string_lossy();
    if name.is_empty() {
        return Err(Error::usage("the program's name is empty"));
    }
    if !shown.contains('/') {
        return find_on_path(name, search_path).ok_or_else(|| {
            Error::usage(format_args!("no program named \"{shown}\" on PATH; give its path or install it"))
        });
    }
    let path = std::path::absolute(name).map_err(|e| Error::usage(format_args!("\"{shown}\": {e}")))?;
    match fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::usage(format_args!("there is no program {}", path.display())))
        }
        Err(e) => Err(Error::usage(format_args!("cannot use {}: {e}", path.display()))),
        Ok(metadata) if !metadata.is_file() => {
            Err(Error::usage(format_args!("{} is not a file", path.display())))
        }
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
            Err(Error::usage(format_args!("{} is not executable; chmod +x it", path.display())))
        }
        Ok(_) => Ok(path),
    }
}

/// Finds an executable file on a search path.
#[must_use]
pub fn find_on_path(name: &OsStr, search_path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search_path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

/// Replaces a script by its interpreter: rewrites the arguments, returns the interpreter's path.
/// `env` is resolved here, because the guest's PATH need not be the host's.
fn interpreter(
    shebang: &Shebang,
    script: &Path,
    search_path: &OsStr,
    args: &mut Vec<OsString>,
) -> Result<PathBuf> {
    let is_env = shebang.interpreter.file_name().is_some_and(|n| n == "env");
    let mut words: Vec<OsString> = match (&shebang.argument, is_env) {
        (Some(argument), true) => {
            let words = argument.strip_prefix("-S").unwrap_or(argument);
            words.split_ascii_whitespace().map(OsString::from).collect()
        }
        (Some(argument), false) => vec![argument.into()],
        (None, _) => Vec::new(),
    };
    let exe = if is_env {
        if words.is_empty() {
            return Err(Error::usage(format_args!(
                "{}: its #! line names no program for env",
                script.display()
            )));
        }
        find(&words.remove(0), search_path)
    } else {
        find(shebang.interpreter.as_os_str(), search_path)
    };
    let exe = exe.map_err(|e| Error::usage(format_args!("{}: its #! line: {e}", script.display())))?;
    words.insert(0, exe.clone().into());
    args.splice(0..0, words);
    Ok(exe)
}

/// Tells whether a file is python by its name.
#[must_use]
pub fn is_python(exe: &Path) -> bool {
    let name = exe.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("python").is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// Version managers that put a script in place of each program and know the real one.
const SHIM_MANAGERS: [&str; 5] = ["pyenv", "rbenv", "nodenv", "goenv", "asdf"];

/// Finds the program behind a version manager's shim; none if the script is no shim.
fn behind_shim(script: &Path) -> Result<Option<PathBuf>> {
    let in_shims = script.parent().and_then(Path::file_name).is_some_and(|dir| dir == "shims");
    let answer = if is_python(script) {
        ask(Command::new(script).args(["-c", "import sys; print(sys.executable)"]))
    } else if in_shims {
        let name = script.file_name().unwrap_or_default();
        shim_manager(script).and_then(|manager| ask(Command::new(manager).arg("which").arg(name)))
    } else {
        return Ok(None);
    };
    match answer {
        Some(real) if real != script && real.is_file() => Ok(Some(real)),
        Some(_) | None if in_shims => Err(Error::usage(format_args!(
            "{} is a shim and did not say which program it stands for; give that program's path",
            script.display()
        ))),
        Some(_) | None => Ok(None),
    }
}

/// Finds the program behind a link to rustup, whose settings say what to run; none if it is no such link.
fn behind_rustup(exe: &Path) -> Result<Option<PathBuf>> {
    let file_of = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let rustup = exe.with_file_name("rustup");
    let name = exe.file_name().unwrap_or_default();
    if name == "rustup" || file_of(&rustup).is_none_or(|file| Some(file) != file_of(exe)) {
        return Ok(None);
    }
    ask(Command::new(&rustup).arg("which").arg(name)).map(Some).ok_or_else(|| {
        Error::usage(format_args!(
            "{} is rustup, which did not say which program it stands for; see: rustup which {}",
            exe.display(),
            name.display()
        ))
    })
}

/// Finds the manager's command in the shim's text.
fn shim_manager(script: &Path) -> Option<String> {
    let text = fs::read_to_string(script).ok()?;
    let words = text.split(|c: char| c.is_whitespace() || c == '"' || c == '\'');
    words
        .filter(|word| !word.is_empty())
        .find(|word| SHIM_MANAGERS.iter().any(|m| Path::new(word).file_name().is_some_and(|n| n == *m)))
        .map(String::from)
}

/// Runs a command that prints one path.
fn ask(command: &mut Command) -> Option<PathBuf> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    let path = PathBuf::from(line.trim_end());
    (output.status.success() && path.is_absolute()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(Into::into).collect()
    }

    fn elf_named(dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy("/bin/sh", &path).unwrap();
        path
    }

    #[test]
    fn a_name_is_looked_up_and_stays_the_first_argument() {
        let dir = tempfile::tempdir().unwrap();
        let exe = elf_named(dir.path(), "bin/tool");
        let path = dir.path().join("bin");
        let program = resolve(&words(&["tool", "a"]), path.as_os_str()).unwrap();
        assert_eq!(program, Program { exe, args: words(&["tool", "a"]), scripts: vec![] });
    }

    #[test]
    fn a_script_is_passed_to_its_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let shell = elf_named(dir.path(), "bin/mysh");
        let path = dir.path().join("bin");
        let direct = script(dir.path(), "bin/direct", &format!("#!{} -e x\n", shell.display()));
        let program = resolve(&words(&["direct", "arg"]), path.as_os_str()).unwrap();
        assert_eq!(program.exe, shell);
        assert_eq!(program.args, words(&[shell.to_str().unwrap(), "-e x", direct.to_str().unwrap(), "arg"]));
        assert_eq!(program.scripts, [direct]);

        let by_env = script(dir.path(), "bin/byenv", "#!/usr/bin/env -S mysh -u\n");
        let program = resolve(&words(&["byenv"]), path.as_os_str()).unwrap();
        assert_eq!(program.args, words(&[shell.to_str().unwrap(), "-u", by_env.to_str().unwrap()]));
    }

    #[test]
    fn a_python_shim_ends_at_the_real_executable() {
        let dir = tempfile::tempdir().unwrap();
        let real = elf_named(dir.path(), "versions/3/bin/python3.11");
        let text = format!("#!/bin/sh\necho {}\n", real.display());
        script(dir.path(), "shims/python3", &text);
        let path = dir.path().join("shims");
        let program = resolve(&words(&["python3", "-c", "0"]), path.as_os_str()).unwrap();
        assert_eq!(program.exe, real);
        assert_eq!(program.args, words(&[real.to_str().unwrap(), "-c", "0"]));
        assert!(program.scripts.is_empty());
    }

    #[test]
    fn a_link_to_rustup_asks_it() {
        let dir = tempfile::tempdir().unwrap();
        let real = std::env::current_exe().unwrap();
        let says = format!("#!/bin/sh\n[ \"$1 $2\" = 'which cargo' ] && echo {}\n", real.display());
        let rustup = script(dir.path(), "rustup", &says);
        fs::hard_link(&rustup, dir.path().join("rustc")).unwrap();
        std::os::unix::fs::symlink("rustup", dir.path().join("cargo")).unwrap();
        let found = resolve(&["cargo".into(), "-V".into()], dir.path().as_os_str()).unwrap();
        assert_eq!((found.exe, &found.args[1..]), (real, &["-V".into()][..]));
        let error = resolve(&["rustc".into()], dir.path().as_os_str()).unwrap_err().to_string();
        assert!(error.contains("rustup which rustc"), "{error}");
    }

    #[test]
    fn another_shim_asks_its_manager() {
        let dir = tempfile::tempdir().unwrap();
        let real = elf_named(dir.path(), "versions/tool");
        let manager = script(dir.path(), "libexec/pyenv", &format!("#!/bin/sh\necho {}\n", real.display()));
        let shim = format!("#!/bin/sh\nexec \"{}\" exec \"$program\" \"$@\"\n", manager.display());
        script(dir.path(), "shims/tool", &shim);
        let path = dir.path().join("shims");
        assert_eq!(resolve(&words(&["tool"]), path.as_os_str()).unwrap().exe, real);

        script(dir.path(), "shims/dead", "#!/bin/sh\nexec pyenv-that-is-not-there\n");
        let error = resolve(&words(&["dead"]), path.as_os_str()).unwrap_err();
        assert!(error.to_string().contains("shim"), "{error}");
    }

    #[test]
    fn what_cannot_run_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        fs::write(&plain, "text").unwrap();
        let data = script(dir.path(), "data", "text");
        let lost = script(dir.path(), "lost", "#!/no/such/interpreter\n");
        let endless = dir.path().join("endless");
        script(dir.path(), "endless", &format!("#!{}\n", endless.display()));
        for (name, expected) in [
            ("/no/such/program", "there is no program"),
            ("no-such-program-anywhere", "on PATH"),
            (dir.path().to_str().unwrap(), "not a file"),
            (plain.to_str().unwrap(), "chmod +x"),
            (data.to_str().unwrap(), "neither an ELF"),
            (lost.to_str().unwrap(), "/no/such/interpreter"),
            (endless.to_str().unwrap(), "too long"),
            ("", "empty"),
        ] {
            let error = resolve(&words(&[name]), OsStr::new("/usr/bin:/bin")).unwrap_err();
            assert!(error.to_string().contains(expected), "{name}: {error}");
            assert_eq!(error.exit_status(), 2);
            assert_eq!(error.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn python_is_known_by_its_name() {
        for (name, expected) in [
            ("python", true),
            ("python3", true),
            ("python3.11", true),
            ("python3-config", false),
            ("pythonw", false),
        ] {
            assert_eq!(is_python(Path::new(name)), expected, "{name}");
        }
    }
}
