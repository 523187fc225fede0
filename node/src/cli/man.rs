//! `roundelay man`: the manual pages.

use std::path::PathBuf;

use super::Context;
use super::error::CliError;

const EXAMPLES: &str = "\
Examples:
  roundelay man | man -l -                  read the page of the program
  roundelay man ~/.local/share/man/man1     write a page for every command";

/// Print the manual page, or write one for every command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where to write the pages; it is made if it does not exist
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let output = &context.output;
    let Some(folder) = &args.folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(super::definition()).render(&mut page).map_err(CliError::io("the manual page"))?;
        if output.is_json() {
            return output.json(&serde_json::json!({"page": String::from_utf8_lossy(&page)}));
        }
        return output.bytes(&page);
    };
    std::fs::create_dir_all(folder).map_err(CliError::io(folder.display()))?;
    clap_mangen::generate_to(super::definition(), folder).map_err(CliError::io(folder.display()))?;
    if output.is_json() {
        return output.json(&serde_json::json!({"folder": folder}));
    }
    output.note(&format!("wrote the manual pages to {}", folder.display()));
    Ok(())
}
