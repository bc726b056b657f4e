//! When the record is written, and what is said of it.

use std::{
    fs::{self, File},
    path::PathBuf,
    process, thread,
};

use metrics::with_local_recorder;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::sleep;

use super::*;

/// A recording that may be written to a folder of its own.
struct Rig {
    folder: PathBuf,
    recording: Recording,
}

impl Rig {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tidegate-recording-{name}-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self { folder, recording: Recording::default() }
    }

    fn config(&self) -> config::Record {
        config::Record { file: self.folder.join("record.jsonl"), max_bytes: 1 << 20 }
    }

    fn headers(&self) -> usize {
        fs::read_to_string(self.config().file).unwrap_or_default().matches("{\"header\"").count()
    }

    async fn follow(&self, config: Option<&config::Record>) {
        self.recording.follow(config).await;
    }

    /// The gauge, if there is one.
    fn gauge(&self) -> Option<String> {
        let recorder = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&recorder, || self.recording.publish_gauge());
        let text = recorder.handle().render();
        text.lines().find_map(|line| line.strip_prefix("tidegate_recording ").map(str::to_owned))
    }

    /// Ends the writer as one ends that cannot go on.
    async fn end_writer(&self) {
        drop(self.recording.sink().tape(1));
        while self.recording.followed.lock().await.is_writing() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn writer(&self) -> Option<thread::ThreadId> {
        self.recording.followed.lock().await.writer.as_ref().map(|writer| writer.thread().id())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn a_recording_that_ended_is_begun_again_by_the_same_configuration() {
    let rig = Rig::new("ended");
    let config = rig.config();
    rig.follow(Some(&config)).await;
    assert_eq!((rig.gauge().as_deref(), rig.headers()), (Some("1"), 1));
    rig.end_writer().await;
    assert_eq!(rig.gauge().as_deref(), Some("0"));
    rig.follow(Some(&config)).await;
    assert_eq!((rig.gauge().as_deref(), rig.headers()), (Some("1"), 2));
}

#[tokio::test]
async fn a_recording_that_could_not_begin_does_so_once_the_file_is_free() {
    let rig = Rig::new("held");
    let config = rig.config();
    let held = File::create(&config.file).unwrap();
    held.lock().unwrap();
    rig.follow(Some(&config)).await;
    assert_eq!((rig.gauge().as_deref(), rig.headers()), (Some("0"), 0));
    drop(held);
    rig.follow(Some(&config)).await;
    assert_eq!((rig.gauge().as_deref(), rig.headers()), (Some("1"), 1));
}

#[tokio::test]
async fn a_recording_that_goes_on_is_left_to_it() {
    let rig = Rig::new("goes-on");
    let config = rig.config();
    rig.follow(Some(&config)).await;
    let writer = rig.writer().await;
    rig.follow(Some(&config)).await;
    assert_eq!((rig.writer().await, rig.headers()), (writer, 1));
    let smaller = config::Record { max_bytes: 1 << 16, ..config };
    rig.follow(Some(&smaller)).await;
    assert_eq!(rig.headers(), 2);
}

#[tokio::test]
async fn nothing_is_said_of_a_record_until_there_is_to_be_one() {
    let rig = Rig::new("none");
    rig.follow(None).await;
    assert_eq!(rig.gauge(), None);
    rig.follow(Some(&rig.config())).await;
    rig.follow(None).await;
    assert_eq!((rig.gauge().as_deref(), rig.writer().await), (Some("0"), None));
}
