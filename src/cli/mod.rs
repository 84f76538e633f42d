//! The command line: one verb a file, no logic of its own.

mod applications;
mod clear;
pub mod connect;
mod embedded;
pub mod exit;
mod memory;
mod plan;
mod rehearse;
mod rollback;
mod run;
mod signals;
mod status;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use exit::Exit;

use crate::{
    config::{Config, Env},
    report::{self, Output, Terminal},
};

/// Moves a LoRaWAN fleet from one network stack to another: plan, copy, verify, and only then clear the source.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = exit::TABLE)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What stdout carries: text for people, or versioned JSON lines.
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Output,
    /// Show steps (-v), calls with times (-vv), what goes on below them (-vvv). Never secrets.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing on stderr but errors.
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what a run would do, and change nothing.
    Plan(plan::PlanArguments),
    /// Move the devices; the same command goes on after any interruption.
    Run(run::RunArguments),
    /// Go on with what `clear.hold` has held, and with nothing else that was not begun.
    Clear(clear::ClearArguments),
    /// Bring devices back to the source, also after the clear; then `run` can start again.
    Rollback(rollback::RollbackArguments),
    /// Show where every device stands, from the journal alone.
    Status(WithConfig),
    /// Read every moved device back from the target and compare it with what was written.
    Verify(WithConfig),
    /// Do the whole run from the real source, which is only read, into an embedded stack.
    Rehearse(rehearse::RehearseArguments),
}

/// The configuration that every command needs.
#[derive(Debug, Args)]
pub struct WithConfig {
    /// The migration, as TOML.
    config: PathBuf,
}

/// Runs a command to its exit code.
pub fn run(arguments: Arguments) -> Exit {
    memory::keep_private();
    report::panic::install();
    let terminal = Terminal::new(arguments.output, arguments.quiet, None);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal.must_say(&format!("error: cannot start: {error}"));
            return Exit::Failed;
        }
    };
    let verbose = arguments.verbose;
    if verbose > 2 {
        // Our own words only: what libraries log may hold what was sent.
        let ours = tracing_subscriber::EnvFilter::new("stackferry=trace");
        tracing_subscriber::fmt().with_env_filter(ours).with_writer(std::io::stderr).init();
    }
    let exit = runtime.block_on(async {
        match arguments.command {
            Command::Plan(with) => plan::plan(&with, &terminal, verbose).await,
            Command::Run(with) => run::run(&with, &terminal, verbose).await,
            Command::Clear(with) => clear::run(&with, &terminal, verbose).await,
            Command::Rollback(with) => rollback::run(&with, &terminal, verbose).await,
            Command::Status(with) => status::run(&with.config, &terminal),
            Command::Verify(with) => verify::run(&with.config, &terminal, verbose).await,
            Command::Rehearse(with) => rehearse::run(&with, &terminal, verbose).await,
        }
    });
    runtime.shutdown_background();
    match exit {
        Ok(exit) => exit,
        Err(failure) => {
            terminal.must_say(&failure.text);
            terminal.json(&report::json::line(
                "error",
                serde_json::json!({ "text": failure.text, "exit_code": failure.exit.code() }),
            ));
            failure.exit
        }
    }
}

/// Why a command ended early: what is said, and the exit code.
#[derive(Debug)]
pub struct Failure {
    text: String,
    exit: Exit,
}

impl Failure {
    /// An error with a hint on what to do next.
    pub fn new(exit: Exit, error: impl std::fmt::Display, hint: Option<String>) -> Self {
        let hint = hint.map(|h| format!("\n  help: {h}")).unwrap_or_default();
        Self { text: format!("error: {error}{hint}"), exit }
    }

    /// What is wrong, on one line.
    fn why(&self) -> String {
        self.text.trim_start_matches("error: ").replace("\n  help: ", "; ")
    }
}

impl From<crate::journal::Error> for Failure {
    fn from(error: crate::journal::Error) -> Self {
        let hint = Some(error.hint());
        Self::new(Exit::Journal, error, hint)
    }
}

impl From<crate::engine::run::RunError> for Failure {
    fn from(error: crate::engine::run::RunError) -> Self {
        use crate::engine::{application::ApplicationError, run::RunError as E};
        let exit = match &error {
            E::Call(e) | E::Application(ApplicationError::Call(e)) => exit::of_call(e),
            E::Journal(_) | E::Log(_) => Exit::Journal,
            E::Application(_) | E::Embedded(_) | E::KeysFile { .. } => Exit::Failed,
            E::TooManyGateways { .. } | E::TooMany { .. } => Exit::Usage,
        };
        let hint = error.hint();
        Self::new(exit, error, hint)
    }
}

/// Reads the configuration; its problems are the failure.
fn load(path: &std::path::Path, terminal: &Terminal) -> Result<Config, Failure> {
    finish(Config::load(path, &Env::process()), terminal)
}

/// As [`load`], for commands that connect to nothing.
fn load_offline(path: &std::path::Path, terminal: &Terminal) -> Result<Config, Failure> {
    finish(Config::load_offline(path, &Env::process()), terminal)
}

fn finish(
    loaded: Result<Config, crate::config::Diagnostics>,
    terminal: &Terminal,
) -> Result<Config, Failure> {
    match loaded {
        Ok(config) => {
            if !config.warnings.is_empty() {
                terminal.talk(&config.warnings.to_string());
            }
            Ok(config)
        }
        Err(problems) => Err(Failure { text: problems.to_string(), exit: Exit::Usage }),
    }
}
