//! Results on standard output.

use super::{Failure, Format};
use onefold::arrow::util::pretty::pretty_format_batches_with_schema;
use onefold::datafusion::arrow::csv::WriterBuilder;
use onefold::datafusion::arrow::json::LineDelimitedWriter;
use onefold::datafusion::dataframe::DataFrame;
use onefold::prelude::Error;
use std::io::Write;
use std::sync::Arc;

/// Runs `frame` and prints its rows; a statement without columns prints nothing.
pub(super) async fn frame(frame: DataFrame, format: Format) -> Result<(), Failure> {
    let schema = Arc::clone(frame.schema().inner());
    let batches = frame.collect().await.map_err(Error::from)?;
    if schema.fields().is_empty() {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    match format {
        Format::Table => {
            writeln!(out, "{}", pretty_format_batches_with_schema(schema, &batches)?)?;
        }
        Format::Csv => {
            let mut writer = WriterBuilder::new().with_header(true).build(&mut out);
            for batch in &batches {
                writer.write(batch)?;
            }
        }
        Format::Ndjson => {
            let mut writer = LineDelimitedWriter::new(&mut out);
            for batch in &batches {
                writer.write(batch)?;
            }
            writer.finish()?;
        }
    }
    Ok(out.flush()?)
}
