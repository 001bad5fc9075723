//! From an INSERT over an unbounded table to the parts of a pipeline.

use super::PipelineHandle;
use super::registry::{Ports, Registry};
use super::tables::options_of;
use crate::delta::{DeltaTable, StoredColumns};
use crate::error::Error;
use crate::operator::{DedupMemories, RollupMemories};
use crate::pipeline::{EpochPlan, EpochPlanner, OperatorPart, PipelineParts, SourcePart};
use crate::plan::{
    ExposePositions, LowerWindows, OperatorKind, PipelineOperator, PipelinePlan, PipelineSource,
    PlanError, plan_pipeline, refuse_keys, streams, take_emit,
};
use crate::state::{DedupMemory, OperatorMemory, RollupMemory};
use crate::types::{PipelineId, RollupOptions};
use async_trait::async_trait;
use datafusion::common::Result;
use datafusion::datasource::source_as_provider;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{DmlStatement, LogicalPlan, WriteOp};
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The pipeline that `dml` makes; `None` if it reads no unbounded table.
pub(super) fn pipeline_of(
    state: &SessionState,
    registry: &Registry,
    dml: &DmlStatement,
) -> Result<Option<PipelineHandle>, Error> {
    let WriteOp::Insert(operation) = &dml.op else { return Ok(None) };
    if !streams(&dml.input) {
        return Ok(None);
    }
    if *operation != InsertOp::Append {
        return Err(refuse(operation.to_string(), "write INSERT INTO"));
    }
    let name = dml.table_name.to_string();
    let table = target(registry, dml, &name)?;
    if table.view_query().is_some() {
        table.refuse_view("a second pipeline into it")?;
    }
    pipeline_into(state, registry, &dml.input, table, &name).map(Some)
}

/// The pipeline of `query`, the input of an INSERT, into `table`, which SQL calls `name`.
pub(super) fn pipeline_into(
    state: &SessionState,
    registry: &Registry,
    query: &LogicalPlan,
    table: Arc<DeltaTable>,
    name: &str,
) -> Result<PipelineHandle, Error> {
    let settings = options_of(state).settings;
    let id = match settings.pipeline.as_str() {
        "" => PipelineId::default(),
        name => {
            PipelineId::try_new(name).map_err(|error| refuse(error.to_string(), "rename it"))?
        }
    };
    let planned = plan_query(state, query, Target::Table(&table))?;
    let Planned { epochs, sources, operators, owns_rows, fingerprint } = planned;
    if owns_rows {
        table.hold_groups();
    }
    let location = table.location().url.to_string();
    let parts = PipelineParts {
        id,
        ledger: table,
        planner: Arc::new(epochs),
        sources,
        operators,
        owns_rows,
        fingerprint,
        settings,
        clock: Arc::clone(&registry.clock),
        entropy: Arc::clone(&registry.entropy),
    };
    Ok(PipelineHandle::new(parts, name, &location))
}

/// The parts of a pipeline that its query makes.
pub(super) struct Planned {
    pub(super) epochs: SessionEpochPlanner,
    sources: Vec<SourcePart>,
    operators: Vec<OperatorPart>,
    owns_rows: bool,
    fingerprint: String,
}

/// The query of a pipeline, analysed. Positions come from the slots, and not from scans of whole
/// sources, and windows that overlap are made by the rollup.
pub(super) fn analysed(state: &SessionState, query: &LogicalPlan) -> Result<LogicalPlan> {
    let mut rules = state.analyzer().rules.clone();
    rules.retain(|rule| rule.name() != ExposePositions.name());
    if let Some(own) = rules.iter_mut().find(|rule| rule.name() == LowerWindows::NAME) {
        *own = Arc::new(LowerWindows::of_pipelines());
    }
    let options = state.config_options();
    Analyzer::with_rules(rules).execute_and_check(query.clone(), options, |_, _| {})
}

/// Where the rows of a query go.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// Into this table.
    Table(&'a DeltaTable),
    /// Into a table yet to be made, with these columns of the query as its key.
    Key(&'a [(usize, String)]),
}

/// Plans `query`, the input of an INSERT, as a pipeline into `target`.
pub(super) fn plan_query(
    state: &SessionState,
    query: &LogicalPlan,
    target: Target<'_>,
) -> Result<Planned, Error> {
    let settings = options_of(state).settings;
    let (query, emit) = take_emit(&analysed(state, query)?)?;
    let lateness_us = settings.window_lateness_ms.saturating_mul(1_000) as i64;
    let exact_float_sums = settings.exact_float_sums;
    let options = RollupOptions { emit, lateness_us, exact_float_sums, ..Default::default() };
    let key = match target {
        Target::Table(table) => key_of(table, &query),
        Target::Key(key) => key.to_vec(),
    };
    let planned = plan_pipeline(&query, options, &key)?;
    let owns_rows = planned.is_rollup();
    if let Target::Table(target) = target {
        refuse_target(target, &planned)?;
        if owns_rows {
            refuse_keys(&query, &key)?;
        }
    }
    let pool = &state.runtime_env().memory_pool;
    let Memories { dedups, rollups, operators } =
        Memories::new(&planned.operators, settings.state_bytes_max, pool);
    let sources = planned.sources.iter().map(|own| SourcePart {
        name: own.name.clone(),
        source: Arc::clone(own.table.source()),
        watermark: own.table.options().watermark.clone(),
        slot: Arc::clone(&own.slot),
    });
    // The planner must not hold the registry, which holds the pipeline.
    let config = state
        .config()
        .clone()
        .with_extension(Arc::new(DedupMemories(dedups)))
        .with_extension(Arc::new(RollupMemories(rollups)))
        .with_extension(Arc::new(Registry::new(Ports::default())));
    let epochs = SessionEpochPlanner {
        state: SessionStateBuilder::new_from_existing(state.clone())
            .with_config(config)
            .with_table_factories(HashMap::new())
            .with_table_functions(HashMap::new())
            .build(),
        query: planned.query,
        is_one_to_one: planned.is_one_to_one,
    };
    let fingerprint = planned.fingerprint;
    Ok(Planned { epochs, sources: sources.collect(), operators, owns_rows, fingerprint })
}

/// Refuses a target whose rows would not be those that the plan makes.
fn refuse_target(table: &DeltaTable, planned: &PipelinePlan) -> Result<(), Error> {
    let name = table.name();
    let (what, instead) = match (planned.is_rollup(), planned.reads_changes()) {
        (false, false) => return Ok(()),
        (true, _) => ("GROUP BY", "each row is a whole group"),
        (false, true) => ("a copy of changes", "a row that goes there must go here"),
    };
    if !table.replaces_rows() {
        let what = format!("{what} into {name}, which does not replace the last row of a key,");
        let instead = format!("leave out merge_mode, sequence_by, op_column: {instead}");
        return Err(refuse(what, &instead));
    }
    let is_it = |own: &PipelineSource| {
        let feed = own.table.feed().and_then(|feed| feed.rows.downcast_ref::<StoredColumns>());
        feed.is_some_and(|own| own.table().location().url == table.location().url)
    };
    if planned.sources.iter().any(is_it) {
        let what = format!("INSERT INTO {name} from its own changes");
        return Err(refuse(what, "write into another table"));
    }
    Ok(())
}

/// The columns of the primary key of `table`, among those of `query`.
fn key_of(table: &DeltaTable, query: &LogicalPlan) -> Vec<(usize, String)> {
    let columns = query.schema().fields();
    let index = |own: &String| columns.iter().position(|field| field.name() == own);
    let named = |own: &String| index(own).map(|index| (index, own.clone()));
    table.primary_key().iter().filter_map(named).collect()
}

/// What the operators of a pipeline remember.
#[derive(Default)]
struct Memories {
    dedups: HashMap<String, Arc<DedupMemory>>,
    rollups: HashMap<String, Arc<RollupMemory>>,
    operators: Vec<OperatorPart>,
}

impl Memories {
    fn new(operators: &[PipelineOperator], bytes_max: u64, pool: &Arc<dyn MemoryPool>) -> Self {
        let lateness_us = |own: &PipelineOperator| match own.kind {
            OperatorKind::Dedup(options) => options.lateness_us,
            OperatorKind::Rollup(_) => 0,
        };
        let total_us: i64 = operators.iter().map(lateness_us).sum();
        let mut all = Self::default();
        for own in operators {
            let name = own.name.clone();
            let memory: Arc<dyn OperatorMemory> = match own.kind {
                OperatorKind::Dedup(options) => {
                    let memory = Arc::new(DedupMemory::new(&name, options, bytes_max, pool));
                    all.dedups.insert(name.clone(), Arc::clone(&memory));
                    memory
                }
                OperatorKind::Rollup(options) => {
                    let memory = Arc::new(RollupMemory::new(&name, options, bytes_max, pool));
                    all.rollups.insert(name.clone(), Arc::clone(&memory));
                    memory
                }
            };
            let delay_us = total_us - lateness_us(own);
            all.operators.push(OperatorPart { name, memory, delay_us });
        }
        all
    }
}

/// The upsert table that `dml` writes into.
fn target(registry: &Registry, dml: &DmlStatement, name: &str) -> Result<Arc<DeltaTable>, Error> {
    let provider = source_as_provider(&dml.target)?;
    let found = provider.downcast_ref::<DeltaTable>().and_then(|_| registry.table_named(name));
    found.ok_or_else(|| {
        let what = format!("INSERT INTO {name}, which is no upsert table,");
        refuse(what, "write into a table STORED AS DELTA with a PRIMARY KEY")
    })
}

fn refuse(what: String, instead: &str) -> Error {
    PlanError::NotIncremental { what, instead: instead.to_owned() }.into()
}

/// Plans each epoch anew from the analysed query.
pub(super) struct SessionEpochPlanner {
    pub(super) state: SessionState,
    pub(super) query: LogicalPlan,
    is_one_to_one: bool,
}

impl fmt::Debug for SessionEpochPlanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionEpochPlanner").finish_non_exhaustive()
    }
}

#[async_trait]
impl EpochPlanner for SessionEpochPlanner {
    async fn plan_epoch(&self) -> Result<EpochPlan> {
        let plan = self.state.create_physical_plan(&self.query).await?;
        let is_one_to_one = self.is_one_to_one;
        Ok(EpochPlan { plan, context: self.state.task_ctx(), is_one_to_one })
    }
}
