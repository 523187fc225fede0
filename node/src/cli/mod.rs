//! The command line: one file a command. Data goes to stdout, everything else to stderr; `output` writes both.
//!
//! Commands talk to the daemon of their home through [`crate::api::client`]; only `up` runs a node itself.

mod bench;
mod causes;
mod choreography;
mod completions;
mod consumer;
mod context;
mod dev;
mod dlq;
mod error;
mod events;
mod instances;
mod log;
mod logging;
mod man;
mod on;
mod output;
mod peers;
mod publish;
mod rules;
mod stable;
mod status;
mod sub;
mod table;
mod topics;
mod up;
pub(crate) mod values;
mod view;
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::Styles;
use clap::builder::styling::{AnsiColor, Style};
use clap::{CommandFactory, Parser, Subcommand};

pub(crate) use context::Context;
pub(crate) use error::{CliError, exit};
pub(crate) use output::Output;

const AFTER_HELP: &str = "\
Examples:
  roundelay up --name first                 run a node; it prints its addresses
  roundelay --home /tmp/b up --join ADDRESS run a second one that joins it
  roundelay pub orders.placed '{\"total\":9}' publish through your node
  roundelay sub 'orders.>' --from start     follow what is published
  roundelay status                          see whether all is well

Exit codes:
  0 ok   1 failure   2 usage   3 node not reachable   4 timed out   10 unhealthy";

/// An event mesh without a broker: every node has its own durable log, gossips what is new and reconciles what it missed.
#[derive(Debug, Parser)]
#[command(name = "roundelay", version, propagate_version = true, after_help = AFTER_HELP, styles = styles())]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Folder of the node: its identity, config, log and socket [default: ~/.local/share/roundelay]
    #[arg(long, global = true, value_name = "FOLDER", env = "ROUNDELAY_HOME", hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,
    /// Print JSON on stdout, and errors as JSON on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say less: no notes, no ids
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Give up after so long, with exit code 4: 500ms, 10s, 2m
    #[arg(long, global = true, value_name = "DURATION", value_parser = values::duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Args),
    #[command(name = "pub", visible_alias = "publish")]
    Publish(publish::Args),
    #[command(visible_alias = "subscribe")]
    Sub(sub::Args),
    Peers(peers::Args),
    Topics(topics::Args),
    Consumer(consumer::Args),
    Dlq(dlq::Args),
    On(on::Args),
    View(view::Args),
    Stable(stable::Args),
    Choreography(choreography::Args),
    Instances(instances::Args),
    Trace(causes::TraceArgs),
    Why(causes::WhyArgs),
    Flow(causes::FlowArgs),
    Status(status::Args),
    Wait(wait::Args),
    Log(log::Args),
    Bench(bench::Args),
    Dev(dev::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    async fn run(self, context: Context) -> Result<(), CliError> {
        match self {
            Self::Up(args) => up::run(context, args).await,
            Self::Publish(args) => publish::run(context, args).await,
            Self::Sub(args) => sub::run(context, args).await,
            Self::Peers(args) => peers::run(context, args).await,
            Self::Topics(args) => topics::run(context, args).await,
            Self::Consumer(args) => consumer::run(context, args).await,
            Self::Dlq(args) => dlq::run(context, args).await,
            Self::On(args) => on::run(context, args).await,
            Self::View(args) => view::run(context, args).await,
            Self::Stable(args) => stable::run(context, args).await,
            Self::Choreography(args) => choreography::run(context, args).await,
            Self::Instances(args) => instances::run(context, args).await,
            Self::Trace(args) => causes::trace(context, args).await,
            Self::Why(args) => causes::why(context, args).await,
            Self::Flow(args) => causes::flow(context, args).await,
            Self::Status(args) => status::run(context, args).await,
            Self::Wait(args) => wait::run(context, args).await,
            Self::Log(args) => log::run(context, args).await,
            Self::Bench(args) => bench::run(context, args).await,
            Self::Dev(args) => dev::run(context, args).await,
            Self::Completions(args) => completions::run(&context, &args),
            Self::Man(args) => man::run(&context, &args),
        }
    }
}

fn styles() -> Styles {
    Styles::styled()
        .header(Style::new().bold())
        .usage(Style::new().bold())
        .literal(AnsiColor::Cyan.on_default())
        .placeholder(Style::new().dimmed())
}

/// The command line's definition, for completions and man pages.
pub(crate) fn definition() -> clap::Command {
    Cli::command()
}

/// Runs the command that the process was started with, and says with which code it shall end.
#[must_use]
pub fn run() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &args),
    };
    let output = Output::new(&cli.global);
    let done = runtime().and_then(|runtime| {
        let context = Context::new(cli.global, output.clone());
        let done = runtime.block_on(cli.command.run(context));
        // A read of stdin cannot be interrupted; it must not keep the process alive.
        runtime.shutdown_background();
        done
    });
    let done = done.and_then(|()| output.flush());
    match done {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|source| CliError::failure(format!("cannot start the program's threads: {source}"), None))
}

/// Arguments that cannot be parsed, and requests for help.
fn refuse(error: &clap::Error, args: &[OsString]) -> ExitCode {
    let asked_for_help = !error.use_stderr();
    let json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    if json && !asked_for_help {
        let text = error.render().to_string();
        // What follows repeats the usage.
        let message = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default().trim_end();
        output::json_error(&CliError::usage(message, "run the command with --help"));
    } else {
        // Nobody is left to be told when this fails.
        let _ = error.print();
    }
    ExitCode::from(if asked_for_help { exit::OK } else { exit::USAGE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        fn check(command: &clap::Command) {
            for command in command.get_subcommands() {
                assert!(command.get_about().is_some(), "{} says nothing", command.get_name());
                if command.get_subcommands().next().is_none() {
                    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(help.contains("Example"), "{} has no examples", command.get_name());
                }
                check(command);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn arguments_that_look_like_flags_are_taken() {
        for args in [
            &["roundelay", "sub", "a", "--from", "-10"][..],
            &["roundelay", "pub", "a", "-5"],
            &["roundelay", "pub", "a", "-", "--json", "-q"],
            &["roundelay", "pub", "a", "-H", "k=v", "-H", "l=w"],
            &["roundelay", "--home", "x", "peers"],
            &["roundelay", "peers", "--home", "x", "add", "/ip4/127.0.0.1/tcp/1"],
            &["roundelay", "sub", "a", "--from", "@-1h"],
            &["roundelay", "on", "a.>", "--", "grep", "-q", "--json"],
            &["roundelay", "consumer", "seek", "billing", "@-1h"],
        ] {
            if let Err(error) = Cli::try_parse_from(args) {
                panic!("{args:?}: {error}");
            }
        }
    }
}
