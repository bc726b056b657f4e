"""Gateways and autoscalers against a real control plane, each test from a model at zero and back."""

import signal
import subprocess
import time

from plane import Load, until


def test_the_first_call_wakes_the_model_and_its_end_is_told_with_reasons(installation):
    answer = installation.predict()
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-tidegate-cold-start"]
    assert installation.replicas() == 1
    until("the status says so", lambda: installation.status()["state"] == "Ready", 45)
    assert installation.condition("Ready")["reason"] == "Serving"
    installation.to_zero()
    until("the status says so", lambda: installation.status()["state"] == "Zero", 90)
    assert installation.condition("Active")["reason"] == "ScaledToZero"
    reasons = [d["decision"]["reason"] for d in installation.decisions() if d["outcome"] == "applied"]
    assert reasons[0] == "idle" and "first_request" in reasons, reasons


def test_load_brings_replicas_and_none_of_the_calls_is_lost_on_the_way_down(installation, kubelet):
    kubelet.pace = "60ms+10ms"
    with Load(installation, threads=24, pause=0.0) as load:
        until("there are more", lambda: installation.replicas() >= 2, 90)
        until("and they serve", lambda: len(kubelet.ready) >= 2 and load.answered > 300, 60)
    with Load(installation, threads=1, pause=0.2) as little:
        until("one is enough again", lambda: installation.replicas() == 1, 120)
    kubelet.pace = "0s"
    assert load.failed == [] and little.failed == [], (load.failed[:3], little.failed[:3])
    assert load.answered > 100
    installation.to_zero()


def test_a_killed_leader_is_followed_and_no_call_notices(installation):
    with Load(installation, threads=2) as load:
        until("somebody serves", lambda: load.answered > 0)
        leader, epoch = installation.leader(), installation.epoch()
        leader.process.stop(signal.SIGKILL)
        began = time.monotonic()
        follower = until("another leads", lambda: (new := installation.leader()) and new is not leader and new, 20)
        took = time.monotonic() - began
        assert installation.epoch() > epoch
        until("and decides", lambda: installation.decisions(), 10)
        leader.start()
    print(f"another leader after {took:.1f} s")
    assert took <= 7.5, "lease and retry of the fast timing are 7 s"
    assert load.failed == [], load.failed[:3]
    assert follower is installation.leader()
    installation.to_zero()


def test_without_any_leader_a_gateway_wakes_the_model_itself(installation):
    for autoscaler in installation.autoscalers:
        autoscaler.process.stop(signal.SIGKILL)
    answer = installation.predict(gateway=1)
    assert answer.status_code == 200, answer.text
    assert installation.replicas() == 1
    for autoscaler in installation.autoscalers:
        autoscaler.start()
    until("somebody leads again", lambda: installation.leader() and installation.decisions(), 30)
    installation.to_zero()


def test_a_leader_that_was_stopped_and_continued_writes_nothing(installation):
    leader, epoch = installation.leader(), installation.epoch()
    leader.process.send(signal.SIGSTOP)
    until("another leads", lambda: (new := installation.leader()) and new is not leader, 20)
    assert installation.predict().status_code == 200
    before = installation.epoch()
    leader.process.send(signal.SIGCONT)
    time.sleep(5)
    assert installation.epoch() == before > epoch
    assert installation.leader() is not leader
    assert leader.admin("/api/models/digits/decisions").json()["decisions"] == []
    installation.to_zero()


def test_a_gateway_that_is_cut_off_keeps_the_replicas_and_is_named(installation):
    assert installation.predict().status_code == 200
    cut_off = installation.gateways[1]
    cut_off.process.send(signal.SIGSTOP)
    try:
        text = until("it is said", lambda: cut_off.name in (text := installation.why()) and text, 90)
        assert "not heard" in text, text
        time.sleep(10)
        assert installation.replicas() == 1
    finally:
        cut_off.process.send(signal.SIGCONT)
    installation.to_zero()


def test_a_number_set_by_hand_is_adopted_and_said(installation):
    assert installation.predict().status_code == 200
    time.sleep(2)
    installation.scale(3)
    text = until("it is said", lambda: "3" in (text := installation.why()) and "min" in text and "set" in text and text, 30)
    print(text)
    time.sleep(25)
    assert installation.replicas() == 3, installation.why()
    installation.scale(1)
    time.sleep(2)


def test_an_autoscaler_of_kubernetes_is_not_fought(installation):
    autoscalers = "/apis/autoscaling/v2/namespaces/tidegate/horizontalpodautoscalers"
    installation.api.create(autoscalers, {"metadata": {"name": "digits"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "digits"}, "minReplicas": 1, "maxReplicas": 3}})
    text = until("it is said", lambda: "HorizontalPodAutoscaler/digits" in (text := installation.why()) and text, 20)
    print(text)
    until("the status says so", lambda: installation.condition("ScalingActive")["reason"] == "Contended", 45)
    installation.api.delete(f"{autoscalers}/digits")
    until("it is over", lambda: "HorizontalPodAutoscaler" not in installation.why(), 20)


def test_without_the_api_server_calls_go_on_and_nothing_shrinks_after(installation, plane):
    with Load(installation, threads=2) as load:
        until("somebody serves", lambda: load.answered > 20)
        before = installation.replicas()
        plane.processes["kube-apiserver"].stop(signal.SIGKILL)
        answered = load.answered
        time.sleep(60)
        assert load.answered > answered + 100
        plane.start_api_server()
        until("somebody leads again", lambda: installation.leader() and installation.decisions(), 60)
        for _ in range(20):
            assert installation.replicas() == before, installation.why()
            time.sleep(1)
    assert load.failed == [], load.failed[:3]


def test_each_account_may_do_what_it_needs_and_no_more(plane, installation):
    def may(account: str, *question: str) -> bool:
        command = ["kubectl", "--kubeconfig", plane.folder / "admin.kubeconfig", "auth", "can-i", *question,
                   "-n", "tidegate", f"--as=system:serviceaccount:tidegate:{account}"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "yes"

    gateway = "tidegate-gateway"
    assert may(gateway, "patch", "deployments.apps/digits", "--subresource=scale")
    assert may(gateway, "watch", "endpointslices.discovery.k8s.io")
    for question in [("get", "pods"), ("get", "secrets"), ("update", "deployments"), ("patch", "deployments"), ("delete", "pods"),
                     ("update", "leases.coordination.k8s.io/tidegate"), ("create", "pods"), ("patch", "models.tidegate.dev"),
                     ("get", "configmaps"), ("create", "events")]:
        assert not may(gateway, *question), question
    for question in [("get", "secrets"), ("patch", "deployments"), ("delete", "pods"), ("create", "pods"), ("delete", "deployments"),
                     ("patch", "models.tidegate.dev")]:
        assert not may("tidegate-autoscaler", *question), question
