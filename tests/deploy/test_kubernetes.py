"""The manifests: valid by the schemas of Kubernetes, in step with each other, and true of the server."""

import re
import shutil
import subprocess
from itertools import chain

import kubernetes_validate
import pytest
import yaml

from task_orchestrator import __version__
from tests.deploy.files import (
    DEPLOY,
    LONGEST_WAIT_SECONDS,
    document,
    documents,
    environment_of_the_image,
    is_refused,
    known_variables,
    settings_from,
)
from web.composition import DRAIN_SECONDS, SHUTDOWN_SECONDS
from web.delivery import PING_SECONDS
from web.routes import METRICS_PATH, ROUTES
from web.settings import Settings

PLACE = DEPLOY / "kubernetes"
WAYS = ("cluster", "sqlite")
EACH_WAY = pytest.mark.parametrize("way", WAYS)
VERSIONS = [f"1.{minor}" for minor in range(27, 38)]
PATHS = {route.path for route in ROUTES if route.method == "GET"}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def resources(folder):
    """What `kubectl kustomize` would make of it, names of images aside."""
    for name in document(folder / "kustomization.yaml")["resources"]:
        path = (folder / name).resolve()
        yield from resources(path) if path.is_dir() else documents(path)


def deployed(way):
    """By kind and name."""
    return {(it["kind"], it["metadata"]["name"]): it for it in resources(PLACE / way)}


def of_kind(way, kind):
    return [it for it in resources(PLACE / way) if it["kind"] == kind]


def workload(way):
    (only,) = of_kind(way, "Deployment") + of_kind(way, "StatefulSet")
    return only


def pod(way):
    return workload(way)["spec"]["template"]["spec"]


def container(way):
    (only,) = pod(way)["containers"]
    return only


def environment(way):
    """What the server finds, with an example for each value that comes from the Secret."""
    examples = {"API_SECRET_KEY": "a-hard-word", "DATABASE_URL": "postgresql://name:word@host:5432/database"}
    given = environment_of_the_image()
    for source in container(way)["envFrom"]:
        given |= deployed(way)["ConfigMap", source["configMapRef"]["name"]]["data"]
    for it in container(way)["env"]:
        given[it["name"]] = it["value"] if "value" in it else examples[it["valueFrom"]["secretKeyRef"]["key"]]
    return given


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(version):
    secret = documents(PLACE / "secret.example.yaml")
    seen = list(chain(secret, *(resources(PLACE / way) for way in WAYS)))
    for manifest in seen:
        assert kubernetes_validate.validate(manifest, version, strict=True)
    kinds = "Deployment HorizontalPodAutoscaler PodDisruptionBudget NetworkPolicy Ingress Service StatefulSet Secret"
    assert set(kinds.split()) <= {it["kind"] for it in seen}


def test_the_schema_finds_what_is_misspelt():
    wrong = workload("cluster")
    wrong["spec"]["template"]["spec"]["containers"][0]["lifecyle"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="lifecyle"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_no_file_is_left_out_and_none_comes_twice():
    named = [
        (path.parent / it).resolve()
        for path in PLACE.rglob("kustomization.yaml")
        for it in document(path)["resources"]
        if it.endswith(".yaml")
    ]
    rest = {"kustomization.yaml", "secret.example.yaml"}
    assert sorted(named) == sorted(path for path in PLACE.rglob("*.yaml") if path.name not in rest)
    for way in WAYS:
        assert len(list(resources(PLACE / way))) == len(deployed(way))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
@EACH_WAY
def test_kustomize_makes_the_same_of_it(way):
    """And names the image as the kustomization has it."""
    made = subprocess.run(["kubectl", "kustomize", PLACE / way], capture_output=True, text=True, timeout=60)
    assert (made.returncode, made.stderr) == (0, "")
    found = {(it["kind"], it["metadata"]["name"]): it for it in yaml.safe_load_all(made.stdout)}
    assert found.keys() == deployed(way).keys()
    (its,) = found[workload(way)["kind"], "task-orchestrator"]["spec"]["template"]["spec"]["containers"]
    assert its["image"] == f"task-orchestrator:{__version__}"


@EACH_WAY
def test_all_selectors_find_the_pods(way):
    labels = workload(way)["spec"]["template"]["metadata"]["labels"].items()
    selectors = [workload(way)["spec"]["selector"]["matchLabels"]]
    selectors += [it["spec"]["selector"] for it in of_kind(way, "Service")]
    selectors += [it["spec"]["podSelector"]["matchLabels"] for it in of_kind(way, "NetworkPolicy")]
    selectors += [it["spec"]["selector"]["matchLabels"] for it in of_kind(way, "PodDisruptionBudget")]
    selectors += [it["labelSelector"]["matchLabels"] for it in pod(way).get("topologySpreadConstraints", ())]
    assert all(it and it.items() <= labels for it in selectors)


@EACH_WAY
def test_everything_is_in_the_namespace_that_is_made(way):
    (namespace,) = of_kind(way, "Namespace")
    for it in resources(PLACE / way):
        assert it["kind"] == "Namespace" or it["metadata"]["namespace"] == namespace["metadata"]["name"]


@EACH_WAY
def test_whatever_is_named_is_there(way):
    """The account, the Secret and its keys, the Services of the Ingress and of the set, volumes and ports."""
    (secret,) = documents(PLACE / "secret.example.yaml")
    there, its = deployed(way), container(way)
    assert ("ServiceAccount", pod(way)["serviceAccountName"]) in there
    for it in its["env"]:
        if reference := it.get("valueFrom", {}).get("secretKeyRef"):
            assert reference["name"] == secret["metadata"]["name"]
            assert reference["key"] in secret["stringData"]
    volumes = {it["name"] for it in pod(way)["volumes"]}
    volumes |= {it["metadata"]["name"] for it in workload(way)["spec"].get("volumeClaimTemplates", ())}
    assert {it["name"] for it in its["volumeMounts"]} == volumes
    ports = {it["name"]: it["containerPort"] for it in its["ports"]}
    assert ports == {"http": int(environment_of_the_image()["SERVER_PORT"])}
    for service in of_kind(way, "Service"):
        assert all(it["targetPort"] in ports for it in service["spec"]["ports"])
    for policy in of_kind(way, "NetworkPolicy"):
        assert all(port["port"] in ports for it in policy["spec"].get("ingress", ()) for port in it["ports"])
    (ingress,) = of_kind(way, "Ingress")
    for it in (path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]):
        service = there["Service", it["backend"]["service"]["name"]]
        assert it["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


@EACH_WAY
def test_the_server_takes_its_environment(way):
    """Each variable is a setting, each value is allowed, and with the key it listens on every address."""
    given = environment(way)
    assert given.keys() - environment_of_the_image().keys() <= known_variables()
    assert not pod(way)["enableServiceLinks"]  # they are variables too, and the server knows only its own
    settings = settings_from(given)
    assert settings.security.api_key
    assert settings.security.open_metrics


def test_the_template_of_the_secret_opens_nothing():
    (secret,) = documents(PLACE / "secret.example.yaml")
    assert all(is_refused(**{name: value}) for name, value in secret["stringData"].items())


@EACH_WAY
def test_probes_and_paths_are_routes(way):
    probes = [container(way)[it]["httpGet"] for it in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert [it["path"] for it in probes] == ["/health/ready", "/health/ready", "/health/live"]
    assert all(it["path"] in PATHS and it["port"] == "http" for it in probes)
    annotations = workload(way)["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == METRICS_PATH
    assert annotations["prometheus.io/port"] == str(container(way)["ports"][0]["containerPort"])


@EACH_WAY
def test_the_ingress_leads_to_every_route_but_the_metrics(way):
    (ingress,) = of_kind(way, "Ingress")
    paths = [it for rule in ingress["spec"]["rules"] for it in rule["http"]["paths"]]

    def leads_to(route):
        return any(
            route == it["path"] or (it["pathType"] == "Prefix" and route.startswith(it["path"] + "/")) for it in paths
        )

    assert {route.path for route in ROUTES if not leads_to(route.path)} == {METRICS_PATH}


@EACH_WAY
def test_the_ingress_lets_events_and_long_waits_through(way):
    (ingress,) = of_kind(way, "Ingress")
    said = {key.rpartition("/")[2]: it for key, it in ingress["metadata"]["annotations"].items()}
    assert said["proxy-buffering"] == "off"
    assert int(said["proxy-read-timeout"]) > max(LONGEST_WAIT_SECONDS, PING_SECONDS)
    assert said["proxy-body-size"] == f"{Settings().server.max_body_bytes >> 20}m"
    assert "non_idempotent" not in said["proxy-next-upstream"]


@EACH_WAY
def test_it_has_time_to_stop(way):
    """The pause before it is told, a commit that takes as long as it may, and its own steps."""
    stop = container(way).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert stop[0] == "sleep"
    needed = int(stop[1]) + Settings().database.timeout_seconds + DRAIN_SECONDS + 2 * SHUTDOWN_SECONDS
    assert needed < pod(way)["terminationGracePeriodSeconds"]


@EACH_WAY
def test_it_may_do_no_more_than_it_must(way):
    """As the Pod Security Standard `restricted` has it, with a root file system that nobody can write."""
    about = pod(way)["securityContext"]
    assert about["runAsNonRoot"]
    assert about["seccompProfile"] == {"type": "RuntimeDefault"}
    uid = re.search(r"--uid (\d+)", (DEPLOY.parent / "Dockerfile").read_text())[1]
    assert {about["runAsUser"], about.get("fsGroup", int(uid))} == {int(uid)}
    assert container(way)["securityContext"] == RESTRICTED
    assert not pod(way)["automountServiceAccountToken"]
    (namespace,) = of_kind(way, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_it_scales_from_three_to_ten():
    (scaler,) = of_kind("cluster", "HorizontalPodAutoscaler")
    assert scaler["apiVersion"] == "autoscaling/v2"
    target = scaler["spec"]["scaleTargetRef"]
    meant = workload("cluster")
    assert target == {"apiVersion": meant["apiVersion"], "kind": meant["kind"], "name": meant["metadata"]["name"]}
    assert "replicas" not in meant["spec"]  # else each `apply` would set the autoscaler back
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (3, 10)
    wanted = {it["resource"]["name"]: it["resource"]["target"] for it in scaler["spec"]["metrics"]}
    share = {"type": "Utilization"}
    assert wanted == {"cpu": share | {"averageUtilization": 70}, "memory": share | {"averageUtilization": 80}}
    assert wanted.keys() <= container("cluster")["resources"]["requests"].keys()  # what the shares are of
    (budget,) = of_kind("cluster", "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1


def test_the_single_one_keeps_its_record_and_is_alone():
    it = workload("sqlite")["spec"]
    assert it["replicas"] == 1
    mounts = {mount["name"]: mount["mountPath"] for mount in container("sqlite")["volumeMounts"]}
    (claim,) = it["volumeClaimTemplates"]
    path = str(settings_from(environment("sqlite")).database.path)
    assert path.startswith(mounts[claim["metadata"]["name"]] + "/")
    assert set(it["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    assert pod("sqlite")["securityContext"]["fsGroup"]
    headless = deployed("sqlite")["Service", it["serviceName"]]
    assert headless["spec"]["clusterIP"] == "None"
    assert not of_kind("sqlite", "HorizontalPodAutoscaler")
    assert not of_kind("sqlite", "PodDisruptionBudget")
