//! `roundelay completions`: for the shell's tab key.

use clap_complete::Shell;

use super::Context;
use super::error::CliError;

const EXAMPLES: &str = "\
Examples:
  roundelay completions bash > ~/.local/share/bash-completion/completions/roundelay
  roundelay completions fish > ~/.config/fish/completions/roundelay.fish
  roundelay completions zsh > \"${fpath[1]}/_roundelay\"";

/// Print completions for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::definition(), "roundelay", &mut script);
    if context.output.is_json() {
        let script = String::from_utf8_lossy(&script);
        return context.output.json(&serde_json::json!({"shell": args.shell.to_string(), "script": script}));
    }
    context.output.bytes(&script)
}
