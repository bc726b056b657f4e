//! Who decides: whether the Lease is held and renewed, and whether its holder answers.

use std::time::Duration;

use fleet::kubernetes::{
    ApiError, Cluster,
    access::{self, PodPort, Tenure},
};
use jiff::Timestamp;
use tokio::time::sleep;

use super::{finding::Line, installation::asked, unread};
use crate::cli::client::ADMIN_PORT;

/// Longer than between two renewals of any timing that there is.
const SECOND_LOOK: Duration = Duration::from_secs(4);

pub(super) async fn lines(cluster: &Cluster, namespace: &str, lease: &str) -> Vec<Line> {
    let object = format!("Lease {namespace}/{lease}");
    let found = match access::tenure(cluster, namespace, lease).await {
        Ok(found) => found,
        Err(ApiError::NotFound(_)) => {
            let fix = format!(
                "no autoscaler has led yet; see: kubectl -n {namespace} logs deployment/tidegate-autoscaler"
            );
            return vec![Line::failed(format!("there is no {object}"), fix)];
        }
        Err(error) => return vec![unread(&object, &error)],
    };
    let Some(holder) = found.holder.clone() else {
        let fix = format!("no autoscaler stands; see: kubectl -n {namespace} get pods");
        return vec![Line::failed(format!("nobody holds {object}"), fix)];
    };
    let mut lines = vec![match overdue(&found, Timestamp::now()) {
        None => held(&object, &holder, &found),
        // By clocks that may differ. Whether it changes does not depend on them.
        Some(age) => {
            sleep(SECOND_LOOK).await;
            let later = access::tenure(cluster, namespace, lease).await;
            let renewed =
                later.is_ok_and(|later| later.renewed != found.renewed || later.holder != found.holder);
            late(&object, &holder, age, renewed)
        }
    }];
    let to = PodPort { namespace, pod: &holder, port: ADMIN_PORT };
    let answer = access::proxy_get(cluster, to, "/readyz").await;
    lines.push(asked(&format!("leading Pod {namespace}/{holder}"), answer));
    lines
}

/// How long ago it was renewed, if that is longer than its duration.
fn overdue(found: &Tenure, now: Timestamp) -> Option<Duration> {
    let age = found.age(now).unwrap_or(Duration::MAX);
    (age > found.duration.unwrap_or_default()).then_some(age)
}

fn held(object: &str, holder: &str, found: &Tenure) -> Line {
    let seconds = found.duration.unwrap_or_default().as_secs();
    Line::fine(format!("{holder} leads in epoch {} ({object}, of {seconds} s)", found.epoch))
}

fn late(object: &str, holder: &str, age: Duration, renewed: bool) -> Line {
    let age = age.as_secs();
    if renewed {
        return Line::doubtful(
            format!("{holder} leads, and by its clock it renewed {object} {age} s ago"),
            "the clock of its node differs from this one; set both (NTP)",
        );
    }
    Line::failed(
        format!("{object} is held by {holder}, who renewed it {age} s ago"),
        "it is gone, or cannot write the Lease, and no other autoscaler stands; see the logs of \
         deployment/tidegate-autoscaler",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_overdue_after_its_duration() {
        let renewed: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let found = Tenure {
            holder: Some("a".to_owned()),
            epoch: 3,
            duration: Some(Duration::from_secs(15)),
            renewed: Some(renewed),
        };
        assert_eq!(overdue(&found, renewed + jiff::SignedDuration::from_secs(15)), None);
        let late = renewed + jiff::SignedDuration::from_secs(16);
        assert_eq!(overdue(&found, late), Some(Duration::from_secs(16)));
        assert_eq!(overdue(&found, renewed - jiff::SignedDuration::from_secs(60)), None);
        assert!(overdue(&Tenure { renewed: None, ..found }, renewed).is_some());
    }
}
