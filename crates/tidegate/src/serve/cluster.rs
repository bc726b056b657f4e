//! This process as one of several in a cluster: the connection to the API server, who leads, and what gateways and
//! the leader tell each other.

mod events;
mod lead;
mod resources;
mod sight;
mod status;
mod term;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use autoscaler::{record::Sink, state::State};
use fleet::{
    kubernetes::{
        self, ConnectOptions,
        endpoints::{self, Endpoints},
        events::Recorder,
        fleet::KubernetesFleet,
        lease::{self, Election, Fence, Leader, Standing},
        models::Scope,
        state::Store,
        status::StatusWriter,
        target::TargetRef,
        wake::Wake,
    },
    probe::{self, Probe},
};
use leader::{
    collector::{Collector, Listed},
    keda,
    reporter::{self, Reporter},
    server::{self, Signals},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub(super) use self::sight::Sight;
use self::{resources::Resource, term::Term};
use super::{Identity, Registry, Role, View, policy::policy};
use crate::config::{self, Config, Fleet, LeaseTiming, Resources};

/// Name of the ConfigMap where leaders leave what they learned, behind the name of the Lease.
const MEMORY: &str = "memory";
/// How long saving and resigning may take at the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// Pause before listening for gateways is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// This process's part in a cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    api: kubernetes::Cluster,
    /// Where this process runs.
    namespace: Arc<str>,
    /// Whose Model resources are served.
    resources: Option<Scope>,
    limits: config::Limits,
    /// The Model resources as last read, and what became of each.
    declared: watch::Sender<Arc<[Resource]>>,
    /// Whether they were read, if any are served.
    read: AtomicBool,
    /// `None` where this process serves no clients.
    reporter: Option<Reporter>,
    /// `None` where this process decides nothing.
    leading: Option<Leading>,
}

/// The part of a process that decides whenever it leads.
#[derive(Debug)]
struct Leading {
    api: kubernetes::Cluster,
    /// Where this process runs.
    namespace: Arc<str>,
    election: Election,
    fence: Fence,
    collector: Collector,
    term: watch::Sender<Option<Arc<Term>>>,
    store: Store,
    status: StatusWriter,
    events: Recorder,
    /// Names of the gateways; `None` until they were read.
    listed: watch::Receiver<Option<Listed>>,
    name: Arc<str>,
    /// Where gateways reach this process.
    address: Arc<str>,
    /// Longest that one call of a write may take.
    patience: Duration,
    /// Where gateways are listened to while this process leads.
    signals: SocketAddr,
    /// Where decisions are recorded.
    record: Sink,
}

impl Cluster {
    /// Joins the cluster if the configuration has anything of one.
    ///
    /// # Errors
    /// It is not known where the cluster is, or gateways cannot be listened to.
    pub(super) async fn join(
        config: &Config,
        role: Role,
        identity: Identity,
        record: Sink,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let in_cluster = config.models.iter().any(|model| matches!(model.fleet, Fleet::Kubernetes(_)));
        if !in_cluster && config.cluster.resources == Resources::Off {
            return Ok(None);
        }
        let agent = format!("tidegate/{} ({})", env!("CARGO_PKG_VERSION"), role.as_str());
        let options = ConnectOptions { kubeconfig: None, context: None, agent };
        let api = kubernetes::Cluster::connect(options).await.context(
            "models of a cluster are configured, and there is none: neither a kubeconfig nor a service account",
        )?;
        let Identity { pod_name, pod_namespace, pod_ip } = identity;
        let namespace: Arc<str> = pod_namespace.map_or_else(|| api.namespace().into(), Into::into);
        let name: Arc<str> = pod_name.map_or_else(own_name, Into::into);
        let settings = &config.cluster;
        let leading = match role.decides() {
            true => Some(Leading::stand(&api, &namespace, Arc::clone(&name), pod_ip, settings).await?),
            false => None,
        };
        let leading = leading.map(|leading| Leading { record, ..leading });
        let leader = match &leading {
            Some(leading) => leading.leader(),
            None => lease::follow(&api, &namespace, &settings.lease),
        };
        let reporter = role.serves().then(|| reporter(name, leader));
        let resources = scope(&settings.resources, &namespace);
        let limits = config.limits.clone();
        Ok(Some(Arc::new(Self {
            api,
            namespace,
            resources,
            limits,
            declared: watch::Sender::default(),
            read: AtomicBool::new(false),
            reporter,
            leading,
        })))
    }

    /// A model of the cluster as this gateway sees it; `None` where this process serves no clients.
    pub(super) fn sight(
        &self,
        config: &config::Model,
        kubernetes: &config::Kubernetes,
        probe: Probe,
    ) -> anyhow::Result<Option<Sight>> {
        let Some(reporter) = self.reporter.clone() else { return Ok(None) };
        let namespace = namespace(kubernetes, &self.namespace);
        let target: TargetRef = kubernetes.target.parse()?;
        let endpoints = Endpoints::start(
            &self.api,
            endpoints::Config {
                model: Arc::clone(&config.name),
                namespace: Arc::clone(&namespace),
                service: kubernetes.service.as_str().into(),
                port: port(&kubernetes.port),
                probe: probe::Timing::default(),
            },
            probe,
        );
        let names = endpoints::names(&self.api, &namespace, kubernetes.service.as_str().into());
        Ok(Some(Sight { endpoints, names, reporter, wake: Wake::new(&self.api, namespace, target) }))
    }

    /// Scales the model of `view` whenever this process leads, until `stop`.
    pub(super) async fn lead(
        self: Arc<Self>,
        view: Arc<View>,
        state: Option<State>,
        stop: CancellationToken,
    ) {
        let (Some(leading), Some(policy)) = (&self.leading, policy(&view.config)) else { return };
        lead::lead(leading, &view, Arc::new(policy), state, stop).await;
    }

    /// Does its part until `shutdown`, then leaves: a successor need not wait.
    pub(super) async fn run(self: Arc<Self>, registry: Arc<Registry>, shutdown: CancellationToken) {
        let resources = resources::follow(&self, &registry);
        let deciding = async {
            if let Some(leading) = &self.leading {
                leading.run(&self, &registry).await;
            }
        };
        let all = Box::pin(async { tokio::join!(resources, deciding) });
        shutdown.run_until_cancelled(all).await;
        if let Some(leading) = &self.leading {
            // What does not end in time ends with the process; the Lease then runs out by itself.
            let _ = timeout(FAREWELL, leading.leave(&registry)).await;
        }
    }

    /// Whether it was read from the cluster which models there are. It stays known when the cluster is away.
    pub(super) fn is_known(&self) -> bool {
        self.read.load(Ordering::Relaxed)
    }
}

impl Leading {
    async fn stand(
        api: &kubernetes::Cluster,
        namespace: &Arc<str>,
        name: Arc<str>,
        address: Option<IpAddr>,
        settings: &config::Cluster,
    ) -> anyhow::Result<Self> {
        // Tried now, so that a mistake shows at the start; listened to when this process leads.
        let tried = TcpListener::bind(settings.signals).await.and_then(|listener| listener.local_addr());
        let bound = tried.with_context(|| format!("cannot listen for gateways on {}", settings.signals))?;
        let address: Arc<str> = reachable(bound, address).to_string().into();
        let timing = match settings.lease_timing {
            LeaseTiming::Default => lease::Timing::default(),
            LeaseTiming::Fast => lease::Timing::fast(),
        };
        let election = Election::start(
            api,
            lease::Config {
                namespace: namespace.to_string(),
                name: settings.lease.clone(),
                identity: Arc::clone(&name),
                signals_address: Some(Arc::clone(&address)),
                timing,
            },
        );
        let fence = election.fence();
        let listed = endpoints::names(api, namespace, settings.gateways.as_str().into());
        Ok(Self {
            api: api.clone(),
            namespace: Arc::clone(namespace),
            collector: Collector::new(mapped(listed.clone(), |names| names.clone().unwrap_or_default())),
            term: watch::Sender::new(None),
            store: Store::new(api, namespace, &format!("{}-{MEMORY}", settings.lease), fence.clone()),
            status: StatusWriter::start(api, fence.clone()),
            events: Recorder::start(api, &name),
            listed,
            name,
            address,
            patience: timing.duration() - timing.renew_deadline(),
            signals: bound,
            record: Sink::default(),
            election,
            fence,
        })
    }

    /// Hears gateways, follows the terms, and writes down what comes of it.
    async fn run(&self, cluster: &Cluster, registry: &Registry) {
        tokio::join!(
            self.hear(),
            term::publish(self),
            term::save(self, registry),
            status::report(self, cluster, registry),
            events::tell(self, cluster, registry),
        );
    }

    /// Listens to gateways and KEDA, each time this process leads: a port that nobody answers at sends their
    /// balancers to the one that does.
    async fn hear(&self) {
        let mut term = self.term.subscribe();
        loop {
            let epoch = match term.wait_for(Option::is_some).await {
                Ok(term) => epoch(&term),
                Err(_) => return,
            };
            let over = async {
                // A closed channel is the end of all terms.
                let _ = term.wait_for(|term| self::epoch(term) != epoch).await;
            };
            tokio::select! {
                () = self.serve_signals(epoch) => {}
                () = over => {}
            }
        }
    }

    /// Serves gateways and KEDA until dropped.
    async fn serve_signals(&self, epoch: Option<u64>) {
        let listener = loop {
            match TcpListener::bind(self.signals).await {
                Ok(listener) => break listener,
                Err(error) => tracing::error!(%error, "cannot listen for gateways on {}", self.signals),
            }
            sleep(LISTEN_AGAIN).await;
        };
        let (_leading, leading) = watch::channel(epoch);
        let signals = Signals::service(self.collector.clone(), Arc::clone(&self.name), leading.clone());
        let keda = keda::Scaler::service(self.collector.clone(), leading);
        let services = Routes::new(signals).add_service(keda);
        if let Err(error) = server::serve(listener, services, CancellationToken::new()).await {
            tracing::error!(%error, "gateways are not heard any more");
            sleep(LISTEN_AGAIN).await;
        }
    }

    /// Saves what was learned and lets a successor in.
    async fn leave(&self, registry: &Registry) {
        term::save_once(self, registry).await;
        self.term.send_replace(None);
        self.election.resign().await;
    }

    /// The epoch in which this process decides, if it does.
    fn epoch(&self) -> Option<u64> {
        epoch(&self.term.borrow())
    }

    /// Who leads, this process or another.
    fn leader(&self) -> watch::Receiver<Option<Leader>> {
        let ourselves = (Arc::clone(&self.name), Arc::clone(&self.address));
        mapped(self.election.standing(), move |standing| match standing {
            Standing::Leading { epoch } => Some(Leader {
                identity: Arc::clone(&ourselves.0),
                address: Some(Arc::clone(&ourselves.1)),
                epoch: *epoch,
            }),
            Standing::Following { leader } => leader.clone(),
        })
    }

    /// The replicas of a model, to be scaled in that epoch and in no other.
    fn fleet(&self, config: &config::Model, epoch: u64) -> Option<KubernetesFleet> {
        let Fleet::Kubernetes(kubernetes) = &config.fleet else { return None };
        let namespace = namespace(kubernetes, &self.namespace);
        let target = kubernetes.target.parse().ok()?;
        let config = kubernetes::fleet::Config {
            patience: self.patience,
            ..kubernetes::fleet::Config::new(Arc::clone(&config.name), namespace, target)
        };
        let fence = self.fence.clone();
        Some(KubernetesFleet::start(&self.api, config, Arc::new(move || fence.epoch() == Some(epoch))))
    }
}

fn epoch(term: &Option<Arc<Term>>) -> Option<u64> {
    term.as_ref().map(|term| term.epoch)
}

/// Whose Model resources are served; `None`: nobody's.
fn scope(resources: &Resources, own: &Arc<str>) -> Option<Scope> {
    Some(match resources {
        Resources::Off => return None,
        Resources::OwnNamespace => Scope::Namespaces(vec![own.to_string()]),
        Resources::Namespaces(namespaces) => Scope::Namespaces(namespaces.clone()),
    })
}

/// Where a model's object is.
fn namespace(kubernetes: &config::Kubernetes, own: &Arc<str>) -> Arc<str> {
    kubernetes.namespace.as_deref().map_or_else(|| Arc::clone(own), Into::into)
}

fn reporter(gateway: Arc<str>, leader: watch::Receiver<Option<Leader>>) -> Reporter {
    let leaders = mapped(leader, |leader| leader.as_ref().and_then(|leader| leader.address.clone()));
    reporter::Reporter::start(
        reporter::Config { gateway, version: env!("CARGO_PKG_VERSION").into() },
        leaders,
    )
}

/// The value of `from` in other words, each time it changes, for as long as somebody listens.
fn mapped<T, U>(mut from: watch::Receiver<T>, words: impl Fn(&T) -> U + Send + 'static) -> watch::Receiver<U>
where
    T: Send + Sync + 'static,
    U: PartialEq + Send + Sync + 'static,
{
    let (publisher, receiver) = watch::channel(words(&from.borrow()));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = from.changed() => if changed.is_err() { return },
                () = publisher.closed() => return,
            }
            let now = words(&from.borrow_and_update());
            publisher.send_if_modified(|before| {
                let news = *before != now;
                *before = now;
                news
            });
        }
    });
    receiver
}

/// Where others reach what listens at `bound`.
fn reachable(bound: SocketAddr, address: Option<IpAddr>) -> SocketAddr {
    let ip = match bound.ip() {
        ip if !ip.is_unspecified() => ip,
        _ => address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    SocketAddr::new(ip, bound.port())
}

fn port(port: &config::Port) -> endpoints::Port {
    match port {
        config::Port::Number(number) => endpoints::Port::Number(*number),
        config::Port::Name(name) => endpoints::Port::Name(name.as_str().into()),
    }
}

/// A name for a process that is no pod.
fn own_name() -> Arc<str> {
    format!("tidegate-{}", std::process::id()).into()
}
