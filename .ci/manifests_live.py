#!/usr/bin/env python3
"""Installs manifests/ on a real API server and asks it who may do what.

TIDEGATE_TEST_KUBECONFIG names the kubeconfig of one to throw away, with RBAC and the rights of its administrator. What
is installed stays there. Neither nodes nor controllers are needed: nothing has to run.
"""

import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import manifests
import manifests_rights as rights

PATIENCE = 30.0
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
#: Tidegate's own namespace, one with models that was added, and one that nobody added.
NAMESPACES = (rights.OWN, rights.OTHER, "strange")
#: An account without any binding: what it may, everybody may.
NOBODY = "nobody"
#: Asks at a time.
HANDS = 8
DIGITS = f"/apis/apps/v1/namespaces/{rights.OWN}/deployments/digits"
POD = f"/api/v1/namespaces/{rights.OWN}/pods/replica"
RANK = "controller.kubernetes.io/pod-deletion-cost"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, proxy() as address:
        api = Api(address)
        ways = dict(manifests.cases(pathlib.Path(folder)))
        install(api, ways)
        print(f"API server: base and example installed, {len(ways)} ways to install accepted")
        print(f"API server: {check_rights(api)} rights as they should be, granted and refused")
        print(f"API server: {check_admission(api)} writes admitted and refused as they should be")
    return 0


# Calls.


def kubectl(*arguments: str, stdin: str | None = None) -> None:
    command = ["kubectl", "--kubeconfig", os.environ["TIDEGATE_TEST_KUBECONFIG"], *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (arguments, done.stderr)
    # Deprecated fields, and pods that break the rules of their namespace.
    assert "Warning" not in done.stderr, (arguments, done.stderr)


def apply(objects: list[manifests.Object], *options: str) -> None:
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    kubectl("apply", "--server-side", *options, "--filename", "-", stdin=everything)


@contextlib.contextmanager
def proxy() -> Iterator[str]:
    """`kubectl proxy`, for calls that kubectl has no words for. Yields its address."""
    command = ["kubectl", "--kubeconfig", os.environ["TIDEGATE_TEST_KUBECONFIG"], "proxy", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            found = re.search(r"127\.0\.0\.1:\d+", running.stdout.readline())
            assert found, "kubectl proxy did not start"
            yield f"http://{found[0]}"
        finally:
            running.terminate()


class Api:
    """The API server, as its administrator or as one of the accounts."""

    def __init__(self, address: str) -> None:
        self._address = address

    def call(self, verb: str, path: str, body: object = None, account: str = "") -> tuple[int, manifests.Object]:
        request = urllib.request.Request(f"{self._address}{path}", method=verb)
        if body is not None:
            request.data = json.dumps(body).encode()
            kind = "application/merge-patch+json" if verb == "PATCH" else "application/json"
            request.add_header("content-type", kind)
        if account:
            request.add_header("impersonate-user", user(account))
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def may(self, account: str, right: rights.Right) -> bool:
        namespace, group, resource, name, verb = right
        resource, _, subresource = resource.partition("/")
        attributes = {"group": group, "resource": resource, "subresource": subresource, "verb": verb}
        spec = {
            "user": user(account),
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{rights.OWN}", "system:authenticated"],
            "resourceAttributes": attributes | {"namespace": namespace, "name": name},
        }
        status, answer = self.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": spec})
        assert status == 201, answer
        return answer["status"]["allowed"]

    def resources(self) -> Iterator[tuple[str, str]]:
        """Group and name of everything the server knows, subresources included."""
        _, found = self.call("GET", "/apis")
        paths = {group["name"]: f"/apis/{group['preferredVersion']['groupVersion']}" for group in found["groups"]}
        for group, path in {"": "/api/v1", **paths}.items():
            for resource in self.call("GET", path)[1]["resources"]:
                yield group, resource["name"]


def user(account: str) -> str:
    return f"system:serviceaccount:{rights.OWN}:{account}"


def eventually(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.1)


# What is checked.


def install(api: Api, ways: dict[str, list[manifests.Object]]) -> None:
    """The base for real, with one more namespace; everything else as far as the server would take it."""
    apply(ways["base"])
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/models.tidegate.dev")
    for namespace in NAMESPACES[1:]:
        apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}])
    for objects in ways.values():
        known = [thing for thing in objects if (thing["apiVersion"], thing["kind"]) not in manifests.FOREIGN]
        apply(known, "--dry-run=server")
    apply(ways["components/model-namespace"])
    apply(ways["overlays/example"])
    status, model = api.call("GET", f"/apis/tidegate.dev/v1alpha1/namespaces/{rights.OWN}/models/digits")
    assert status == 200, model


def check_rights(api: Api) -> int:
    """Asks for every verb on everything there is. Returns how many answers there were."""
    wanted = rights.expected("components/model-namespace")
    kinds = set(api.resources()) | {right[1:3] for granted in wanted.values() for right in granted}
    assert ("", "secrets") in kinds and ("apps", "deployments/scale") in kinds, kinds
    asked = [
        (account, (namespace, group, resource, name, verb))
        for account, namespace, (group, resource), verb in itertools.product(wanted, NAMESPACES, sorted(kinds), VERBS)
        for name in names_of_interest(resource)
    ]
    with concurrent.futures.ThreadPoolExecutor(HANDS) as hands:
        allowed = list(hands.map(lambda one: api.may(*one), asked))
    for (account, right), is_allowed in zip(asked, allowed, strict=True):
        should_be = bool({right, (*right[:3], "", right[4])} & wanted[account])
        if is_allowed != should_be:
            is_everybodys = is_allowed and api.may(NOBODY, right)
            assert is_everybodys, f"{account} {'may' if is_allowed else 'may not'} {rights.in_words(right)}"
    check_lease_reads(api)
    return len(asked)


def names_of_interest(resource: str) -> tuple[str, ...]:
    limited = {"leases": ("", "tidegate", "tidegate-gateway"), "configmaps": ("", "tidegate-memory", "tidegate")}
    return limited.get(resource, ("",))


def check_lease_reads(api: Api) -> None:
    """A gateway may list its Lease by name, which is what a watch of it begins with, and not all of them."""
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{rights.OWN}/leases"
    status, answer = api.call("GET", f"{leases}?fieldSelector=metadata.name%3Dtidegate", account=rights.GATEWAY)
    assert status == 200, answer
    status, answer = api.call("GET", leases, account=rights.GATEWAY)
    assert status == 403, answer


def check_admission(api: Api) -> int:
    """Writes that an account has the verb for, and of which it may do only one kind."""
    api.call("DELETE", f"{POD}?gracePeriodSeconds=0")
    status, answer = api.call("POST", POD.rpartition("/")[0], bare_pod())
    assert status == 201, answer
    scale, gateway, autoscaler = f"{DIGITS}/scale", rights.GATEWAY, rights.AUTOSCALER
    # A policy takes a moment to be in force.
    eventually(lambda: api.call("PATCH", f"{scale}?dryRun=All", replicas(7), gateway)[0] == 422, "the gateway's policy")
    dry = {"metadata": {"labels": {"in": "force"}}}
    eventually(lambda: api.call("PATCH", f"{POD}?dryRun=All", dry, autoscaler)[0] == 422, "the autoscaler's policy")
    writes = [
        (gateway, scale, replicas(2), 422),
        (gateway, scale, replicas(1), 200),
        (gateway, scale, replicas(2), 422),
        (gateway, scale, replicas(0), 422),
        (gateway, DIGITS, replicas(1), 403),
        (autoscaler, scale, replicas(3), 200),
        (autoscaler, scale, replicas(0), 200),
        (autoscaler, DIGITS, replicas(1), 403),
        (autoscaler, POD, annotations({RANK: "-5"}), 200),
        (autoscaler, POD, annotations({RANK: "7"}), 200),
        (autoscaler, POD, annotations({RANK: "7", "mine": "too"}), 422),
        (autoscaler, POD, annotations({"kept": None}), 422),
        (autoscaler, POD, annotations({"kept": "changed"}), 422),
        (autoscaler, POD, annotations({RANK: None}), 200),
        (autoscaler, POD, {"metadata": {"labels": {"app": "taken"}}}, 422),
        (autoscaler, POD, {"metadata": {"finalizers": ["tidegate.dev/stay"]}}, 422),
        (autoscaler, POD, {"spec": {"containers": [bare_pod()["spec"]["containers"][0] | {"image": "other:1"}]}}, 422),
        (autoscaler, POD, {"spec": {"activeDeadlineSeconds": 1}}, 422),
        # Nobody else is looked at.
        ("", POD, {"metadata": {"labels": {"app": "taken"}}}, 200),
        ("", scale, replicas(4), 200),
        ("", scale, replicas(0), 200),
    ]
    for account, path, change, expected in writes:
        status, answer = api.call("PATCH", path, change, account)
        assert status == expected, (account or "administrator", path, change, answer)
    return len(writes)


def replicas(number: int) -> manifests.Object:
    return {"spec": {"replicas": number}}


def annotations(changes: dict[str, str | None]) -> manifests.Object:
    return {"metadata": {"annotations": changes}}


def bare_pod() -> manifests.Object:
    locked = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "model-server", "image": "unused:1", "securityContext": locked}
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "metadata": {"name": "replica", "annotations": {"kept": "as it is"}},
        "spec": {
            "serviceAccountName": rights.GATEWAY,
            "automountServiceAccountToken": False,
            "securityContext": security,
            "containers": [container],
        },
    }


if __name__ == "__main__":
    sys.exit(main())
