//! The process fleet with real processes. Every wait has a bound, and every process ends with its test: with its
//! fleet if the test passes, with the fleet's last handle if it fails.
#![expect(clippy::unwrap_used, reason = "everything here is a test or its helper")]

use std::{
    collections::BTreeMap, fs, future::Future, net::SocketAddr, process::Stdio, sync::Arc, time::Duration,
};

use autoscaler::fleet::{Fleet, Phase, Replica, ScaleError};
use fleet::{
    ProcessFleet,
    probe::{Probe, ProbeError, Timing},
    process::{Config, Restart},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
    time::{Instant, sleep, timeout},
};

const STAND_IN: &str = env!("CARGO_BIN_EXE_fleet-stand-in");

/// Far above what anything here takes, so that only a hang meets it.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("{what}: not within 20 s"))
}

async fn ask(address: SocketAddr, question: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.trim_end().to_owned())
}

fn probe() -> Probe {
    Probe::new(tower::service_fn(async |address| match ask(address, "ready?").await {
        Ok(answer) if answer == "true" => Ok(()),
        Ok(_) => Err(ProbeError::NotReady("it says no".into())),
        Err(error) => Err(ProbeError::Unreachable(error.to_string().into())),
    }))
}

/// The stand-in, launched as the product does it, with short pauses.
fn config() -> Config {
    let command = [STAND_IN, "serve", "{port}"].map(str::to_owned);
    Config {
        launcher: Some(vec![STAND_IN.into(), "exec-replica".into()]),
        probe: Timing { pause_ready: Duration::from_millis(50), ..Timing::default() },
        restart: Restart { pause_min: Duration::from_millis(100), ..Restart::default() },
        ..Config::new("m".into(), command.into())
    }
}

fn shell(script: &str) -> Config {
    Config { command: ["sh", "-c", script, "sh", "{port}"].map(str::to_owned).into(), ..config() }
}

fn start(config: Config) -> ProcessFleet {
    ProcessFleet::start(config, probe()).unwrap()
}

async fn listed(fleet: &ProcessFleet, what: &str, as_wished: impl Fn(&[Replica]) -> bool) -> Arc<[Replica]> {
    let mut replicas = fleet.replicas();
    soon(what, replicas.wait_for(|all| as_wished(all))).await.unwrap().clone()
}

/// Scales to `count` and waits until all are ready.
async fn ready(fleet: &ProcessFleet, count: usize) -> Arc<[Replica]> {
    fleet.scale(u32::try_from(count).unwrap(), &[]).await.unwrap();
    let all_ready =
        |all: &[Replica]| all.len() == count && all.iter().all(|replica| replica.phase == Phase::Ready);
    listed(fleet, "ready", all_ready).await
}

async fn gone(fleet: &ProcessFleet) {
    listed(fleet, "all gone", <[Replica]>::is_empty).await;
}

async fn pid(replica: &Replica) -> u32 {
    ask(replica.address.unwrap(), "pid").await.unwrap().parse().unwrap()
}

fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended; somebody else is slow to wait for it.
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

async fn ends(pid: u32) {
    soon("the end of a process", async {
        while runs(pid) {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_wish_is_listed_at_once_and_becomes_ready_replicas() {
    let fleet = start(config());
    fleet.scale(2, &[]).await.unwrap();
    let listing = fleet.replicas().borrow().clone();
    assert_eq!(listing.iter().map(|replica| &*replica.id).collect::<Vec<_>>(), ["m-1", "m-2"]);

    let replicas = ready(&fleet, 2).await;
    assert_ne!(replicas[0].address, replicas[1].address);
    assert!(replicas.iter().all(|replica| replica.ready_since.is_some() && replica.trouble.is_none()));
    let pids = (pid(&replicas[0]).await, pid(&replicas[1]).await);
    drop((listing, replicas));
    soon("shutdown", fleet.shutdown()).await;
    assert!(!runs(pids.0) && !runs(pids.1));
    assert!(matches!(fleet.scale(1, &[]).await, Err(ScaleError::Unavailable(_))));
}

#[tokio::test]
async fn environment_and_ports_reach_the_server() {
    let env = BTreeMap::from([("GREETING".to_owned(), "at {port}, not {port2}".to_owned())]);
    let fleet = start(Config { env, ..config() });
    let address = ready(&fleet, 1).await[0].address.unwrap();
    let greeting = ask(address, "env GREETING").await.unwrap();
    assert!(greeting.starts_with(&format!("at {}, not ", address.port())), "{greeting}");
    assert!(!greeting.contains('{'), "{greeting}");
    soon("shutdown", fleet.shutdown()).await;
}

#[tokio::test]
async fn a_replica_that_falls_comes_back_and_its_fall_is_told() {
    let fleet = start(Config {
        restart: Restart { pause_min: Duration::from_millis(500), ..Restart::default() },
        ..config()
    });
    let before = ready(&fleet, 1).await[0].clone();
    drop(ask(before.address.unwrap(), "die the weights are corrupt").await);

    let fallen = listed(&fleet, "a fall", |all| all[0].phase == Phase::Pending).await[0].clone();
    assert_eq!(fallen.trouble.as_deref(), Some("ended with status 3: the weights are corrupt"));
    assert_eq!((fallen.restarts, fallen.address, fallen.ready_since), (1, None, None));

    let after = ready(&fleet, 1).await[0].clone();
    assert_eq!((&after.id, after.created, after.restarts), (&before.id, before.created, 1));
    assert!(after.ready_since > before.ready_since);
    assert_eq!(after.trouble, None);
    drop((before, fallen, after));
    soon("shutdown", fleet.shutdown()).await;
}

#[tokio::test]
async fn a_crash_loop_pauses_longer_each_time() {
    let fleet = start(shell("echo no such model >&2; exit 3"));
    let asked = Instant::now();
    fleet.scale(1, &[]).await.unwrap();
    let replicas = listed(&fleet, "four falls", |all| all[0].restarts == 4).await;
    assert_eq!(replicas[0].trouble.as_deref(), Some("ended with status 3: no such model"));
    // 100 + 200 + 400 ms, each a fifth shorter at most.
    assert!(asked.elapsed() >= Duration::from_millis(560), "{:?}", asked.elapsed());
    fleet.scale(0, &[]).await.unwrap();
    gone(&fleet).await;
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named() {
    for launcher in [None, config().launcher] {
        let command = ["/no/such/program", "{port}"].map(str::to_owned).into();
        let fleet = start(Config { command, launcher, ..config() });
        fleet.scale(1, &[]).await.unwrap();
        let replicas = listed(&fleet, "a fall", |all| all[0].restarts > 0).await;
        let trouble = replicas[0].trouble.as_deref().unwrap();
        assert!(trouble.contains("No such file or directory"), "{trouble}");
    }
}

#[tokio::test]
async fn a_server_that_says_it_is_not_ready_is_listed_so_until_it_says_otherwise() {
    let fleet = start(config());
    let address = ready(&fleet, 1).await[0].address.unwrap();
    ask(address, "be loading").await.unwrap();
    let unready = listed(&fleet, "not ready", |all| all[0].phase == Phase::Starting).await;
    assert_eq!(unready[0].trouble.as_deref(), Some("its model is not ready: it says no"));
    assert_eq!(unready[0].restarts, 0);
    ask(address, "be ready").await.unwrap();
    assert_eq!(ready(&fleet, 1).await[0].address, Some(address));
    soon("shutdown", fleet.shutdown()).await;
}

#[tokio::test]
async fn a_leaving_replica_is_stopped_when_its_last_hold_is_dropped() {
    let fleet = start(config());
    let replicas = ready(&fleet, 1).await;
    let (hold, address) = (replicas[0].hold.clone(), replicas[0].address.unwrap());
    let pid = pid(&replicas[0]).await;
    drop(replicas);
    fleet.scale(0, &[]).await.unwrap();
    assert_eq!(fleet.replicas().borrow()[0].phase, Phase::Draining);

    sleep(Duration::from_millis(200)).await;
    assert_eq!(ask(address, "ready?").await.unwrap(), "true", "it must serve while it is held");
    drop(hold);
    gone(&fleet).await;
    assert!(!runs(pid));
}

#[tokio::test]
async fn a_hold_that_is_never_dropped_delays_the_end_by_the_drain_timeout() {
    let fleet = start(Config { drain_timeout: Duration::from_millis(300), ..config() });
    let _held = ready(&fleet, 1).await;
    let asked = Instant::now();
    fleet.scale(0, &[]).await.unwrap();
    gone(&fleet).await;
    assert!(asked.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_wish_for_more_while_one_leaves_starts_a_fresh_one() {
    let fleet = start(config());
    let held = ready(&fleet, 1).await;
    fleet.scale(0, &[]).await.unwrap();
    fleet.scale(1, &[]).await.unwrap();
    let both = listed(&fleet, "a fresh one", |all| all.len() == 2 && all[1].phase == Phase::Ready).await;
    assert_eq!((&*both[0].id, both[0].phase), ("m-1", Phase::Draining));
    assert_eq!(&*both[1].id, "m-2");
    drop(held);
    let left = listed(&fleet, "one left", |all| all.len() == 1).await;
    assert_eq!((&*left[0].id, left[0].phase), ("m-2", Phase::Ready));
    drop((both, left));
    soon("shutdown", fleet.shutdown()).await;
}

#[tokio::test]
async fn the_named_victim_leaves() {
    let fleet = start(config());
    let replicas = ready(&fleet, 3).await;
    let victim = Arc::clone(&replicas[1].id);
    drop(replicas);
    fleet.scale(2, &[victim]).await.unwrap();
    let left = listed(&fleet, "two left", |all| all.len() == 2).await;
    assert_eq!(left.iter().map(|replica| &*replica.id).collect::<Vec<_>>(), ["m-1", "m-3"]);
    drop(left);
    soon("shutdown", fleet.shutdown()).await;
}

#[tokio::test]
async fn a_server_that_ignores_the_request_to_stop_is_killed_with_all_it_started() {
    let script = format!("trap '' TERM; {STAND_IN} serve $1 & wait; wait; wait; sleep 1000");
    let fleet = start(Config { stop_timeout: Duration::from_millis(200), ..shell(&script) });
    let replicas = ready(&fleet, 1).await;
    // The shell's child inherits that SIGTERM is ignored.
    let server = pid(&replicas[0]).await;
    drop(replicas);
    fleet.scale(0, &[]).await.unwrap();
    gone(&fleet).await;
    ends(server).await;
}

#[tokio::test]
async fn what_a_fallen_server_left_behind_is_killed() {
    let fleet = start(shell("sleep 1000 & echo $! >&2; exit 1"));
    fleet.scale(1, &[]).await.unwrap();
    let replicas = listed(&fleet, "a fall", |all| all[0].restarts > 0).await;
    let trouble = replicas[0].trouble.as_deref().unwrap();
    let left_behind = trouble.strip_prefix("ended with status 1: ").unwrap().parse().unwrap();
    ends(left_behind).await;
}

#[tokio::test]
async fn a_server_that_prints_ten_megabytes_is_not_held_up() {
    let flood = "head -c 10000000 /dev/zero | tr '\\0' x; yes warning | head -c 10000000 >&2";
    let fleet = start(shell(&format!("{flood}; exec {STAND_IN} serve $1")));
    ready(&fleet, 1).await;
    soon("shutdown", fleet.shutdown()).await;
}

#[tokio::test]
async fn replicas_are_killed_with_the_last_handle() {
    let fleet = start(config());
    let replicas = ready(&fleet, 1).await;
    let pid = pid(&replicas[0]).await;
    drop(fleet);
    ends(pid).await;
}

#[tokio::test]
async fn replicas_end_with_a_parent_that_is_killed() {
    let mut parent =
        Command::new(STAND_IN).arg("parent").stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let mut pids = Vec::new();
    while let Some(address) =
        soon("an address", lines.next_line()).await.unwrap().filter(|line| !line.is_empty())
    {
        let pid = ask(address.parse().unwrap(), "pid").await.unwrap();
        pids.push(pid.parse().unwrap());
    }
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| runs(*pid)));
    parent.kill().await.unwrap();
    for pid in pids {
        ends(pid).await;
    }
}

#[tokio::test]
async fn a_launcher_whose_parent_is_gone_runs_nothing() {
    let launcher = ["exec-replica", "--parent-pid", "1", "--", "echo", "ran"];
    let output = Command::new(STAND_IN).args(launcher).output().await.unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(output.stdout.is_empty());
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(words.trim_end(), "process 1, which asked for this one, is gone");
}
