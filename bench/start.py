"""platform: seconds from nothing to S3, catalog and head that answer; in a new home, and in one that was used before."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from headrace.platform import EVERY_PART, open_platform
from headrace.settings import Settings


def measure() -> dict[str, Any]:
    """Bound: ready within 5 s."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load(home=Path(folder))
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            with open_platform(settings, parts=EVERY_PART - {"models"}):
                seconds.append(round(time.perf_counter() - started, 2))
            time.sleep(5)  # until the servers have ended
    return {"new_home_s": seconds[0], "used_home_s": seconds[1:], "bound_s": 5}
