//! Skeleton of the dedup memory.
use super::{EncodedState, EpochChanges, OperatorMemory, StateError};
use crate::types::{DedupOptions, StateFile, Watermark};
use bytes::Bytes;
use datafusion::execution::memory_pool::MemoryPool;
use std::sync::Arc;

/// The dedup memory.
#[derive(Debug)]
pub struct DedupMemory {}

impl DedupMemory {
    /// New; `bytes_max` is the state budget, `label` the operator's name in messages.
    pub fn new(
        _label: &str,
        _options: DedupOptions,
        _bytes_max: u64,
        _pool: &Arc<dyn MemoryPool>,
    ) -> Self {
        unimplemented!()
    }
}

impl OperatorMemory for DedupMemory {
    fn fingerprint(&self) -> String {
        unimplemented!()
    }
    fn restore(&self, _hash_key: [u8; 16], _files: &[Bytes]) -> Result<(), StateError> {
        unimplemented!()
    }
    fn begin_epoch(&self) {
        unimplemented!()
    }
    fn finish_epoch(&self, _watermark: Option<Watermark>) -> Result<EpochChanges, StateError> {
        unimplemented!()
    }
    fn is_expired(&self, _file: &StateFile, _watermark: Watermark) -> bool {
        unimplemented!()
    }
    fn merge(
        &self,
        _files: &[Bytes],
        _watermark: Option<Watermark>,
    ) -> Result<EncodedState, StateError> {
        unimplemented!()
    }
    fn state_bytes(&self) -> u64 {
        unimplemented!()
    }
    fn keys_held(&self) -> u64 {
        unimplemented!()
    }
}
