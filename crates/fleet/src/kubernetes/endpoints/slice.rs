//! What EndpointSlices say together: which pods are behind a Service, where, and whether Kubernetes calls them
//! ready.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::Deserialize;

use super::Port;
use crate::kubernetes::watch::{Version, Watched};

/// What is kept of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Wire")]
pub(in crate::kubernetes) struct Slice {
    name: Arc<str>,
    version: Version,
    /// The Service it is a part of; empty if of none.
    pub(super) service: Arc<str>,
    ports: Box<[(Box<str>, u16)]>,
    members: Box<[Member]>,
}

impl Watched for Slice {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn version(&self) -> &Version {
        &self.version
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Member {
    ip: IpAddr,
    /// The pod, or the address where there is none.
    id: Arc<str>,
    uid: Arc<str>,
    ready: bool,
    leaving: bool,
}

/// One pod behind the Service, by all its slices together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Endpoint {
    pub(super) id: Arc<str>,
    pub(super) uid: Arc<str>,
    /// IPv4 before IPv6.
    pub(super) addresses: BTreeSet<SocketAddr>,
    pub(super) ready: bool,
    pub(super) leaving: bool,
}

/// The pods behind a Service, by name. One may stand in two slices while it moves from one to the other, or because
/// it has addresses of two families; then the most favourable says how it is. Left out is who does not have the
/// port.
pub(super) fn endpoints(slices: &[Arc<Slice>], port: &Port) -> Vec<Endpoint> {
    let mut endpoints = BTreeMap::<(&Arc<str>, &Arc<str>), Endpoint>::new();
    for slice in slices {
        let Some(port) = slice.port(port) else { continue };
        for member in &slice.members {
            let Member { ip, id, uid, ready, leaving } = member;
            let endpoint = endpoints.entry((id, uid)).or_insert_with(|| Endpoint {
                id: Arc::clone(id),
                uid: Arc::clone(uid),
                addresses: BTreeSet::new(),
                ready: false,
                leaving: true,
            });
            endpoint.addresses.insert(SocketAddr::new(*ip, port));
            endpoint.ready |= *ready;
            endpoint.leaving &= *leaving;
        }
    }
    endpoints.into_values().collect()
}

/// The names of all pods in `slices`.
pub(super) fn names(slices: &[Arc<Slice>]) -> BTreeSet<Arc<str>> {
    slices.iter().flat_map(|slice| &slice.members).map(|member| Arc::clone(&member.id)).collect()
}

impl Slice {
    fn port(&self, port: &Port) -> Option<u16> {
        match port {
            Port::Number(number) => Some(*number),
            Port::Name(name) => self.ports.iter().find(|(found, _)| **found == **name).map(|(_, port)| *port),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    metadata: Metadata,
    /// `null` for none, as is `ports`.
    endpoints: Option<Vec<WireEndpoint>>,
    ports: Option<Vec<WirePort>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Box<str>,
    resource_version: Version,
    labels: Labels,
}

#[derive(Default, Deserialize)]
struct Labels {
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEndpoint {
    addresses: Option<Vec<Box<str>>>,
    #[serde(default)]
    conditions: Conditions,
    target_ref: Option<TargetRef>,
}

/// What is not said about readiness means yes, and about leaving no.
#[derive(Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct TargetRef {
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    uid: Box<str>,
}

#[derive(Deserialize)]
struct WirePort {
    name: Option<Box<str>>,
    port: Option<u16>,
}

impl From<Wire> for Slice {
    fn from(Wire { metadata, endpoints, ports }: Wire) -> Self {
        let named = |port: WirePort| Some((port.name.unwrap_or_default(), port.port?));
        Self {
            name: metadata.name.into(),
            version: metadata.resource_version,
            service: metadata.labels.service.unwrap_or_default().into(),
            ports: ports.into_iter().flatten().filter_map(named).collect(),
            members: endpoints.into_iter().flatten().filter_map(WireEndpoint::member).collect(),
        }
    }
}

impl WireEndpoint {
    /// `None` where there is no IP address, but the name of a host.
    fn member(self) -> Option<Member> {
        // Further addresses are the same by contract.
        let address = self.addresses?.into_iter().next()?;
        let ip: IpAddr = address.parse().ok()?;
        let (id, uid) = match self.target_ref {
            Some(TargetRef { name, uid }) if !name.is_empty() => (name, uid),
            _ => (address, Box::default()),
        };
        let Conditions { ready, terminating } = self.conditions;
        Some(Member {
            ip,
            id: id.into(),
            uid: uid.into(),
            ready: ready.unwrap_or(true),
            leaving: terminating.unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(json: Value) -> Arc<Slice> {
        Arc::new(serde_json::from_value(json).unwrap())
    }

    fn pod(name: &str, ip: &str, conditions: &Value) -> Value {
        json!({"addresses": [ip], "conditions": conditions,
            "targetRef": {"kind": "Pod", "name": name, "uid": format!("uid-{name}")}})
    }

    fn of(endpoints: Value, ports: Value) -> Arc<Slice> {
        slice(json!({"metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "digits"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports}))
    }

    /// `a@10.0.0.1:80+`: its addresses, `+` for ready, `-` for not, `x` for leaving.
    fn told(slices: &[Arc<Slice>], port: &Port) -> String {
        let tell = |endpoint: &Endpoint| {
            let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
            let state = match endpoint {
                Endpoint { leaving: true, .. } => 'x',
                Endpoint { ready: true, .. } => '+',
                _ => '-',
            };
            format!("{}@{}{state}", endpoint.id, addresses.join("|"))
        };
        endpoints(slices, port).iter().map(tell).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn conditions_not_given_mean_ready_and_staying() {
        let slice = of(
            json!([
                pod("a", "10.0.0.1", &json!({})),
                pod("b", "10.0.0.2", &json!({"ready": false})),
                pod("c", "10.0.0.3", &json!({"ready": false, "serving": true, "terminating": true})),
                pod("d", "10.0.0.4", &json!({"ready": true, "serving": true, "terminating": true})),
                pod("e", "10.0.0.5", &json!({"ready": null, "serving": null, "terminating": null})),
                {"addresses": ["10.0.0.6"]},
            ]),
            json!(null),
        );
        assert_eq!(
            told(&[slice], &Port::Number(80)),
            "10.0.0.6@10.0.0.6:80+ a@10.0.0.1:80+ b@10.0.0.2:80- c@10.0.0.3:80x d@10.0.0.4:80x e@10.0.0.5:80+"
        );
    }

    #[test]
    fn a_slice_without_endpoints_has_null_for_them() {
        assert_eq!(told(&[of(json!(null), json!([]))], &Port::Number(80)), "");
        assert_eq!(told(&[slice(json!({"metadata": {"name": "s"}}))], &Port::Number(80)), "");
    }

    #[test]
    fn a_port_is_found_by_its_name_and_taken_as_given_by_its_number() {
        let slice = of(
            json!([pod("a", "10.0.0.1", &json!({}))]),
            json!([{"name": "http", "port": 8000}, {"name": "grpc", "port": 8001}, {"port": 9}]),
        );
        let slices = [slice];
        assert_eq!(told(&slices, &Port::Name("grpc".into())), "a@10.0.0.1:8001+");
        assert_eq!(told(&slices, &Port::Name("metrics".into())), "");
        assert_eq!(told(&slices, &Port::Number(7000)), "a@10.0.0.1:7000+");
    }

    #[test]
    fn a_pod_in_two_slices_is_one_endpoint_and_the_favourable_slice_counts() {
        let old = of(json!([pod("a", "10.0.0.1", &json!({"ready": false, "terminating": true}))]), json!([]));
        let new = of(json!([pod("a", "10.0.0.1", &json!({"ready": true}))]), json!([]));
        assert_eq!(told(&[old, new], &Port::Number(80)), "a@10.0.0.1:80+");
    }

    #[test]
    fn both_families_of_a_pod_are_one_endpoint_with_ipv4_first() {
        let six = of(json!([pod("a", "fd00::1", &json!({}))]), json!([]));
        let four = of(json!([pod("a", "10.0.0.1", &json!({}))]), json!([]));
        assert_eq!(told(&[six.clone(), four], &Port::Number(80)), "a@10.0.0.1:80|[fd00::1]:80+");
        assert_eq!(told(&[six], &Port::Number(80)), "a@[fd00::1]:80+");
    }

    #[test]
    fn names_of_hosts_are_no_endpoints() {
        let slice =
            of(json!([{"addresses": ["db.example"]}, {"addresses": []}, {"addresses": null}]), json!([]));
        assert_eq!(told(&[slice], &Port::Number(80)), "");
    }

    #[test]
    fn two_pods_of_one_name_are_two_endpoints() {
        let pod = |ip: &str, uid: &str, leaving: bool| {
            json!({"addresses": [ip], "conditions": {"ready": !leaving, "terminating": leaving},
                "targetRef": {"name": "digits-0", "uid": uid}})
        };
        let slice = of(json!([pod("10.0.0.1", "old", true), pod("10.0.0.2", "new", false)]), json!([]));
        let told = told(&[slice], &Port::Number(80));
        assert_eq!(told, "digits-0@10.0.0.2:80+ digits-0@10.0.0.1:80x");
    }
}
