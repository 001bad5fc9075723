//! The generator and memory keep the contract of sources.

use super::{
    GeneratorOptions, GeneratorSource, MemorySource, PollLimits, Source, SourceError, SourceStart,
};
use crate::testing::source_conformance;
use arrow::array::Int64Array;
use arrow::record_batch::RecordBatch;
use std::collections::HashSet;
use std::sync::Arc;

#[tokio::test]
async fn the_generator_repeats_itself_and_only_retries_repeat_an_id() {
    let options = GeneratorOptions {
        rows: 20_003,
        duplicate_percent: 10.0,
        partitions: 3,
        ..GeneratorOptions::default()
    };
    let generator = GeneratorSource::try_new(options, None).unwrap();
    let source: Arc<dyn Source> = Arc::new(generator);
    let mut reader = source.open(SourceStart::default()).await.unwrap();
    let all = PollLimits { rows_max: u64::MAX, bytes_max: u64::MAX };
    let polled = reader.poll(all).await.unwrap();
    let rows: usize = polled.chunks.iter().map(|chunk| chunk.batch.num_rows()).sum();
    assert_eq!(rows, 20_003);
    let mut ids = HashSet::new();
    for chunk in &polled.chunks {
        let column = chunk.batch.column(0);
        let texts = arrow::array::cast::AsArray::as_string::<i32>(column);
        ids.extend(texts.iter().flatten().map(str::to_owned));
    }
    let repeated = 100.0 * (rows - ids.len()) as f64 / rows as f64;
    assert!((8.0..11.0).contains(&repeated), "{repeated} %");
}

#[tokio::test]
async fn the_generator_keeps_the_contract_and_refuses_what_it_does_not_make() {
    let options = GeneratorOptions { rows: 101, ..GeneratorOptions::default() };
    let generator: Arc<dyn Source> =
        Arc::new(GeneratorSource::try_new(options.clone(), None).unwrap());
    source_conformance(&generator).await.unwrap();
    let other = arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new(
        "color",
        arrow::datatypes::DataType::Utf8,
        true,
    )]);
    let error = GeneratorSource::try_new(options, Some(&other)).unwrap_err().to_string();
    assert!(error.contains("no column color; it makes event_id, user_id"), "{error}");
}

#[tokio::test]
async fn memory_keeps_the_contract_and_makes_a_gap_known() {
    let batch = |range: std::ops::Range<i64>| {
        let column: Int64Array = range.collect();
        RecordBatch::try_from_iter([("n", Arc::new(column) as _)]).unwrap()
    };
    let memory = MemorySource::new("m", batch(0..0).schema());
    memory.push("a", &batch(0..10)).unwrap();
    memory.push("b", &batch(10..13)).unwrap();
    let source: Arc<dyn Source> = Arc::new(memory.clone());
    source_conformance(&source).await.unwrap();
    memory.truncate_before("a", 4);
    let mut reader = source.open(SourceStart::default()).await.unwrap();
    let all = PollLimits { rows_max: u64::MAX, bytes_max: u64::MAX };
    let error = reader.poll(all).await.unwrap_err();
    assert!(matches!(error, SourceError::Gap { available, .. } if available.0 == 4), "{error}");
}
