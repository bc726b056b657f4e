//! Fleets in Kubernetes, the section `cluster`, and what a role asks of a file.

use insta::assert_snapshot;

use super::{answer, config, source};
use crate::{
    config::{Cluster, Fleet, Kubernetes, LeaseTiming, Port, Resources, changes, parse},
    serve::Role,
};

const FILE: &str = r#"
cluster:
  lease: tide
  leaseTiming: fast
  signals: 0.0.0.0:7001
  gateways: doors
  models: {namespaces: [ml, vision]}
models:
  - name: digits
    fleet: {kubernetes: {namespace: ml, target: Deployment/digits, port: 8001}}
    scaling: {max: 4}
  - name: forest
    fleet: {kubernetes: {target: Rollout.argoproj.io/forest.v2, service: forest, port: grpc}}
    scaling: {min: 1, max: 2}
"#;

fn kubernetes(fleet: &Fleet) -> &Kubernetes {
    match fleet {
        Fleet::Kubernetes(kubernetes) => kubernetes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_for_a_cluster_is_taken_at_its_word() {
    let config = config(FILE);
    let expected = Cluster {
        lease: "tide".to_owned(),
        lease_timing: LeaseTiming::Fast,
        signals: "0.0.0.0:7001".parse().unwrap(),
        gateways: "doors".to_owned(),
        resources: Resources::Namespaces(vec!["ml".to_owned(), "vision".to_owned()]),
    };
    assert_eq!(config.cluster, expected);
    let digits = kubernetes(&config.models[0].fleet);
    assert_eq!((digits.namespace.as_deref(), digits.target.as_str()), (Some("ml"), "Deployment/digits"));
    assert_eq!((digits.service.as_str(), &digits.port), ("digits", &Port::Number(8001)));
    assert_eq!(digits.scaling.max, 4);
    let forest = kubernetes(&config.models[1].fleet);
    assert_eq!(forest.namespace, None);
    assert_eq!((forest.service.as_str(), &forest.port), ("forest", &Port::Name("grpc".to_owned())));
}

#[test]
fn a_file_that_does_not_speak_of_a_cluster_has_its_defaults() {
    let config = config("models: [{name: m, fleet: {static: {addresses: [h:1]}}}]");
    let expected = Cluster {
        lease: "tidegate".to_owned(),
        lease_timing: LeaseTiming::Default,
        signals: "0.0.0.0:9091".parse().unwrap(),
        gateways: "tidegate-gateway".to_owned(),
        resources: Resources::Off,
    };
    assert_eq!(config.cluster, expected);
}

#[test]
fn its_signals_take_an_address_only_where_a_cluster_is_spoken_of() {
    let file = "listen: 0.0.0.0:9091\nmodels: [{name: m, fleet: {static: {addresses: [h:1]}}}]\n";
    assert_eq!(answer(file), "");
    assert_snapshot!(answer(&format!("{file}cluster: {{models: on}}")), @r#"
    ✗ tidegate.yaml:1:9  listen: "0.0.0.0:9091" is taken by cluster.signals 0.0.0.0:9091 (the default)
          1 | listen: 0.0.0.0:9091
            |         ^^^^^^^^^^^^ write another
    "#);
}

#[test]
fn without_models_of_its_own_a_file_serves_resources() {
    for models in ["", "models: []\n"] {
        for resources in ["on", "{namespaces: [ml]}"] {
            let config = config(&format!("{models}cluster: {{models: {resources}}}\n"));
            assert_eq!(config.models, []);
        }
    }
    assert_eq!(config("cluster: {models: on}").cluster.resources, Resources::OwnNamespace);
    assert_snapshot!(answer("cluster: {models: off}"), @r"
    ✗ tidegate.yaml:1:1  models is missing
          1 | cluster: {models: off}
            | ^ add models:
    ");
}

#[test]
fn a_refused_setting_does_not_make_models_required() {
    assert_snapshot!(answer("cluster: {models: yes}"), @r#"
    ✗ tidegate.yaml:1:19  cluster.models: "yes" is unknown
          1 | cluster: {models: yes}
            |                   ^^^ one of off, on, or a section
    "#);
}

#[test]
fn every_setting_of_a_cluster_is_checked() {
    let file = r#"
cluster:
  lease: Tidegate
  leaseTiming: quick
  signals: ":9091"
  gateways: tidegate.gateway
  models: {namespaces: [ml, ML, ml]}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:2:10  cluster.lease: "Tidegate" is not allowed here
          1 | cluster:
          2 |   lease: Tidegate
            |          ^^^^^^^^ write a name of lower-case letters, digits, "-" and ".", at most 253
    ✗ tidegate.yaml:3:16  cluster.leaseTiming: "quick" is unknown
          2 |   lease: Tidegate
          3 |   leaseTiming: quick
            |                ^^^^^ one of default, fast
    ✗ tidegate.yaml:4:12  cluster.signals: ":9091" is no address and port
          3 |   leaseTiming: quick
          4 |   signals: ":9091"
            |            ^^^^^^^ write 0.0.0.0:9091
    ✗ tidegate.yaml:5:13  cluster.gateways: "tidegate.gateway" is not allowed here
          4 |   signals: ":9091"
          5 |   gateways: tidegate.gateway
            |             ^^^^^^^^^^^^^^^^ write lower-case letters, digits and "-", at most 63, beginning and ending with a letter or digit
    ✗ tidegate.yaml:6:29  cluster.models.namespaces[1]: "ML" is not allowed here
          5 |   gateways: tidegate.gateway
          6 |   models: {namespaces: [ml, ML, ml]}
            |                             ^^ write lower-case letters, digits and "-", at most 63, beginning and ending with a letter or digit
    ✗ tidegate.yaml:6:33  cluster.models.namespaces[2]: "ml" is taken by namespaces[0] ml (line 6)
          5 |   gateways: tidegate.gateway
          6 |   models: {namespaces: [ml, ML, ml]}
            |                                 ^^ write another
    "#);
}

#[test]
fn a_list_of_no_namespace_is_refused() {
    assert_snapshot!(answer("cluster: {models: {namespaces: []}}"), @r"
    ✗ tidegate.yaml:1:32  cluster.models.namespaces: is empty
          1 | cluster: {models: {namespaces: []}}
            |                                ^ write at least one
    ");
    assert_snapshot!(answer("cluster: {models: {}}"), @r"
    ✗ tidegate.yaml:1:19  cluster.models: namespaces is missing
          1 | cluster: {models: {}}
            |                   ^ add namespaces: [ml, vision]
    ");
}

#[test]
fn every_key_of_a_kubernetes_fleet_is_checked() {
    let file = r#"
models:
  - name: digits
    fleet:
      kubernetes:
        namespace: ML
        target: digits
        service: digits.ml
        port: 80800
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:20  models[0].fleet.kubernetes.namespace: "ML" is not allowed here
          4 |       kubernetes:
          5 |         namespace: ML
            |                    ^^ write lower-case letters, digits and "-", at most 63, beginning and ending with a letter or digit
    ✗ tidegate.yaml:6:17  models[0].fleet.kubernetes.target: "digits" is not allowed here
          5 |         namespace: ML
          6 |         target: digits
            |                 ^^^^^^ write Kind/name or Kind.group/name, like Deployment/digits or Rollout.argoproj.io/digits
    ✗ tidegate.yaml:7:18  models[0].fleet.kubernetes.service: "digits.ml" is not allowed here
          6 |         target: digits
          7 |         service: digits.ml
            |                  ^^^^^^^^^ write lower-case letters, digits and "-", at most 63, beginning and ending with a letter or digit
    ✗ tidegate.yaml:8:15  models[0].fleet.kubernetes.port: 80800 is out of range
          7 |         service: digits.ml
          8 |         port: 80800
            |               ^^^^^ write a whole number from 1 to 65535, or a port's name, like grpc
    "#);
}

#[test]
fn a_kubernetes_fleet_needs_a_target_and_a_port() {
    let file = r#"
models:
  - name: digits
    fleet: {kubernetes: {}}
"#;
    assert_snapshot!(answer(file), @r"
    ✗ tidegate.yaml:2:5  models[0]: scaling.max is missing
          1 | models:
          2 |   - name: digits
            |     ^ add scaling: {max: 4}
    ✗ tidegate.yaml:3:25  models[0].fleet.kubernetes: target is missing
          2 |   - name: digits
          3 |     fleet: {kubernetes: {}}
            |                         ^ add target: Deployment/digits
    ✗ tidegate.yaml:3:25  models[0].fleet.kubernetes: port is missing
          2 |   - name: digits
          3 |     fleet: {kubernetes: {}}
            |                         ^ add port: 8001
    ");
}

#[test]
fn targets_are_a_kind_and_a_name() {
    let refused = |target: &str| {
        let file = format!(
            "models: [{{name: m, fleet: {{kubernetes: {{target: {target}, service: s, port: 1}}}}, scaling: {{max: 1}}}}]"
        );
        !answer(&file).is_empty()
    };
    for target in ["Deployment/a", "StatefulSet.apps/a-1", "InferenceService.serving.kserve.io/a.b"] {
        assert!(!refused(target), "{target}");
    }
    for target in [
        "a",
        "deployment/a",
        "Deployment",
        "Deployment/",
        "/a",
        "Deployment/A",
        "Deployment./a",
        "Deployment.Apps/a",
        "Deployment/a/b",
        "Deployment/a..b",
        "Deploy-ment/a",
    ] {
        assert!(refused(target), "{target}");
    }
}

#[test]
fn a_port_is_a_number_or_a_name() {
    for (port, hint) in [
        ("0", "0 is out of range"),
        ("65536", "65536 is out of range"),
        ("\"8001\"", "\"8001\" is a text here"),
        ("gRPC", "\"gRPC\" is not allowed here"),
        ("-1", "\"-1\" is not allowed here"),
    ] {
        let file = FILE.replace("8001", port);
        assert!(answer(&file).contains(&format!("fleet.kubernetes.port: {hint}")), "{}", answer(&file));
    }
}

#[test]
fn a_target_whose_name_is_none_for_a_service_needs_one() {
    assert_snapshot!(answer(&FILE.replace("service: forest, ", "")), @r#"
    ✗ tidegate.yaml:12:34  models[1].fleet.kubernetes.target: "forest.v2" cannot be the name of its Service too
         11 |   - name: forest
         12 |     fleet: {kubernetes: {target: Rollout.argoproj.io/forest.v2, port: grpc}}
            |                                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ add service: NAME
    "#);
}

#[test]
fn two_models_cannot_scale_the_same_object() {
    let file = FILE.replace("Rollout.argoproj.io/forest.v2", "Deployment.apps/digits");
    // One names its namespace, the other does not: that they are the same is not known here.
    assert_eq!(answer(&file), "");
    assert_snapshot!(answer(&file.replace("namespace: ml, ", "")), @r#"
    ✗ tidegate.yaml:12:34  models[1].fleet.kubernetes.target: "Deployment.apps/digits" is taken by models[0].fleet.kubernetes.target Deployment/digits (line 9)
         11 |   - name: forest
         12 |     fleet: {kubernetes: {target: Deployment.apps/digits, service: forest, port: grpc}}
            |                                  ^^^^^^^^^^^^^^^^^^^^^^ write another
    "#);
}

#[test]
fn where_replicas_scale_and_how_are_told_apart() {
    let old = config(FILE);
    let changed = |from: &str, to: &str| {
        assert!(FILE.contains(from), "{from}");
        changes(&old, &config(&FILE.replace(from, to))).to_string()
    };
    assert_eq!(changed("namespace: ml, ", ""), "changed digits (fleet)");
    assert_eq!(changed("8001", "8002"), "changed digits (fleet)");
    assert_eq!(changed("forest, port", "trees, port"), "changed forest (fleet)");
    assert_eq!(changed("max: 4", "max: 5"), "changed digits (scaling)");
    assert_eq!(changed("lease: tide", "lease: gate"), "changed cluster");
    assert_eq!(changed("[ml, vision]", "[ml]"), "changed cluster");
}

#[test]
fn child_processes_are_for_one_process_that_does_it_all() {
    let file = r#"
models:
  - name: digits
    fleet:
      process: {command: [serve, "{port}"]}
    scaling: {max: 4}
  - name: fixed
    fleet: {static: {addresses: [mlserver:8001]}}
"#;
    let loaded = parse(source(file)).unwrap();
    loaded.for_role(Role::All).unwrap();
    loaded.for_role(Role::Autoscaler).unwrap_err();
    assert_snapshot!(loaded.for_role(Role::Gateway).unwrap_err().to_string(), @r#"
    ✗ tidegate.yaml:4:7  models[0].fleet.process: replicas of model digits are child processes, which one process starts, scales and serves: not --role gateway
          3 |     fleet:
          4 |       process: {command: [serve, "{port}"]}
            |       ^^^^^^^ use kubernetes, or --role all
    "#);
    for role in [Role::All, Role::Gateway, Role::Autoscaler] {
        parse(source(FILE)).unwrap().for_role(role).unwrap();
    }
}
