//! Runs commands: echoes them, times the long ones, fails with a sentence.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Says what happens now.
pub(crate) fn say(what: impl AsRef<str>) {
    eprintln!("── {}", what.as_ref());
}

/// Runs `command` with its output shown and says how long it took when that was over two seconds.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    run_with(what, command, |process| Ok(process.wait()?))
}

/// As [`run`], with every line of its output given to `hear`.
pub(crate) fn run_heard(
    what: &str,
    command: &mut Command,
    mut hear: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    run_with(what, command.stdout(Stdio::piped()), |process| {
        for line in process.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
            hear(&line?)?;
        }
        Ok(process.wait()?)
    })
}

fn run_with(
    what: &str,
    command: &mut Command,
    attend: impl FnOnce(&mut Child) -> Result<ExitStatus>,
) -> Result<()> {
    say(what);
    eprintln!("   $ {}", shown(command));
    let started = Instant::now();
    let mut process = command.spawn().with_context(|| format!("could not start: {}", shown(command)))?;
    let status = attend(&mut process)?;
    if !status.success() {
        bail!("{what}: failed with {status}\n  command: {}", shown(command));
    }
    if started.elapsed() > Duration::from_secs(2) {
        say(format!("{what}: done in {:.0} s", started.elapsed().as_secs_f32()));
    }
    Ok(())
}

/// The trimmed standard output of `command`, or `None` when it cannot start or fails.
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where `program` lies on PATH or among cargo's own binaries.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    std::env::split_paths(&path)
        .chain(home.map(|home| home.join("bin")))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The cargo that runs us, for commands on the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Whether we may install packages.
pub(crate) fn is_root() -> bool {
    ask(Command::new("id").arg("-u")).as_deref() == Some("0")
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().replace('\u{1f}', " ")).collect::<Vec<_>>().join(" ")
}
