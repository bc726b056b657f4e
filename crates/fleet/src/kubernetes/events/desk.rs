//! What is to be told, what was told, and when the next telling is due. A function of time; the calls are made
//! elsewhere.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{super::watch::Pace, Reason, Subject};

/// Of one kind about one object.
const EVERY: Duration = Duration::from_secs(60);
/// A note that comes again later than this is another event.
const SERIES: Duration = Duration::from_secs(360);
/// Kinds and objects that are remembered.
const LINES_MAX: usize = 2_048;
const NOTE_BYTES: usize = 1_024;
const TRIES: u32 = 5;

type Key = (Subject, Reason);

#[derive(Debug, Default)]
pub(super) struct Desk {
    lines: BTreeMap<Key, Line>,
}

/// All of one kind about one object.
#[derive(Debug)]
struct Line {
    waiting: Option<News>,
    told: Option<Told>,
    not_before: Instant,
    last_used: Instant,
}

#[derive(Debug)]
struct News {
    /// The name of its event, if it becomes one: the same at each try, so that it cannot be told twice.
    event: String,
    note: String,
    times: u32,
    /// As many of them as the call under way tells.
    sent: u32,
    at: Timestamp,
    tries: u32,
    pace: Pace,
}

#[derive(Debug)]
struct Told {
    event: String,
    note: String,
    times: u32,
    at: Instant,
}

/// What is to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Create { event: String, note: String, times: u32, at: Timestamp },
    Count { event: String, times: u32, at: Timestamp },
}

impl Desk {
    /// Says whether there was room for it.
    pub(super) fn take(
        &mut self,
        subject: &Subject,
        reason: Reason,
        note: &str,
        (now, wall): (Instant, Timestamp),
    ) -> bool {
        let key = (subject.clone(), reason);
        if !self.lines.contains_key(&key) && self.lines.len() >= LINES_MAX {
            self.lines.retain(|_, line| line.waiting.is_some() || now < line.last_used + SERIES);
            if self.lines.len() >= LINES_MAX {
                return false;
            }
        }
        let note = note.get(..note.floor_char_boundary(NOTE_BYTES)).unwrap_or(note);
        let blank = Line { waiting: None, told: None, not_before: now, last_used: now };
        let line = self.lines.entry(key).or_insert(blank);
        line.last_used = now;
        match &mut line.waiting {
            Some(news) if news.note == note => {
                news.times = news.times.saturating_add(1);
                news.at = wall;
            }
            waiting => *waiting = Some(News::new(subject, note, wall)),
        }
        true
    }

    pub(super) fn first_due(&self) -> Option<Instant> {
        self.waiting().map(|(_, line)| line.not_before).min()
    }

    /// What is to be told first of what is due. What comes of it is to be told back before this is asked again.
    pub(super) fn begin(&mut self, now: Instant) -> Option<(Key, Call)> {
        let due = self.waiting().filter(|(_, line)| line.not_before <= now);
        let (key, _) = due.min_by_key(|(_, line)| line.not_before)?;
        let key = key.clone();
        let call = self.lines.get_mut(&key)?.call(now)?;
        Some((key, call))
    }

    fn waiting(&self) -> impl Iterator<Item = (&Key, &Line)> {
        self.lines.iter().filter(|(_, line)| line.waiting.is_some())
    }

    pub(super) fn told(&mut self, key: &Key, call: Call, now: Instant) {
        let Some(line) = self.lines.get_mut(key) else { return };
        let (event, note, times) = match call {
            Call::Create { event, note, times, .. } => (event, Some(note), times),
            Call::Count { event, times, .. } => (event, None, times),
        };
        // What came in during the call still waits.
        line.waiting = line.waiting.take().and_then(|news| news.untold(&key.0));
        let note = note.or_else(|| line.told.take().map(|told| told.note)).unwrap_or_default();
        line.told = Some(Told { event, note, times, at: now });
        line.not_before = now + EVERY;
    }

    /// The event that was to be counted on is not there any more.
    pub(super) fn expired(&mut self, key: &Key) {
        if let Some(line) = self.lines.get_mut(key) {
            line.told = None;
        }
    }

    /// Says whether it is given up.
    pub(super) fn failed(&mut self, key: &Key, asked: Option<Duration>, now: Instant) -> bool {
        let Some(line) = self.lines.get_mut(key) else { return false };
        let Some(news) = &mut line.waiting else { return false };
        news.tries += 1;
        line.not_before = now + news.pace.pause(asked);
        let given_up = news.tries >= TRIES;
        if given_up {
            line.waiting = None;
        }
        given_up
    }
}

impl News {
    fn new(subject: &Subject, note: &str, at: Timestamp) -> Self {
        /// With the rest below what a name may have.
        const NAME_BYTES: usize = 220;
        let name = subject.name.get(..subject.name.floor_char_boundary(NAME_BYTES)).unwrap_or_default();
        let event = format!("{}.{:016x}", name.trim_end_matches(['-', '.']), rand::random::<u64>());
        Self { event, note: note.to_owned(), times: 1, sent: 0, at, tries: 0, pace: Pace::default() }
    }

    /// What is left after a call.
    fn untold(self, subject: &Subject) -> Option<Self> {
        let times = self.times.checked_sub(self.sent).filter(|times| *times > 0)?;
        Some(if self.sent == 0 { self } else { Self { times, ..Self::new(subject, &self.note, self.at) } })
    }
}

impl Line {
    fn call(&mut self, now: Instant) -> Option<Call> {
        let news = self.waiting.as_mut()?;
        news.sent = news.times;
        let at = news.at;
        Some(match &self.told {
            Some(told) if told.note == news.note && now < told.at + SERIES => {
                Call::Count { event: told.event.clone(), times: told.times.saturating_add(news.times), at }
            }
            _ => Call::Create { event: news.event.clone(), note: news.note.clone(), times: news.times, at },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str) -> Subject {
        Subject {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            namespace: "ml".into(),
            name: name.into(),
            uid: None,
        }
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_second(i64::try_from(second).unwrap()).unwrap()
    }

    struct Room {
        desk: Desk,
        start: Instant,
    }

    impl Room {
        fn new() -> Self {
            Self { desk: Desk::default(), start: Instant::now() }
        }

        fn time(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        fn take(&mut self, second: u64, note: &str) {
            let now = (self.time(second), at(second));
            assert!(self.desk.take(&subject("digits"), Reason::ScaledUp, note, now));
        }

        /// Tells what is due, successfully.
        fn tell(&mut self, second: u64) -> Option<Call> {
            let (key, call) = self.desk.begin(self.time(second))?;
            self.desk.told(&key, call.clone(), self.time(second));
            Some(call)
        }
    }

    #[test]
    fn the_first_is_told_at_once_and_then_the_latest_a_minute_later() {
        let mut room = Room::new();
        room.take(0, "0→1");
        assert!(matches!(room.tell(0), Some(Call::Create { note, .. }) if note == "0→1"));
        room.take(1, "1→2");
        room.take(2, "2→4");
        assert_eq!(room.tell(59), None);
        assert_eq!(room.desk.first_due(), Some(room.time(60)));
        assert!(matches!(room.tell(60), Some(Call::Create { note, times: 1, .. }) if note == "2→4"));
        assert_eq!(room.tell(1_000), None);
    }

    #[test]
    fn repetitions_are_counted_on_the_event_that_is_there() {
        let mut room = Room::new();
        room.take(0, "at most 4");
        let Some(Call::Create { event, times: 1, .. }) = room.tell(0) else { panic!() };
        for second in 1..=120 {
            room.take(second, "at most 4");
        }
        assert_eq!(room.tell(120), Some(Call::Count { event: event.clone(), times: 121, at: at(120) }));
        room.take(300, "at most 4");
        assert!(matches!(room.tell(300), Some(Call::Count { times: 122, .. })));
        room.take(300 + 361, "at most 4");
        let Some(Call::Create { event: another, times: 1, .. }) = room.tell(300 + 361) else { panic!() };
        assert_ne!(event, another);
    }

    #[test]
    fn an_event_that_expired_is_made_anew() {
        let mut room = Room::new();
        room.take(0, "n");
        room.tell(0);
        room.take(60, "n");
        let (key, call) = room.desk.begin(room.time(60)).unwrap();
        assert!(matches!(call, Call::Count { .. }));
        room.desk.expired(&key);
        assert!(matches!(room.tell(60), Some(Call::Create { times: 1, .. })));
    }

    #[test]
    fn a_failed_telling_is_tried_under_the_same_name_and_given_up_in_the_end() {
        let mut room = Room::new();
        room.take(0, "n");
        let mut names = Vec::new();
        loop {
            let now = room.desk.first_due().unwrap();
            let (key, call) = room.desk.begin(now).unwrap();
            let Call::Create { event, .. } = call else { panic!() };
            names.push(event);
            if room.desk.failed(&key, None, now) {
                break;
            }
        }
        assert_eq!(names.len(), 5);
        assert!(names.windows(2).all(|two| two[0] == two[1]));
        assert_eq!(room.desk.first_due(), None);
    }

    #[test]
    fn what_happens_during_a_call_is_told_next() {
        let mut room = Room::new();
        room.take(0, "0→1");
        let (key, call) = room.desk.begin(room.time(0)).unwrap();
        room.take(1, "1→0");
        room.desk.told(&key, call, room.time(1));
        assert!(matches!(room.tell(61), Some(Call::Create { note, .. }) if note == "1→0"));

        room.take(200, "1→0");
        let (key, call) = room.desk.begin(room.time(200)).unwrap();
        room.take(201, "1→0");
        room.desk.told(&key, call, room.time(202));
        assert!(matches!(room.tell(262), Some(Call::Count { times: 3, .. })));
    }

    #[test]
    fn objects_and_kinds_are_told_apart_and_bounded() {
        let mut room = Room::new();
        let now = (room.start, at(0));
        for index in 0..LINES_MAX {
            assert!(room.desk.take(&subject(&format!("m{index}")), Reason::ScaledUp, "n", now));
        }
        assert!(!room.desk.take(&subject("one-more"), Reason::ScaledUp, "n", now));
        assert!(room.desk.take(&subject("m0"), Reason::ScaledUp, "n", now));
        while room.tell(1).is_some() {}
        let later = (room.time(400), at(400));
        assert!(room.desk.take(&subject("one-more"), Reason::ScaledUp, "n", later));
        assert_eq!(room.desk.lines.len(), 1);
    }

    #[test]
    fn long_notes_and_names_are_cut_where_a_character_ends() {
        let mut room = Room::new();
        room.take(0, &"→".repeat(1_000));
        let Some(Call::Create { note, .. }) = room.tell(0) else { panic!() };
        assert_eq!(note.len(), 1_023);
        let name = format!("{}-{}", "a".repeat(219), "b".repeat(30));
        let news = News::new(&subject(&name), "n", at(0));
        assert!(news.event.len() <= 253 && !news.event.contains("-."), "{}", news.event);
    }
}
