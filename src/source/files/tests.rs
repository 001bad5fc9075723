//! Files as people write them: formats, compressions, bad rows, files that come, change and go.

use super::{BadRows, CsvOptions, FileFormat, FileOrder, FilesOptions, FilesSource};
use crate::source::{Poll, PollLimits, Source, SourceError, SourceReader, SourceStart};
use crate::testing::source_conformance;
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::parquet::arrow::ArrowWriter;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::HashMap;
use std::sync::Arc;

const ALL: PollLimits = PollLimits { rows_max: u64::MAX, bytes_max: u64::MAX };

#[tokio::test]
async fn every_format_and_compression_keeps_the_contract_of_sources() {
    let json = "{\"n\":1,\"s\":\"a\"}\n{\"n\":2}\n\n{\"n\":3,\"s\":\"c\"}";
    let csv = "n,s\n1,a\n2,\n3,\"c\nd\"\n";
    for (format, text) in [(FileFormat::Json, json), (FileFormat::Csv(CsvOptions::default()), csv)]
    {
        for compression in ["", ".gz", ".zst"] {
            let folder = Folder::new();
            let ending = format.endings()[0];
            for name in ["b", "a", "x/c"] {
                let path = format!("{name}.{ending}{compression}");
                folder.put(&path, &compressed(text.as_bytes(), compression).await).await;
            }
            let source: Arc<dyn Source> =
                Arc::new(folder.source(FilesOptions::new(format.clone())));
            source_conformance(&source).await.unwrap();
            assert_eq!(
                numbers(&source).await,
                [1, 2, 3, 1, 2, 3, 1, 2, 3],
                "{ending}{compression}"
            );
        }
    }
    let folder = Folder::new();
    folder.put("a.parquet", &parquet(0..100)).await;
    folder.put("b.parquet", &parquet(100..101)).await;
    folder.put("empty.parquet", &parquet(0..0)).await;
    let source: Arc<dyn Source> = Arc::new(folder.source(FilesOptions::new(FileFormat::Parquet)));
    source_conformance(&source).await.unwrap();
    assert_eq!(numbers(&source).await, (0..101).collect::<Vec<_>>());
}

#[tokio::test]
async fn files_that_come_later_are_read_once_and_the_watermark_waits_for_known_ones() {
    let folder = Folder::new();
    folder.put("b.json", b"{\"n\":1}\n{\"n\":2}\n").await;
    let source = folder.source(FilesOptions::new(FileFormat::Json));
    let mut reader = source.open(SourceStart::default()).await.unwrap();
    let one = PollLimits { rows_max: 1, bytes_max: u64::MAX };
    let first = reader.poll(one).await.unwrap();
    assert!(first.is_held && !first.is_at_end && first.entries.is_some());
    folder.put("a.json", b"{\"n\":3}").await;
    let second = reader.poll(ALL).await.unwrap();
    assert_eq!(read(&second), [2, 3]);
    assert_eq!(second.finished.len(), 2);
    let last = reader.poll(ALL).await.unwrap();
    assert!(last.is_at_end && !last.is_held && last.chunks.is_empty());
    assert_eq!(last.position, second.position);
    let entries: Vec<Bytes> = [first.entries, second.entries].into_iter().flatten().collect();
    let start = SourceStart { position: Some(last.position), entries };
    folder.put("c.json", b"{\"n\":4}\n").await;
    let mut again = source.open(start).await.unwrap();
    assert_eq!(read(&again.poll(ALL).await.unwrap()), [4]);
}

#[tokio::test]
async fn files_are_decoded_ahead_in_their_order_however_large_their_rows_are() {
    let folder = Folder::new();
    let large = "x".repeat(33 << 20); // more than may wait
    for (name, n) in [("a", 0), ("b", 100), ("c", 200), ("d", 300)] {
        let small = format!("{{\"n\":{n}}}\n").repeat(19_999);
        let text = format!("{small}{{\"n\":{},\"s\":\"{large}\"}}\n", n + 1);
        folder.put(&format!("{name}.json"), text.as_bytes()).await;
    }
    let source: Arc<dyn Source> = Arc::new(folder.source(FilesOptions::new(FileFormat::Json)));
    let numbers = numbers(&source).await;
    assert!(numbers.is_sorted() && numbers.len() == 80_000);
}

#[tokio::test]
async fn a_file_that_changes_or_goes_before_it_was_read_is_an_error_that_names_it() {
    let folder = Folder::new();
    folder.put("a.json", b"{\"n\":1}\n").await;
    folder.put("b.json", b"{\"n\":2}\n").await;
    let source = folder.source(FilesOptions::new(FileFormat::Json));
    let one = PollLimits { rows_max: 1, bytes_max: u64::MAX };
    let mut reader = source.open(SourceStart::default()).await.unwrap();
    reader.poll(one).await.unwrap();
    folder.put("b.json", b"{\"n\":22}\n").await;
    let error = reader.poll(ALL).await.unwrap_err().to_string();
    assert_eq!(error, "b.json was changed after it was read: files of a source must never change");
    let mut reader = source.open(SourceStart::default()).await.unwrap();
    reader.poll(one).await.unwrap();
    folder.delete("b.json").await;
    let error = reader.poll(ALL).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Changed { path, what: "was removed" } if path == "b.json")
    );
    let mut reader = source.open(SourceStart::default()).await.unwrap();
    reader.poll(ALL).await.unwrap();
    folder.put("a.json", b"{\"n\":1}\n{\"n\":9}\n").await;
    let error = reader.poll(ALL).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Changed { path, what: "was changed" } if path == "a.json")
    );
    folder.delete("a.json").await;
    assert!(reader.poll(ALL).await.unwrap().is_at_end, "a file read to its end may go");
}

#[tokio::test]
async fn bad_rows_are_named_by_file_line_and_reason_or_skipped_and_counted() {
    let json =
        "{\"n\":1}\n\nnot json\n{\"n\":\"x\"}\n{\"n\":4}\n{\"s\":\"no n\"}\n{\"n\":6}{\"n\":7}\n";
    let csv = "n,s\n1,a\nx,b\n4,\"q\nr\"\n5,e,extra\n,f\n6,g\n";
    for (format, text, lines, good) in [
        (FileFormat::Json, json, 3, vec![1, 4]),
        (FileFormat::Csv(CsvOptions::default()), csv, 3, vec![1, 4, 6]),
    ] {
        let folder = Folder::new();
        let name = format!("a.{}", format.endings()[0]);
        folder.put(&name, text.as_bytes()).await;
        let strict = folder.source(FilesOptions::new(format.clone()));
        let error = poll(&strict).await.unwrap_err();
        assert!(
            matches!(&error, SourceError::BadRow { line, partition, .. } if *line == lines && partition.0 == name),
            "{error}"
        );
        assert!(error.to_string().contains("set 'on_bad_row' to 'skip'"), "{error}");
        let options = FilesOptions { bad_rows: BadRows::Skip, ..FilesOptions::new(format) };
        let source = folder.source(options);
        let polled = poll(&source).await.unwrap();
        assert_eq!(read(&polled), good);
        let malformed: u64 = polled.chunks.iter().map(|chunk| chunk.malformed).sum();
        let offsets = polled.chunks.last().unwrap().offsets.end.0;
        assert_eq!(malformed + good.len() as u64, offsets);
        let source: Arc<dyn Source> = Arc::new(source);
        source_conformance(&source).await.unwrap();
    }
}

#[tokio::test]
async fn path_order_that_is_time_order_does_not_hold_the_watermark() {
    let folder = Folder::new();
    folder.put("a.json", b"{\"n\":1}\n").await;
    folder.put("b.json", b"{\"n\":2}\n").await;
    let options =
        FilesOptions { order: FileOrder::EventTime, ..FilesOptions::new(FileFormat::Json) };
    let source = folder.source(options);
    let mut reader = source.open(SourceStart::default()).await.unwrap();
    let one = PollLimits { rows_max: 1, bytes_max: u64::MAX };
    assert!(!reader.poll(one).await.unwrap().is_held);
}

#[tokio::test]
async fn reading_can_begin_at_an_arrival_time() {
    let folder = Folder::new();
    folder.put("a.json", b"{\"n\":1}\n").await;
    let source = folder.source(FilesOptions::new(FileFormat::Json));
    let all = source.position_at(0).await.unwrap();
    assert_eq!(read(&source.open(all).await.unwrap().poll(ALL).await.unwrap()), [1]);
    let later = source.position_at(i64::MAX).await.unwrap();
    folder.put("b.json", b"{\"n\":2}\n").await;
    assert_eq!(read(&source.open(later).await.unwrap().poll(ALL).await.unwrap()), [2]);
}

/// A folder in memory.
struct Folder {
    runtime: RuntimeEnv,
    store: Arc<dyn ObjectStore>,
}

impl Folder {
    fn new() -> Self {
        let runtime = RuntimeEnv::default();
        let none = HashMap::new();
        let location = crate::store::open_location("memory:///raw", &none, &runtime).unwrap();
        Self { runtime, store: location.store }
    }

    async fn put(&self, name: &str, bytes: &[u8]) {
        let path = Path::from(format!("raw/{name}"));
        self.store.put(&path, bytes.to_vec().into()).await.unwrap();
    }

    async fn delete(&self, name: &str) {
        self.store.delete(&Path::from(format!("raw/{name}"))).await.unwrap();
    }

    fn source(&self, options: FilesOptions) -> FilesSource {
        let none = HashMap::new();
        let found = FilesSource::find("memory:///raw/", options, &none, &self.runtime).unwrap();
        found.with_schema(schema())
    }
}

fn schema() -> SchemaRef {
    let fields =
        vec![Field::new("n", DataType::Int64, false), Field::new("s", DataType::Utf8, true)];
    Arc::new(Schema::new(fields))
}

async fn poll(source: &FilesSource) -> Result<Poll, SourceError> {
    let mut reader: Box<dyn SourceReader> = source.open(SourceStart::default()).await?;
    reader.poll(ALL).await
}

async fn numbers(source: &Arc<dyn Source>) -> Vec<i64> {
    let mut reader = source.open(SourceStart::default()).await.unwrap();
    read(&reader.poll(ALL).await.unwrap())
}

fn read(poll: &Poll) -> Vec<i64> {
    let chunks = poll.chunks.iter();
    chunks
        .flat_map(|chunk| chunk.batch.column(0).as_primitive::<Int64Type>().values().to_vec())
        .collect()
}

async fn compressed(bytes: &[u8], ending: &str) -> Vec<u8> {
    let kind = match ending {
        ".gz" => FileCompressionType::GZIP,
        ".zst" => FileCompressionType::ZSTD,
        _ => return bytes.to_vec(),
    };
    let once = futures::stream::once(std::future::ready(Ok(Bytes::from(bytes.to_vec()))));
    let mut stream = kind.convert_to_compress_stream(once.boxed()).unwrap();
    let mut all = Vec::new();
    while let Some(part) = stream.next().await {
        all.extend_from_slice(&part.unwrap());
    }
    all
}

fn parquet(range: std::ops::Range<i64>) -> Vec<u8> {
    let numbers: Int64Array = range.clone().collect();
    let texts: StringArray = range.map(|n| Some(format!("{n}"))).collect();
    let batch = RecordBatch::try_new(schema(), vec![Arc::new(numbers), Arc::new(texts)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}
