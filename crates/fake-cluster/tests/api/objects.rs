use fake_cluster::Cluster;
use serde_json::json;

use crate::{CONFIG_MAPS, DEPLOYMENTS, DIGITS, LEASES, SCALE, client::Client, config_map, deployment};

#[tokio::test(start_paused = true)]
async fn a_created_object_has_what_the_server_gives_it() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let (code, made) = client.post(DEPLOYMENTS, &deployment("digits", 2)).await;
    assert_eq!(code, 201);
    let meta = &made["metadata"];
    assert_eq!(meta["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(meta["generation"], 1);
    assert_eq!(meta["namespace"], "default");
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert_eq!(made["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    assert_eq!(made["status"], json!({}));
    let fields = &meta["managedFields"][0];
    assert_eq!((&fields["manager"], &fields["operation"]), (&json!("probe"), &json!("Update")));
    assert_eq!(fields["fieldsV1"]["f:spec"]["f:replicas"], json!({}));
    let (code, again) = client.post(DEPLOYMENTS, &deployment("digits", 2)).await;
    assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(again["message"], "deployments.apps \"digits\" already exists");
}

#[tokio::test(start_paused = true)]
async fn generation_follows_the_spec_and_the_status_has_a_path_of_its_own() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(DEPLOYMENTS, &deployment("digits", 2)).await;
    let change = json!({ "metadata": { "labels": { "a": "b" } }, "status": { "replicas": 9 } });
    let (_, labelled) = client.merge(DIGITS, &change).await;
    assert_eq!((&labelled["metadata"]["generation"], &labelled["status"]), (&json!(1), &json!({})));
    let (_, shown) = client.merge(&format!("{DIGITS}/status"), &json!({ "status": { "replicas": 2 } })).await;
    assert_eq!((&shown["metadata"]["generation"], &shown["status"]["replicas"]), (&json!(1), &json!(2)));
    let (_, scaled) = client.merge(DIGITS, &json!({ "spec": { "replicas": 3 } })).await;
    assert_eq!((&scaled["metadata"]["generation"], &scaled["status"]["replicas"]), (&json!(2), &json!(2)));
    let (_, same) = client.merge(DIGITS, &json!({ "spec": { "replicas": 3 } })).await;
    assert_eq!(same["metadata"]["resourceVersion"], scaled["metadata"]["resourceVersion"], "nothing changed");
}

#[tokio::test(start_paused = true)]
async fn errors_are_worded_as_the_server_does() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let (code, absent) = client.get(DIGITS).await;
    assert_eq!(code, 404);
    let expected = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404,
        "message": "deployments.apps \"digits\" not found",
        "details": { "name": "digits", "group": "apps", "kind": "deployments" },
    });
    assert_eq!(absent, expected);
    let elsewhere = DEPLOYMENTS.replace("default", "elsewhere");
    let (code, absent) = client.post(&elsewhere, &deployment("digits", 1)).await;
    assert_eq!((code, &absent["message"]), (404, &json!("namespaces \"elsewhere\" not found")));
    let mut below_zero = deployment("digits", 0);
    below_zero["spec"]["replicas"] = json!(-1);
    let (code, invalid) = client.post(DEPLOYMENTS, &below_zero).await;
    let message = "Deployment.apps \"digits\" is invalid: spec.replicas: Invalid value: -1: must be greater than or \
                   equal to 0";
    assert_eq!((code, &invalid["message"]), (422, &json!(message)));
    let (code, unknown) = client.get("/apis/apps/v1/nothing").await;
    assert_eq!((code, &unknown["reason"]), (404, &json!("NotFound")));
    assert_eq!(client.get("/apis/nothing/v1").await.1, json!("404 page not found\n"));
    let (code, named) = client.put(DIGITS, &deployment("other", 1)).await;
    let message = "the name of the object (other) does not match the name on the URL (digits)";
    assert_eq!((code, &named["message"]), (400, &json!(message)));
}

#[tokio::test(start_paused = true)]
async fn a_stale_update_conflicts_and_one_without_version_overwrites() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let (_, first) = client.post(DEPLOYMENTS, &deployment("digits", 2)).await;
    client.merge(DIGITS, &json!({ "spec": { "replicas": 3 } })).await;
    let (code, conflict) = client.put(DIGITS, &first).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")));
    let (code, put) = client.put(DIGITS, &deployment("digits", 5)).await;
    assert_eq!((code, &put["spec"]["replicas"]), (200, &json!(5)));
}

#[tokio::test(start_paused = true)]
async fn leases_are_created_by_put_and_never_updated_blindly() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let path = format!("{LEASES}/leader");
    let lease = json!({
        "metadata": { "name": "leader" },
        "spec": { "holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z" },
    });
    let (code, made) = client.put(&path, &lease).await;
    assert_eq!((code, &made["spec"]["holderIdentity"]), (201, &json!("a")));
    assert_eq!(client.put(&path, &lease).await.0, 422, "no version");
    let (one, mut two) = (made.clone(), made);
    assert_eq!(client.put(&path, &one).await.0, 200, "no change");
    two["spec"]["holderIdentity"] = json!("b");
    assert_eq!(client.put(&path, &two).await.0, 200);
    two["spec"]["holderIdentity"] = json!("c");
    assert_eq!(client.put(&path, &two).await.0, 409, "it has changed since");
    let coarse = json!({ "spec": { "renewTime": "2026-01-01T00:00:00Z" } });
    assert_eq!(client.merge(&path, &coarse).await.0, 400, "no six digits");
}

#[tokio::test(start_paused = true)]
async fn the_scale_subresource_is_a_view_with_the_version_of_its_object() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(DEPLOYMENTS, &deployment("digits", 2)).await;
    let (_, scale) = client.get(SCALE).await;
    assert_eq!(scale["kind"], "Scale");
    assert_eq!(scale["spec"], json!({ "replicas": 2 }));
    assert_eq!(scale["status"], json!({ "replicas": 0, "selector": "app=digits" }));
    let mut stale = scale.clone();
    let (code, scaled) = client.merge(SCALE, &json!({ "spec": { "replicas": 0 } })).await;
    assert_eq!((code, &scaled["spec"]), (200, &json!({})), "zero is left out");
    stale["spec"]["replicas"] = json!(7);
    let (code, conflict) = client.put(SCALE, &stale).await;
    assert_eq!((code, &conflict["details"]["kind"]), (409, &json!("deployments")));
    let pinned = json!({ "metadata": { "resourceVersion": "1" }, "spec": { "replicas": 4 } });
    assert_eq!(client.merge(SCALE, &pinned).await.0, 409);
    stale["metadata"] = json!({ "name": "digits", "namespace": "default" });
    assert_eq!(client.put(SCALE, &stale).await.1["spec"]["replicas"], 7, "without a version it overwrites");
    let (code, invalid) = client.merge(SCALE, &json!({ "spec": { "replicas": -1 } })).await;
    let message = "Scale.autoscaling \"digits\" is invalid: spec.replicas: Invalid value: -1: must be greater than or \
                   equal to 0";
    assert_eq!((code, &invalid["message"]), (422, &json!(message)));
    let (_, main) = client.get(DIGITS).await;
    assert_eq!(main["spec"]["replicas"], 7);
    let scaled_by = main["metadata"]["managedFields"].as_array().unwrap();
    let scaled_by = scaled_by.iter().find(|entry| entry["subresource"] == "scale").unwrap();
    assert_eq!(scaled_by["fieldsV1"], json!({ "f:spec": { "f:replicas": {} } }));
    assert!(scaled_by.get("time").is_none(), "the server writes no time for scale");
}

#[tokio::test(start_paused = true)]
async fn replicas_belong_to_who_changed_them_last() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(DEPLOYMENTS, &deployment("digits", 2)).await;
    client.merge(&format!("{DIGITS}?fieldManager=kubectl-edit"), &json!({ "spec": { "replicas": 4 } })).await;
    cluster.writing_as("hpa").scale("deployments", "default", "digits", 5).unwrap();
    let (_, main) = client.get(DIGITS).await;
    let owners: Vec<_> = main["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["fieldsV1"]["f:spec"]["f:replicas"].is_object())
        .map(|entry| entry["manager"].as_str().unwrap())
        .collect();
    assert_eq!(owners, ["hpa"]);
}

#[tokio::test(start_paused = true)]
async fn lists_filter_page_and_omit_the_type_of_built_in_items() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    for (name, tier) in [("a", "web"), ("b", "db"), ("c", "web"), ("d", "web")] {
        client.post(CONFIG_MAPS, &config_map(name, tier)).await;
    }
    let names = |list: &serde_json::Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].to_string()).collect()
    };
    let (_, web) = client.get(&format!("{CONFIG_MAPS}?labelSelector=tier%20in%20(web)")).await;
    assert_eq!(names(&web), ["\"a\"", "\"c\"", "\"d\""]);
    assert!(web["items"][0].get("kind").is_none());
    let (_, one) = client.get("/api/v1/configmaps?fieldSelector=metadata.name%3Db").await;
    assert_eq!(names(&one), ["\"b\""]);
    let (_, page) = client.get(&format!("{CONFIG_MAPS}?limit=2")).await;
    assert_eq!((names(&page).len(), &page["metadata"]["remainingItemCount"]), (2, &json!(2)));
    client.delete(&format!("{CONFIG_MAPS}/d")).await;
    let next = format!("{CONFIG_MAPS}?limit=2&continue={}", page["metadata"]["continue"].as_str().unwrap());
    let (_, rest) = client.get(&next).await;
    assert_eq!(names(&rest), ["\"c\"", "\"d\""], "the list is of one moment");
    assert_eq!(rest["metadata"]["resourceVersion"], page["metadata"]["resourceVersion"]);
    cluster.compact();
    let (code, expired) = client.get(&next).await;
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")));
    let (code, unknown) = client.get(&format!("{CONFIG_MAPS}?fieldSelector=data.key%3Dx")).await;
    let message =
        "\"data.key\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"";
    assert_eq!((code, &unknown["message"]), (400, &json!(message)));
}

#[tokio::test(start_paused = true)]
async fn a_list_at_a_version_to_come_waits_and_then_says_so() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let begun = tokio::time::Instant::now();
    let (code, status) = client.get(&format!("{CONFIG_MAPS}?resourceVersion=999")).await;
    assert_eq!(begun.elapsed().as_secs(), 3);
    let message = format!("Timeout: Too large resource version: 999, current: {}", cluster.revision());
    assert_eq!((code, &status["message"]), (504, &json!(message)));
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
}

#[tokio::test(start_paused = true)]
async fn metadata_alone_can_be_asked_for() {
    let cluster = Cluster::new();
    let mut client = Client::of(&cluster);
    client.post(CONFIG_MAPS, &config_map("a", "web")).await;
    client.accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let (_, list) = client.get(CONFIG_MAPS).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    let item = &list["items"][0];
    assert_eq!((&item["kind"], &item["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("a")));
    assert!(item.get("data").is_none());
    client.accept = "application/vnd.kubernetes.protobuf";
    assert_eq!(client.get(CONFIG_MAPS).await.0, 406);
}

#[tokio::test(start_paused = true)]
async fn finalizers_and_grace_keep_what_is_deleted() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let mut held = config_map("a", "web");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.post(CONFIG_MAPS, &held).await;
    let path = format!("{CONFIG_MAPS}/a");
    let (_, marked) = client.delete(&path).await;
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
    client.merge(&path, &json!({ "metadata": { "finalizers": null } })).await;
    assert_eq!(client.get(&path).await.0, 404);

    let pod = json!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n" } });
    cluster.create("pods", pod).unwrap();
    let (_, ending) = client.delete("/api/v1/namespaces/default/pods/p").await;
    assert_eq!(ending["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    client.delete("/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0").await;
    assert_eq!(client.get("/api/v1/namespaces/default/pods/p").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_holds_to_its_preconditions() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(CONFIG_MAPS, &config_map("a", "web")).await;
    let options = json!({ "preconditions": { "resourceVersion": "1" } });
    let path = format!("{CONFIG_MAPS}/a");
    let (code, refused) =
        client.send(http::Method::DELETE, &path, ("application/json", &options)).await.unwrap();
    assert_eq!(code, 409);
    assert!(refused["message"].as_str().unwrap().contains("does not match the ResourceVersion in record"));
    let (code, done) = client.delete(&path).await;
    assert_eq!((code, &done["status"]), (200, &json!("Success")));
}

#[tokio::test(start_paused = true)]
async fn a_definition_brings_a_kind_with_status_and_scale() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let definition = json!({
        "metadata": { "name": "models.tidegate.dev" },
        "spec": {
            "group": "tidegate.dev", "scope": "Namespaced",
            "names": { "plural": "models", "kind": "Model" },
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "subresources": {
                    "status": {},
                    "scale": { "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                        "labelSelectorPath": ".status.selector" },
                },
            }],
        },
    });
    let models = "/apis/tidegate.dev/v1alpha1/namespaces/default/models";
    assert_eq!(client.get(models).await.0, 404);
    let (code, made) =
        client.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
    assert_eq!(code, 201, "{made}");
    let model = json!({
        "apiVersion": "tidegate.dev/v1alpha1", "kind": "Model", "metadata": { "name": "m" },
        "spec": { "replicas": 1 }, "status": { "replicas": 1 },
    });
    let (code, made) = client.post(models, &model).await;
    assert_eq!((code, made.get("status")), (201, None));
    let path = format!("{models}/m");
    assert_eq!(client.put(&path, &model).await.0, 422, "custom resources are never overwritten blindly");
    client.merge(&format!("{path}/status"), &json!({ "status": { "replicas": 3, "selector": "a=b" } })).await;
    let (_, scale) = client.get(&format!("{path}/scale")).await;
    assert_eq!(scale["status"], json!({ "replicas": 3, "selector": "a=b" }));
    let (_, list) = client.get(models).await;
    assert_eq!((&list["kind"], &list["items"][0]["kind"]), (&json!("ModelList"), &json!("Model")));
    let (_, resources) = client.get("/apis/tidegate.dev/v1alpha1").await;
    assert_eq!(resources["resources"].as_array().unwrap().len(), 3);
    let (code, _) = client.patch("strategic-merge-patch", &path, &json!({})).await;
    assert_eq!(code, 415);
    client.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/models.tidegate.dev").await;
    assert_eq!(client.get(models).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn the_cluster_says_what_it_has() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    assert_eq!(client.get("/readyz").await, (200, json!("ok")));
    assert_eq!(client.get("/version").await.1["minor"], "36");
    let (_, groups) = client.get("/apis").await;
    let names: Vec<_> =
        groups["groups"].as_array().unwrap().iter().map(|group| group["name"].clone()).collect();
    assert!(names.contains(&json!("coordination.k8s.io")), "{names:?}");
    let (_, apps) = client.get("/apis/apps/v1").await;
    let scale =
        apps["resources"].as_array().unwrap().iter().find(|entry| entry["name"] == "deployments/scale");
    assert_eq!(scale.unwrap()["kind"], "Scale");
}

#[tokio::test(start_paused = true)]
async fn events_have_two_faces() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    let newer = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "metadata": { "name": "e" }, "reason": "Scaled", "note": "from 0 to 1", "type": "Normal",
        "regarding": { "kind": "Deployment", "name": "digits", "namespace": "default" },
    });
    let (code, made) = client.post(newer, &event).await;
    assert_eq!(
        (code, &made["apiVersion"], &made["note"]),
        (201, &json!("events.k8s.io/v1"), &json!("from 0 to 1"))
    );
    let (_, older) = client.get("/api/v1/namespaces/default/events/e").await;
    assert_eq!(
        (&older["message"], &older["involvedObject"]["name"]),
        (&json!("from 0 to 1"), &json!("digits"))
    );
    let (code, again) = client.merge(&format!("{newer}/e"), &json!({ "note": "from 1 to 2" })).await;
    assert_eq!((code, &again["note"]), (200, &json!("from 1 to 2")));
    let (_, list) = client.get(&format!("{newer}?fieldSelector=regarding.name%3Ddigits")).await;
    assert_eq!(list["items"][0]["note"], "from 1 to 2");
    assert_eq!(cluster.list("events", None).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn annotations_of_a_deployment_raise_its_generation() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(DEPLOYMENTS, &deployment("digits", 1)).await;
    let note = json!({ "metadata": { "annotations": { "a": "b" } } });
    assert_eq!(client.merge(DIGITS, &note).await.1["metadata"]["generation"], 2);
    let status = json!({ "metadata": { "annotations": { "a": "c" } } });
    let (_, shown) = client.merge(&format!("{DIGITS}/status"), &status).await;
    assert_eq!(
        (&shown["metadata"]["generation"], &shown["metadata"]["annotations"]["a"]),
        (&json!(2), &json!("c"))
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_no_object_is_refused() {
    let cluster = Cluster::new();
    let client = Client::of(&cluster);
    client.post(DEPLOYMENTS, &deployment("digits", 1)).await;
    assert_eq!(client.post(DEPLOYMENTS, &json!([1])).await.0, 400);
    assert_eq!(client.merge(DIGITS, &json!([1])).await.0, 400);
    assert_eq!(client.patch("json-patch", DIGITS, &json!({})).await.0, 400);
    let scalar = json!([{ "op": "replace", "path": "", "value": 3 }]);
    assert_eq!(client.patch("json-patch", DIGITS, &scalar).await.0, 422);
    assert_eq!(client.patch("json-patch", SCALE, &scalar).await.0, 422);
    assert_eq!(client.merge(DIGITS, &json!({ "metadata": { "uid": "other" } })).await.0, 422);
    let (code, nameless) = client.put(SCALE, &json!({ "spec": { "replicas": 1 } })).await;
    let message = "the name of the object (digits based on URL) was undeterminable: name must be provided";
    assert_eq!((code, &nameless["message"]), (400, &json!(message)));
    let odd = json!({ "metadata": 5, "spec": "text", "status": [] });
    assert!(client.merge(DIGITS, &odd).await.0 >= 400);
    assert_eq!(client.get(DIGITS).await.1["spec"]["replicas"], 1);
}
