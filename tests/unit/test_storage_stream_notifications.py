"""Notifications of buckets, as stores send them, and what is none."""

from __future__ import annotations

import json

import pytest

from headrace.storage.stream.notifications import named_in

AWS = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": "docs"}, "object": {"key": "hr/pay+%28new%29.md", "size": 3, "eTag": "d41d"}},
        },
        {"eventName": "ObjectRemoved:Delete", "s3": {"bucket": {"name": "docs"}, "object": {"key": "k%C3%B6ln.md"}}},
    ]
}
MINIO = {"EventName": "s3:ObjectCreated:Put", "Key": "docs/hr/pay (new).md", **AWS}


@pytest.mark.parametrize("sent", [AWS, MINIO])
def test_keys_are_decoded(sent: object) -> None:
    assert named_in(json.dumps(sent).encode()) == [("docs", "hr/pay (new).md"), ("docs", "köln.md")]


def test_a_test_of_the_configuration_names_nothing() -> None:
    assert named_in(b'{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "docs"}') == []


@pytest.mark.parametrize(
    "sent", [b"", b"{}", b"[]", b"1", b"\xff", b'{"Records": {}}', b'{"Records": [{}]}', b"[" * 100_000, b'{"Records": null}']
)
def test_what_is_no_notification_is_said_to_be_none(sent: bytes) -> None:
    assert not named_in(sent)
    if sent != b'{"Records": {}}':
        assert named_in(sent) is None
