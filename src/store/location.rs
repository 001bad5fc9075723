//! A folder on some store, opened by the text of a LOCATION clause.

use super::{DurableLocal, StoreError};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, RetryConfig};
use std::collections::HashMap;
use std::sync::Arc;
use url::Url;

/// A folder on some store.
#[derive(Clone, Debug)]
pub struct Location {
    /// The folder; ends in `/`.
    pub url: Url,
    /// The store's name in a DataFusion session.
    pub object_store_url: ObjectStoreUrl,
    /// The folder's path inside the store.
    pub prefix: Path,
    /// The store, addressed from its root; the client retries, and what it wrote is durable.
    pub store: Arc<dyn ObjectStore>,
    /// The same store without client retries, for the one PUT whose answer may be lost.
    pub store_once: Arc<dyn ObjectStore>,
}

impl Location {
    /// A folder on a store made elsewhere, used for both handles: it must not retry by itself.
    pub fn from_store(url: &str, store: Arc<dyn ObjectStore>) -> Result<Self, StoreError> {
        let url = parse(url)?;
        let object_store_url = object_store_url(&url)?;
        let prefix = path_of(&url)?;
        Ok(Self { url, object_store_url, prefix, store_once: Arc::clone(&store), store })
    }

    /// The path inside the store of `relative`, a path below the folder.
    #[must_use]
    pub fn path(&self, relative: &str) -> Path {
        self.below(&Path::from(relative))
    }

    /// The path inside the store of `relative`, which is taken as it is: nothing is escaped.
    #[must_use]
    pub fn below(&self, relative: &Path) -> Path {
        self.prefix.parts().chain(relative.parts()).collect()
    }

    /// The store with the folder as its root.
    #[must_use]
    pub fn rooted(&self) -> Arc<dyn ObjectStore> {
        Arc::new(PrefixStore::new(Arc::clone(&self.store), self.prefix.clone()))
    }
}

/// Opens the folder `location`: a path, or a URL with one of the schemes `file`, `memory`, `s3`,
/// `gs`, `az`, `abfss` and their like.
///
/// A store that was registered in `runtime` under the URL is used as it is. Otherwise one is built
/// from `options`, named as deltalake and datafusion-cli name them, over the environment, and
/// registered. Local files are always fsynced.
pub fn open_location(
    location: &str,
    options: &HashMap<String, String>,
    runtime: &RuntimeEnv,
) -> Result<Location, StoreError> {
    let url = parse(location)?;
    let name = object_store_url(&url)?;
    let prefix = path_of(&url)?;
    let (store, store_once): (Arc<dyn ObjectStore>, Arc<dyn ObjectStore>) =
        if url.scheme() == "file" {
            let local: Arc<dyn ObjectStore> = Arc::new(DurableLocal::new());
            (Arc::clone(&local), local)
        } else if let Ok(known) = runtime.object_store(&name) {
            let once = build(&url, options, false).unwrap_or_else(|_| Arc::clone(&known));
            (known, once)
        } else if url.scheme() == "memory" {
            let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            runtime.register_object_store(name.as_ref(), Arc::clone(&memory));
            (Arc::clone(&memory), memory)
        } else {
            let store = build(&url, options, true)?;
            runtime.register_object_store(name.as_ref(), Arc::clone(&store));
            (store, build(&url, options, false)?)
        };
    Ok(Location { url, object_store_url: name, prefix, store, store_once })
}

/// Whether `key` configures the store behind `location`, and not the table on it.
#[must_use]
pub fn is_store_option(location: &str, key: &str) -> bool {
    let key = store_key(key);
    match parse(location).as_ref().map(Url::scheme) {
        Ok("s3" | "s3a") => key.parse::<AmazonS3ConfigKey>().is_ok(),
        Ok("gs") => key.parse::<GoogleConfigKey>().is_ok(),
        Ok("az" | "azure" | "adl" | "abfs" | "abfss") => key.parse::<AzureConfigKey>().is_ok(),
        _ => false,
    }
}

fn build(
    url: &Url,
    options: &HashMap<String, String>,
    retries: bool,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let retry = if retries {
        RetryConfig::default()
    } else {
        RetryConfig { max_retries: 0, ..RetryConfig::default() }
    };
    let opened = match url.scheme() {
        "s3" | "s3a" => {
            let mut builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry);
            for (key, value) in keys::<AmazonS3ConfigKey>(options) {
                builder = builder.with_config(key, value);
            }
            builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
        }
        "gs" => {
            let mut builder =
                GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            for (key, value) in keys::<GoogleConfigKey>(options) {
                builder = builder.with_config(key, value);
            }
            builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
        }
        "az" | "azure" | "adl" | "abfs" | "abfss" => {
            let mut builder =
                MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            for (key, value) in keys::<AzureConfigKey>(options) {
                builder = builder.with_config(key, value);
            }
            builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
        }
        scheme => {
            return Err(StoreError::Scheme {
                location: url.to_string(),
                scheme: scheme.to_owned(),
            });
        }
    };
    opened.map_err(|source| StoreError::Open { location: url.to_string(), source })
}

fn keys<K: std::str::FromStr>(
    options: &HashMap<String, String>,
) -> impl Iterator<Item = (K, String)> {
    options.iter().filter_map(|(key, value)| Some((store_key(key).parse().ok()?, value.clone())))
}

/// `format.aws.access_key_id`, `aws.access_key_id` and `AWS_ACCESS_KEY_ID` are one option.
fn store_key(key: &str) -> String {
    let key = key.to_ascii_lowercase();
    let key = key.strip_prefix("format.").unwrap_or(&key);
    match key.strip_prefix("gcp.") {
        Some(rest) => format!("google_{rest}"),
        None => key.replace('.', "_"),
    }
}

fn parse(location: &str) -> Result<Url, StoreError> {
    let wrong = |reason: String| StoreError::Location { location: location.to_owned(), reason };
    if !location.contains("://") {
        if location.is_empty() {
            return Err(wrong("it is empty".to_owned()));
        }
        let path = std::path::absolute(location).map_err(|error| wrong(error.to_string()))?;
        return Url::from_directory_path(path).map_err(|()| wrong("it is not a path".to_owned()));
    }
    let mut url = Url::parse(location).map_err(|error| wrong(error.to_string()))?;
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

fn object_store_url(url: &Url) -> Result<ObjectStoreUrl, StoreError> {
    ObjectStoreUrl::parse(&url[..url::Position::BeforePath]).map_err(|error| StoreError::Location {
        location: url.to_string(),
        reason: error.to_string(),
    })
}

fn path_of(url: &Url) -> Result<Path, StoreError> {
    Path::from_url_path(url.path()).map_err(|error| StoreError::Location {
        location: url.to_string(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;

    #[test]
    fn a_path_is_made_absolute_and_a_url_gets_its_slash() {
        let runtime = RuntimeEnv::default();
        let local = open_location("some/table", &HashMap::new(), &runtime).unwrap();
        assert_eq!(local.url.scheme(), "file");
        assert!(local.url.path().ends_with("/some/table/"));
        assert_eq!(local.object_store_url.as_str(), "file:///");
        let memory = open_location("memory:///t", &HashMap::new(), &runtime).unwrap();
        assert_eq!(memory.path("x/y").as_ref(), "t/x/y");
    }

    #[tokio::test]
    async fn two_openings_of_one_memory_url_share_their_files() {
        let runtime = RuntimeEnv::default();
        let open = || open_location("memory:///t", &HashMap::new(), &runtime).unwrap();
        open().rooted().put(&Path::from("a"), "1".into()).await.unwrap();
        assert!(open().store.head(&Path::from("t/a")).await.is_ok());
    }

    #[test]
    fn options_are_known_by_every_name_people_use() {
        for key in ["aws.access_key_id", "AWS_ACCESS_KEY_ID", "format.aws_endpoint", "allow_http"] {
            assert!(is_store_option("s3://bucket/t", key), "{key}");
        }
        assert!(!is_store_option("s3://bucket/t", "primary_key"));
        assert!(!is_store_option("/local/t", "aws_region"));
    }

    #[test]
    fn an_unknown_scheme_is_refused_by_name() {
        let error = open_location("ftp://host/t", &HashMap::new(), &RuntimeEnv::default());
        assert!(error.unwrap_err().to_string().contains("\"ftp\""));
    }
}
