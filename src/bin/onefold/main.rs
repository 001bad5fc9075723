//! `onefold`: the command line. Exit codes: 0 done, 1 user error, 2 anything else.

mod files;
mod print;
mod prompt;
mod run;
mod script;
mod upkeep;

use clap::{Parser, Subcommand, ValueEnum};
use onefold::arrow::error::ArrowError;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::prelude::*;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Idempotent streaming SQL on DataFusion.
#[derive(Debug, Parser)]
#[command(name = "onefold", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs SQL: from -c, from -f, from standard input, or at a prompt.
    Sql {
        /// SQL to run; may be given several times, and runs before files.
        #[arg(short = 'c', long = "command", value_name = "SQL")]
        commands: Vec<String>,
        /// A file of SQL to run; may be given several times.
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        files: Vec<PathBuf>,
        /// How results are printed.
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Runs the pipelines of scripts until their sources hold nothing more.
    Run {
        /// The scripts.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Goes on when everything was read, until SIGINT or SIGTERM.
        #[arg(long)]
        watch: bool,
    },
    #[command(flatten)]
    Upkeep(upkeep::Upkeep),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Boxes for people.
    Table,
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object per row and line.
    Ndjson,
}

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Onefold(#[from] Error),
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Prompt(#[from] rustyline::error::ReadlineError),
    #[error("{0}")]
    Arrow(#[from] ArrowError),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        let is_users = match self {
            Self::Onefold(error) => {
                matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported)
            }
            Self::File { .. } => true,
            Self::Io(_) | Self::Prompt(_) | Self::Arrow(_) => false,
        };
        ExitCode::from(if is_users { 1 } else { 2 })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let is_help = !error.use_stderr();
            // Nothing can be told to somebody whose terminal is gone.
            drop(error.print());
            return ExitCode::from(u8::from(!is_help));
        }
    };
    logs();
    match answer(arguments.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS // whoever read us has read enough
        }
        Err(failure) => {
            drop(writeln!(std::io::stderr(), "error: {failure}"));
            failure.exit_code()
        }
    }
}

/// Logs on standard error: warnings, or what `RUST_LOG` says.
fn logs() {
    use tracing_subscriber::EnvFilter;
    let quiet = "warn,delta_kernel=error,delta_kernel_default_engine=error";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(quiet));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

async fn answer(command: Command) -> Result<(), Failure> {
    let config = SessionConfig::from_env().map_err(Error::from)?.with_information_schema(true);
    let context = SessionContext::new_with_config(config).with_onefold(Settings::default())?;
    let context = files::with_paths(context);
    let done = match command {
        Command::Sql { commands, files, format } => sql(&context, commands, files, format).await,
        Command::Run { files, watch } => run::run(&context, files, watch).await,
        Command::Upkeep(work) => upkeep::run(&context, work).await,
    };
    context.rest().await;
    done
}

async fn sql(
    context: &SessionContext,
    commands: Vec<String>,
    files: Vec<PathBuf>,
    format: Format,
) -> Result<(), Failure> {
    let is_prompt = commands.is_empty() && files.is_empty();
    for command in commands {
        run_script(context, &command, format).await?;
    }
    for path in files {
        let script = std::fs::read_to_string(&path)
            .map_err(|source| Failure::File { path: path.clone(), source })?;
        run_script(context, &script, format).await?;
    }
    if !is_prompt {
        return Ok(());
    }
    if std::io::stdin().is_terminal() {
        return prompt::run(context, format).await;
    }
    let mut script = String::new();
    std::io::stdin().read_to_string(&mut script)?;
    run_script(context, &script, format).await
}

/// Runs a script, printing each statement's result before the next one runs.
async fn run_script(context: &SessionContext, script: &str, format: Format) -> Result<(), Failure> {
    for statement in script::statements(script)? {
        for frame in context.run_sql(&statement).await? {
            print::frame(frame, format).await?;
        }
    }
    Ok(())
}
