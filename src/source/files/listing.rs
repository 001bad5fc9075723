//! Which files belong to a source.

use super::FileFormat;
use super::entries::Entry;
use crate::source::SourceError;
use crate::store::{Location, open_location};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use std::collections::HashMap;

/// A folder, and which of the files in it are meant.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    pub(super) folder: Location,
    chosen: Chosen,
}

#[derive(Clone, Debug)]
enum Chosen {
    /// Files with these endings, perhaps followed by that of a compression.
    Endings(&'static [&'static str]),
    /// One file or a pattern, relative to the folder.
    Pattern(String),
}

const COMPRESSIONS: [&str; 4] = ["gz", "gzip", "zst", "zstd"];

impl Listing {
    /// Reads the text of LOCATION: a folder, a file, or a pattern with `*`, `?` or `**`.
    pub(super) fn open(
        location: &str,
        format: &FileFormat,
        options: &HashMap<String, String>,
        runtime: &RuntimeEnv,
    ) -> Result<Self, SourceError> {
        let wrong =
            |reason: String| SourceError::Invalid { source_name: location.to_owned(), reason };
        let name = location.rsplit('/').next().unwrap_or_default();
        let first_wild = location.split('/').position(|part| part.contains(['*', '?']));
        let (folder, chosen) = if let Some(first) = first_wild {
            let parts: Vec<&str> = location.split('/').collect();
            (parts[..first].join("/"), Chosen::Pattern(parts[first..].join("/")))
        } else if name.contains('.') && name != "." && name != ".." && !is_folder(location) {
            let folder = location.strip_suffix(name).unwrap_or_default();
            (folder.to_owned(), Chosen::Pattern(name.to_owned()))
        } else {
            (location.to_owned(), Chosen::Endings(format.endings()))
        };
        let folder = match folder.as_str() {
            "" if location.starts_with('/') => "/",
            "" => ".",
            folder => folder,
        };
        let folder =
            open_location(folder, options, runtime).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { folder, chosen })
    }

    /// The files there are now, in path order.
    pub(super) async fn list(&self) -> Result<Vec<Entry>, SourceError> {
        let prefix = &self.folder.prefix;
        let prefix = (!prefix.as_ref().is_empty()).then_some(prefix);
        let listed = self.folder.store.list(prefix).try_collect::<Vec<ObjectMeta>>();
        let listed = match listed.await {
            Ok(listed) => listed,
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            Err(error) => {
                return Err(SourceError::Unavailable {
                    source_name: self.folder.url.to_string(),
                    cause: Box::new(error),
                });
            }
        };
        let mut files: Vec<Entry> =
            listed.into_iter().filter_map(|meta| self.entry(&meta)).collect();
        files.sort_by(|one, two| one.path.cmp(&two.path));
        Ok(files)
    }

    /// The file as the store describes it, if it belongs to the source.
    pub(super) fn entry(&self, meta: &ObjectMeta) -> Option<Entry> {
        let below = meta.location.prefix_match(&self.folder.prefix)?;
        let path = below.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
        self.belongs(&path).then(|| Entry {
            generation: 0,
            path,
            size_bytes: meta.size,
            modified_us: meta.last_modified.timestamp_micros(),
            tag: meta.e_tag.clone().unwrap_or_default(),
        })
    }

    pub(super) fn path(&self, entry: &Entry) -> Path {
        self.folder.path(&entry.path)
    }

    fn belongs(&self, path: &str) -> bool {
        match &self.chosen {
            Chosen::Pattern(pattern) => matches(pattern, path),
            Chosen::Endings(endings) => {
                if path.split('/').any(|part| part.starts_with(['_', '.'])) {
                    return false;
                }
                let plain = path
                    .rsplit_once('.')
                    .filter(|(_, ending)| COMPRESSIONS.contains(ending))
                    .map_or(path, |(plain, _)| plain);
                plain.rsplit_once('.').is_some_and(|(_, ending)| {
                    endings.iter().any(|known| ending.eq_ignore_ascii_case(known))
                })
            }
        }
    }
}

fn is_folder(location: &str) -> bool {
    !location.contains("://") && std::path::Path::new(location).is_dir()
}

/// `*` and `?` stay within one part of a path; `**` stands for any number of parts.
fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    matches_parts(&pattern, &path)
}

fn matches_parts(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            (0..=path.len()).any(|skipped| matches_parts(rest, &path[skipped..]))
        }
        (Some((wanted, wanted_rest)), Some((part, path_rest))) => {
            let (wanted, part): (Vec<char>, Vec<char>) =
                (wanted.chars().collect(), part.chars().collect());
            matches_part(&wanted, &part) && matches_parts(wanted_rest, path_rest)
        }
        _ => false,
    }
}

fn matches_part(wanted: &[char], part: &[char]) -> bool {
    match (wanted.split_first(), part.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) => {
            (0..=part.len()).any(|skipped| matches_part(rest, &part[skipped..]))
        }
        (Some((one, wanted)), Some((other, part))) => {
            (one == other || *one == '?') && matches_part(wanted, part)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        for (pattern, path, expected) in [
            ("*.json", "a.json", true),
            ("*.json", "x/a.json", false),
            ("**/*.json", "a.json", true),
            ("**/*.json", "x/y/a.json", true),
            ("2024-??/*.csv", "2024-05/a.csv", true),
            ("2024-??/*.csv", "2024-5/a.csv", false),
            ("a.json", "a.json", true),
            ("a*b*c", "a-bb-c", true),
            ("a*b*c", "a-bb-d", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_folder_means_the_files_of_the_format_that_are_not_hidden() {
        let runtime = RuntimeEnv::default();
        let listing =
            Listing::open("memory:///raw", &FileFormat::Json, &HashMap::new(), &runtime).unwrap();
        for name in ["a.json", "x/b.NDJSON", "c.json.gz", "d.jsonl.zst"] {
            assert!(listing.belongs(name), "{name}");
        }
        for name in ["a.csv", "_tmp/a.json", ".a.json", "x/_a.json", "json", "a.gz"] {
            assert!(!listing.belongs(name), "{name}");
        }
    }
}
