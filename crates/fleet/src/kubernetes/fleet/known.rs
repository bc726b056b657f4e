//! What is known of one object's number, from reads and from our own writes.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::meta::Meta;
use crate::kubernetes::{cluster::ApiError, pods::Pod, scale::Scale, target::Resource, watch::Version};

/// How long a write that was not allowed is a trouble. Then it may have been allowed, and nobody would have tried.
const REFUSED_FOR: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) resource: Option<Resource>,
    pub(super) scale: Option<Scale>,
    pub(super) pods: Arc<[Arc<Pod>]>,
    /// Who set the number, if that was not us.
    pub(super) foreign: Option<Arc<str>>,
    /// The object as our last write left it.
    written: Option<Version>,
    refused: Option<(Instant, ApiError)>,
}

impl Known {
    /// Takes over what was read, unless it is older than what is known.
    pub(super) fn accept(&mut self, scale: Scale) {
        let older = self.scale.as_ref().is_some_and(|known| {
            known.uid == scale.uid
                && known.version != scale.version
                && !scale.version.is_newer_than(&known.version)
        });
        if !older {
            self.scale = Some(scale);
        }
    }

    /// The object is not there any more, or another one has its name.
    pub(super) fn forget(&mut self) {
        self.scale = None;
        self.foreign = None;
        self.written = None;
    }

    pub(super) fn wrote(&mut self, scale: Scale) {
        self.written = Some(scale.version.clone());
        self.foreign = None;
        self.refused = None;
        self.accept(scale);
    }

    pub(super) fn refused(&mut self, error: ApiError) {
        if matches!(error, ApiError::Forbidden { .. } | ApiError::Invalid(_) | ApiError::NotFound(_)) {
            self.refused = Some((Instant::now(), error));
        }
    }

    /// Why our last write could not be done, while that is fresh.
    pub(super) fn refusal(&self) -> Option<&ApiError> {
        self.refused.as_ref().filter(|(at, _)| at.elapsed() < REFUSED_FOR).map(|(_, error)| error)
    }

    /// When [`refusal`](Self::refusal) ends.
    pub(super) fn refused_until(&self) -> Option<Instant> {
        self.refusal()?;
        self.refused.as_ref().map(|(at, _)| *at + REFUSED_FOR)
    }

    /// Takes over whom the object names as the writer of its number, unless that was before our last write.
    pub(super) fn attribute(&mut self, meta: &Meta) {
        let before_ours =
            |written: &Version| meta.version != *written && !meta.version.is_newer_than(written);
        if !self.written.as_ref().is_some_and(before_ours) {
            self.foreign = meta.foreign_owner().cloned();
        }
    }

    /// Whether `meta` is the object as our own write, or the last read, left it.
    pub(super) fn includes(&self, meta: &Meta) -> bool {
        self.scale.as_ref().is_some_and(|scale| scale.uid == meta.uid && scale.version == meta.version)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scale(version: &str, replicas: u32) -> Scale {
        Scale { uid: "u".into(), version: version.into(), replicas, selector: None }
    }

    fn meta(version: &str, manager: &str) -> Meta {
        serde_json::from_value(json!({"metadata": {"name": "digits", "uid": "u", "resourceVersion": version,
            "managedFields": [{"manager": manager, "subresource": "scale",
                "fieldsV1": {"f:spec": {"f:replicas": {}}}}]}}))
        .unwrap()
    }

    #[test]
    fn what_is_older_than_our_own_write_changes_nothing() {
        let mut known = Known::default();
        known.accept(scale("10", 1));
        known.wrote(scale("12", 3));
        known.accept(scale("11", 2));
        known.attribute(&meta("11", "kubectl"));
        assert_eq!((known.scale.as_ref().unwrap().replicas, known.foreign.as_deref()), (3, None));
        known.accept(scale("13", 5));
        known.attribute(&meta("13", "kubectl"));
        assert_eq!((known.scale.unwrap().replicas, known.foreign.as_deref()), (5, Some("kubectl")));
    }

    #[test]
    fn another_object_of_the_name_is_taken_over_whatever_its_version() {
        let mut known = Known::default();
        known.accept(scale("10", 1));
        known.accept(Scale { uid: "v".into(), ..scale("7", 4) });
        assert_eq!(known.scale.unwrap().replicas, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_write_is_a_trouble_for_a_minute_or_until_one_is_done() {
        let mut known = Known::default();
        known.refused(ApiError::Late(Duration::ZERO));
        assert_eq!(known.refusal(), None);
        let forbidden = ApiError::Forbidden { what: "patch".into() };
        known.refused(forbidden.clone());
        assert_eq!(known.refusal(), Some(&forbidden));
        tokio::time::advance(REFUSED_FOR).await;
        assert_eq!(known.refusal(), None);
        known.refused(forbidden);
        known.wrote(scale("1", 1));
        assert_eq!(known.refusal(), None);
    }
}
