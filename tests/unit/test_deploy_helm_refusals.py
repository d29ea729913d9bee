"""What the Helm chart refuses: each with a sentence that says what to set."""

from __future__ import annotations

import re

import pytest

from tests.chart import CHART, NIM, OWN, SMALL, SWITCHES, Values, merged, run
from tests.chart import helm as helm

REFUSED: dict[str, tuple[Values, str]] = {
    "no image": (merged(OWN, {"image": {"repository": ""}}), "image.repository is empty: build deploy/container/Containerfile"),
    "a variable that is not the settings'": (
        merged(OWN, {"secretEnv": {"HEADRACE_HOME": {"name": "home", "key": "path"}}}),
        "secretEnv has HEADRACE_HOME, which is not for secrets",
    ),
    "no class for homes": (merged(OWN, {"home": {"storageClass": ""}}), "home.storageClass is empty: name a class"),
    "no KV claim": (merged(SMALL, {"kvCache": {"storageClass": ""}}), "set kvCache.existingClaim, or kvCache.storageClass"),
    "two KV claims": (merged(SMALL, {"kvCache": {"existingClaim": "kv"}}), "kvCache has both a claim and a class"),
    "a claim of one pod": (
        merged(OWN, {"replicas": 2, "kvCache": {"storageClass": "block", "accessMode": "ReadWriteOnce"}}),
        "set kvCache.accessMode to ReadWriteMany",
    ),
    "embedded replicas": (
        merged(SMALL, {"replicas": 2}),
        "set objects.endpoint, kafka.bootstrap, metadata.secret.name, or have one replica",
    ),
    "embedded replicas later": (merged(SMALL, {"autoscaling": {"enabled": True}}), "or have one replica"),
    "fewer at most": (
        merged(OWN, {"replicas": 5, "autoscaling": {"enabled": True}}),
        "autoscaling.maxReplicas is below replicas",
    ),
    "nothing to scale up from": (merged(OWN, {"replicas": 0, "autoscaling": {"enabled": True}}), "nothing scales up"),
    "a share of nothing": (
        merged(OWN, {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": ""}}}),
        "set resources.requests.cpu",
    ),
    "no keys": (merged(OWN, {"objects": {"secret": {"name": ""}}}), "set objects.secret.name to a Secret"),
    "catalog alone": (
        merged(SMALL, {"tables": {"uri": "https://c.example.net", "warehouse": "w"}}),
        "whose files need an endpoint too: set objects.endpoint",
    ),
    "no warehouse": (merged(OWN, {"tables": {"uri": "https://c.example.net"}}), "set tables.warehouse"),
    "a password of Kafka": (
        merged(OWN, {"kafka": {"properties": {"sasl.password": "x"}}}),
        "kafka.properties.sasl.password may be a secret: put it in a Secret and name that under kafka.secretProperties",
    ),
    "a token of the catalog": (
        merged(OWN, {"tables": {"properties": {"token": "x"}}}),
        "tables.properties.token may be a secret",
    ),
    "endpoint and NIM": (
        merged(OWN, {"models": {"embedder": NIM | {"url": "http://e:8000/v1"}}}),
        "models.embedder has both an endpoint and a NIM",
    ),
    "no name of a model": (merged(OWN, {"models": {"generator": {"model": ""}}}), "models.generator.model is empty"),
    "no image of a NIM": (
        merged(OWN, {"models": {"embedder": merged(NIM, {"nim": {"repository": "", "storageClass": ""}})}}),
        "models.embedder.nim.repository is empty",
    ),
    "nothing may be reached": (
        merged(OWN, {"networkPolicy": {"egress": []}}),
        "nothing of kafka.bootstrap, metadata.secret.name, models.embedder.url, models.generator.url, objects.endpoint: "
        "set networkPolicy.egress",
    ),
    "no key for metrics": (
        merged(OWN, {"serviceMonitor": {"enabled": True}, "networkPolicy": {"monitoring": [{"podSelector": {}}]}}),
        "set serviceMonitor.keySecret.name",
    ),
    "Prometheus is kept out": (
        merged(OWN, {"serviceMonitor": {"enabled": True, "keySecret": {"name": "metrics"}}}),
        "set networkPolicy.monitoring",
    ),
    "topics of no cluster": (merged(OWN, {"strimzi": {"enabled": True}}), "strimzi.cluster is empty"),
    "topics for nobody": (merged(SMALL, {"strimzi": {"enabled": True, "cluster": "main"}}), "set kafka.bootstrap"),
    "too many in sync": (
        merged(OWN, {"strimzi": {"enabled": True, "cluster": "main", "minInsync": 4}}),
        "strimzi.minInsync is larger than strimzi.replicas",
    ),
    "Ray without an image": (merged(OWN, {"ray": {"enabled": True}}), "ray.image is empty"),
    "Ray beside embedded parts": (
        merged(SMALL, {"ray": {"enabled": True, "image": "r", "version": "2", "homeClass": "block"}}),
        "set objects.endpoint, kafka.bootstrap, metadata.secret.name, models.embedder",
    ),
    "a lander beside embedded parts": (
        merged(SMALL, {"lander": {"enabled": True}}),
        "A lander cannot reach embedded parts, which listen in the API's pod: set objects.endpoint, kafka.bootstrap",
    ),
    "a Ray job without Ray": (merged(OWN, {"ray": {"job": {"enabled": True}}}), "ray.job.enabled needs Ray"),
    "a Ray job that nobody may ask": (
        merged(OWN, merged(SWITCHES["Ray job"], {"ray": {"job": {"operator": []}}})),
        "set ray.job.operator",
    ),
    "a storage path on a node's own disk": (
        merged(OWN, merged(SWITCHES["Ray"], {"settings": {"workers": {"training": 4}}})),
        "a node's own disk is no storage_path for several: set ray.shared.storageClass",
    ),
    "two storage paths": (
        merged(OWN, merged(SWITCHES["Ray on shared storage"], {"ray": {"shared": {"existingClaim": "c"}}})),
        "ray.shared has both a claim and a class",
    ),
}


NAMES = ("1acme", "acme.rag")


UNKNOWN: dict[str, Values] = {
    "a typo": {"replica": 2},
    "a typo below": {"kvCache": {"class": "nfs"}},
    "a secret": {"objects": {"secret": {"value": "x"}}},
    "a section that the chart writes": {"settings": {"objects": {"secret_key": "x"}}},
    "an address with a password": {"models": {"embedder": {"url": "http://user:password@e:8000/v1"}}},
    "fewer than no replicas": {"replicas": -1},
    "an unknown access mode": {"kvCache": {"accessMode": "ReadWriteOften"}},
    "a shell in a Ray job": {"ray": {"job": {"command": "train; curl example.net"}}},
}


@pytest.fixture(scope="module")
def refusals(helm: str) -> dict[str, str]:
    """What helm says to each case, by its name."""
    named = {name: refusal(helm, SMALL, release=name) for name in NAMES}
    return {case: refusal(helm, values) for case, (values, _) in REFUSED.items()} | named


def refusal(helm: str, values: Values, *, release: str = "acme") -> str:
    done = run(helm, f"template {release}", values)
    assert done.returncode != 0, "it was rendered"
    assert not done.stdout
    return done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_release_whose_name_no_service_can_have_is_refused(refusals: dict[str, str], name: str) -> None:
    assert f"{name} cannot be the release's name" in refusals[name]


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_with_what_to_set(refusals: dict[str, str], case: str) -> None:
    assert REFUSED[case][1] in refusals[case]


def test_every_refusal_is_tried(refusals: dict[str, str]) -> None:
    text = (CHART / "templates" / "refuse.yaml").read_text()
    written = re.findall(r'append \$wrong (?:\(printf )?"([^"]+)"', text)
    assert len(written) == text.count("append $wrong ")
    for sentence in written:
        pattern = ".+".join(map(re.escape, sentence.split("%s")))
        assert any(re.search(pattern, said) for said in refusals.values()), sentence


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_and_impossible_values_are_refused(helm: str, case: str) -> None:
    assert "values don't meet the specifications of the schema" in refusal(helm, merged(OWN, UNKNOWN[case]))
