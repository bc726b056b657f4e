//! What holds on any API server, told as scenarios; [`crate::real`] plays the same ones on a real one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use autoscaler::fleet::{Fleet as _, ScaleError};
use fleet::kubernetes::{endpoints, wake::Woken};
use http::Method;
use serde_json::{Value, json};

use crate::stage::{
    Models, Stage, endpoint, fake, leaving, ready, running, unschedulable, until, until_told, workload,
};

macro_rules! on_the_fake {
    ($($scenario:ident),* $(,)?) => {
        mod on_the_fake {
            $(
                #[tokio::test(start_paused = true)]
                async fn $scenario() {
                    super::$scenario(&super::fake().0).await;
                }
            )*
        }

        /// Plays all scenarios, each in a namespace of its own.
        pub(crate) async fn all<F: Future<Output = Stage>>(stage: impl Fn(String) -> F) {
            $(
                println!("{}", stringify!($scenario));
                $scenario(&stage(stringify!($scenario).replace('_', "-")).await).await;
            )*
        }
    };
}

on_the_fake! {
    a_wake_sets_zero_to_one_and_leaves_any_other_number,
    a_fleet_knows_its_pods_and_its_number,
    the_number_goes_up_and_down_and_to_zero_and_from_it,
    a_number_set_by_hand_is_told_with_its_writer,
    a_number_that_changed_unseen_is_not_overwritten,
    a_number_of_another_object_of_the_name_is_not_overwritten,
    an_autoscalers_day,
    victims_are_marked_before_the_number_goes_down,
    another_autoscaler_of_the_target_is_told,
    a_stateful_set_scales_too,
    any_kind_with_a_scale_subresource_scales,
    a_target_that_is_not_there_is_a_trouble_until_it_is,
    two_revisions_are_a_rollout,
    endpoints_come_and_go_with_the_slices,
    the_pods_behind_a_service_are_known_by_name,
}

async fn a_wake_sets_zero_to_one_and_leaves_any_other_number(stage: &Stage) {
    stage.deploy(0).await;
    let wake = stage.wake("Deployment/digits");
    assert_eq!(wake.wake().await, Ok(Woken::Awake));
    assert_eq!(stage.number("deployments").await, 1);
    stage.merge("deployments", "digits", &json!({"spec": {"replicas": 3}})).await;
    assert_eq!(wake.wake().await, Ok(Woken::Awake));
    assert_eq!(stage.number("deployments").await, 3);
}

async fn a_fleet_knows_its_pods_and_its_number(stage: &Stage) {
    stage.deploy(3).await;
    stage.pod("a", &unschedulable()).await;
    stage.pod("b", &json!({"phase": "Running", "containerStatuses": [running(2)]})).await;
    stage.pod("c", &ready()).await;
    let fleet = stage.fleet("Deployment/digits");
    let target = until(&mut fleet.target(), |target| target.replicas.is_some()).await;
    assert_eq!((target.replicas, target.rollout, target.unheard_since), (Some(3), false, None));
    let replicas = until_told(&mut fleet.replicas(), "a Pending, b Starting, c Ready").await;
    assert_eq!(replicas[0].trouble.as_deref(), Some("insufficient nvidia.com/gpu"));
    assert_eq!((replicas[1].restarts, replicas[1].trouble.as_deref()), (2, None));
    assert!(replicas[2].ready_since.is_some());

    stage.merge("pods/status", "b", &json!({"status": ready()})).await;
    stage.delete("pods", "a").await;
    until_told(&mut fleet.replicas(), "b Ready, c Ready").await;
}

async fn the_number_goes_up_and_down_and_to_zero_and_from_it(stage: &Stage) {
    stage.deploy(0).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    until(&mut target, |target| target.replicas == Some(0)).await;
    for number in [1, 4, 2, 0, 3, 0, 1] {
        fleet.scale(number, &[]).await.unwrap();
        assert_eq!(stage.number("deployments").await, u64::from(number));
        // The reader of the target need not wait for the watch.
        assert_eq!((target.borrow().replicas, target.borrow().foreign.clone()), (Some(number), None));
    }
    fleet.scale(1, &[]).await.unwrap();
}

async fn a_number_set_by_hand_is_told_with_its_writer(stage: &Stage) {
    stage.deploy(1).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    until(&mut target, |target| target.replicas == Some(1)).await;
    fleet.scale(2, &[]).await.unwrap();
    stage.merge("deployments/scale", "digits", &json!({"spec": {"replicas": 5}})).await;
    let seen = until(&mut target, |target| target.replicas == Some(5)).await;
    assert_eq!(seen.foreign.as_deref(), Some("kubectl"));
    fleet.scale(6, &[]).await.unwrap();
    assert_eq!(target.borrow().foreign, None);
    // Nor does the watch, when it comes to show our write, take it for somebody else's.
    stage.merge("deployments", "digits", &json!({"metadata": {"annotations": {"seen": "yes"}}})).await;
    stage.merge("deployments", "digits", &json!({"spec": {"replicas": 7}})).await;
    let seen = until(&mut target, |target| target.replicas == Some(7) || target.foreign.is_some()).await;
    assert_eq!((seen.replicas, seen.foreign.as_deref()), (Some(7), Some("kubectl")));
}

/// Up by itself, by hand, and down with a mark.
pub(crate) async fn an_autoscalers_day(stage: &Stage) {
    stage.deploy(1).await;
    stage.pod("a", &ready()).await;
    stage.pod("b", &ready()).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    until(&mut target, |target| target.replicas == Some(1)).await;
    until_told(&mut fleet.replicas(), "a Ready, b Ready").await;
    fleet.scale(2, &[]).await.unwrap();
    stage.merge("deployments", "digits", &json!({"spec": {"replicas": 3}})).await;
    until(&mut target, |target| target.replicas == Some(3)).await;
    fleet.scale(2, &["b".into()]).await.unwrap();
    let annotations = &stage.get("pods", "b").await["metadata"]["annotations"];
    assert_eq!(annotations["controller.kubernetes.io/pod-deletion-cost"], "-2147483647");
    assert_eq!((target.borrow().rival.clone(), target.borrow().trouble.clone()), (None, None));
}

/// The watch cannot have shown it yet when the write goes out.
async fn a_number_that_changed_unseen_is_not_overwritten(stage: &Stage) {
    stage.deploy(2).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    until(&mut target, |target| target.replicas == Some(2)).await;
    let edit = json!({"spec": {"replicas": 5}});
    for _ in 0..20 {
        let before = target.borrow().replicas.unwrap();
        stage.merge("deployments/scale", "digits", &edit).await;
        if target.borrow().replicas == Some(before) {
            let result = fleet.scale(3, &[]).await;
            assert!(matches!(result, Err(ScaleError::Conflict)), "{result:?}");
            until(&mut target, |target| target.replicas == Some(5)).await;
            assert_eq!(stage.number("deployments").await, 5);
            return;
        }
        fleet.scale(2, &[]).await.unwrap();
    }
    panic!("the watch was faster each time");
}

async fn a_number_of_another_object_of_the_name_is_not_overwritten(stage: &Stage) {
    stage.deploy(2).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    until(&mut target, |target| target.replicas == Some(2)).await;
    stage.delete("deployments", "digits").await;
    let trouble = until(&mut target, |target| target.trouble.is_some()).await.trouble.unwrap();
    assert!(trouble.starts_with("there is no Deployment/digits in namespace"), "{trouble}");
    assert!(matches!(fleet.scale(3, &[]).await, Err(ScaleError::Unavailable(_))));
    stage.deploy(4).await;
    let seen = until(&mut target, |target| target.replicas.is_some()).await;
    assert_eq!((seen.replicas, seen.trouble), (Some(4), None));
    fleet.scale(3, &[]).await.unwrap();
}

async fn victims_are_marked_before_the_number_goes_down(stage: &Stage) {
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    stage.deploy(3).await;
    for name in ["a", "b", "c"] {
        stage.pod(name, &ready()).await;
    }
    stage.merge("pods", "b", &json!({"metadata": {"annotations": {COST: "7"}}})).await;
    let fleet = stage.fleet("Deployment/digits");
    until(&mut fleet.target(), |target| target.replicas == Some(3)).await;
    until_told(&mut fleet.replicas(), "a Ready, b Ready, c Ready").await;
    fleet.scale(1, &["c".into(), "b".into(), "a".into()]).await.unwrap();
    let mut costs = Vec::new();
    for name in ["a", "b", "c"] {
        costs.push(stage.get("pods", name).await["metadata"]["annotations"][COST].clone());
    }
    assert_eq!(costs, [Value::Null, json!("-2147483646"), json!("-2147483647")]);
}

async fn another_autoscaler_of_the_target_is_told(stage: &Stage) {
    stage.deploy(1).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    until(&mut target, |target| target.replicas.is_some()).await;
    assert_eq!(target.borrow().rival, None);
    let autoscaler = |name: &str, of: &str| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
            "spec": {"minReplicas": 1, "maxReplicas": 3,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": of}}})
    };
    stage.create("horizontalpodautoscalers", autoscaler("other", "letters")).await;
    stage.create("horizontalpodautoscalers", autoscaler("digits-hpa", "digits")).await;
    let seen = until(&mut target, |target| target.rival.is_some()).await;
    assert_eq!(seen.rival.as_deref(), Some("HorizontalPodAutoscaler/digits-hpa"));
    stage.delete("horizontalpodautoscalers", "digits-hpa").await;
    until(&mut target, |target| target.rival.is_none()).await;
}

async fn a_stateful_set_scales_too(stage: &Stage) {
    stage.create("statefulsets", workload("StatefulSet", 2)).await;
    stage.pod("digits-0", &ready()).await;
    stage.pod("digits-1", &ready()).await;
    let fleet = stage.fleet("StatefulSet/digits");
    until(&mut fleet.target(), |target| target.replicas == Some(2)).await;
    until_told(&mut fleet.replicas(), "digits-0 Ready, digits-1 Ready").await;
    fleet.scale(1, &["digits-0".into()]).await.unwrap();
    assert_eq!(stage.number("statefulsets").await, 1);
    // Its pods go by their ordinals: a mark would only mislead.
    assert_eq!(stage.get("pods", "digits-0").await["metadata"]["annotations"], Value::Null);
    fleet.scale(0, &[]).await.unwrap();
    assert_eq!(stage.wake("StatefulSet/digits").wake().await, Ok(Woken::Awake));
    assert_eq!(stage.number("statefulsets").await, 1);
}

async fn any_kind_with_a_scale_subresource_scales(stage: &Stage) {
    serve_widgets(stage).await;
    let mut widget = json!({"apiVersion": "example.dev/v1", "kind": "Widget", "metadata": {"name": "digits"},
        "spec": {"replicas": 1}});
    stage.create("widgets", widget.take()).await;
    let fleet = stage.fleet("Widget.example.dev/digits");
    let mut target = fleet.target();
    let trouble = until(&mut target, |target| target.trouble.is_some()).await.trouble.unwrap();
    assert_eq!(&*trouble, "Widget.example.dev/digits does not tell by a selector which pods it has");

    stage.merge("widgets/status", "digits", &json!({"status": {"selector": "app=digits"}})).await;
    // The selector alone is no change of the specification.
    stage.merge("widgets", "digits", &json!({"spec": {"replicas": 2}})).await;
    until(&mut target, |target| target.replicas == Some(2) && target.trouble.is_none()).await;
    stage.pod("a", &ready()).await;
    until_told(&mut fleet.replicas(), "a Ready").await;
    fleet.scale(0, &[]).await.unwrap();
    assert_eq!(stage.wake("Widget.example.dev/digits").wake().await, Ok(Woken::Awake));
    until(&mut target, |target| target.replicas == Some(1)).await;

    let unknown = stage.fleet("Gadget.example.dev/digits");
    let trouble = until(&mut unknown.target(), |target| target.trouble.is_some()).await.trouble.unwrap();
    assert_eq!(&*trouble, "no kind Gadget with a scale subresource in the API group example.dev");
}

async fn serve_widgets(stage: &Stage) {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.dev"},
        "spec": {
            "group": "example.dev", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}, "status":
                        {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                         "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}}}}},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
            }],
        },
    });
    stage.call(Method::POST, path, "application/json", &definition).await.unwrap();
    let list = format!("/apis/example.dev/v1/namespaces/{}/widgets", stage.namespace);
    for _ in 0..100 {
        if stage.call(Method::GET, &list, "application/json", &Value::Null).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("widgets are not served");
}

async fn a_target_that_is_not_there_is_a_trouble_until_it_is(stage: &Stage) {
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    let seen = until(&mut target, |target| target.trouble.is_some()).await;
    assert_eq!((seen.replicas, seen.unheard_since), (None, None));
    stage.deploy(1).await;
    until(&mut target, |target| target.replicas == Some(1) && target.trouble.is_none()).await;
}

async fn two_revisions_are_a_rollout(stage: &Stage) {
    stage.deploy(2).await;
    stage.pod("a", &ready()).await;
    stage.pod("b", &ready()).await;
    let fleet = stage.fleet("Deployment/digits");
    let mut target = fleet.target();
    assert!(!until(&mut target, |target| target.replicas.is_some()).await.rollout);
    stage.merge("pods", "b", &json!({"metadata": {"labels": {"pod-template-hash": "2"}}})).await;
    until(&mut target, |target| target.rollout).await;
    stage.delete("pods", "a").await;
    until(&mut target, |target| !target.rollout).await;
}

async fn endpoints_come_and_go_with_the_slices(stage: &Stage) {
    let models = Models::default();
    models.load("10.0.0.2:8001");
    let endpoints = stage.endpoints(&models);
    let mut replicas = endpoints.replicas();
    stage.slice(&[endpoint("a", "10.0.0.1", true), endpoint("b", "10.0.0.2", false)]).await;
    until_told(&mut replicas, "a Ready, b Starting").await;

    // Kubernetes calls it ready before its model is.
    stage.slice(&[endpoint("a", "10.0.0.1", true), endpoint("b", "10.0.0.2", true)]).await;
    until(&mut replicas, |all| all.len() == 2 && all[1].trouble.is_some()).await;
    until_told(&mut replicas, "a Ready, b Starting").await;
    models.loaded("10.0.0.2:8001");

    // A call runs on the one that leaves.
    let call = {
        let seen = until_told(&mut replicas, "a Ready, b Ready").await;
        assert_eq!(seen[0].address, Some("10.0.0.1:8001".parse().unwrap()));
        seen[0].hold.clone()
    };
    stage.slice(&[leaving("a", "10.0.0.1"), endpoint("b", "10.0.0.2", true)]).await;
    until_told(&mut replicas, "a Draining, b Ready").await;
    stage.slice(&[endpoint("b", "10.0.0.2", true), endpoint("c", "10.0.0.3", true)]).await;
    until_told(&mut replicas, "a Draining, b Ready, c Ready").await;
    drop(call);
    until_told(&mut replicas, "b Ready, c Ready").await;

    stage.slice(&[endpoint("b", "10.0.0.2", false), endpoint("c", "10.0.0.3", true)]).await;
    until_told(&mut replicas, "b Starting, c Ready").await;
    stage.delete("endpointslices", "digits-1").await;
    until_told(&mut replicas, "").await;
}

async fn the_pods_behind_a_service_are_known_by_name(stage: &Stage) {
    let mut names = endpoints::names(&stage.cluster, &stage.namespace, "digits".into());
    let known = |names: &[&str]| names.iter().map(|name| (*name).into()).collect::<BTreeSet<_>>();
    let is = |seen: &Option<Arc<BTreeSet<_>>>, expected: &[&str]| seen.as_deref() == Some(&known(expected));
    until(&mut names, |seen| is(seen, &[])).await;
    stage.slice(&[endpoint("a", "10.0.0.1", true), endpoint("b", "10.0.0.2", false)]).await;
    until(&mut names, |seen| is(seen, &["a", "b"])).await;
    stage.slice(&[endpoint("b", "10.0.0.2", true)]).await;
    until(&mut names, |seen| is(seen, &["b"])).await;
}
