//! `cargo xtask test`: everything that must hold, cheapest first, with a printed time per step.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{bench, lint, rootless, setup, sh, tools};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only these steps (see --list).
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
    /// Print the steps and what each shows.
    #[arg(long)]
    list: bool,
}

struct Step {
    name: &'static str,
    shows: &'static str,
    run: fn() -> Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "setup", shows: "what the build and the tests need is installed", run: prepare },
    Step { name: "lint", shows: "format, clippy, bans, licences, sources, advisories", run: lint::run },
    Step {
        name: "build",
        shows: "the eBPF object, both binaries, the tools of the tests",
        run: bench::build,
    },
    Step { name: "lower", shows: "builds and passes without the in-kernel engine", run: lower_engines },
    Step { name: "unit", shows: "logic beside the code", run: unit },
    Step { name: "behaviour", shows: "real sockets, processes, kernels", run: behaviour },
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
    let chosen: Vec<&Step> = STEPS
        .iter()
        .filter(|step| options.steps.is_empty() || options.steps.iter().any(|n| n == step.name))
        .collect();
    let mut times = Vec::new();
    for (at, step) in chosen.iter().enumerate() {
        println!("\n=== [{}/{}] {}: {}", at + 1, chosen.len(), step.name, step.shows);
        let began = Instant::now();
        let outcome = (step.run)();
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
    Ok(())
}

fn print_times(times: &[(&str, Duration)]) {
    println!("\ntime per step");
    for (name, time) in times {
        println!("  {name:<12} {:>6.0} s", time.as_secs_f64());
    }
    println!("  {:<12} {:>6.0} s", "total", times.iter().map(|(_, time)| time.as_secs_f64()).sum::<f64>());
}

fn prepare() -> Result<()> {
    setup::run(&setup::Options { build_only: false })
}

fn lower_engines() -> Result<()> {
    let args = ["test", "-p", "proxy-user", "--no-default-features", "--lib", "--quiet"];
    sh::run("test without the in-kernel engine", &mut cargo(&args))
}

fn unit() -> Result<()> {
    let args = ["test", "-p", "proxy-ebpf", "-p", "proxy-user", "-p", "xtask"];
    sh::run("test the logic beside the code", &mut cargo(&args))
}

fn behaviour() -> Result<()> {
    sh::run("test behaviour", &mut cargo(&["test", "-p", "proxy-tests"]))
}

fn kubernetes() -> Result<()> {
    tools::go()?;
    let release = sh::root().join("target/release");
    let module = sh::root().join("tests/kubernetes");
    let mut go = Command::new("go");
    go.current_dir(&module);
    go.args(["test", "-count=1", "-timeout=25m", "./..."]);
    go.env("KONDUIT_SERVER", release.join("proxy-server")).env("KONDUIT_AGENT", release.join("proxy-agent"));
    sh::run("test the Kubernetes path", &mut go)?;
    rootless::run(&module, &release)
}

/// Gates are for `cargo xtask bench` on a quiet machine; here a figure must be had, by the path that was asked for.
fn figures() -> Result<()> {
    bench::program(&["demo", "--out", "target/demo"])?;
    bench::program(&["run", "--quick", "--show-only"])?;
    bench::program(&["integrity", "--minutes", "1.5"])
}

fn cargo(args: &[&str]) -> Command {
    let mut cargo = sh::cargo();
    cargo.args(args);
    cargo
}
