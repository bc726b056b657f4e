//! The replicas a gateway sends calls to: the addresses behind a Service, each asked whether its *model* is ready
//! before it gets the first call.
//!
//! Kubernetes' readiness decides until when an address is used: the data path puts aside one that fails by itself,
//! so a replica that was found ready is not asked again. Without the API server everything stays as it was last
//! seen, for ever.

use std::{collections::BTreeSet, fmt, sync::Arc};

use autoscaler::fleet::Replica;
use tokio::sync::watch;

use super::{
    cluster::Cluster,
    watch::{Followed, Parts, Subject, Watch},
};
use crate::probe::{self, Probe};

mod slice;
mod worker;

use self::{slice::Slice, worker::Worker};

#[derive(Clone, Debug)]
pub struct Config {
    /// The served name, for the log.
    pub model: Arc<str>,
    pub namespace: Arc<str>,
    /// The Service whose endpoints are the replicas.
    pub service: Arc<str>,
    pub port: Port,
    pub probe: probe::Timing,
}

/// On which port of its pod a replica listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// As the pod has it, whatever number the Service has for it.
    Number(u16),
    /// As the Service calls it.
    Name(Arc<str>),
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A handle to the replicas behind one Service. They are followed as long as anybody holds one, or a receiver of
/// theirs.
#[derive(Clone, Debug)]
pub struct Endpoints {
    listing: watch::Receiver<Arc<[Replica]>>,
}

impl Endpoints {
    /// Starts to follow. Must be called within a runtime, which then runs it.
    #[must_use]
    pub fn start(cluster: &Cluster, config: Config, probe: Probe) -> Self {
        let Config { model, namespace, service, port, probe: timing } = config;
        let slices = follow(cluster, &namespace, service);
        let (publisher, listing) = watch::channel(Arc::default());
        tokio::spawn(Worker::new(model, port, probe, timing, publisher).run(slices));
        Self { listing }
    }

    /// The replicas as they are. Leaving ones are listed until the last call on them has ended.
    #[must_use]
    pub fn replicas(&self) -> watch::Receiver<Arc<[Replica]>> {
        self.listing.clone()
    }
}

/// The names of the pods behind a Service, ready or not; `None` until they are known. Followed as long as anybody
/// holds a receiver. Must be called within a runtime, which then runs it.
#[must_use]
pub fn names(
    cluster: &Cluster,
    namespace: &Arc<str>,
    service: Arc<str>,
) -> watch::Receiver<Option<Arc<BTreeSet<Arc<str>>>>> {
    let mut slices = follow(cluster, namespace, service);
    let (publisher, names) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            if let Some(view) = slices.view() {
                let names = Arc::new(slice::names(&view.objects));
                publisher.send_if_modified(|before| {
                    let news = before.as_ref() != Some(&names);
                    *before = Some(names);
                    news
                });
            }
            tokio::select! {
                () = slices.changed() => {}
                () = publisher.closed() => return,
            }
        }
    });
    names
}

fn follow(cluster: &Cluster, namespace: &Arc<str>, service: Arc<str>) -> Followed<Slice> {
    let subject = Subject {
        path: format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices").into(),
        kind: "endpointslices".into(),
        namespace: Arc::clone(namespace),
        parts: Parts::All,
    };
    Watch::of(cluster, &subject).follow(move |slice: &Slice| slice.service == service)
}
