"""The API and the page that `headrace up` serves on this machine."""

from headrace.api.app import create_app, serve
from headrace.api.service import Service

__all__ = ["Service", "create_app", "serve"]
