//! Why a command ends without having done its work, and with which code.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use miette::Diagnostic;

use crate::home::Home;
use crate::log::LogError;

/// Exit codes that scripts can rely on.
pub(crate) mod exit {
    pub(crate) const OK: u8 = 0;
    pub(crate) const FAILURE: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const UNREACHABLE: u8 = 3;
    pub(crate) const TIMED_OUT: u8 = 4;
    pub(crate) const UNHEALTHY: u8 = 10;
}

/// Why a command ends without having done its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// What was asked makes no sense. Nothing has happened.
    #[error("{message}")]
    Usage {
        /// What is wrong with it.
        message: String,
        /// What to write instead.
        hint: String,
    },
    /// No daemon answers on the home. Nothing has happened.
    #[error("no node is running on the home {}{}", .home.display(), in_brackets(.detail))]
    Unreachable {
        /// The home.
        home: PathBuf,
        /// What the system said, if it is not obvious.
        detail: String,
    },
    /// The daemon went away in the middle of the command.
    #[error("the node stopped while the command was running: {detail}")]
    Gone {
        /// What is known of what took effect.
        detail: String,
    },
    /// It did not become so in time.
    #[error("{what} after {}", Seconds(*.after))]
    TimedOut {
        /// What did not happen, as the beginning of a sentence.
        what: String,
        /// How long was waited.
        after: Duration,
        /// What to do.
        hint: Option<String>,
    },
    /// The daemon refused, or failed.
    #[error("{message}")]
    Refused {
        /// The kind of problem, for programs.
        code: String,
        /// What happened.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// Whether it has to be asked differently.
        usage: bool,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file, or standard input, cannot be read or written.
    #[error("cannot use {what}: {source}")]
    Io {
        /// The file.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anything else. What it left behind is in the message.
    #[error("{message}")]
    Failure {
        /// What happened.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The node is unhealthy, which was already said on stdout.
    #[error("the node is unhealthy")]
    Unhealthy,
    /// Whoever read stdout has gone: there is nobody to do the work for.
    #[error("nobody reads the output any more")]
    BrokenPipe,
}

impl CliError {
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    pub(crate) fn failure(message: impl Into<String>, hint: Option<&str>) -> Self {
        Self::Failure { message: message.into(), hint: hint.map(str::to_owned) }
    }

    pub(crate) fn io(what: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.to_string();
        |source| Self::Io { what, source }
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Refused { usage: true, .. } => exit::USAGE,
            Self::Unreachable { .. } | Self::Gone { .. } => exit::UNREACHABLE,
            Self::TimedOut { .. } => exit::TIMED_OUT,
            Self::Unhealthy => exit::UNHEALTHY,
            Self::BrokenPipe => exit::OK,
            Self::Refused { .. } | Self::Log(_) | Self::Io { .. } | Self::Failure { .. } => exit::FAILURE,
        }
    }

    /// The kind of error, for programs.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Usage { .. } => "usage",
            Self::Unreachable { .. } => "unreachable",
            Self::Gone { .. } => "gone",
            Self::TimedOut { .. } => "timed_out",
            Self::Refused { code, .. } => code,
            Self::Log(_) => "log",
            Self::Io { .. } => "io",
            Self::Failure { .. } => "failure",
            Self::Unhealthy => "unhealthy",
            Self::BrokenPipe => "broken_pipe",
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } => Some(hint.clone()),
            Self::Unreachable { home, .. } => Some(format!("start it with: {} up", command_for(home))),
            Self::Gone { .. } => Some("look at what the node's process said last, and start it again".into()),
            Self::TimedOut { hint, .. } | Self::Refused { hint, .. } | Self::Failure { hint, .. } => hint.clone(),
            Self::Log(_) | Self::Io { .. } | Self::Unhealthy | Self::BrokenPipe => None,
        }
    }

    /// Whether it is said on stderr.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Unhealthy | Self::BrokenPipe)
    }
}

impl Diagnostic for CliError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// How to call this program for a home.
fn command_for(home: &Path) -> String {
    let by_default = Home::resolve(std::env::var_os("ROUNDELAY_HOME").map(PathBuf::from));
    match by_default {
        Ok(default) if default.path() == home => "roundelay".into(),
        _ => format!("roundelay --home {}", shell_word(&home.display().to_string())),
    }
}

/// A text as a shell takes it for one word.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// A duration as people write it.
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(duration) => write!(f, "{duration:#}"),
            Err(_) => write!(f, "{} s", self.0.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(shell_word("/tmp/a-b.c"), "/tmp/a-b.c");
        assert_eq!(shell_word("it's here"), r"'it'\''s here'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(Seconds(Duration::from_millis(90_500)).to_string(), "1m 30s 500ms");
    }
}
