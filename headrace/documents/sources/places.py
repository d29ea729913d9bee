"""What a place is: a path, a prefix of a bucket (`s3://…`), or a Git repository (`git+https://…`, `git+file:///…`)."""

from __future__ import annotations

from pathlib import Path

BUCKET_SCHEME = "s3://"


def is_bucket(place: str | Path) -> bool:
    """Whether a place is in a bucket."""
    return isinstance(place, str) and place.startswith(BUCKET_SCHEME)


def is_repository(place: str | Path) -> bool:
    """Whether a place is a Git repository, or would be one if it were written correctly."""
    return isinstance(place, str) and place.startswith("git+")


def is_path(place: str | Path) -> bool:
    """Whether a place is a folder or a file."""
    return not (is_bucket(place) or is_repository(place))
