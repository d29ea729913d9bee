"""What one file may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the process that parses has no use for the settings, which take a while to load
    from headrace.settings import Inference


@dataclass(frozen=True)
class ParseLimits:
    """The limits of one file, as `[inference]` sets them; see the settings for what each bounds."""

    document_bytes: int
    document_pages: int
    document_sheets: int
    document_rows: int
    document_characters: int
    unpacked_bytes: int
    unpacked_ratio: int
    unpacked_files: int
    parse_seconds: float
    parse_cpu_seconds: int
    parse_memory_bytes: int

    @classmethod
    def of(cls, settings: Inference) -> ParseLimits:
        """The limits that the settings name."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})
