//! `roundelay up`: runs a node.

use super::Context;
use super::error::CliError;

const EXAMPLES: &str = "\
Examples:
  roundelay up";

/// Run a node.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

pub(crate) async fn run(_context: Context, _args: Args) -> Result<(), CliError> {
    Ok(())
}
