//! A pod's life: scheduled, created, running, ready, crashing, stopping, gone.

use std::{net::IpAddr, time::Duration};

use serde_json::{Value, json};

use crate::{
    store::{Deletion, Key, Part},
    workload::{
        Outcome, Pod, Start,
        engine::{Due, Engine, Name, change},
        script::NO_ROOM,
        victims::is_terminating,
    },
};

/// What the engine remembers of a pod.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) pod: Pod,
    start: Start,
    running: Option<IpAddr>,
    crashes: u32,
    stopping: bool,
}

/// What happens to a pod next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Schedule,
    Run,
    Ready,
    /// Its containers fail.
    Crash,
    Restart,
    Gone,
}

/// The pause before a restart doubles from here.
const BACK_OFF: Duration = Duration::from_secs(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(300);
const NODES: u64 = 3;

impl Engine {
    /// A pod that is new or changed.
    pub(crate) fn live(&mut self, name: &Name, pod: &Value, deployment: Option<Name>) {
        if !self.lives.get(name).is_some_and(|life| pod["metadata"]["uid"] == life.pod.uid) {
            self.end(name);
            self.begin(name, pod, deployment);
        }
        if is_terminating(pod) {
            self.stop(name, pod);
        }
    }

    fn begin(&mut self, name: &Name, object: &Value, deployment: Option<Name>) {
        let number = match &deployment {
            Some(deployment) => {
                let next = self.pods_numbered.entry(deployment.clone()).or_default();
                *next += 1;
                *next - 1
            }
            None => 0,
        };
        let pod = Pod {
            namespace: name.0.clone(),
            name: name.1.clone(),
            uid: object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            deployment: deployment.map(|(_, name)| name).unwrap_or_default(),
            number,
        };
        let start = (self.options.script)(&pod);
        let untouched = object["spec"]["nodeName"].as_str().is_none_or(str::is_empty)
            && object["status"]["phase"] == "Pending"
            && !is_terminating(object);
        self.lives.insert(name.clone(), Life { pod, start, running: None, crashes: 0, stopping: false });
        // A pod that a test has put somewhere already is the test's to lead.
        if untouched {
            self.await_node(name);
        }
    }

    fn await_node(&mut self, name: &Name) {
        let Some(life) = self.lives.get(name) else { return };
        let (wait, outcome) = (life.start.unscheduled, life.start.outcome.clone());
        match outcome {
            Outcome::Unschedulable(why) => self.unschedulable(name, &why),
            _ if wait.is_zero() => self.schedule(name),
            _ => {
                self.unschedulable(name, NO_ROOM);
                self.later(name, wait, Step::Schedule);
            }
        }
    }

    fn unschedulable(&self, name: &Name, why: &str) {
        self.set(name, |pod, now| {
            condition(pod, "PodScheduled", (false, now), Some(("Unschedulable", why)));
        });
    }

    /// The script has changed: pods for which no node fits are tried by the new one.
    pub(crate) fn retry_unschedulable(&mut self) {
        let mut stuck: Vec<Name> = self
            .lives
            .iter()
            .filter(|(_, life)| matches!(life.start.outcome, Outcome::Unschedulable(_)) && !life.stopping)
            .map(|(name, _)| name.clone())
            .collect();
        stuck.sort();
        for name in stuck {
            if let Some(life) = self.lives.get_mut(&name) {
                life.start = (self.options.script)(&life.pod);
            }
            self.await_node(&name);
        }
    }

    pub(crate) fn step(&mut self, name: &Name, uid: &str, step: Step) {
        let meant = self.lives.get(name).filter(|life| life.pod.uid == uid);
        let Some(life) = meant.filter(|life| !life.stopping || step == Step::Gone) else { return };
        let waits_for_node = !matches!(life.start.outcome, Outcome::Unschedulable(_));
        match step {
            Step::Schedule if waits_for_node => self.schedule(name),
            Step::Schedule => {}
            Step::Run | Step::Restart => self.run_pod(name),
            Step::Ready => self.probe(name, true),
            Step::Crash => self.crash(name),
            Step::Gone => self.gone(name),
        }
    }

    fn schedule(&mut self, name: &Name) {
        let Some(life) = self.lives.get(name) else { return };
        let (creating, no_image) = (life.start.creating, life.start.outcome == Outcome::ImagePullBackOff);
        let node = format!("node-{}", life.pod.number % NODES);
        let reason = if no_image { "ImagePullBackOff" } else { "ContainerCreating" };
        self.set(name, |pod, now| {
            pod["spec"]["nodeName"] = node.into();
            condition(pod, "PodScheduled", (true, now), None);
            condition(pod, "Initialized", (true, now), None);
            pod["status"]["startTime"] = now.into();
            unready(pod, now);
            containers(pod, |_| {
                json!({ "ready": false, "started": false, "restartCount": 0,
                "state": { "waiting": { "reason": reason } } })
            });
        });
        if !no_image {
            self.later(name, creating, Step::Run);
        }
    }

    fn run_pod(&mut self, name: &Name) {
        let count = self.addresses;
        let Some(life) = self.lives.get_mut(name) else { return };
        let address = life.running.unwrap_or_else(|| self.options.hooks.address(&life.pod, count));
        self.addresses += u64::from(life.running.is_none());
        life.running = Some(address);
        let (pod, start) = (life.pod.clone(), life.start.clone());
        let crashes = life.crashes;
        self.set(name, |pod, now| {
            pod["status"]["phase"] = "Running".into();
            pod["status"]["podIP"] = address.to_string().into();
            pod["status"]["podIPs"] = json!([{ "ip": address.to_string() }]);
            containers(pod, |old| {
                json!({ "ready": false, "started": true, "restartCount": crashes,
                    "state": { "running": { "startedAt": now } }, "lastState": old["lastState"] })
            });
        });
        self.options.hooks.started(&pod, address);
        match start.outcome {
            Outcome::Ready => self.later(name, start.warming, Step::Ready),
            Outcome::CrashLoop(runs) => self.later(name, runs, Step::Crash),
            Outcome::NeverReady | Outcome::Unschedulable(_) | Outcome::ImagePullBackOff => {}
        }
    }

    /// The readiness probe of a running pod passes or fails.
    pub(crate) fn probe(&mut self, name: &Name, passes: bool) {
        if self.lives.get(name).is_none_or(|life| life.running.is_none()) {
            return;
        }
        self.set(name, |pod, now| {
            if passes {
                condition(pod, "ContainersReady", (true, now), None);
                condition(pod, "Ready", (true, now), None);
            } else {
                unready(pod, now);
            }
            containers(pod, |old| {
                let mut status = old.clone();
                status["ready"] = passes.into();
                status
            });
        });
    }

    pub(crate) fn crash(&mut self, name: &Name) {
        let Some(life) = self.lives.get_mut(name).filter(|life| life.running.is_some() && !life.stopping)
        else {
            return;
        };
        let doublings = life.crashes.min(5);
        life.crashes += 1;
        let (pause, crashes, ended) =
            ((BACK_OFF * 2_u32.pow(doublings)).min(BACK_OFF_MAX), life.crashes, life.pod.clone());
        self.options.hooks.stopped(&ended);
        self.set(name, |pod, now| {
            unready(pod, now);
            let of_pod = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            containers(pod, |old| {
                let message = format!(
                    "back-off {}s restarting failed container={} pod={of_pod}",
                    pause.as_secs(),
                    old["name"].as_str().unwrap_or_default()
                );
                json!({ "ready": false, "started": false, "restartCount": crashes - 1,
                    "state": { "waiting": { "reason": "CrashLoopBackOff", "message": message } },
                    "lastState": { "terminated": { "exitCode": 1, "reason": "Error", "finishedAt": now } } })
            });
        });
        self.later(name, pause, Step::Restart);
    }

    /// It is to be deleted: its containers end in their own time, the grace period at most.
    fn stop(&mut self, name: &Name, object: &Value) {
        let grace = object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0);
        let Some(life) = self.lives.get_mut(name).filter(|life| !life.stopping) else { return };
        life.stopping = true;
        let pod = life.pod.clone();
        let takes = life.start.stopping.min(Duration::from_secs(grace));
        if life.running.is_some() {
            self.options.hooks.stopping(&pod);
        }
        self.later(name, takes, Step::Gone);
    }

    fn gone(&mut self, name: &Name) {
        self.end(name);
        let how = Deletion { grace: Some(0), ..Deletion::default() };
        let writer = self.node.writer();
        let key = Key { namespace: &name.0, name: &name.1 };
        // It may be gone already by force, which is as well.
        let _ = self.node.store().delete(&self.pods.kind, key, &how, &writer);
    }

    /// Nothing of the pod runs any more.
    pub(crate) fn end(&mut self, name: &Name) {
        if let Some(life) = self.lives.remove(name)
            && life.running.is_some()
        {
            self.options.hooks.stopped(&life.pod);
        }
    }

    fn later(&mut self, name: &Name, time: Duration, step: Step) {
        let Some(life) = self.lives.get(name) else { return };
        let uid = life.pod.uid.clone();
        if time.is_zero() {
            self.step(name, &uid, step);
        } else {
            self.after(time, Due::Pod { name: name.clone(), uid, step });
        }
    }

    fn set(&self, name: &Name, edit: impl FnOnce(&mut Value, &str)) {
        let now = self.node.clock().stamp();
        change(&self.node, &self.pods.kind, name, Part::Whole, |pod| edit(pod, &now));
    }
}

fn unready(pod: &mut Value, now: &str) {
    let why = Some(("ContainersNotReady", "containers with unready status"));
    condition(pod, "ContainersReady", (false, now), why);
    condition(pod, "Ready", (false, now), why);
}

/// Sets a condition; its time moves only if its status does.
pub(crate) fn condition(
    object: &mut Value,
    name: &str,
    (holds, now): (bool, &str),
    why: Option<(&str, &str)>,
) {
    let status = if holds { "True" } else { "False" };
    let mut new = json!({ "type": name, "status": status, "lastTransitionTime": now });
    if let Some((reason, message)) = why {
        new["reason"] = reason.into();
        new["message"] = message.into();
    }
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = object["status"]["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|condition| condition["type"] == name) {
        Some(old) => {
            if old["status"] == status {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

/// Sets the status of every container; `status` is given the one before.
fn containers(pod: &mut Value, status: impl Fn(&Value) -> Value) {
    let before = pod["status"]["containerStatuses"].take();
    let specs = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let made: Vec<Value> = specs
        .iter()
        .map(|spec| {
            let old = before.as_array().into_iter().flatten().find(|old| old["name"] == spec["name"]);
            let named = json!({ "name": spec["name"] });
            let mut made = status(old.unwrap_or(&named));
            made["name"] = spec["name"].clone();
            made["image"] = spec["image"].clone();
            if made["lastState"].is_null() {
                made["lastState"] = json!({});
            }
            made
        })
        .collect();
    pod["status"]["containerStatuses"] = made.into();
}
