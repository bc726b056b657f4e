use pipeline::request::Payload;
use tokio::sync::mpsc;
use tokio_util::{task::AbortOnDropHandle, task::TaskTracker};

use super::*;
use crate::upstream::{Protocol, scripted::*};

const BATCHED: &str = concat!(
    r#"{"name":"m","versions":["1"],"platform":"p","#,
    r#""inputs":[{"name":"x","datatype":"UINT8","shape":[-1,1]}],"#,
    r#""outputs":[{"name":"y","datatype":"UINT8","shape":[-1,1]}]}"#,
);
const SINGLE: &str = concat!(
    r#"{"name":"m","versions":["2"],"platform":"p","#,
    r#""inputs":[{"name":"x","datatype":"UINT8","shape":[1]}],"#,
    r#""outputs":[{"name":"y","datatype":"UINT8","shape":[1]}]}"#,
);

/// A running follower with everything it is told and tells.
struct Rig {
    fleet: mpsc::Sender<Vec<Endpoint>>,
    sets: mpsc::Receiver<ReplicaSet>,
    metadata: watch::Receiver<Option<Arc<Metadata>>>,
    tracker: TaskTracker,
    _task: AbortOnDropHandle<()>,
}

impl Rig {
    fn start() -> Self {
        let (fleet, endpoints) = mpsc::channel(4);
        let (publish, sets) = mpsc::channel(16);
        let config = Config::new(Protocol::V2Http, "m".into());
        let (follower, metadata) = Follower::new(config, move |set| publish.try_send(set).unwrap());
        let endpoints = futures_util::stream::unfold(endpoints, |mut endpoints| async move {
            let next = endpoints.recv().await?;
            Some((next, endpoints))
        });
        let task = AbortOnDropHandle::new(tokio::spawn(follower.follow(endpoints)));
        Self { fleet, sets, metadata, tracker: TaskTracker::new(), _task: task }
    }

    fn endpoint(&self, id: &str, scripted: &Scripted) -> Endpoint {
        Endpoint {
            id: id.into(),
            address: scripted.address,
            ready_since: Instant::now(),
            hold: self.tracker.token(),
        }
    }

    /// Replaces the endpoints; the set that follows from that.
    async fn update(&mut self, endpoints: Vec<Endpoint>) -> ReplicaSet {
        self.fleet.send(endpoints).await.unwrap();
        self.next().await
    }

    async fn next(&mut self) -> ReplicaSet {
        within(self.sets.recv()).await.unwrap()
    }
}

async fn describing(metadata: &'static str) -> Scripted {
    http1(move |received| match received.line.as_str() {
        "GET /v2/models/m HTTP/1.1" => http1_answer(200, "", metadata),
        line if line.starts_with("POST") => http1_answer(200, "", "x"),
        _ => http1_answer(404, "", ""),
    })
    .await
}

fn ids(set: &ReplicaSet) -> Vec<&str> {
    set.replicas.iter().map(|replica| replica.id.as_ref()).collect()
}

fn payload() -> Payload {
    http_payload("{}")
}

#[tokio::test]
async fn a_new_replica_serves_at_once_and_what_it_says_follows() {
    let scripted = describing(BATCHED).await;
    let mut rig = Rig::start();
    let endpoint = rig.endpoint("a", &scripted);
    let first = rig.update(vec![endpoint]).await;
    assert_eq!((ids(&first), first.batch_dimension), (vec!["a"], None));
    let second = rig.next().await;
    assert_eq!((ids(&second), second.batch_dimension), (vec!["a"], Some(true)));
    assert_eq!(rig.metadata.borrow_and_update().as_ref().unwrap().versions, ["1"]);
    assert_eq!(send_opaque(&second.replicas[0].upstream, payload()).await.unwrap().body, "x");
}

#[tokio::test]
async fn replicas_that_stay_keep_their_connections() {
    let (stays, joins) = (describing(BATCHED).await, describing(BATCHED).await);
    let mut rig = Rig::start();
    let endpoint = rig.endpoint("a", &stays);
    rig.update(vec![endpoint.clone()]).await;
    let set = rig.next().await;
    send_opaque(&set.replicas[0].upstream, payload()).await.unwrap();
    let other = rig.endpoint("b", &joins);
    let set = rig.update(vec![other, endpoint]).await;
    assert_eq!(ids(&set), ["b", "a"]);
    send_opaque(&set.replicas[1].upstream, payload()).await.unwrap();
    assert_eq!(stays.connections(), 1);
}

#[tokio::test]
async fn a_replica_restarted_at_its_address_is_another_one() {
    let scripted = describing(BATCHED).await;
    let mut rig = Rig::start();
    let endpoint = rig.endpoint("a", &scripted);
    rig.update(vec![endpoint.clone()]).await;
    rig.next().await;
    let restarted = Endpoint { ready_since: endpoint.ready_since + Duration::from_secs(1), ..endpoint };
    rig.update(vec![restarted]).await;
    assert_eq!(rig.next().await.batch_dimension, Some(true), "it was asked again");
    assert_eq!(scripted.connections(), 2);
}

#[tokio::test]
async fn a_replica_that_left_is_held_by_nobody() {
    let scripted = describing(BATCHED).await;
    let mut rig = Rig::start();
    let endpoint = rig.endpoint("a", &scripted);
    rig.update(vec![endpoint]).await;
    rig.next().await;
    let gone = rig.update(vec![]).await;
    assert!(gone.replicas.is_empty());
    rig.tracker.close();
    within(rig.tracker.wait()).await;
}

#[tokio::test]
async fn what_was_learned_outlives_the_replicas() {
    let scripted = describing(BATCHED).await;
    let mut rig = Rig::start();
    let endpoint = rig.endpoint("a", &scripted);
    rig.update(vec![endpoint]).await;
    rig.next().await;
    assert_eq!(rig.update(vec![]).await.batch_dimension, Some(true));
    assert!(rig.metadata.borrow().is_some());
}

#[tokio::test]
async fn rows_may_be_merged_only_if_all_replicas_say_so() {
    let (batched, single) = (describing(BATCHED).await, describing(SINGLE).await);
    let mut rig = Rig::start();
    let endpoints = vec![rig.endpoint("a", &batched), rig.endpoint("b", &single)];
    rig.update(endpoints.clone()).await;
    rig.next().await;
    assert_eq!(rig.next().await.batch_dimension, Some(false));
    let one = rig.update(endpoints.into_iter().take(1).collect()).await;
    assert_eq!(one.batch_dimension, Some(true));
}

#[tokio::test]
async fn a_server_that_cannot_describe_its_model_yet_is_asked_again() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let asked = Arc::new(asked);
    let scripted = http1(move |received| {
        let first = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        match received.line.as_str() {
            "GET /v2/models/m HTTP/1.1" if first => http1_answer(503, "", ""),
            "GET /v2/models/m HTTP/1.1" => http1_answer(200, "", BATCHED),
            _ => http1_answer(404, "", ""),
        }
    })
    .await;
    let mut rig = Rig::start();
    let endpoint = rig.endpoint("a", &scripted);
    rig.update(vec![endpoint]).await;
    assert_eq!(rig.next().await.batch_dimension, Some(true));
}

#[tokio::test]
async fn rows_that_nobody_describes_are_not_merged() {
    let scripted = http1(|_| http1_answer(404, "", "")).await;
    let mut rig = Rig::start();
    let endpoint = rig.endpoint("a", &scripted);
    assert_eq!(rig.update(vec![endpoint]).await.batch_dimension, None);
    assert_eq!(rig.next().await.batch_dimension, Some(false), "asked once, told at once");
    assert!(rig.metadata.borrow().is_none());
}
