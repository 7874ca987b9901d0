//! `cargo xtask test`: everything that must hold, cheapest first, with a printed time per step.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::kernel::Passing;
use crate::{bench, gotest, image, kernel, lint, rootless, setup, sh, tools};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only these steps (see --list).
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
    /// Print the steps and what each shows.
    #[arg(long)]
    list: bool,
    /// Leave nothing out that is short by default: every amount and pause in full, the whole Kubernetes path without
    /// root too.
    #[arg(long)]
    full: bool,
}

/// How much of what takes long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Short,
    Full,
}

impl Form {
    /// Of the Kubernetes path, many times what it takes, as Go writes it.
    pub(crate) fn time_out(self) -> &'static str {
        match self {
            Form::Short => "25m",
            Form::Full => "60m",
        }
    }
}

/// What the whole may take on two cores that nobody else uses.
const LONGEST: Duration = Duration::from_secs(45 * 60);

struct Step {
    name: &'static str,
    shows: &'static str,
    run: fn(Form) -> Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "setup", shows: "what the build and the tests need is installed", run: prepare },
    Step { name: "lint", shows: "format, clippy, bans, licences, sources, advisories", run: |_| lint::run() },
    Step {
        name: "build",
        shows: "the eBPF object, both binaries, the tools of the tests",
        run: |_| bench::build(),
    },
    Step { name: "image", shows: "both programs start inside their images", run: images },
    Step { name: "lower", shows: "builds and passes without the in-kernel engine", run: lower_engines },
    Step { name: "unit", shows: "logic beside the code", run: unit },
    Step { name: "behaviour", shows: "real sockets, processes, kernels", run: behaviour },
    Step {
        name: "upstream",
        shows: "upstream's own programs beside ours, where they are given",
        run: upstream,
    },
    Step {
        name: "kubernetes",
        shows: "the API server's own code, kubectl, a kubelet's streaming",
        run: kubernetes,
    },
    Step {
        name: "figures",
        shows: "the demo, the bench in short; every byte checked over engines and a bad link",
        run: figures,
    },
];

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        for step in STEPS {
            println!("{:<12} {}", step.name, step.shows);
        }
        return Ok(());
    }
    if let Some(unknown) = options.steps.iter().find(|name| STEPS.iter().all(|step| step.name != *name)) {
        bail!("there is no step `{unknown}`; `cargo xtask test --list` names them");
    }
    let form = if options.full { Form::Full } else { Form::Short };
    let chosen: Vec<&Step> = STEPS
        .iter()
        .filter(|step| options.steps.is_empty() || options.steps.iter().any(|n| n == step.name))
        .collect();
    let mut times = Vec::new();
    for (at, step) in chosen.iter().enumerate() {
        println!("\n=== [{}/{}] {}: {}", at + 1, chosen.len(), step.name, step.shows);
        let began = Instant::now();
        let outcome = (step.run)(form);
        times.push((step.name, began.elapsed()));
        if let Err(error) = outcome {
            print_times(&times);
            return Err(error.context(format!(
                "step `{}` failed; `cargo xtask test {}` runs it alone",
                step.name, step.name
            )));
        }
    }
    print_times(&times);
    println!("all {} steps passed", times.len());
    let took = times.iter().map(|(_, time)| *time).sum();
    if let Some(words) = too_long(took, form, options.steps.is_empty()) {
        println!("{words}");
    }
    Ok(())
}

/// What to say of a whole run that took longer than anybody waits for one. Said and not failed: the time is the machine's
/// and its other users' as much as ours, and all that had to hold did.
fn too_long(took: Duration, form: Form, whole: bool) -> Option<String> {
    let over = whole && form == Form::Short && took > LONGEST;
    over.then(|| {
        format!(
            "!!! TOO SLOW: {} minutes, and the whole of it may take {}; the times above say which step grew",
            took.as_secs() / 60,
            LONGEST.as_secs() / 60
        )
    })
}

fn print_times(times: &[(&str, Duration)]) {
    println!("\ntime per step");
    for (name, time) in times {
        println!("  {name:<12} {:>6.0} s", time.as_secs_f64());
    }
    println!("  {:<12} {:>6.0} s", "total", times.iter().map(|(_, time)| time.as_secs_f64()).sum::<f64>());
}

fn prepare(_: Form) -> Result<()> {
    setup::run(&setup::Options { build_only: false })
}

/// Of what step `build` made; images that somebody means to use stay as they are.
fn images(_: Form) -> Result<()> {
    let target = sh::root().join("target");
    let room = tempfile::tempdir_in(&target)?;
    image::make(&target.join("release"), room.path())?;
    Ok(())
}

fn lower_engines(_: Form) -> Result<()> {
    let args = ["test", "-p", "proxy-user", "--no-default-features", "--lib", "--", "--quiet"];
    kernel::watched(Passing::Never, || sh::run("test without the in-kernel engine", &mut cargo(&args)))?;
    let programs = ["build", "-p", "proxy-user", "--no-default-features", "--bins"];
    sh::run("build both without the in-kernel engine", &mut cargo(&programs))?;
    // The next build puts those of every day in their place.
    let debug = sh::root().join("target/debug");
    let lower = debug.join("without-ebpf");
    fs::create_dir_all(&lower)?;
    for name in ["proxy-server", "proxy-agent"] {
        fs::copy(debug.join(name), lower.join(name)).with_context(|| format!("copying {name}"))?;
    }
    let args = ["test", "-p", "proxy-tests", "--test", "process", "lower::"];
    let mut tests = cargo(&args);
    tests.env("KONDUIT_WITHOUT_EBPF", lower);
    kernel::watched(Passing::Never, || sh::run("test both without the in-kernel engine", &mut tests))
}

fn unit(_: Form) -> Result<()> {
    let args = ["test", "-p", "proxy-ebpf", "-p", "proxy-user", "-p", "xtask"];
    kernel::watched(Passing::Never, || sh::run("test the logic beside the code", &mut cargo(&args)))
}

fn behaviour(form: Form) -> Result<()> {
    let tests = |which: &[&str]| {
        let mut tests = cargo(&["test", "-p", "proxy-tests"]);
        tests.args(which);
        // There they are played, see `upstream`.
        for variable in UPSTREAM {
            tests.env_remove(variable);
        }
        if form == Form::Full {
            tests.env("KONDUIT_FULL", "1");
        }
        tests
    };
    let mut kernel = tests(&["--test", "kernel"]);
    kernel::watched(Passing::OnPurpose, || sh::run("test what the kernel does", &mut kernel))?;
    let mut others = tests(&["--lib", "--bins"]);
    for name in OTHERS {
        others.args(["--test", name]);
    }
    kernel::watched(Passing::Never, || sh::run("test behaviour", &mut others))
}

/// What tests behaviour and makes no mapped socket pass bytes.
const OTHERS: [&str; 6] = ["badinput", "balance", "e2e", "engine", "process", "upstream"];

/// Upstream's own programs, which a person builds and names.
const UPSTREAM: [&str; 2] = ["KONDUIT_UPSTREAM_SERVER", "KONDUIT_UPSTREAM_AGENT"];

/// The pairings that `behaviour` has with upstream's part played, with the programs themselves.
fn upstream(_: Form) -> Result<()> {
    if UPSTREAM.iter().any(|variable| std::env::var_os(variable).is_none_or(|path| path.is_empty())) {
        sh::say(format!(
            "!!! SKIPPED: upstream's own programs beside ours: {} do not both name one (CONTRIBUTING.md). \
             The step `behaviour` plays them by what we know of them",
            UPSTREAM.join(" and ")
        ));
        return Ok(());
    }
    // Cargo runs tests in another directory.
    let mut tests = cargo(&["test", "-p", "proxy-tests", "--test", "upstream", "--", "cases::"]);
    tests.args(["--skip", "between_ours"]);
    for variable in UPSTREAM {
        let path = std::env::var_os(variable).unwrap_or_default();
        tests.env(variable, fs::canonicalize(&path).with_context(|| format!("{variable} names no program"))?);
    }
    kernel::watched(Passing::Never, || sh::run("test ours with upstream's own programs", &mut tests))
}

fn kubernetes(form: Form) -> Result<()> {
    tools::go()?;
    let release = sh::root().join("target/release");
    let module = sh::root().join("tests/kubernetes");
    let mut go = Command::new("go");
    go.current_dir(&module).args(["test", "-json", "-count=1", "-timeout", form.time_out(), "./..."]);
    go.env("KONDUIT_SERVER", release.join("proxy-server")).env("KONDUIT_AGENT", release.join("proxy-agent"));
    match form {
        Form::Full => {
            go.env("KONDUIT_FULL", "1");
        }
        Form::Short => sh::say(
            "!!! SHORT FORM: `kubectl cp` moves 1 GiB in one cell of each kind of lane, 32 MiB in the others; \
             --full moves 1 GiB in every cell",
        ),
    }
    kernel::watched(Passing::Never, || {
        gotest::run("test the Kubernetes path", &mut go)?;
        rootless::run(&module, &release, form)
    })
}

/// Gates are for `cargo xtask bench` on a quiet machine; here a figure must be had, by the path that was asked for, and
/// not beneath its floor.
fn figures(_: Form) -> Result<()> {
    kernel::watched(Passing::Never, || {
        bench::program(&["demo", "--out", "target/demo"])?;
        bench::program(&["run", "--quick", "--show-only"])?;
        bench::program(&["integrity", "--minutes", "1.5"])
    })
}

fn cargo(args: &[&str]) -> Command {
    let mut cargo = sh::cargo();
    cargo.args(args);
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviour_leaves_out_no_test() {
        let tests = fs::read_dir(sh::root().join("tests")).unwrap().map(|entry| entry.unwrap().path());
        let named = tests.filter(|path| path.join("main.rs").exists() && !path.ends_with("bench"));
        let mut named: Vec<_> =
            named.filter_map(|path| path.file_name()?.to_str().map(String::from)).collect();
        named.sort();
        let mut run = [&OTHERS[..], &["kernel"]].concat();
        run.sort_unstable();
        assert_eq!(run, named);
    }

    #[test]
    fn only_a_whole_run_in_short_form_is_told_that_it_was_slow() {
        let over = LONGEST + Duration::from_secs(1);
        assert!(too_long(over, Form::Short, true).is_some_and(|words| words.contains("45 minutes, ")));
        assert_eq!(too_long(LONGEST, Form::Short, true), None);
        assert_eq!(too_long(over, Form::Full, true), None);
        assert_eq!(too_long(over, Form::Short, false), None);
    }
}
