"""What each account may do: all of it, written down a second time, and what the manifests grant.

A right is (namespace, group, resource, name, verb). The namespace "*" means all, the name "" any.
"""

from collections.abc import Iterator

Right = tuple[str, str, str, str, str]
#: Where Tidegate itself runs.
OWN = "tidegate"
#: Where models are too, once that is added.
OTHER = "other"
GATEWAY, AUTOSCALER = "tidegate-gateway", "tidegate-autoscaler"


def _rights(group: str, resources: str, verbs: str, name: str = "") -> set[Right]:
    return {("", group, resource, name, verb) for resource in resources.split() for verb in verbs.split()}


#: Where models are.
AT_MODELS = {
    GATEWAY: _rights("tidegate.dev", "models", "get list watch")
    | _rights("discovery.k8s.io", "endpointslices", "get list watch")
    | _rights("apps", "deployments/scale statefulsets/scale", "get patch"),
    AUTOSCALER: _rights("tidegate.dev", "models", "get list watch")
    | _rights("tidegate.dev", "models/status", "patch update")
    | _rights("", "pods", "get list watch patch")
    | _rights("apps", "deployments statefulsets", "get list watch")
    | _rights("apps", "deployments/scale statefulsets/scale", "get patch update")
    | _rights("autoscaling", "horizontalpodautoscalers", "list watch")
    | _rights("keda.sh", "scaledobjects", "list watch")
    | _rights("", "events", "create patch")
    | _rights("events.k8s.io", "events", "create patch"),
}
#: Where Tidegate runs.
AT_HOME = {
    GATEWAY: _rights("coordination.k8s.io", "leases", "get list watch", "tidegate"),
    AUTOSCALER: _rights("coordination.k8s.io", "leases", "get update", "tidegate")
    | _rights("coordination.k8s.io", "leases", "create")
    | _rights("", "configmaps", "get update", "tidegate-memory")
    | _rights("", "configmaps", "create")
    | _rights("discovery.k8s.io", "endpointslices", "get list watch"),
}


def _within(namespace: str, rights: set[Right]) -> set[Right]:
    return {(namespace, *right[1:]) for right in rights}


def expected(case: str) -> dict[str, set[Right]]:
    """The rights of each account, installed in this way."""
    also = {"components/all-namespaces": "*", "components/model-namespace": OTHER}
    places = [OWN, *(place for component, place in also.items() if component in case)]
    rights = {
        account: _within(OWN, AT_HOME[account]).union(*(_within(place, AT_MODELS[account]) for place in places))
        for account in (GATEWAY, AUTOSCALER)
    }
    if "overlays/single" in case:
        # The one pod runs as the autoscaler.
        for place in places:
            rights[AUTOSCALER] |= _within(place, _rights("discovery.k8s.io", "endpointslices", "get list watch"))
    return rights


def granted(objects: list[dict]) -> dict[str, set[Right]]:
    """The rights of each account as the objects grant them."""
    accounts = {thing["metadata"]["name"]: set() for thing in objects if thing["kind"] == "ServiceAccount"}
    for binding, role in _bindings(objects):
        namespace = "*" if binding["kind"] == "ClusterRoleBinding" else binding["metadata"]["namespace"]
        for subject in binding["subjects"]:
            accounts[subject["name"]] |= _within(namespace, set(_of_role(role)))
    return accounts


def _bindings(objects: list[dict]) -> Iterator[tuple[dict, dict | None]]:
    """Each binding with its role, if that is there."""
    roles = {(thing["kind"], thing["metadata"]["name"]): thing for thing in objects if thing["kind"].endswith("Role")}
    for thing in objects:
        if thing["kind"].endswith("RoleBinding"):
            yield thing, roles.get((thing["roleRef"]["kind"], thing["roleRef"]["name"]))


def _dangling(objects: list[dict]) -> Iterator[str]:
    there = (thing for thing in objects if thing["kind"] == "ServiceAccount")
    accounts = {("ServiceAccount", OWN, account["metadata"]["name"]) for account in there}
    for binding, role in _bindings(objects):
        where = f"{binding['kind']} {binding['metadata']['name']}"
        if role is None:
            yield f"{where} is to no role that there is"
        for subject in binding["subjects"]:
            if (subject["kind"], subject.get("namespace"), subject["name"]) not in accounts:
                yield f"{where} is for nobody that there is"


def _of_role(role: dict) -> Iterator[Right]:
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", [""]):
                    for verb in rule["verbs"]:
                        yield ("", group, resource, name, verb)


def differences(objects: list[dict], wanted: dict[str, set[Right]]) -> list[str]:
    """What is wrong with the rights, in words."""
    if dangling := list(_dangling(objects)):
        return dangling
    found = granted(objects)
    wrong = [f"account {account} is not expected" for account in found.keys() - wanted.keys()]
    for account, rights in wanted.items():
        has = found.get(account, set())
        wrong += [f"{account} may {in_words(right)}" for right in sorted(has - rights)]
        wrong += [f"{account} may not {in_words(right)}" for right in sorted(rights - has)]
        wrong += [f"{account}: a wildcard: {in_words(right)}" for right in sorted(has) if "*" in right[1:]]
        wrong += [f"{account}: secrets: {in_words(right)}" for right in sorted(has) if right[2].startswith("secrets")]
        wrong += [] if has else [f"{account} has no right at all"]
    return wrong


def in_words(right: Right) -> str:
    namespace, group, resource, name, verb = right
    return f"{verb} {resource}{'.' + group if group else ''}{' ' + name if name else ''} in {namespace or 'any'}"
