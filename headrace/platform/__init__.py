"""The embedded platform: real servers for a machine that has none, started on demand and ended once they were idle.

`open_platform(settings)` gives a command the endpoints of every tier. SeaweedFS is the object store and Iceberg catalog,
Tansu the head, and the model server answers for the models; a supervisor process owns them (see supervisor.py).
"""

from headrace.platform.platform import EVERY_PART, Platform, down, open_platform, running
from headrace.platform.state import State

__all__ = ["EVERY_PART", "Platform", "State", "down", "open_platform", "running"]
