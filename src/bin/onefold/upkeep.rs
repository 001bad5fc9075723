//! `onefold optimize`, `vacuum`, `checkpoint` and `restore`: one table, by its location.

use super::{Failure, Format, print};
use onefold::datafusion::prelude::SessionContext;
use onefold::prelude::*;

/// What is done to a table.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Upkeep {
    /// Rewrites small and masked files of a table into large ones, sorted by key.
    Optimize(Location),
    /// Deletes what no kept version of a table names.
    Vacuum {
        #[command(flatten)]
        location: Location,
        /// How long old versions are kept, such as '7 days'.
        #[arg(long, default_value = "2 days", value_name = "INTERVAL")]
        retain: String,
    },
    /// Writes a Delta checkpoint of a table.
    Checkpoint(Location),
    /// Brings back an older version of a table, with what its pipelines knew then.
    Restore {
        #[command(flatten)]
        location: Location,
        /// The version.
        #[arg(long)]
        version: u64,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Location {
    /// Where the table is: a folder, or a URL of a store.
    #[arg(value_name = "TABLE")]
    table: String,
}

/// Does it, and prints what was done.
pub(super) async fn run(context: &SessionContext, work: Upkeep) -> Result<(), Failure> {
    let (location, call) = match work {
        Upkeep::Optimize(location) => (location, "onefold_optimize('t')".to_owned()),
        Upkeep::Checkpoint(location) => (location, "onefold_checkpoint('t')".to_owned()),
        Upkeep::Vacuum { location, retain } => {
            (location, format!("onefold_vacuum('t', '{}')", retain.replace('\'', "''")))
        }
        Upkeep::Restore { location, version } => {
            (location, format!("onefold_restore('t', {version})"))
        }
    };
    let location = location.table.replace('\'', "''");
    let open = format!("CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{location}'");
    context.run_sql(&open).await?;
    for frame in context.run_sql(&format!("SELECT * FROM {call}")).await? {
        print::frame(frame, Format::Table).await?;
    }
    Ok(())
}
