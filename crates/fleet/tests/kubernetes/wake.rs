//! Waking: one conditional patch, soon and once.

use std::time::Duration;

use fake_cluster::{Calls, Fault, Refusal, Verb};
use fleet::kubernetes::{ApiError, wake::Woken};
use tokio::time::Instant;

use crate::stage::{calls, fake};

fn patches() -> Calls {
    calls().verb(Verb::Patch).resource("deployments/scale")
}

#[tokio::test(start_paused = true)]
async fn a_wake_is_one_call() {
    let (stage, fake) = fake();
    stage.deploy(0).await;
    assert_eq!(stage.wake("Deployment/digits").wake().await, Ok(Woken::Awake));
    assert_eq!(fake.log().calls(&calls()).len(), 1);
    assert_eq!(fake.log().calls(&patches()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn wakes_of_one_handle_are_one_write_at_a_time() {
    let (stage, fake) = fake();
    stage.deploy(0).await;
    let slow = fake.faults().always(patches(), Fault::Delay(Duration::from_secs(2)));
    let wake = stage.wake("Deployment/digits");
    let (first, second) = tokio::join!(wake.wake(), wake.wake());
    assert_eq!((first, second), (Ok(Woken::Awake), Ok(Woken::UnderWay)));
    assert_eq!(slow.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_gateways_that_wake_at_once_set_one() {
    let (stage, fake) = fake();
    stage.deploy(0).await;
    let (one, other) = (stage.wake("Deployment/digits"), stage.wake("Deployment/digits"));
    let (first, second) = tokio::join!(one.wake(), other.wake());
    assert_eq!((first, second), (Ok(Woken::Awake), Ok(Woken::Awake)));
    assert_eq!(stage.number("deployments").await, 1);
    assert_eq!(fake.log().calls(&patches()).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wake_whose_answer_is_lost_is_resolved_by_reading() {
    for lost in [Fault::LoseReply, Fault::LoseReplyAndHang] {
        let (stage, fake) = fake();
        stage.deploy(0).await;
        fake.faults().once(patches(), lost);
        assert_eq!(stage.wake("Deployment/digits").wake().await, Ok(Woken::Awake));
        assert_eq!(fake.log().calls(&patches()).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_is_not_answered_ends() {
    let (stage, fake) = fake();
    stage.deploy(0).await;
    fake.faults().always(calls(), Fault::Hang);
    let start = Instant::now();
    let result = stage.wake("Deployment/digits").wake().await;
    assert!(matches!(result, Err(ApiError::Late(_))), "{result:?}");
    assert!(start.elapsed() <= Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_is_not_allowed_names_what_is_missing() {
    let (stage, fake) = fake();
    stage.deploy(0).await;
    fake.faults().always(patches(), Fault::Refuse(Refusal::forbidden("no")));
    let error = stage.wake("Deployment/digits").wake().await.unwrap_err();
    assert_eq!(error.to_string(), "not allowed to patch deployments.apps/scale in namespace ml");
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_api_server_says_when_to_come_back() {
    let (stage, fake) = fake();
    stage.deploy(0).await;
    let patience = Duration::from_secs(7);
    fake.faults().once(patches(), Fault::Refuse(Refusal::too_many_requests(patience)));
    let wake = stage.wake("Deployment/digits");
    assert_eq!(wake.wake().await, Err(ApiError::Throttled { retry_after: Some(patience) }));
    // Nothing was repeated behind our back.
    assert_eq!(fake.log().calls(&patches()).len(), 1);
}
