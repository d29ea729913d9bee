"""Claims on sources: who may not delete one, and until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.documents.claims import SourceClaims
from headrace.documents.put import event
from headrace.storage.endpoints import Endpoints
from headrace.storage.metadata import Metadata


def put(uri: str, version: str = "v", tenant: str = "acme", **fields: Any) -> dict[str, Any]:
    return {**event(tenant, uri, "put", sha256=version), **fields}


def test_a_version_is_claimed_until_each_event_that_names_it_is_processed() -> None:
    claims = SourceClaims(Metadata(Endpoints.model_construct(metadata=None)))

    def claimed(*beside: str, tenant: str = "acme") -> set[str]:
        return claims.claimed(tenant, {"v", "w"}, beside=beside)

    first, again, other = put("a.md"), put("a.md"), put("cafe\u0301.md", "w")
    for one in (first, again, other):
        claims.add(one)
    assert claimed() == {"v", "w"}
    assert claimed("a.md") == {"w"}, "who deletes a document does not wait for its own"
    assert claimed("a.md", "caf\u00e9.md") == set()
    assert claimed(tenant="globex") == set()
    claims.drop([first])
    assert claimed() == {"v", "w"}, "the second put of it is not processed"
    claims.drop([again])
    assert claimed() == {"w"}
    assert {one["event_id"] for one in claims.some()} == {other["event_id"]}
    assert claims.some()[0].items() <= {**other, "uri": "caf\u00e9.md"}.items(), "as it landed, but for its form"
    claims.drop_announced(claims.events_of("acme", "cafe\u0301.md"))
    assert claimed() == set()
    claims.add(other)
    claims.drop_document("acme", "caf\u00e9.md")
    assert claimed() == set()


def test_what_nobody_announced_is_no_claim_for_ever() -> None:
    claims = SourceClaims(Metadata(Endpoints.model_construct(metadata=None)))
    claims.add(put("old.md", at=datetime.now(UTC) - timedelta(days=31)))
    claims.add(put("new.md", "w", at=datetime.now(UTC) - timedelta(days=29)))
    assert claims.claimed("acme", {"v", "w"}, beside=()) == {"w"}
