//! From an INSERT over an unbounded table to the parts of a pipeline.

use super::PipelineHandle;
use super::registry::{Ports, Registry};
use super::tables::options_of;
use crate::delta::DeltaTable;
use crate::error::Error;
use crate::operator::DedupMemories;
use crate::pipeline::{EpochPlan, EpochPlanner, OperatorPart, PipelineParts, SourcePart};
use crate::plan::{ExposePositions, PlanError, plan_pipeline, streams};
use crate::state::DedupMemory;
use crate::types::PipelineId;
use async_trait::async_trait;
use datafusion::common::Result;
use datafusion::datasource::source_as_provider;
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
    table.refuse_view("a second pipeline into it")?;
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
    let Planned { epochs, sources, operators, fingerprint } = plan_query(state, query)?;
    let location = table.location().url.to_string();
    let parts = PipelineParts {
        id,
        ledger: table,
        planner: Arc::new(epochs),
        sources,
        operators,
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
    fingerprint: String,
}

/// The query of a pipeline, analysed. Positions come from the slots, and not from scans of whole
/// sources.
pub(super) fn analysed(state: &SessionState, query: &LogicalPlan) -> Result<LogicalPlan> {
    let mut rules = state.analyzer().rules.clone();
    rules.retain(|rule| rule.name() != ExposePositions.name());
    let options = state.config_options();
    Analyzer::with_rules(rules).execute_and_check(query.clone(), options, |_, _| {})
}

/// Plans `query`, the input of an INSERT, as a pipeline.
pub(super) fn plan_query(state: &SessionState, query: &LogicalPlan) -> Result<Planned, Error> {
    let settings = options_of(state).settings;
    let planned = plan_pipeline(&analysed(state, query)?)?;
    let pool = &state.runtime_env().memory_pool;
    let total_us: i64 = planned.operators.iter().map(|own| own.options.lateness_us).sum();
    let mut memories = HashMap::new();
    let mut operators = Vec::with_capacity(planned.operators.len());
    for own in &planned.operators {
        let memory = DedupMemory::new(&own.name, own.options, settings.state_bytes_max, pool);
        let memory = Arc::new(memory);
        memories.insert(own.name.clone(), Arc::clone(&memory));
        let delay_us = total_us - own.options.lateness_us;
        operators.push(OperatorPart { name: own.name.clone(), memory, delay_us });
    }
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
        .with_extension(Arc::new(DedupMemories(memories)))
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
    Ok(Planned { epochs, sources: sources.collect(), operators, fingerprint: planned.fingerprint })
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
