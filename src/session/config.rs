//! `SET onefold.<name> = <value>`: the settings as options of DataFusion.

use crate::delta::DeltaSettings;
use crate::types::{PipelineId, Settings, UsedToken};
use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// [`Settings`] inside a session's options.
#[derive(Clone, Debug, Default)]
pub(super) struct OnefoldOptions {
    pub(super) settings: Settings,
    /// What became of its token.
    pub(super) used: Arc<UsedToken>,
}

/// Name, least value, and what it does.
type Number = (&'static str, u64, &'static str);

const TOKEN_BYTES_MAX: usize = 256;

/// The settings that are no numbers.
const OTHERS: [&str; 4] = ["exact_float_sums", "pipeline", "warehouse", "idempotency_token"];

const NUMBERS: [Number; 11] = [
    ("epoch_rows_max", 1, "Most rows one epoch reads from all sources together"),
    ("epoch_bytes_max", 1, "Most bytes of decoded rows one epoch reads"),
    ("epoch_time_max_ms", 0, "Longest time in milliseconds an epoch collects rows"),
    ("poll_interval_ms", 1, "Wait in milliseconds before an idle source is asked again"),
    (
        "state_bytes_max",
        1 << 20,
        "Most bytes of memory that one operator of a pipeline may remember",
    ),
    ("window_lateness_ms", 0, "Milliseconds of event time that a window waits after its end"),
    ("compact_rows_min", 0, "Rows below which a data file is small; 0 never compacts"),
    ("compact_files_min", 2, "Small or worn files that make a compaction worth its while"),
    ("checkpoint_interval", 1, "Commits between two Delta checkpoints"),
    ("index_bytes_max", 1 << 20, "Most bytes of memory the key index of one table may take"),
    ("retention_hours", 0, "Hours for which old versions can be read: 24 or more, or 0 for ever"),
];

impl OnefoldOptions {
    pub(super) fn delta(&self) -> DeltaSettings {
        DeltaSettings {
            checkpoint_interval: self.settings.checkpoint_interval,
            compact_rows_min: self.settings.compact_rows_min,
            compact_files_min: self.settings.compact_files_min,
            index_bytes_max: usize::try_from(self.settings.index_bytes_max).unwrap_or(usize::MAX),
            retention: Duration::from_hours(self.settings.retention_hours),
            ..DeltaSettings::default()
        }
    }

    /// Sets one of [`OTHERS`].
    fn set_other(&mut self, key: &str, value: &str) -> Result<()> {
        let refuse = |reason: String| Err(DataFusionError::Configuration(reason));
        let text = match key {
            "exact_float_sums" => {
                let Ok(is_on) = value.to_ascii_lowercase().parse() else {
                    return refuse(format!("onefold.{key} is true or false, not '{value}'"));
                };
                self.settings.exact_float_sums = is_on;
                return Ok(());
            }
            "pipeline" => {
                if !value.is_empty()
                    && let Err(error) = PipelineId::try_new(value)
                {
                    return refuse(error.to_string());
                }
                &mut self.settings.pipeline
            }
            "idempotency_token" => {
                if value.len() > TOKEN_BYTES_MAX {
                    return refuse(format!("onefold.{key} has at most {TOKEN_BYTES_MAX} bytes"));
                }
                self.used.renew(value);
                &mut self.settings.idempotency_token
            }
            _ => &mut self.settings.warehouse,
        };
        value.clone_into(text);
        Ok(())
    }

    /// Gives a setting its default.
    pub(super) fn reset(&mut self, name: &str) -> Result<()> {
        let key = format!("{}.{name}", Self::PREFIX);
        let mut defaults = Self::default().entries().into_iter();
        let default = defaults.find(|entry| entry.key == key).and_then(|entry| entry.value);
        self.set(name, &default.unwrap_or_default())
    }

    fn number(&mut self, name: &str) -> Option<&mut u64> {
        let settings = &mut self.settings;
        Some(match name {
            "epoch_rows_max" => &mut settings.epoch_rows_max,
            "epoch_bytes_max" => &mut settings.epoch_bytes_max,
            "epoch_time_max_ms" => &mut settings.epoch_time_max_ms,
            "poll_interval_ms" => &mut settings.poll_interval_ms,
            "state_bytes_max" => &mut settings.state_bytes_max,
            "window_lateness_ms" => &mut settings.window_lateness_ms,
            "compact_rows_min" => &mut settings.compact_rows_min,
            "compact_files_min" => &mut settings.compact_files_min,
            "checkpoint_interval" => &mut settings.checkpoint_interval,
            "index_bytes_max" => &mut settings.index_bytes_max,
            "retention_hours" => &mut settings.retention_hours,
            _ => return None,
        })
    }
}

impl ConfigExtension for OnefoldOptions {
    const PREFIX: &'static str = "onefold";
}

impl ExtensionOptions for OnefoldOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let refuse = |reason: String| Err(DataFusionError::Configuration(reason));
        if OTHERS.contains(&key) {
            return self.set_other(key, value);
        }
        let Some((_, least, _)) = NUMBERS.iter().find(|(name, ..)| *name == key) else {
            let names: Vec<&str> = NUMBERS.iter().map(|(name, ..)| *name).collect();
            return refuse(format!(
                "no setting onefold.{key}; there are {}, {}",
                names.join(", "),
                OTHERS.join(", ")
            ));
        };
        let Ok(number) = value.replace('_', "").parse::<u64>() else {
            return refuse(format!("onefold.{key} is a whole number, not '{value}'"));
        };
        if key == "retention_hours" && (1..24).contains(&number) {
            return refuse(format!("onefold.{key} is at least 24, or 0, not {number}"));
        }
        if number < *least {
            return refuse(format!("onefold.{key} is at least {least}, not {number}"));
        }
        if let Some(setting) = self.number(key) {
            *setting = number;
        }
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let mut own = self.clone();
        let mut entries: Vec<ConfigEntry> = NUMBERS
            .iter()
            .map(|(name, _, description)| ConfigEntry {
                key: format!("onefold.{name}"),
                value: own.number(name).map(|number| number.to_string()),
                description,
            })
            .collect();
        entries.push(ConfigEntry {
            key: "onefold.exact_float_sums".to_owned(),
            value: Some(self.settings.exact_float_sums.to_string()),
            description: "Whether float sums of a GROUP BY do not depend on the order of rows",
        });
        entries.push(ConfigEntry {
            key: "onefold.pipeline".to_owned(),
            value: Some(self.settings.pipeline.clone()),
            description: "Name of the next pipeline; empty is the unnamed one of its table",
        });
        entries.push(ConfigEntry {
            key: "onefold.warehouse".to_owned(),
            value: Some(self.settings.warehouse.clone()),
            description: "Where materialized views without LOCATION keep their rows",
        });
        let token = &self.settings.idempotency_token;
        entries.push(ConfigEntry {
            key: "onefold.idempotency_token".to_owned(),
            value: Some(if self.used.is(token) { String::new() } else { token.clone() }),
            description: "Token of the next batch write; a token seen before makes it do nothing",
        });
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_can_be_set_within_its_limits_and_is_listed() {
        let mut options = OnefoldOptions::default();
        for (name, least, _) in NUMBERS {
            options.set(name, &(least + 70).to_string()).unwrap();
            assert_eq!(options.number(name).copied(), Some(least + 70), "{name}");
            if least > 0 {
                let error = options.set(name, &(least - 1).to_string()).unwrap_err();
                assert!(error.to_string().contains(name), "{error}");
            }
        }
        assert!(options.set("retention_hours", "23").is_err());
        options.set("retention_hours", "0").unwrap();
        options.set("exact_float_sums", "TRUE").unwrap();
        assert!(options.settings.exact_float_sums);
        assert!(options.set("exact_float_sums", "1").is_err());
        options.set("pipeline", "mine").unwrap();
        assert!(options.set("pipeline", "a/b").is_err());
        options.set("warehouse", "memory:///lake").unwrap();
        assert!(options.set("epoch_rows", "1").is_err());
        for name in ["retention_hours", "pipeline", "exact_float_sums"] {
            options.reset(name).unwrap();
        }
        assert_eq!(options.settings.retention_hours, Settings::default().retention_hours);
        assert!(options.settings.pipeline.is_empty() && !options.settings.exact_float_sums);
        assert!(options.reset("epoch_rows").unwrap_err().to_string().contains("there are"));
        assert!(options.set("epoch_rows_max", "many").is_err());
        assert_eq!(options.entries().len(), NUMBERS.len() + OTHERS.len());
    }
}
