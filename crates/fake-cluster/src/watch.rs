//! Watches: a stream that reads the history of one kind at its own pace, and is told how it must end.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    cluster::{Cluster, Control, broken},
    history::{Change, Event, Position},
    kinds::Kind,
    list,
    log::Call,
    object::{Object, View, to_json},
    refusal::{FieldFault, Refusal},
    route::Query,
    selector::Filter,
    store::Store,
};

/// The real server ends a watch without a time-out after 30 to 60 minutes.
const LASTS: Duration = Duration::from_secs(45 * 60);
/// The last bookmark comes this long before the end.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Events sent in one piece.
const BATCH_MAX: usize = 128;

/// What to show, and how.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) kind: Arc<Kind>,
    pub(crate) version: String,
    pub(crate) view: View,
    pub(crate) filter: Filter,
}

/// What the caller says about start and end.
#[derive(Clone, Copy, Debug)]
struct Wishes {
    start: Start,
    bookmarks: bool,
    /// A bookmark says where the initial events end.
    initial_end: bool,
    lasts: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Start {
    /// What there is, then what happens.
    Now,
    /// What happens from now on.
    Next,
    After(u64),
}

impl Wishes {
    fn read(query: &Query) -> Result<Self, Refusal> {
        let streaming_list = query.is("sendInitialEvents");
        let bookmarks = query.is("allowWatchBookmarks");
        let says = !query.text("sendInitialEvents").is_empty();
        if says && query.text("resourceVersionMatch") != "NotOlderThan" {
            let message =
                "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            let field = ("resourceVersionMatch", FieldFault::Forbidden, message);
            return Err(Refusal::invalid("meta.k8s.io", "ListOptions", "", field));
        }
        if streaming_list && !bookmarks {
            let message = "Forbidden: sendInitialEvents requires setting allowWatchBookmarks to true";
            let field = ("allowWatchBookmarks", FieldFault::Forbidden, message);
            return Err(Refusal::invalid("meta.k8s.io", "ListOptions", "", field));
        }
        let version = query.text("resourceVersion");
        let start = match version {
            _ if streaming_list => Start::Now,
            "" if says => Start::Next,
            "" | "0" => Start::Now,
            number => Start::After(parse_version(number)?),
        };
        let lasts = query.number("timeoutSeconds").filter(|&seconds| seconds > 0).map(Duration::from_secs);
        Ok(Self { start, bookmarks, initial_end: streaming_list, lasts: lasts.unwrap_or(LASTS) })
    }
}

/// A resource version as a number; the store counts. The refusal is a watch's, which the server lets slip as 500.
pub(crate) fn parse_version(text: &str) -> Result<u64, Refusal> {
    text.parse().map_err(|_| {
        let why = format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
        Refusal::new(500, "", format!("resourceVersion: Invalid value: \"{text}\": {why}"))
    })
}

/// An open watch.
pub(crate) struct Watch {
    cluster: Cluster,
    shown: Shown,
    call: Arc<Call>,
    initial: VecDeque<Arc<Object>>,
    error: Option<Refusal>,
    position: Position,
    /// Events before this revision are known to the caller.
    from: u64,
    /// A bookmark at the end of the initial events is due.
    initial_end: bool,
    next_bookmark: Option<Instant>,
    ends: Instant,
    begun: Control,
    grown: watch::Receiver<u64>,
    control: watch::Receiver<Control>,
    faults: watch::Receiver<u64>,
    over: bool,
}

impl Watch {
    /// Starts a watch. Versions that history no longer reaches are told in the stream, as the real server does.
    pub(crate) fn open(
        cluster: &Cluster,
        shown: Shown,
        query: &Query,
        call: Arc<Call>,
    ) -> Result<Self, Refusal> {
        let wishes = Wishes::read(query)?;
        let now = Instant::now();
        let ends = now + wishes.lasts;
        let control = cluster.control();
        let begun = *control.borrow();
        let store = cluster.store();
        let history = &store.table(&shown.kind).history;
        let mut watch = Self {
            cluster: cluster.clone(),
            call,
            initial: VecDeque::new(),
            error: None,
            position: history.end(),
            from: 0,
            initial_end: wishes.initial_end,
            next_bookmark: None,
            ends,
            begun,
            grown: history.growth(),
            control,
            faults: cluster.faults().changes(),
            over: false,
            shown,
        };
        if wishes.bookmarks {
            watch.next_bookmark = Some(watch.bookmark_after(now));
        }
        watch.start(&store, wishes.start);
        drop(store);
        Ok(watch)
    }

    fn start(&mut self, store: &Store, start: Start) {
        match start {
            Start::Now => self.initial = list::current(store, &self.shown.kind, &self.shown.filter).into(),
            Start::Next => {}
            Start::After(revision) => {
                // An event shown again carries the current revision and must pass; one at a version still to come is known.
                self.from = if revision > store.revision() { revision + 1 } else { revision };
                match store.table(&self.shown.kind).history.after(revision) {
                    Ok(position) => self.position = position,
                    Err(forgotten) => self.error = Some(Refusal::expired(revision, forgotten.oldest)),
                }
            }
        }
    }

    fn bookmark_after(&self, now: Instant) -> Instant {
        let last = self.ends.checked_sub(LAST_BOOKMARK).unwrap_or(self.ends);
        let next = now + self.cluster.bookmark_every();
        if now < last { next.min(last) } else { next }
    }

    /// The pieces of the stream.
    pub(crate) fn stream(self) -> impl Stream<Item = Result<Bytes, io::Error>> + Send {
        stream::unfold(self, |mut watch| async move {
            let piece = watch.next().await?;
            Some((piece, watch))
        })
    }

    async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        loop {
            if self.over {
                return None;
            }
            self.grown.borrow_and_update();
            self.faults.borrow_and_update();
            let control = *self.control.borrow_and_update();
            if control.down || control.breaks != self.begun.breaks {
                self.over = true;
                return Some(Err(broken()));
            }
            let stalled = self.cluster.faults().stalls(&self.call);
            if !stalled && let Some(ready) = self.ready(control) {
                return Some(Ok(ready));
            }
            if !stalled && (self.over || Instant::now() >= self.ends) {
                return None;
            }
            self.wait(stalled).await;
        }
    }

    /// What can be sent now; marks the watch as over if that is its end.
    fn ready(&mut self, control: Control) -> Option<Bytes> {
        let mut out = Vec::new();
        if control.expiries != self.begun.expiries {
            self.error = Some(Refusal::expired(self.from, self.cluster.store().revision()));
        }
        if let Some(refusal) = self.error.take() {
            self.over = true;
            write_line(&mut out, "ERROR", |out| out.extend_from_slice(&to_json(&refusal.status())));
            return Some(Bytes::from(out));
        }
        let shown = (&*self.shown.kind, self.shown.version.as_str(), self.shown.view);
        for object in self.initial.drain(..) {
            write_line(&mut out, Change::Added.word(), |out| object.write(out, shown));
        }
        self.events(&mut out);
        let now = Instant::now();
        if self.initial_end || self.next_bookmark.is_some_and(|due| due <= now) {
            self.bookmark(&mut out);
            self.initial_end = false;
            if self.next_bookmark.is_some() {
                self.next_bookmark = Some(self.bookmark_after(now));
            }
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }

    fn events(&mut self, out: &mut Vec<u8>) {
        loop {
            let read = self.cluster.store().table(&self.shown.kind).history.read(self.position, BATCH_MAX);
            // A reader that falls out of the window is let go, as the real server does; resuming tells it 410.
            let Ok(events) = read else {
                self.over = true;
                return;
            };
            if events.is_empty() {
                return;
            }
            self.position = self.position.plus(events.len());
            for event in events {
                if event.revision >= self.from {
                    self.event(out, &event);
                }
            }
            if !out.is_empty() {
                return;
            }
        }
    }

    fn event(&self, out: &mut Vec<u8>, event: &Event) {
        let filter = &self.shown.filter;
        let now = filter.matches(&event.object);
        let before = event.previous.as_ref().is_some_and(|object| filter.matches(object));
        let change = match (event.change, before, now) {
            (Change::Added, _, true) | (Change::Modified, false, true) => Change::Added,
            (Change::Modified, true, true) => Change::Modified,
            (Change::Modified, true, false) | (Change::Deleted, true, _) => Change::Deleted,
            _ => return,
        };
        let shown = (&*self.shown.kind, self.shown.version.as_str(), self.shown.view);
        write_line(out, change.word(), |out| match &event.previous {
            // What leaves a selector is shown as it was while it belonged to it.
            Some(previous) if event.change == Change::Modified && change == Change::Deleted => {
                let mut value = previous.value.clone();
                value["metadata"]["resourceVersion"] = event.revision.to_string().into();
                Object::new(value, event.revision).write(out, shown);
            }
            _ => event.object.write(out, shown),
        });
    }

    fn bookmark(&self, out: &mut Vec<u8>) {
        let kind = &self.shown.kind;
        let (name, api_version) = match self.shown.view {
            View::Full => (kind.kind.as_str(), kind.api_version(&self.shown.version)),
            View::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
        };
        let revision = self.cluster.store().revision().max(self.from.saturating_sub(1));
        let mut metadata =
            json!({ "resourceVersion": revision.to_string(), "creationTimestamp": Value::Null });
        if self.initial_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = json!({ "kind": name, "apiVersion": api_version, "metadata": metadata });
        write_line(out, "BOOKMARK", |out| out.extend_from_slice(&to_json(&object)));
    }

    /// Waits for anything that may change what this watch shows. Cancel-safe: it only waits.
    async fn wait(&mut self, stalled: bool) {
        let due = self.next_bookmark.map_or(self.ends, |bookmark| bookmark.min(self.ends));
        tokio::select! {
            changed = self.grown.changed(), if !stalled => changed.expect("the table outlives its watches"),
            changed = self.control.changed() => changed.expect("the cluster is held by this watch"),
            changed = self.faults.changed() => changed.expect("the cluster is held by this watch"),
            () = sleep_until(due), if !stalled => {}
        }
    }
}

fn write_line(out: &mut Vec<u8>, word: &str, object: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(format!(r#"{{"type":"{word}","object":"#).as_bytes());
    object(out);
    out.extend_from_slice(b"}\n");
}
