//! The one owner of stdout and stderr: stdout is data, stderr is talk.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
};

use anstream::{AutoStream, ColorChoice};

/// What stdout carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// Text for people.
    #[default]
    Human,
    /// JSON lines, each with its format version.
    Json,
}

/// Writes to the terminal. Broken pipes are ignored: whoever closed them does not want to read on.
#[derive(Debug)]
pub struct Terminal {
    output: Output,
    quiet: bool,
    color: ColorChoice,
    lock: Mutex<()>,
}

impl Terminal {
    /// `color`: `None` lets the streams, `NO_COLOR` and `CLICOLOR` decide.
    pub fn new(output: Output, quiet: bool, color: Option<bool>) -> Self {
        let color = match color {
            Some(true) => ColorChoice::Always,
            Some(false) => ColorChoice::Never,
            None => ColorChoice::Auto,
        };
        Self { output, quiet, color, lock: Mutex::new(()) }
    }

    /// What stdout carries.
    pub fn output(&self) -> Output {
        self.output
    }

    /// True when a progress bar can be shown.
    pub fn shows_bars(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// True when a person can answer questions.
    pub fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Data for people; nothing when stdout carries JSON.
    pub fn data(&self, text: &str) {
        if self.output == Output::Human {
            self.stdout(text);
        }
    }

    /// One line of JSON; nothing when stdout carries text.
    pub fn json(&self, line: &serde_json::Value) {
        if self.output == Output::Json {
            self.stdout(&line.to_string());
        }
    }

    /// Talk: what goes on. Silent with `--quiet`.
    pub fn talk(&self, text: &str) {
        if !self.quiet {
            self.stderr(text);
        }
    }

    /// An error or a question: always shown.
    pub fn must_say(&self, text: &str) {
        self.stderr(text);
    }

    /// Asks a question that is answered by yes or no; no is the default.
    ///
    /// # Errors
    /// When stdin cannot be read.
    pub fn confirm(&self, question: &str) -> io::Result<bool> {
        {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            let mut err = AutoStream::new(io::stderr(), self.color);
            write!(err, "{question} [y/N] ")?;
            err.flush()?;
        }
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    fn stdout(&self, text: &str) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = AutoStream::new(io::stdout(), self.color);
        let _ = writeln!(out, "{}", text.trim_end());
    }

    fn stderr(&self, text: &str) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut err = AutoStream::new(io::stderr(), self.color);
        let _ = writeln!(err, "{}", text.trim_end());
    }
}

/// Colours, by meaning. Streams that cannot show them drop them.
pub mod style {
    use anstyle::{AnsiColor, Style};

    /// Headings.
    pub const HEAD: Style = Style::new().bold();
    /// What is added or went well.
    pub const GOOD: Style = AnsiColor::Green.on_default();
    /// What needs a look.
    pub const WARN: Style = AnsiColor::Yellow.on_default();
    /// What stops.
    pub const BAD: Style = AnsiColor::Red.on_default().bold();
    /// Asides.
    pub const FAINT: Style = Style::new().dimmed();

    /// `text` in a style.
    pub fn paint(style: Style, text: impl std::fmt::Display) -> String {
        format!("{style}{text}{style:#}")
    }
}
