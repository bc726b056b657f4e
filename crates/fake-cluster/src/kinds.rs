//! The kinds the server knows: their names, what their writes may change, and their subresources.

use std::sync::Arc;

use serde_json::Value;

/// A kind and how it behaves.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) group: String,
    /// Served versions; the first is preferred and stored.
    pub(crate) versions: Vec<String>,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) scope: Scope,
    pub(crate) status: Status,
    pub(crate) scale: Option<ScalePaths>,
    pub(crate) generation: Generation,
    pub(crate) update: Update,
    pub(crate) fields: Fields,
    /// Fields besides name and namespace by which lists may be filtered.
    pub(crate) selectable: Vec<String>,
    /// Whether it came from a CustomResourceDefinition.
    pub(crate) custom: bool,
    pub(crate) face: Face,
}

/// How stored objects are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    AsStored,
    /// `events.k8s.io/v1`: the events of `v1` by other names.
    Events,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Namespaced,
    Cluster,
}

/// Whether `status` is written by a subresource of its own only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Subresource,
    Plain,
}

/// Which changes raise `metadata.generation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    None,
    /// Changes of `spec`.
    Spec,
    /// Changes of `spec` or of the annotations, as for Deployments.
    SpecAndAnnotations,
    /// Changes of anything but metadata (and status, where that is a subresource).
    Everything,
}

/// What a PUT may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    /// Without a resourceVersion it overwrites.
    Unconditional,
    /// It must carry a resourceVersion.
    Conditional,
    /// As `Conditional`, and it creates what does not exist.
    OrCreate,
}

/// Whether `managedFields` are kept; pods and slices are too many for it to pay in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fields {
    Managed,
    Untracked,
}

/// Where the scale subresource of a kind finds its numbers.
#[derive(Clone, Debug)]
pub(crate) struct ScalePaths {
    pub(crate) spec: Vec<String>,
    pub(crate) status: Vec<String>,
    pub(crate) selector: ScaleSelector,
}

#[derive(Clone, Debug)]
pub(crate) enum ScaleSelector {
    /// A `LabelSelector` object.
    Object(Vec<String>),
    /// The selector as text.
    Text(Vec<String>),
    None,
}

impl Kind {
    /// The name in messages and in this crate's own interface: `pods`, `deployments.apps`.
    pub(crate) fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The resource that holds its objects.
    pub(crate) fn stored(&self) -> String {
        match self.face {
            Face::AsStored => self.resource(),
            Face::Events => "events".to_owned(),
        }
    }

    pub(crate) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    pub(crate) fn preferred(&self) -> &str {
        self.versions.first().map_or("v1", String::as_str)
    }

    pub(crate) fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    fn new(group: &str, version: &str, names: (&str, &str, &[&str])) -> Self {
        let (plural, kind, short_names) = names;
        Self {
            group: group.to_owned(),
            versions: vec![version.to_owned()],
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            kind: kind.to_owned(),
            short_names: short_names.iter().map(|&name| name.to_owned()).collect(),
            scope: Scope::Namespaced,
            status: Status::Plain,
            scale: None,
            generation: Generation::None,
            update: Update::Unconditional,
            fields: Fields::Managed,
            selectable: Vec::new(),
            custom: false,
            face: Face::AsStored,
        }
    }

    /// The kind of the scale subresource, for error texts.
    pub(crate) fn scale() -> Self {
        Self::new("autoscaling", "v1", ("scales", "Scale", &[]))
    }

    fn with_status(mut self) -> Self {
        self.status = Status::Subresource;
        self
    }

    fn with_scale(mut self) -> Self {
        self.scale = Some(ScalePaths {
            spec: path(".spec.replicas"),
            status: path(".status.replicas"),
            selector: ScaleSelector::Object(path(".spec.selector")),
        });
        self
    }

    fn generating(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    fn updated(mut self, update: Update) -> Self {
        self.update = update;
        self
    }

    fn untracked(mut self) -> Self {
        self.fields = Fields::Untracked;
        self
    }

    fn cluster_wide(mut self) -> Self {
        self.scope = Scope::Cluster;
        self
    }

    fn selectable_by(mut self, fields: &[&str]) -> Self {
        self.selectable = fields.iter().map(|&field| field.to_owned()).collect();
        self
    }
}

/// `.spec.replicas` as members.
pub(crate) fn path(text: &str) -> Vec<String> {
    text.split('.').filter(|member| !member.is_empty()).map(str::to_owned).collect()
}

pub(crate) const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";
pub(crate) const NAMESPACES: &str = "namespaces";

/// The kinds a fresh cluster has.
pub(crate) fn built_in() -> Vec<Kind> {
    let mut kinds = core();
    kinds.extend(apps());
    kinds.extend([
        Kind { face: Face::Events, ..Kind::new("events.k8s.io", "v1", ("events", "Event", &["ev"])) }
            .updated(Update::OrCreate)
            .selectable_by(&["regarding.kind", "regarding.name", "regarding.namespace", "reason", "type"])
            .untracked(),
        Kind::new("discovery.k8s.io", "v1", ("endpointslices", "EndpointSlice", &[]))
            .generating(Generation::Everything)
            .untracked(),
        Kind::new("coordination.k8s.io", "v1", ("leases", "Lease", &[])).updated(Update::OrCreate),
        Kind::new("autoscaling", "v2", ("horizontalpodautoscalers", "HorizontalPodAutoscaler", &["hpa"]))
            .with_status(),
        Kind::new("policy", "v1", ("poddisruptionbudgets", "PodDisruptionBudget", &["pdb"]))
            .generating(Generation::Spec)
            .with_status(),
        Kind::new(
            "apiextensions.k8s.io",
            "v1",
            ("customresourcedefinitions", "CustomResourceDefinition", &["crd", "crds"]),
        )
        .cluster_wide()
        .generating(Generation::Spec)
        .updated(Update::Conditional)
        .with_status(),
    ]);
    kinds
}

fn core() -> Vec<Kind> {
    let events = &[
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.uid",
        "reason",
        "type",
        "reportingComponent",
    ];
    let pods = &[
        "spec.nodeName",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.restartPolicy",
        "status.phase",
        "status.podIP",
    ];
    vec![
        Kind::new("", "v1", ("pods", "Pod", &["po"]))
            .with_status()
            .generating(Generation::Spec)
            .selectable_by(pods)
            .untracked(),
        Kind::new("", "v1", ("services", "Service", &["svc"])).with_status(),
        Kind::new("", "v1", ("configmaps", "ConfigMap", &["cm"])),
        Kind::new("", "v1", ("secrets", "Secret", &[])).selectable_by(&["type"]),
        Kind::new("", "v1", ("serviceaccounts", "ServiceAccount", &["sa"])),
        Kind::new("", "v1", ("events", "Event", &["ev"]))
            .updated(Update::OrCreate)
            .selectable_by(events)
            .untracked(),
        Kind::new("", "v1", (NAMESPACES, "Namespace", &["ns"])).cluster_wide().with_status(),
        Kind::new("", "v1", ("nodes", "Node", &["no"])).cluster_wide().with_status().untracked(),
    ]
}

fn apps() -> Vec<Kind> {
    let scaled = |plural, kind, short| {
        Kind::new("apps", "v1", (plural, kind, short)).with_status().with_scale().generating(Generation::Spec)
    };
    vec![
        scaled("deployments", "Deployment", &["deploy"]).generating(Generation::SpecAndAnnotations),
        scaled("statefulsets", "StatefulSet", &["sts"]),
        scaled("replicasets", "ReplicaSet", &["rs"]).untracked(),
    ]
}

/// The kind that a CustomResourceDefinition describes, if it is complete.
pub(crate) fn from_definition(definition: &Value) -> Option<Kind> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let mut served: Vec<&Value> =
        spec["versions"].as_array()?.iter().filter(|version| version["served"] == true).collect();
    served.sort_by_key(|version| version["storage"] != true);
    let stored = *served.first()?;
    let versions = served.iter().filter_map(|version| version["name"].as_str().map(str::to_owned)).collect();
    let texts = |list: &Value| {
        list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let kind = names["kind"].as_str()?;
    let subresources = &stored["subresources"];
    Some(Kind {
        group: spec["group"].as_str()?.to_owned(),
        versions,
        plural: names["plural"].as_str()?.to_owned(),
        singular: names["singular"].as_str().map_or_else(|| kind.to_lowercase(), str::to_owned),
        kind: kind.to_owned(),
        short_names: texts(&names["shortNames"]),
        scope: if spec["scope"] == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        status: if subresources["status"].is_object() { Status::Subresource } else { Status::Plain },
        scale: scale_paths(&subresources["scale"]),
        generation: Generation::Everything,
        update: Update::Conditional,
        fields: Fields::Managed,
        selectable: stored["selectableFields"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|field| Some(field["jsonPath"].as_str()?.trim_start_matches('.').to_owned()))
            .collect(),
        custom: true,
        face: Face::AsStored,
    })
}

fn scale_paths(scale: &Value) -> Option<ScalePaths> {
    Some(ScalePaths {
        spec: path(scale["specReplicasPath"].as_str()?),
        status: path(scale["statusReplicasPath"].as_str()?),
        selector: match scale["labelSelectorPath"].as_str() {
            Some(text) => ScaleSelector::Text(path(text)),
            None => ScaleSelector::None,
        },
    })
}

/// Kinds by resource name and by path.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    known: Vec<Arc<Kind>>,
}

impl Kinds {
    pub(crate) fn add(&mut self, kind: Kind) -> Arc<Kind> {
        let kind = Arc::new(kind);
        self.remove(&kind.resource());
        self.known.push(kind.clone());
        kind
    }

    pub(crate) fn remove(&mut self, resource: &str) {
        self.known.retain(|kind| kind.resource() != resource);
    }

    /// By `plural.group`, or by the plural, singular or short name alone: the first that fits.
    pub(crate) fn named(&self, resource: &str) -> Option<Arc<Kind>> {
        let exact = self.known.iter().find(|kind| kind.resource() == resource);
        let loose = || {
            self.known.iter().find(|kind| {
                kind.plural == resource
                    || kind.singular == resource
                    || kind.short_names.iter().any(|short| short == resource)
            })
        };
        exact.or_else(loose).cloned()
    }

    pub(crate) fn served(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let fits = |kind: &&Arc<Kind>| {
            kind.group == group
                && kind.plural == plural
                && kind.versions.iter().any(|served| served == version)
        };
        self.known.iter().find(fits).cloned()
    }

    pub(crate) fn all(&self) -> &[Arc<Kind>] {
        &self.known
    }
}
