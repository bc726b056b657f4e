//! A model of the cluster as this gateway sees it: its endpoints, what the leader says of it, and the wake that is
//! left to the gateway when no leader acts.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use autoscaler::{
    fleet::Replica,
    policy::{Mode, Policy},
    reconcile::{Clock, Outlook},
    schedule::{self, Refusal},
};
use fleet::kubernetes::{
    endpoints::Endpoints,
    wake::{Wake, Woken},
};
use leader::reporter::{Directive, ModelHandle, Reporter, Withdrawal};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    config,
    serve::{
        data::{Data, Withdrawn},
        model::Site,
        policy::policy,
        source::Signals,
        tasks::Tasks,
    },
};

/// How long the leader has to act on a request that finds no replica.
const LEADER_ACTS: Duration = Duration::from_secs(1);
/// Pause after a wake by this gateway, and between looks at schedules while nobody leads.
const WAKE_AGAIN: Duration = Duration::from_secs(2);
/// How often it is looked whether the data path has taken a withdrawal in, and for how long.
const LOOK: Duration = Duration::from_millis(2);
const TAKEN_IN: Duration = Duration::from_secs(2);

/// What the leader said last of one model; `None`: it has said nothing.
pub(in crate::serve) type Directives = watch::Receiver<Option<Arc<Directive>>>;

/// One model of the cluster, seen from this gateway.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Sight {
    pub(super) endpoints: Endpoints,
    /// `None` until the endpoints were read.
    pub(super) names: watch::Receiver<Option<Arc<BTreeSet<Arc<str>>>>>,
    pub(super) reporter: Reporter,
    pub(super) wake: Wake,
}

impl Sight {
    /// The replicas behind the model's Service.
    pub(in crate::serve) fn replicas(&self) -> watch::Receiver<Arc<[Replica]>> {
        self.endpoints.replicas()
    }

    /// Whether the endpoints were read. They stay known when the cluster is away.
    pub(in crate::serve) fn is_known(&self) -> bool {
        self.names.borrow().is_some()
    }

    /// Serves the model, and gives what the leader says of it.
    pub(in crate::serve) fn serve(
        &self,
        config: &config::Model,
        site: &Site,
        tasks: &Tasks,
    ) -> (Data, Directives) {
        let clock = site.clock;
        let (withdraw, withdrawn) = watch::channel(Withdrawn::default());
        let data = Data::start(config, self.replicas(), withdrawn, site, tasks);
        let signals = data.signals();
        let counts = signals.clone();
        let report = move || counts.report(clock.now());
        let model = Arc::new(self.reporter.model(Arc::clone(&config.name), Arc::new(report)));
        let directive = model.directive();
        let (expect, outlook) = watch::channel(Outlook::default());
        data.expect(Some(outlook), tasks);
        let may_wake = MayWake::of(config, clock);
        let led = self.reporter.connected();
        tasks.spawn(pass_on_outlook(directive.clone(), led, may_wake.clone(), expect));
        tasks.spawn(obey(Arc::clone(&model), signals.clone(), withdraw));
        tasks.spawn(wake(Waker { model, signals, wake: self.wake.clone(), may_wake }));
        (data, directive)
    }
}

/// Whether this gateway may start a replica when nobody who decides is there.
#[derive(Clone, Debug)]
struct MayWake {
    name: Arc<str>,
    /// `None`: nobody scales the model.
    policy: Option<Arc<Policy>>,
    clock: Clock,
}

impl MayWake {
    fn of(config: &config::Model, clock: Clock) -> Self {
        Self { name: Arc::clone(&config.name), policy: policy(config).map(Arc::new), clock }
    }

    /// Until when a schedule refuses calls, if one does.
    fn refused(&self) -> Option<Refusal> {
        let policy = self.policy.as_ref()?;
        schedule::refuses(policy, policy.assumed.cold_start, self.clock.now())
    }

    fn now(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.mode == Mode::Enforce) && self.refused().is_none()
    }
}

/// Tells calls what the leader says they may expect, or, without one, what this gateway knows by itself.
async fn pass_on_outlook(
    mut directive: Directives,
    mut led: watch::Receiver<bool>,
    may_wake: MayWake,
    outlook: watch::Sender<Outlook>,
) {
    loop {
        let said = directive.borrow_and_update().as_ref().map(|directive| directive.outlook.clone());
        let is_led = *led.borrow_and_update();
        let expect = match (said.filter(|_| is_led), may_wake.refused()) {
            (Some(said), _) => said,
            (None, Some(refusal)) => {
                Outlook::Off { until: refusal.until.map(|until| may_wake.clock.instant(until)) }
            }
            (None, None) => Outlook::Asleep,
        };
        outlook.send_if_modified(|before| std::mem::replace(before, expect.clone()) != expect);
        tokio::select! {
            changed = directive.changed() => if changed.is_err() { return },
            changed = led.changed() => if changed.is_err() { return },
            // Without a leader nobody tells when a schedule's window begins or ends.
            () = sleep(WAKE_AGAIN), if !is_led => {}
        }
    }
}

/// Sends nothing more to replicas that the leader withdraws, and says so once the data path has taken it in.
async fn obey(model: Arc<ModelHandle>, signals: Signals, withdraw: watch::Sender<Withdrawn>) {
    let mut directive = model.directive();
    loop {
        let withdrawal = directive.borrow_and_update().as_ref().map(|directive| directive.withdrawal.clone());
        if let Some(Withdrawal { number, replicas }) = withdrawal {
            let withdrawn: Withdrawn = Arc::new(replicas.iter().cloned().collect());
            withdraw.send_if_modified(|before| {
                let news = *before != withdrawn;
                before.clone_from(&withdrawn);
                news
            });
            if timeout(TAKEN_IN, taken_in(&signals, &withdrawn)).await.is_ok() {
                model.carried_out(number);
            }
        }
        if directive.changed().await.is_err() {
            return;
        }
    }
}

async fn taken_in(signals: &Signals, withdrawn: &Withdrawn) {
    while signals.pipeline.stats().replicas.iter().any(|replica| withdrawn.contains(&replica.id)) {
        sleep(LOOK).await;
    }
}

struct Waker {
    model: Arc<ModelHandle>,
    signals: Signals,
    wake: Wake,
    may_wake: MayWake,
}

/// Reports a request that finds no replica at once, and starts one if nobody who decides does.
async fn wake(waker: Waker) {
    let Waker { model, signals, wake, may_wake } = waker;
    let say = async {
        loop {
            signals.wake().await;
            model.wake();
        }
    };
    let act = async {
        loop {
            model.wake_unanswered(LEADER_ACTS).await;
            if !may_wake.now() {
                continue;
            }
            match wake.wake().await {
                Ok(Woken::UnderWay) => {}
                Ok(Woken::Awake) => {
                    tracing::info!(model = %may_wake.name, "no autoscaler acted: this gateway asked for a replica");
                }
                Err(error) => tracing::warn!(
                    model = %may_wake.name, %error,
                    "no autoscaler acted, and this gateway cannot ask for a replica"
                ),
            }
            sleep(WAKE_AGAIN).await;
        }
    };
    tokio::join!(say, act);
}
