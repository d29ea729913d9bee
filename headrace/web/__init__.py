"""The API and the page that `headrace up` serves on this machine."""

from headrace.web.app import create_app
from headrace.web.serve import serve
from headrace.web.service import Service

__all__ = ["Service", "create_app", "serve"]
