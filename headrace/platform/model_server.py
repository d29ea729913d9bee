"""Starts the model server. It loads slowly, so the platform is considered ready without it."""

from __future__ import annotations

from headrace.platform.address import Ports
from headrace.platform.child import Child
from headrace.platform.home import Home
from headrace.platform.keys import Keys
from headrace.platform.state import Setup
from headrace.process import python


def start_model_server(home: Home, keys: Keys, ports: Ports, setup: Setup, keep: tuple[int, ...]) -> Child:
    """Start the model server on `ports.models`; it reads the tiers' endpoints from `endpoints.json`."""
    command, env = python("headrace.models.server")
    env |= {
        "HEADRACE_ENDPOINTS_FILE": str(home.endpoints),
        "HEADRACE_MODELS_KEY": keys.models_key,
        "HEADRACE_MODELS_CACHE": str(home.models_cache),
        "HEADRACE_MODELS_THREADS": str(setup.threads),
        "HEADRACE_MODELS_EXACT": str(int(setup.exact)),
    }
    log = home.logs / "models.log"
    return Child("The model server", [*command, "--port", str(ports.models)], env=env, cwd=home.root, log=log, keep=keep)
