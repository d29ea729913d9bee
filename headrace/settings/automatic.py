"""What `headrace up` starts without being told to."""

from __future__ import annotations

from headrace.settings.section import Section


class AutomaticSettings(Section):
    """Steps of `headrace up`. What is off here is for commands: by hand, from cron, or as the actions of triggers."""

    rounds: bool = True
    """The training loop: rounds when verdicts have come in, and what becomes of canaries. Off: `headrace train`."""
    maintenance: bool = True
    """Maintenance of tables, also by `headrace land`. Off: `headrace maintain`."""
    retention: bool = True
    """Deletion of documents that are older than their tenant keeps them, also by `headrace land`. Off: nothing deletes them."""
