//! Deletion vectors: which rows of a file are gone.
//!
//! ```text
//!   file        version 1 u8, then per vector:  size u32 BE | magic u32 LE, bitmap | crc32 u32 BE
//!   descriptor  'u', z85 of the file's UUID, offset of `size`, size of magic and bitmap, count
//! ```
//!
//! # Sources
//!
//! The Delta transaction log protocol, "Deletion Vectors".

use super::DeltaError;
use super::actions::Descriptor;
use crate::store::Location;
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use roaring::RoaringTreemap;
use uuid::Uuid;

const MAGIC: u32 = 1_681_511_377;

/// Encodes vectors into one file; returns its name, its bytes and a descriptor of each.
pub(super) fn encode(
    id: Uuid,
    vectors: &[&RoaringTreemap],
) -> Result<(String, Bytes, Vec<Descriptor>), DeltaError> {
    let mut bytes = vec![1_u8];
    let mut descriptors = Vec::with_capacity(vectors.len());
    for rows in vectors {
        let offset = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        rows.serialize_into(&mut bytes).map_err(|error| DeltaError::Damaged {
            reason: format!("a deletion vector cannot be written: {error}"),
        })?;
        let body = offset + 4;
        let size = bytes.len() - body;
        bytes[offset..body].copy_from_slice(&(size as u32).to_be_bytes());
        let crc = crc32fast::hash(&bytes[body..]);
        bytes.extend_from_slice(&crc.to_be_bytes());
        descriptors.push(Descriptor {
            storage_type: "u".to_owned(),
            path_or_inline_dv: z85_encode(id.as_bytes()),
            offset: Some(offset as i32),
            size_in_bytes: size as i32,
            cardinality: rows.len() as i64,
        });
    }
    Ok((file_name("", id), bytes.into(), descriptors))
}

/// The file that holds a vector, relative to the table's root; `None` if it is in the log itself.
pub(super) fn file_of(descriptor: &Descriptor) -> Option<String> {
    if descriptor.storage_type != "u" {
        return None;
    }
    let text = &descriptor.path_or_inline_dv;
    let split = text.len().checked_sub(20)?;
    let id = Uuid::from_slice(&z85_decode(&text[split..])?).ok()?;
    Some(file_name(&text[..split], id))
}

/// Reads the vector that `descriptor` names.
pub(super) async fn read(
    location: &Location,
    descriptor: &Descriptor,
) -> Result<RoaringTreemap, DeltaError> {
    let text = &descriptor.path_or_inline_dv;
    let damaged =
        |what: &str| DeltaError::Damaged { reason: format!("deletion vector {text}: {what}") };
    let size = usize::try_from(descriptor.size_in_bytes).map_err(|_| damaged("negative size"))?;
    let body: Bytes = match descriptor.storage_type.as_str() {
        "i" => {
            let mut bytes = z85_decode(text).ok_or_else(|| damaged("its text is not z85"))?;
            bytes.truncate(size);
            bytes.into()
        }
        "u" => {
            let split =
                text.len().checked_sub(20).ok_or_else(|| damaged("its name is too short"))?;
            let id = z85_decode(&text[split..]).and_then(|id| Uuid::from_slice(&id).ok());
            let id = id.ok_or_else(|| damaged("its name is no UUID"))?;
            let path = location.path(&file_name(&text[..split], id));
            let offset = u64::try_from(descriptor.offset.unwrap_or_default())
                .map_err(|_| damaged("negative offset"))?;
            let bytes = read_range(location, &path, offset, size as u64).await?;
            let (found, body) = bytes.split_at(4);
            if found != (size as u32).to_be_bytes() {
                return Err(damaged("its size is another than the log says"));
            }
            if crc32fast::hash(&body[..size]).to_be_bytes() != body[size..size + 4] {
                return Err(damaged("its checksum is wrong"));
            }
            bytes.slice(4..4 + size)
        }
        other => return Err(damaged(&format!("storage type {other} is not supported"))),
    };
    if body.len() < 4 || body[..4] != MAGIC.to_le_bytes() {
        return Err(damaged("its magic number is wrong"));
    }
    let rows = RoaringTreemap::deserialize_from(&body[4..])
        .map_err(|error| damaged(&format!("its bitmap cannot be read: {error}")))?;
    if rows.len() != descriptor.cardinality.unsigned_abs() {
        return Err(damaged("its cardinality is another than the log says"));
    }
    Ok(rows)
}

async fn read_range(
    location: &Location,
    path: &Path,
    offset: u64,
    size: u64,
) -> Result<Bytes, DeltaError> {
    Ok(location.store.get_range(path, offset..offset + size + 8).await?)
}

fn file_name(prefix: &str, id: Uuid) -> String {
    let folder = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    format!("{folder}deletion_vector_{id}.bin")
}

const Z85: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/// Encodes a multiple of four bytes.
fn z85_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 5 / 4);
    for chunk in bytes.chunks_exact(4) {
        let value = u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        for power in (0..5).rev() {
            let digit = value / 85_u32.pow(power) % 85;
            text.push(char::from(Z85[digit as usize]));
        }
    }
    text
}

fn z85_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 4 / 5);
    let chunks = text.as_bytes().chunks_exact(5);
    if !chunks.remainder().is_empty() {
        return None;
    }
    for chunk in chunks {
        let mut value: u32 = 0;
        for digit in chunk {
            let digit = Z85.iter().position(|known| known == digit)? as u32;
            value = value.checked_mul(85)?.checked_add(digit)?;
        }
        bytes.extend_from_slice(&value.to_be_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[test]
    fn z85_is_the_one_of_its_specification() {
        let bytes = [0x86, 0x4F, 0xD2, 0x6F, 0xB5, 0x59, 0xF7, 0x5B];
        assert_eq!(z85_encode(&bytes), "HelloWorld");
        assert_eq!(z85_decode("HelloWorld").unwrap(), bytes);
        assert_eq!(z85_decode("Hello"), Some(bytes[..4].to_vec()));
        assert_eq!(z85_decode("Hell"), None);
        assert_eq!(z85_decode("#####"), None, "more than 32 bits");
    }

    #[tokio::test]
    async fn what_was_written_is_read_and_damage_is_noticed() {
        let location = Location::from_store("memory:///t", Arc::new(InMemory::new())).unwrap();
        let one: RoaringTreemap = [1, 5, 1 << 33].into_iter().collect();
        let two: RoaringTreemap = (0..10_000).collect();
        let (name, bytes, descriptors) = encode(Uuid::new_v4(), &[&one, &two]).unwrap();
        let path = location.path(&name);
        location.store.put(&path, bytes.clone().into()).await.unwrap();
        assert_eq!(read(&location, &descriptors[0]).await.unwrap(), one);
        assert_eq!(read(&location, &descriptors[1]).await.unwrap(), two);
        let mut damaged = bytes.to_vec();
        damaged[30] ^= 1;
        location.store.put(&path, damaged.into()).await.unwrap();
        let error = read(&location, &descriptors[0]).await.unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
    }
}
