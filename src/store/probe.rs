//! The probe that keeps tables off stores that ignore put-if-absent.

use super::{Location, StoreError};
use crate::types::Entropy;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

/// Creates one small object twice below `_onefold/`, and refuses the store unless the second time
/// is refused. The object is deleted again; one that stays after a crash is named by nothing.
pub async fn probe_put_if_absent(
    location: &Location,
    entropy: &dyn Entropy,
) -> Result<(), StoreError> {
    let path = location.path(&format!("_onefold/probe-{}", entropy.name()));
    let store = &location.store_once;
    let failed = |source| StoreError::Failed { location: location.url.to_string(), source };
    store.put_opts(&path, "1".into(), PutMode::Create.into()).await.map_err(failed)?;
    let second = store.put_opts(&path, "2".into(), PutMode::Create.into()).await;
    let deleted = store.delete(&path).await;
    match second {
        Ok(_) => Err(StoreError::NoPutIfAbsent { location: location.url.to_string() }),
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => deleted.map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SystemEntropy;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test]
    async fn an_honest_store_passes_and_is_left_empty() {
        let location = Location::from_store("memory:///t", Arc::new(InMemory::new())).unwrap();
        probe_put_if_absent(&location, &SystemEntropy).await.unwrap();
        let left = location.store.list_with_delimiter(None).await.unwrap();
        assert!(left.objects.is_empty() && left.common_prefixes.is_empty());
    }
}
