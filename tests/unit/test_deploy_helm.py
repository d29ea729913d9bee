"""The Helm chart, rendered by the real helm: what it makes is valid Kubernetes, closed, and read by Headrace as meant."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

import headrace
from headrace import catalog
from headrace.catalog import Store, Tier
from headrace.cli import cli
from headrace.settings import PostgreSQL, Settings
from tests.chart import CHART, NIM, OWN, ROOT, SMALL, SWITCHES, Manifest, Values, merged, one, rendered, run
from tests.chart import helm as helm

CRDS = Path(os.environ.get("HEADRACE_CRDS", ROOT.parent / "shared" / "data" / "crds"))
KUBERNETES = ("1.27", "1.37")
OPERATORS = {"apps.nvidia.com", "kafka.strimzi.io", "ray.io"}
PAGE = ROOT / "docs" / "how-to" / "deploy.md"
SIZES = ("small", "medium", "large")


def everything(helm: str) -> list[Manifest]:
    """All that the chart can make at once, but for what excludes each other."""
    values = copy.deepcopy(OWN)
    for switch, over in SWITCHES.items():
        if switch not in ("claim", "no training", "Ray job"):
            values = merged(values, over)
    return rendered(helm, values)


def strict(schema: Any) -> Any:
    """The schema of a custom resource, without the fields that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed


@pytest.fixture(scope="module", autouse=True)
def schemas_read_once() -> Iterator[None]:
    """The validator would read a megabyte of definitions for each manifest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents))
        yield


def require_valid(manifests: list[Manifest]) -> None:
    """Check each against the schemas of Kubernetes, or of the operator that its kind belongs to; skip where one is absent."""
    absent = set()
    for manifest in manifests:
        group, _, version = manifest["apiVersion"].rpartition("/")
        if group not in OPERATORS:
            for kubernetes in KUBERNETES:
                kubernetes_validate.validate(manifest, kubernetes, strict=True)
            continue
        file = CRDS / f"{manifest['kind'].lower()}s.{group}.json"
        if not file.is_file():
            absent.add(manifest["kind"])
            continue
        versions = {each["name"]: each["schema"]["openAPIV3Schema"] for each in json.loads(file.read_text())["spec"]["versions"]}
        schema = strict(versions[version])
        # Kubernetes' own, which the operators' schemas leave open.
        schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        jsonschema.Draft202012Validator(schema).validate(manifest)
    if absent:
        pytest.skip(f"no schema of {', '.join(sorted(absent))} in {CRDS}; HEADRACE_CRDS names another folder")


def loaded(manifests: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings as the container reads them: the file of the ConfigMap, and an environment whose Secrets hold `secret-…`."""
    file = tmp_path / "headrace.toml"
    file.write_text(next(each["data"]["headrace.toml"] for each in manifests if "headrace.toml" in each.get("data", {})))
    container = one(manifests, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    for variable in container["env"]:
        value = variable.get("value", "secret-" + "0" * 32).replace("$(POD_IP)", "10.1.2.3")
        monkeypatch.setenv(variable["name"], value)
    assert os.environ["HEADRACE_SETTINGS"] in [mount["mountPath"] for mount in container["volumeMounts"]]
    monkeypatch.setenv("HEADRACE_SETTINGS", str(file))
    return Settings.load()


def of_size(size: str) -> Values:
    values: Values = yaml.safe_load((CHART / f"values-{size}.yaml").read_text())
    return merged(values, SMALL if size == "small" else OWN)


def test_lint_finds_nothing(helm: str) -> None:
    done = run(helm, "lint --strict", SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"\[(WARNING|ERROR)\]", done.stdout), done.stdout


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == headrace.__version__


@pytest.mark.parametrize("size", SIZES)
def test_each_size_renders_valid_manifests_and_settings(
    helm: str, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = of_size(size)
    manifests = rendered(helm, values)
    settings = loaded(manifests, tmp_path, monkeypatch)
    assert settings.limits.documents == values["settings"]["limits"]["documents"]
    assert isinstance(settings.metadata, PostgreSQL) == (size != "small")
    assert settings.training.threads == settings.models.threads == int(values["resources"]["requests"]["cpu"])
    require_valid(manifests)


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_renders_valid_manifests_and_settings(
    helm: str, switch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = rendered(helm, merged(OWN, SWITCHES[switch]))
    loaded(manifests, tmp_path, monkeypatch)
    # No schemas of the Prometheus Operator are at hand; the page says so.
    require_valid([manifest for manifest in manifests if manifest["kind"] not in ("ServiceMonitor", "PrometheusRule")])


def test_a_manifest_with_an_unknown_field_is_invalid(helm: str) -> None:
    manifests = everything(helm)
    wrong = copy.deepcopy(one(manifests, "StatefulSet"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        require_valid([wrong])
    for kind, name in {"NIMService": "generator", "NIMCache": "generator", "KafkaTopic": "feedback", "RayCluster": "ray"}.items():
        wrong = copy.deepcopy(next(each for each in manifests if each["kind"] == kind and name in each["metadata"]["name"]))
        wrong["spec"]["nonsense"] = 1
        with pytest.raises(jsonschema.ValidationError, match="nonsense"):
            require_valid([wrong])


def pods(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """The specification of every pod that the chart itself describes."""
    found = [each["spec"]["template"]["spec"] for each in manifests if each["kind"] in ("StatefulSet", "Deployment")]
    clusters = [each["spec"] for each in manifests if each["kind"] == "RayCluster"]
    clusters += [each["spec"]["rayClusterSpec"] for each in manifests if each["kind"] == "RayJob"]
    for cluster in clusters:
        found += [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    return found


def test_no_pod_has_rights_that_it_does_not_need(helm: str) -> None:
    manifests = everything(helm)
    job = [each for each in rendered(helm, merged(OWN, SWITCHES["Ray job"])) if each["kind"] == "RayJob"]
    assert "hostPath" not in yaml.safe_dump_all([*manifests, *job])
    assert (len(pods(manifests)), len(pods(job))) == (4, 2)
    for pod in pods([*manifests, *job]):
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
    assert one(manifests, "ServiceAccount")["automountServiceAccountToken"] is False


def test_what_is_kept_is_on_claims(helm: str) -> None:
    manifests = rendered(helm, SMALL)
    pod = one(manifests, "StatefulSet")["spec"]["template"]["spec"]
    assert {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume} == {"tmp"}
    claim = one(manifests, "PersistentVolumeClaim")
    assert claim["spec"]["resources"]["requests"]["storage"] == "11Gi", "the cache's 10 GiB and a tenth"
    mounted = {volume["name"]: volume for volume in pod["volumes"]}["kv-cache"]
    assert mounted["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    named = rendered(helm, merged(OWN, SWITCHES["claim"]))
    assert not [each for each in named if each["kind"] == "PersistentVolumeClaim"]


def test_secrets_are_references_alone(helm: str) -> None:
    manifests = everything(helm)
    assert not [each for each in manifests if each["kind"] == "Secret"]
    for pod in pods(manifests):
        secret = {each["name"] for each in pod["containers"][0]["env"] if "secretKeyRef" in each.get("valueFrom", {})}
        assert secret >= {
            "HEADRACE_OBJECTS__ACCESS_KEY",
            "HEADRACE_OBJECTS__SECRET_KEY",
            "HEADRACE_METADATA__URL",
            "HEADRACE_HEAD__SIGNING_KEY",
            "HEADRACE_HEAD__PROPERTIES__sasl.password",
            "HEADRACE_TABLES__PROPERTIES__token",
        }


def test_secret_properties_and_own_addresses_reach_the_settings(
    helm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = merged(merged(OWN, SWITCHES["kafka with security"]), SWITCHES["TLS"])
    settings = loaded(rendered(helm, own), tmp_path, monkeypatch)
    assert settings.head.type == "kafka"
    assert settings.head.properties == {
        "security.protocol": "SASL_SSL",
        "sasl.username": "headrace",
        "sasl.password": "secret-" + "0" * 32,
    }
    assert {"acme-headrace", "acme-headrace.rag.svc", "10.1.2.3", "rag.example.net"} <= set(settings.api.hosts)
    assert settings.api.certificate == Path("/etc/headrace/tls/tls.crt")
    assert settings.models.generator.type == "endpoint"
    assert settings.models.generator.api_key is not None


def test_probes_ask_the_routes_that_need_no_key(helm: str) -> None:
    from headrace.api.middleware import OPEN

    for values, scheme in ((OWN, "HTTP"), (merged(OWN, SWITCHES["TLS"]), "HTTPS")):
        container = one(rendered(helm, values), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
        for probe, path in (("startup", "/health/live"), ("liveness", "/health/live"), ("readiness", "/health/ready")):
            asked = container[f"{probe}Probe"]["httpGet"]
            assert (asked["path"], asked["scheme"]) == (path, scheme)
            assert asked["httpHeaders"] == [{"name": "Host", "value": "localhost"}], "other hosts get a 421"
            assert path in OPEN


def test_the_network_is_closed_but_for_what_is_named(helm: str) -> None:
    policy = one(rendered(helm, SMALL), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": "api"}]}]
    assert [{port["port"] for port in rule["ports"]} for rule in policy["egress"]] == [{53}], "DNS alone"
    nims = one(rendered(helm, merged(OWN, SWITCHES["NIMs"])), "NetworkPolicy")["spec"]["egress"]
    reached = [rule["to"][0]["podSelector"]["matchLabels"]["app"] for rule in nims if "podSelector" in rule["to"][0]]
    assert reached == ["acme-headrace-embedder", "acme-headrace-generator", "acme-headrace-reranker"]


def test_a_ray_job_runs_its_command_on_a_cluster_of_its_own(helm: str) -> None:
    manifests = rendered(helm, merged(OWN, SWITCHES["Ray job"]))
    assert not [each for each in manifests if each["kind"] == "RayCluster"]
    spec = one(manifests, "RayJob")["spec"]
    assert spec["entrypoint"] == "headrace index s3://documents/handbook --on ray"
    assert spec["shutdownAfterJobFinishes"] is True
    policy = one(manifests, "NetworkPolicy", "ray")["spec"]
    heads = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for group in heads:
        assert policy["podSelector"]["matchLabels"].items() <= group["template"]["metadata"]["labels"].items()
    assert [rule.get("ports") for rule in policy["ingress"]] == [None, [{"protocol": "TCP", "port": 8265}]]


def test_another_release_of_a_nim_has_another_cache_since_a_cache_keeps_its_image(helm: str) -> None:
    seen = set()
    for changed in ({}, {"tag": "2"}, {"repository": "nvcr.io/nim/nvidia/f"}):
        manifests = rendered(helm, merged(OWN, {"models": {"embedder": merged(NIM, {"nim": changed})}}))
        cache, service = one(manifests, "NIMCache"), one(manifests, "NIMService")
        assert service["spec"]["storage"]["nimCache"]["name"] == cache["metadata"]["name"]
        assert service["metadata"]["name"] == "acme-headrace-embedder", "clients keep their address"
        seen.add((cache["metadata"]["name"], cache["spec"]["source"]["ngc"]["modelPuller"]))
    assert len({name for name, _ in seen}) == len({image for _, image in seen}) == 3


def test_names_are_as_long_as_the_operators_take(helm: str) -> None:
    """The NIM Operator appends `-job` to a cache's name and makes labels of it; KubeRay takes 47 characters for a RayJob."""
    release = "a-release-of-headrace-with-the-longest-name-that-helm"
    assert len(release) == 53
    values = merged(OWN, {"models": {"embedder": NIM}})
    for switch, kind, most in (
        ("Ray job", "RayJob", 47 - len("9999999") + 1),
        ("Ray", "RayCluster", 53),
        ("Ray", "NIMCache", 59),
    ):
        done = run(helm, f"template {release}", merged(values, SWITCHES[switch]))
        assert done.returncode == 0, done.stderr
        made = [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each and each["kind"] == kind]
        assert [len(each["metadata"]["name"]) <= most for each in made] == [True], made[0]["metadata"]


def test_every_ray_node_mounts_the_storage_path_that_the_settings_name(
    helm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = rendered(helm, merged(OWN, SWITCHES["Ray on shared storage"]))
    settings = loaded(manifests, tmp_path, monkeypatch)
    assert settings.workers.training == 2
    claim = next(each for each in manifests if each["metadata"]["name"].endswith("-ray-shared"))
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    nodes = pods([each for each in manifests if each["kind"] == "RayCluster"])
    assert len(nodes) == 2
    for pod in nodes:
        (name,) = [
            each["name"]
            for each in pod["containers"][0]["volumeMounts"]
            if each["mountPath"] == str(settings.workers.storage_path)
        ]
        (volume,) = [each for each in pod["volumes"] if each["name"] == name]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_a_lander_has_what_landing_needs_and_nobody_reaches_it(helm: str) -> None:
    manifests = rendered(helm, merged(OWN, SWITCHES["lander"]))
    lander, api = one(manifests, "Deployment"), one(manifests, "StatefulSet")
    container = lander["spec"]["template"]["spec"]["containers"][0]
    assert (lander["spec"]["replicas"], container["args"]) == (2, ["land"])
    theirs = api["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [each for each in theirs if each["name"] not in ("POD_IP", "HEADRACE_API__HOSTS")] == container["env"]
    policy = one(manifests, "NetworkPolicy", "lander")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    selected = policy["podSelector"]["matchLabels"]
    assert selected.items() <= lander["spec"]["template"]["metadata"]["labels"].items()
    assert not selected.items() <= api["spec"]["template"]["metadata"]["labels"].items()


def test_topics_are_those_of_the_catalog(helm: str) -> None:
    topics = {store.name for store in vars(catalog).values() if isinstance(store, Store) and store.tier is Tier.STREAM}
    manifests = rendered(helm, merged(OWN, SWITCHES["topics"]))
    made = [each["metadata"] for each in manifests if each["kind"] == "KafkaTopic"]
    assert {each["name"] for each in made} == topics
    assert {each["namespace"] for each in made} == {"kafka"}


def test_the_dashboard_is_the_one_beside_the_chart(helm: str) -> None:
    shown = one(rendered(helm, merged(OWN, SWITCHES["monitoring"])), "ConfigMap", "dashboard")["data"]["headrace.json"]
    assert json.loads(shown) == json.loads((ROOT / "deploy" / "grafana" / "headrace.json").read_text())


def test_the_alerts_are_those_beside_the_chart(helm: str) -> None:
    manifests = rendered(helm, merged(OWN, SWITCHES["monitoring"]))
    rules = one(manifests, "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((ROOT / "deploy" / "grafana" / "rules.yaml").read_text())
    assert rules["metadata"]["labels"]["release"] == "prometheus", "by which Prometheus finds both"
    without = merged(
        OWN, SWITCHES["monitoring"] | {"serviceMonitor": {**SWITCHES["monitoring"]["serviceMonitor"], "rules": False}}
    )
    assert [each for each in rendered(helm, without) if each["kind"] == "PrometheusRule"] == []


def test_every_value_has_a_default_and_a_place_in_the_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(value: Any, known: dict[str, Any], path: str) -> None:
        known = schema["$defs"][known["$ref"].rpartition("/")[2]] if "$ref" in known else known
        if "properties" in known and path not in ("settings", "demand"):
            assert known["additionalProperties"] is False, path
            assert set(value) == set(known["properties"]), path
            for name in value:
                compare(value[name], known["properties"][name], f"{path}.{name}".lstrip("."))

    compare(values, schema, "")
    sections = set(schema["properties"]["settings"]["properties"])
    assert sections | {"home", "objects", "tables", "head", "files", "metadata", "models", "api"} == set(Settings.model_fields)


def examples() -> list[tuple[str, Values]]:
    """The page's examples of values: the size that each is for, with what comes before it where it is an addition."""
    found: list[tuple[str, Values]] = []
    sites: dict[str, Values] = {}
    blocks = re.findall(r"^```yaml\n# (add to )?site\.yaml for values-(\w+)\.yaml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    for addition, size, text in blocks:
        values = merged(sites[size], yaml.safe_load(text)) if addition else yaml.safe_load(text)
        sites.setdefault(size, values)
        found.append((size, values))
    return found


def test_the_examples_of_the_page_render(helm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PAGE.read_text().count("```yaml") == len(examples()) > len(SIZES)
    for size, values in examples():
        with monkeypatch.context() as patch:
            loaded(rendered(helm, values, "--values", str(CHART / f"values-{size}.yaml")), tmp_path, patch)


def test_the_page_has_what_the_chart_has() -> None:
    page = PAGE.read_text()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f"Kubernetes {re.search(r'[0-9]+[.][0-9]+', chart['kubeVersion'])[0]}" in page  # type: ignore[index]
    assert f"headrace:{chart['appVersion']} " in page
    assert f"schemas of Kubernetes {' and '.join(KUBERNETES)}" in page
    for size in SIZES:
        replicas = yaml.safe_load((CHART / f"values-{size}.yaml").read_text())["replicas"]
        assert re.search(rf"^\| `values-{size}\.yaml` .* {replicas} \|$", page, re.M), size


@pytest.mark.parametrize("size", SIZES)
def test_the_figures_of_a_size_are_those_that_its_command_computes(size: str, tmp_path: Path) -> None:
    text = (CHART / f"values-{size}.yaml").read_text()
    (command,) = re.findall(r"^#   (headrace size .*)$", text, re.MULTILINE)
    done = CliRunner().invoke(cli, ["--home", str(tmp_path), *shlex.split(command)[1:], "--json"])
    assert done.exit_code == 0, done.output
    sized = json.loads(done.stdout)
    tiers = {tier["tier"]: tier for tier in sized["tiers"]}
    values = yaml.safe_load(text)
    assert values["demand"] == {
        name: {
            "capacity": round(tier["capacity"]),
            "read": round(tier["peak_read"]),
            "write": round(tier["peak_write"]),
        }
        for name, tier in tiers.items()
    }
    (documents,) = [each["value"] for each in sized["figures"] if each["name"] == "documents_capacity"]
    assert values["settings"]["limits"] == {"documents": sized["parameters"]["documents"], "stored_bytes": round(documents)}
    gib = 1 << 30
    if size == "small":
        embedded = sum(tiers[name]["capacity"] for name in ("stream", "object", "table", "vector"))
        assert values["home"]["gib"] == -(-embedded // gib)
        assert values["kvCache"]["gib"] == -(-tiers["file"]["capacity"] // gib)
    else:
        assert values["strimzi"]["replicas"] == sized["parameters"]["head_replicas"]
        assert values["strimzi"]["retentionHours"] == sized["parameters"]["head_h"]
