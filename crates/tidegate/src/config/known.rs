//! What is known of the models of a configuration besides it: what a running autoscaler has learned, and the peaks
//! that somebody expects.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};
use autoscaler::state::{Digest, Learned};
use fleet::kubernetes::state::Memory;
use serde::Deserialize;
use serde_json::value::RawValue;

/// What is known, by model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(super) learned: BTreeMap<String, Learned>,
    /// Requests per second, or rows where calls are merged.
    pub(super) peaks: BTreeMap<String, f64>,
}

/// Which of the forms a file of what was learned has.
#[derive(Deserialize)]
struct Form<'a> {
    kind: Option<String>,
    #[serde(borrow)]
    models: Option<BTreeMap<String, &'a RawValue>>,
}

impl Known {
    /// What `/api/learned` answers, or the ConfigMap of a leader as JSON.
    ///
    /// # Errors
    /// It is neither, or of another version.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let form: Form<'_> = serde_json::from_str(text).context("it is not JSON of the right form")?;
        let digests: BTreeMap<String, String> = match (form.kind.as_deref(), form.models) {
            (Some("ConfigMap"), _) => Memory::from_json(text)?.models,
            (None, Some(models)) => {
                models.into_iter().map(|(model, digest)| (model, digest.get().to_owned())).collect()
            }
            _ => bail!(
                "it is neither what /api/learned of an admin port answers nor, as JSON, the ConfigMap in which a \
                 leader keeps what it learned"
            ),
        };
        let learned = digests.into_iter().map(|(model, json)| {
            let digest =
                Digest::from_json(&json).with_context(|| format!("what it says of model {model}"))?;
            Ok((model, digest.learned()))
        });
        Ok(Self { learned: learned.collect::<anyhow::Result<_>>()?, peaks: BTreeMap::new() })
    }

    /// Takes it that a model is going to have this peak, whatever was recorded.
    pub(crate) fn expect(&mut self, model: String, peak: f64) {
        self.peaks.insert(model, peak);
    }

    /// How long a start of the model takes, if that was measured.
    pub(super) fn start_of(&self, model: &str) -> Option<Duration> {
        Some(self.learned.get(model)?.cold_start?.0)
    }

    /// Names that are given peaks.
    pub(crate) fn expected(&self) -> impl Iterator<Item = &str> {
        self.peaks.keys().map(String::as_str)
    }
}
