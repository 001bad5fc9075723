//! Random logs, and random ways of feeding them to pipelines: in parts, with restarts in between and
//! under another parallelism after them.

use super::{How, Row, batch, source, with_events};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use onefold::source::MemorySource;
use proptest::prelude::*;
use std::sync::Arc;

/// One step: rows of which partition come, how many, and whether a new session is opened then, under
/// how many partitions, and whether the pipelines run.
#[derive(Clone, Copy, Debug)]
struct Cut {
    partition: usize,
    rows: usize,
    reopens: bool,
    runs: bool,
    partitions: usize,
}

/// Three logs, and how they are fed.
#[derive(Clone, Debug)]
pub(crate) struct Fed {
    pub(crate) logs: [Vec<Row>; 3],
    cuts: Vec<Cut>,
    how: How,
}

/// Random logs with late rows, fed in a random way.
pub(crate) fn fed() -> impl Strategy<Value = Fed> {
    let cut = (0..3_usize, 1..25_usize, any::<bool>(), any::<bool>(), 1..4_usize);
    let cut = cut.prop_map(|(partition, rows, reopens, runs, partitions)| Cut {
        partition,
        rows,
        reopens,
        runs,
        partitions,
    });
    let batch_size = prop_oneof![Just(1_usize), Just(7), Just(8192)];
    let epoch_rows_max = prop_oneof![Just(4_u64), Just(15), Just(1000)];
    let all = (log(0), log(1), log(2), proptest::collection::vec(cut, 0..12));
    (all, batch_size, epoch_rows_max).prop_map(|((one, two, three, cuts), batch_size, rows)| Fed {
        logs: [one, two, three],
        cuts,
        how: How { partitions: 2, batch_size, epoch_rows_max: rows },
    })
}

impl Fed {
    /// The same with times that many times as large.
    pub(crate) fn slower(mut self, times: i64) -> Self {
        for row in self.logs.iter_mut().flatten() {
            row.1 = row.1.map(|at| at * times);
        }
        self
    }

    /// Feeds all rows to the pipelines that `script` makes, one into each of `tables`; returns a
    /// session that knows these.
    pub(crate) async fn through(&self, script: &str, tables: &[String]) -> SessionContext {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let source = source(3);
        let mut how = self.how;
        let mut read = [0; 3];
        let mut context = opened(&store, &source, how, script).await.unwrap();
        run(&context, tables).await;
        let rest = [0, 1, 2].map(|partition| Cut {
            partition,
            rows: 99,
            reopens: false,
            runs: true,
            partitions: 1,
        });
        for Cut { partition, rows, reopens, runs, partitions } in
            self.cuts.iter().copied().chain(rest)
        {
            let log = &self.logs[partition];
            let from = read[partition];
            let to = (from + rows).min(log.len());
            source.push(&format!("p{partition}"), &batch(&log[from..to])).unwrap();
            read[partition] = to;
            if reopens {
                how.partitions = partitions;
                context = opened(&store, &source, how, script).await.unwrap();
            }
            if runs {
                run(&context, tables).await;
            }
        }
        context
    }
}

/// A session over `store` that knows `source`, and the pipelines that `script` makes.
pub(crate) async fn opened(
    store: &Arc<dyn ObjectStore>,
    source: &MemorySource,
    how: How,
    script: &str,
) -> Result<SessionContext, Error> {
    let context = with_events(store, source, how)?;
    context.run_sql(script).await?;
    Ok(context)
}

/// The rows of one partition: some late, some without a key or a time.
pub(crate) fn log(partition: u8) -> impl Strategy<Value = Vec<Row>> {
    let row = (
        proptest::option::weighted(0.9, 0..4_u8),
        proptest::option::weighted(0.97, 0..22_i64),
        0..5_i64,
    );
    proptest::collection::vec(row, 0..40).prop_map(move |steps| {
        let mut now = 100;
        let mut rows = Vec::new();
        for (index, (key, back, ahead)) in steps.into_iter().enumerate() {
            now += ahead;
            let number = i64::from(partition) * 1000 + index as i64;
            rows.push((key, back.map(|back| now - back), number));
        }
        rows
    })
}

/// Runs the pipelines into `tables` until there is nothing more to read.
pub(crate) async fn run(context: &SessionContext, tables: &[String]) {
    for table in tables {
        context.pipeline(table).unwrap().run_until_idle().await.unwrap();
    }
}
