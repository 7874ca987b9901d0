//! Measures Konduit beside a direct connection, HAProxy and `ssh -L`, and says which gates hold.
//!
//! Rounds are interleaved (direct, HAProxy, ours, and again); a ratio is taken inside each round, and a gate
//! holds when the median of the ratios does.

#![allow(unreachable_pub)] // a program: `pub` says what other modules of it use

mod context;
mod demo;
mod gate;
mod integrity;
mod kernel;
mod method;
mod network;
mod picture;
mod report;
mod route;
mod scenario;
mod start;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use proxy_tests::relay::{self, Hop};
use proxy_user::splice::EngineChoice;

use crate::context::Context;
use crate::kernel::Watch;

#[derive(Parser)]
#[command(about = "Konduit's figures, beside HAProxy's and a direct connection's")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure; prints a table, writes results.json and results.svg.
    Run(Run),
    /// Flows whose every byte is checked: sizes, stalls, half-closes, aborts; nothing may leak.
    Integrity(integrity::Options),
    /// Show what our two hops do with real bytes, beside a direct connection.
    Demo(Options),
    /// Name the scenarios and what each takes.
    List,
    /// Be one hop that is nothing but the splice engine (what the join routes consist of).
    #[command(hide = true)]
    Relay(Relay),
}

#[derive(Args, Clone)]
pub struct Options {
    /// The short form: fewer rounds, shorter looks; on a quiet machine no figure may lie beneath its floor.
    #[arg(long)]
    quick: bool,
    /// Only these scenarios (see `list`).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds of each scenario; 5, or 1 in the short form.
    #[arg(long)]
    rounds: Option<usize>,
    /// Routes to measure in place of konduit-raw: konduit-LANES[-ENGINE], join-ENGINE, haproxy-splice.
    #[arg(long, value_delimiter = ',')]
    ours: Vec<String>,
    /// Where the results, the picture and all logs go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Where proxy-server and proxy-agent are; beside this program by default.
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Mark the figures as indicative: others use this machine at the same time.
    #[arg(long)]
    noisy: bool,
    /// Show the gates, but fail only over floors and what could not be measured or broke.
    #[arg(long)]
    show_only: bool,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    options: Options,
    /// TCP's congestion control on every route, in a network namespace of the run's own: cubic is what Linux has unless
    /// somebody chose another, such as bbr, which paces segments by timers; `machine` measures on this machine's
    /// network as it is.
    #[arg(long, value_name = "NAME", default_value = network::OF_LINUX)]
    congestion: String,
}

#[derive(Args)]
struct Relay {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    pages: SocketAddr,
    #[arg(long, default_value = "auto")]
    engine: EngineChoice,
    /// Bytes that all flows may hold back.
    #[arg(long)]
    buffer_budget: Option<u64>,
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Run(options) => run(options),
        Command::Integrity(options) => integrity::run(&options),
        Command::Demo(options) => demo::run(options),
        Command::List => {
            for scenario in scenario::ALL {
                println!("{:<12} {:>4} s  {}", scenario.name, scenario.seconds, scenario.about);
            }
            let all: u32 = scenario::ALL.iter().map(|scenario| scenario.seconds).sum();
            println!("{:<12} {all:>4} s  with five rounds, on two cores", "all");
            Ok(ExitCode::SUCCESS)
        }
        Command::Relay(Relay { listen, to, pages, engine, buffer_budget }) => {
            relay::serve(Hop { listen, to, pages, engine, buffer_budget })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run(Run { options, congestion }: Run) -> anyhow::Result<ExitCode> {
    let chosen = scenario::choose(&options.only)?;
    let network = network::enter(&congestion)?;
    let mut context = Context::new(options, Watch::start()?)?;
    let mut report = report::Report::new(&context, network.words.clone());
    for scenario in chosen {
        report.begin(scenario);
        let outcome = (scenario.run)(&mut context);
        report.end(scenario, outcome, context.kernel_log.check());
    }
    report.heed("the end", context.end().check_after_the_end());
    report.finish()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn every_command_can_be_parsed() {
        Cli::command().debug_assert();
    }
}
