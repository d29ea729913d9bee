"""What of a client library's error reaches a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.storage.reason import is_full, reason

PERFORMING = (
    "Error performing GET http://127.0.0.1:1/b/0.lance in 653.054ms, after 4 retries, max_retries: 4, retry_timeout: 20s  - "
)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (f"Generic S3 error: {PERFORMING}HTTP error: error sending request", "error sending request"),
        (
            f"lance error: LanceError(IO): Generic S3 error: {PERFORMING}error sending request, /rustc/2d8/a.rs:250:5",
            "error sending request",
        ),
        (
            "Generic S3 error: Error performing PUT http://h/b in 1ms - Server returned non-2xx status code: 403 Forbidden: <x",
            "Server returned non-2xx status code: 403 Forbidden",
        ),
        ("[Errno 104] Connection reset by peer.", "Connection reset by peer"),
        ("one\ntwo", "one"),
        ("", "RuntimeError"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_the_clause_a_person_can_use_is_kept(said: str, kept: str) -> None:
    assert reason(RuntimeError(said)) == kept


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("Error performing PUT http://h:9/b/k in 1ms - Server returned non-2xx status code: 507 Insufficient Storage: <x", True),
        ("Error performing PUT http://h:9/b/k in 1ms - 500: assign volume: No free volumes left", True),
        ("Error performing PUT http://127.0.0.1:50700/b/507 in 507ms - HTTP error: error sending request", False),
    ],
)
def test_a_full_store_is_known_by_its_words_and_not_by_digits_of_an_address(said: str, full: bool) -> None:
    assert is_full(RuntimeError(said)) is full


@pytest.mark.parametrize(("method", "full"), [("PUT", True), ("POST", True), ("GET", False)])
def test_the_disk_is_looked_at_where_a_write_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, full: bool
) -> None:
    error = RuntimeError(
        f"Error performing {method} http://h/b/k in 1ms - Server returned status code: 500 Internal Server Error"
    )
    assert not is_full(error)
    assert not is_full(error, tmp_path / "gone")
    monkeypatch.setattr("headrace.storage.reason.FREE_BYTES", 1 << 62)
    assert is_full(error, tmp_path) is full
