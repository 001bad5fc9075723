//! The prompt: a line editor with history that waits for the semicolon.

use super::{Failure, Format, run_script};
use onefold::datafusion::prelude::SessionContext;
use onefold::datafusion::sql::sqlparser::dialect::GenericDialect;
use onefold::sql::is_complete;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};
use std::io::Write;
use std::path::PathBuf;

const HELP: &str = "Statements end with a semicolon. \\q, quit or exit leaves; \\d lists tables.";

/// Reads and runs statements until the user leaves. An error is shown, and the prompt stays.
pub(super) async fn run(context: &SessionContext, format: Format) -> Result<(), Failure> {
    let mut editor: Editor<Statements, FileHistory> = Editor::new()?;
    editor.set_helper(Some(Statements));
    let history = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".onefold_history"));
    if let Some(path) = &history {
        drop(editor.load_history(path)); // there is none before the first session
    }
    writeln!(std::io::stdout(), "onefold {}. {HELP}", env!("CARGO_PKG_VERSION"))?;
    loop {
        let line = match editor.readline("onefold> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        editor.add_history_entry(line.trim())?;
        match line.trim().trim_end_matches(';') {
            "\\q" | "quit" | "exit" => break,
            "\\?" => writeln!(std::io::stdout(), "{HELP}")?,
            "\\d" => show(run_script(context, "SHOW TABLES", format).await)?,
            _ => show(run_script(context, &line, format).await)?,
        }
    }
    if let Some(path) = &history {
        editor.save_history(path)?;
    }
    Ok(())
}

fn show(outcome: Result<(), Failure>) -> Result<(), Failure> {
    if let Err(failure) = outcome {
        writeln!(std::io::stderr(), "error: {failure}")?;
    }
    Ok(())
}

/// Lets a statement go over several lines.
#[derive(Debug)]
struct Statements;

impl Validator for Statements {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input().trim();
        let is_word = text.starts_with('\\') || matches!(text, "quit" | "exit");
        Ok(if is_word || is_complete(text, &GenericDialect {}) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Completer for Statements {
    type Candidate = String;
}

impl Hinter for Statements {
    type Hint = String;
}

impl Highlighter for Statements {}

impl Helper for Statements {}
