//! The only place that writes to stdout and stderr.
#![allow(clippy::print_stderr)]

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};
use miette::{GraphicalReportHandler, GraphicalTheme};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;

use super::Global;
use super::error::CliError;

/// Bytes of stdout that are gathered before they are written, unless flushed.
const BUFFER_BYTES: usize = 64 * 1024;
/// Columns of error reports on stderr, when it is a terminal.
const REPORT_COLUMNS: usize = 100;

/// Where a command's results and words go. Clones share it.
#[derive(Clone)]
pub(crate) struct Output {
    stdout: Arc<Mutex<io::BufWriter<io::Stdout>>>,
    json: bool,
    quiet: bool,
    /// stdout is a terminal.
    terminal: bool,
    stdout_colors: bool,
    stderr_colors: bool,
    stderr_terminal: bool,
}

/// How a piece of text is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// All is well.
    Good,
    /// Something is wrong.
    Bad,
    /// Worth knowing.
    Warning,
    /// Less important.
    Faint,
    /// A name.
    Name,
    /// A heading.
    Heading,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Faint => Style::new().dimmed(),
            Self::Name => AnsiColor::Cyan.on_default(),
            Self::Heading => Style::new().bold(),
        }
    }
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let (terminal, stderr_terminal) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let wanted = colors_wanted();
        Self {
            stdout: Arc::new(Mutex::new(io::BufWriter::with_capacity(BUFFER_BYTES, io::stdout()))),
            json: global.json,
            quiet: global.quiet,
            terminal,
            stdout_colors: terminal && wanted,
            stderr_colors: stderr_terminal && wanted,
            stderr_terminal,
        }
    }

    /// Whether results are wanted as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether somebody looks at stdout.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether stderr may have colours.
    pub(crate) fn stderr_colors(&self) -> bool {
        self.stderr_colors
    }

    /// Whether stdout may have colours.
    pub(crate) fn stdout_colors(&self) -> bool {
        self.stdout_colors
    }

    /// A text for stdout in its colour, if there are colours.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if self.stdout_colors {
            let style = tone.style();
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// A line on stdout. Gathered until [`Self::flush`].
    pub(crate) fn line(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = self.stdout.lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).map_err(stdout_error)
    }

    /// Bytes on stdout as they are. Gathered until [`Self::flush`].
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        self.stdout.lock().write_all(bytes).map_err(stdout_error)
    }

    /// A value as one line of JSON on stdout.
    pub(crate) fn json<T: Serialize>(&self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string(value);
        let text = text.map_err(|error| CliError::failure(format!("cannot write JSON: {error}"), None))?;
        self.line(&text)
    }

    /// Writes what was gathered.
    pub(crate) fn flush(&self) -> Result<(), CliError> {
        self.stdout.lock().flush().map_err(stdout_error)
    }

    /// A remark on stderr, unless `-q`.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// What was done: a value for programs, or a remark for people.
    pub(crate) fn told<T: Serialize>(&self, value: &T, words: impl FnOnce() -> String) -> Result<(), CliError> {
        if self.json {
            return self.json(value);
        }
        self.note(&words());
        Ok(())
    }

    /// A bar on stderr for work that takes long; hidden unless somebody looks.
    pub(crate) fn progress(&self) -> ProgressBar {
        if self.quiet || self.json || !self.stderr_terminal {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::default_bar());
        bar
    }

    /// A line on stderr, always, after what was gathered for stdout. There is nobody to tell when either fails.
    fn say(&self, text: &str) {
        let _ = self.stdout.lock().flush();
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Says why a command ends.
    pub(crate) fn error(&self, error: &CliError) {
        if error.is_silent() {
            // If nobody reads what was gathered any more, that is no second error.
            let _ = self.stdout.lock().flush();
            return;
        }
        if self.json {
            let _ = self.stdout.lock().flush();
            return json_error(error);
        }
        let theme = match (self.stderr_terminal, self.stderr_colors) {
            (true, true) => GraphicalTheme::unicode(),
            (true, false) => GraphicalTheme::unicode_nocolor(),
            (false, _) => plain_theme(),
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(REPORT_COLUMNS)
            .with_wrap_lines(self.stderr_terminal)
            .with_break_words(false)
            .without_cause_chain();
        let mut report = String::new();
        match handler.render_report(&mut report, error) {
            Ok(()) => self.say(report.trim_end()),
            Err(_) => self.say(&format!("error: {error}")),
        }
    }
}

/// Words in place of symbols, for logs and pipes.
fn plain_theme() -> GraphicalTheme {
    let mut theme = GraphicalTheme::none();
    theme.characters.error = "error:".into();
    theme
}

/// An error as one line of JSON on stderr.
pub(super) fn json_error(error: &CliError) {
    let value = json!({"error": {"code": error.name(), "message": error.to_string(), "hint": error.hint()}});
    let _ = writeln!(io::stderr(), "{value}");
}

fn colors_wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn stdout_error(source: io::Error) -> CliError {
    match source.kind() {
        io::ErrorKind::BrokenPipe => CliError::BrokenPipe,
        _ => CliError::Io { what: "standard output".into(), source },
    }
}
