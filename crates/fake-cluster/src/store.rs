//! Objects by kind, namespace and name, under one resource version, with the rules for writing them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    clock::stamp,
    defaults, events,
    history::{Change, Event, History},
    kinds::{self, CRDS, Face, Generation, Kind, Kinds, NAMESPACES, Status},
    object::{Object, meta_mut, meta_text},
    refusal::Refusal,
    rules,
};

/// Whose hand writes, and how.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) manager: String,
    pub(crate) operation: Operation,
    /// Empty for the object itself.
    pub(crate) subresource: &'static str,
    pub(crate) at: Timestamp,
    pub(crate) effect: Effect,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    Update,
    /// Server-side apply of this configuration.
    Apply(Value),
}

/// Whether a write is kept or only tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Kept,
    DryRun,
}

/// Which part of an object a write may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status, where that is a subresource.
    Main,
    Status,
    /// Everything: tests that write directly.
    Whole,
}

/// Conditions and wishes of a deletion.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deletion {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) grace: Option<u64>,
}

#[derive(Debug)]
pub(crate) enum Deleted {
    Gone(Arc<Object>),
    /// It waits for its finalizers or its grace period.
    Terminating(Arc<Object>),
}

/// Which object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Operation {
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Update => "Update",
            Self::Apply(_) => "Apply",
        }
    }
}

impl Writer {
    pub(crate) fn owns(&self, manager: &str, operation: &str, subresource: &str) -> bool {
        self.manager == manager && self.operation.word() == operation && self.subresource == subresource
    }
}

/// The objects of one kind.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) kind: Arc<Kind>,
    objects: BTreeMap<String, BTreeMap<String, Arc<Object>>>,
    pub(crate) history: History,
}

impl Table {
    pub(crate) fn get(&self, key: Key<'_>) -> Option<&Arc<Object>> {
        self.objects.get(key.namespace)?.get(key.name)
    }

    /// In the order of namespace and name; of one namespace if given.
    pub(crate) fn objects<'a>(&'a self, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Object>> {
        let one =
            namespace.map(|namespace| self.objects.get(namespace).into_iter().flat_map(BTreeMap::values));
        let all = namespace.is_none().then(|| self.objects.values().flat_map(BTreeMap::values));
        one.into_iter().flatten().chain(all.into_iter().flatten())
    }

    fn insert(&mut self, object: &Arc<Object>) {
        let names = self.objects.entry(object.namespace.clone()).or_default();
        names.insert(object.name.clone(), object.clone());
    }

    fn remove(&mut self, key: Key<'_>) {
        if let Some(names) = self.objects.get_mut(key.namespace) {
            names.remove(key.name);
            if names.is_empty() {
                self.objects.remove(key.namespace);
            }
        }
    }
}

/// All that a list showed at one revision, for the rest of its pages.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) resource: String,
    pub(crate) revision: u64,
    pub(crate) objects: Arc<Vec<Arc<Object>>>,
}

/// The whole store.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) kinds: Kinds,
    tables: HashMap<String, Table>,
    revision: u64,
    /// Made into uids and the random ends of generated names.
    serial: u64,
    history_max: usize,
    pub(crate) snapshots: VecDeque<Snapshot>,
}

impl Store {
    pub(crate) fn new(history_max: usize, now: Timestamp) -> Self {
        let mut store = Self {
            kinds: Kinds::default(),
            tables: HashMap::new(),
            revision: 1,
            serial: 0,
            history_max,
            snapshots: VecDeque::new(),
        };
        for kind in kinds::built_in() {
            store.register(kind);
        }
        for namespace in ["default", "kube-system", "kube-node-lease", "kube-public"] {
            store.ensure_namespace(namespace, now);
        }
        store
    }

    fn register(&mut self, kind: Kind) {
        let kind = self.kinds.add(kind);
        if kind.face != Face::AsStored {
            return;
        }
        let resource = kind.resource();
        match self.tables.get_mut(&resource) {
            Some(table) => table.kind = kind,
            None => {
                let history = History::new(self.history_max, self.revision);
                self.tables.insert(resource, Table { kind, objects: BTreeMap::new(), history });
            }
        }
    }

    pub(crate) fn ensure_namespace(&mut self, name: &str, now: Timestamp) {
        let writer = Writer {
            manager: "kube-apiserver".to_owned(),
            operation: Operation::Update,
            subresource: "",
            at: now,
            effect: Effect::Kept,
        };
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        let kind = self.kinds.named(NAMESPACES).expect("namespaces are built in");
        if self.table(&kind).get(Key { namespace: "", name }).is_none() {
            let made = self.create(&kind, "", namespace, &writer);
            debug_assert!(made.is_ok(), "the namespace did not exist: {made:?}");
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The table of a kind that came from [`Kinds`]; a kind unregistered since then shows an empty table.
    pub(crate) fn table(&self, kind: &Kind) -> &Table {
        self.tables.get(&kind.stored()).expect("tables outlive their kinds")
    }

    fn table_mut(&mut self, kind: &Kind) -> &mut Table {
        self.tables.get_mut(&kind.stored()).expect("tables outlive their kinds")
    }

    pub(crate) fn get(&self, kind: &Kind, key: Key<'_>) -> Result<&Arc<Object>, Refusal> {
        self.table(kind).get(key).ok_or_else(|| Refusal::not_found(kind, key.name))
    }

    /// Watches can no longer start before now.
    pub(crate) fn compact(&mut self) {
        for table in self.tables.values_mut() {
            table.history.forget_before(self.revision);
        }
        self.snapshots.clear();
    }

    /// Shows an event to those who watch now; nothing is stored.
    pub(crate) fn replay(&mut self, kind: &Kind, change: Change, value: Value) {
        let revision = self.revision;
        let object = Arc::new(Object::new(value, revision));
        let event = Event { change, revision, previous: Some(object.clone()), object };
        self.table_mut(kind).history.push(event);
    }

    pub(crate) fn create(
        &mut self,
        kind: &Kind,
        namespace: &str,
        object: Value,
        writer: &Writer,
    ) -> Result<Arc<Object>, Refusal> {
        self.create_part(kind, namespace, (object, Part::Main), writer)
    }

    pub(crate) fn create_part(
        &mut self,
        kind: &Kind,
        namespace: &str,
        (mut object, part): (Value, Part),
        writer: &Writer,
    ) -> Result<Arc<Object>, Refusal> {
        if kind.face == Face::Events {
            object = events::stored(&object);
        }
        let kind = &*self.table(kind).kind.clone();
        rules::check_is_map(kind, &object)?;
        self.name(kind, &mut object)?;
        let name = meta_text(&object, "name").to_owned();
        if kind.namespaced() {
            self.get(&self.kind(NAMESPACES), Key { namespace: "", name: namespace })?;
            meta_mut(&mut object).insert("namespace".into(), namespace.into());
        } else {
            meta_mut(&mut object).remove("namespace");
        }
        if !meta_text(&object, "resourceVersion").is_empty() {
            return Err(Refusal::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        if self.table(kind).get(Key { namespace, name: &name }).is_some() {
            return Err(Refusal::already_exists(kind, &name));
        }
        if part == Part::Main && kind.status == Status::Subresource {
            rules::drop_status(&mut object);
        }
        defaults::fill(kind, &mut object, writer.at);
        defaults::check(kind, &object)?;
        let uid = self.next_uid();
        let meta = meta_mut(&mut object);
        for member in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"] {
            meta.remove(member);
        }
        meta.insert("uid".into(), uid.into());
        meta.insert("creationTimestamp".into(), stamp(writer.at).into());
        if kind.generation != Generation::None {
            meta.insert("generation".into(), 1.into());
        }
        meta.remove("managedFields");
        rules::track(kind, None, &mut object, writer);
        Ok(self.commit(kind, Change::Added, (object, None), writer))
    }

    /// Replaces an object by what `edit` makes of it.
    pub(crate) fn update(
        &mut self,
        kind: &Kind,
        key: Key<'_>,
        part: Part,
        writer: &Writer,
        edit: impl FnOnce(&Value) -> Result<Value, Refusal>,
    ) -> Result<Arc<Object>, Refusal> {
        let old = self.get(kind, key)?.clone();
        let mut new = match kind.face {
            Face::AsStored => edit(&old.value)?,
            Face::Events => events::stored(&edit(&events::shown(&old.value))?),
        };
        let kind = &*self.table(kind).kind.clone();
        rules::check_is_map(kind, &new)?;
        rules::check_identity(kind, &old, &new)?;
        rules::restore(kind, &old.value, &mut new, part);
        defaults::fill(kind, &mut new, writer.at);
        defaults::check(kind, &new)?;
        if rules::generation_rises(kind, &old.value, &new, part) {
            let generation = old.value["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            meta_mut(&mut new).insert("generation".into(), generation.into());
        }
        rules::track(kind, Some(&old.value), &mut new, writer);
        meta_mut(&mut new).insert("resourceVersion".into(), old.revision.to_string().into());
        if new == old.value {
            return Ok(old);
        }
        if rules::is_released(&new) {
            return Ok(self.commit(kind, Change::Deleted, (new, Some(old)), writer));
        }
        Ok(self.commit(kind, Change::Modified, (new, Some(old)), writer))
    }

    pub(crate) fn delete(
        &mut self,
        kind: &Kind,
        key: Key<'_>,
        how: &Deletion,
        writer: &Writer,
    ) -> Result<Deleted, Refusal> {
        let old = self.get(kind, key)?.clone();
        rules::check_preconditions(kind, &old, how)?;
        let mut new = old.value.clone();
        let grace = rules::grace_of(kind, &new, how);
        let held = new["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        if grace == 0 && !held {
            let meta = meta_mut(&mut new);
            if meta.contains_key("deletionGracePeriodSeconds") {
                meta.insert("deletionGracePeriodSeconds".into(), 0.into());
                meta.insert("deletionTimestamp".into(), stamp(writer.at).into());
            }
            return Ok(Deleted::Gone(self.commit(kind, Change::Deleted, (new, Some(old)), writer)));
        }
        let earlier = new["metadata"]["deletionGracePeriodSeconds"].as_u64();
        if earlier.is_some_and(|earlier| earlier <= grace) {
            return Ok(Deleted::Terminating(old));
        }
        let generation = new["metadata"]["generation"].as_i64();
        let meta = meta_mut(&mut new);
        let end =
            writer.at.saturating_add(SignedDuration::from_secs(i64::try_from(grace).unwrap_or(i64::MAX)));
        meta.insert("deletionTimestamp".into(), stamp(end.unwrap_or(Timestamp::MAX)).into());
        meta.insert("deletionGracePeriodSeconds".into(), grace.into());
        if let Some(generation) = generation.filter(|_| earlier.is_none()) {
            meta.insert("generation".into(), (generation + 1).into());
        }
        Ok(Deleted::Terminating(self.commit(kind, Change::Modified, (new, Some(old)), writer)))
    }

    fn commit(
        &mut self,
        kind: &Kind,
        change: Change,
        (mut value, previous): (Value, Option<Arc<Object>>),
        writer: &Writer,
    ) -> Arc<Object> {
        let revision = if writer.effect == Effect::Kept { self.revision + 1 } else { self.revision };
        let meta = meta_mut(&mut value);
        meta.insert("resourceVersion".into(), revision.to_string().into());
        let object = Arc::new(Object::new(value, revision));
        if writer.effect == Effect::DryRun {
            return object;
        }
        self.revision = revision;
        let table = self.table_mut(kind);
        match change {
            Change::Added | Change::Modified => table.insert(&object),
            Change::Deleted => table.remove(Key { namespace: &object.namespace, name: &object.name }),
        }
        table.history.push(Event { change, revision, object: object.clone(), previous });
        self.follow_up(kind, change, &object, writer);
        object
    }

    /// Definitions bring and take kinds; a namespace takes its contents with it.
    fn follow_up(&mut self, kind: &Kind, change: Change, object: &Object, writer: &Writer) {
        let gone = change == Change::Deleted;
        match kind.resource().as_str() {
            CRDS => {
                let Some(described) = kinds::from_definition(&object.value) else { return };
                if gone {
                    self.clear(&described, None, writer);
                    self.kinds.remove(&described.resource());
                } else {
                    self.register(described);
                }
            }
            NAMESPACES if gone => {
                for kind in self.kinds.all().to_vec() {
                    if kind.namespaced() {
                        self.clear(&kind, Some(&object.name), writer);
                    }
                }
            }
            _ => {}
        }
    }

    fn clear(&mut self, kind: &Kind, namespace: Option<&str>, writer: &Writer) {
        let all: Vec<_> = self.table(kind).objects(namespace).cloned().collect();
        for object in all {
            self.commit(kind, Change::Deleted, (object.value.clone(), Some(object)), writer);
        }
    }

    fn kind(&self, resource: &str) -> Arc<Kind> {
        self.kinds.named(resource).expect("a built-in kind")
    }

    fn name(&mut self, kind: &Kind, object: &mut Value) -> Result<(), Refusal> {
        let (name, prefix) = (meta_text(object, "name"), meta_text(object, "generateName").to_owned());
        if !name.is_empty() {
            return defaults::check_name(kind, name);
        }
        if prefix.is_empty() {
            return Err(defaults::no_name(kind));
        }
        let name = format!("{prefix}{}", self.next_suffix());
        meta_mut(object).insert("name".into(), name.into());
        Ok(())
    }

    /// Five letters as the server appends to generated names; the same in every run.
    pub(crate) fn next_suffix(&mut self) -> String {
        const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
        self.serial += 1;
        let mut rest = scramble(self.serial);
        let letter = |rest: &mut u64| {
            let index = usize::try_from(*rest % LETTERS.len() as u64).unwrap_or(0);
            *rest /= LETTERS.len() as u64;
            char::from(LETTERS.get(index).copied().unwrap_or(b'b'))
        };
        (0..5).map(|_| letter(&mut rest)).collect()
    }

    fn next_uid(&mut self) -> String {
        self.serial += 1;
        let (high, low) = (scramble(self.serial), scramble(!self.serial));
        let (one, two) = (high >> 32, (high >> 16) & 0xffff);
        format!(
            "{one:08x}-{two:04x}-4{:03x}-8{:03x}-{:012x}",
            high & 0xfff,
            low >> 52,
            low & 0xffff_ffff_ffff
        )
    }
}

/// SplitMix64: well-spread numbers from a count.
fn scramble(count: u64) -> u64 {
    let mut z = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
