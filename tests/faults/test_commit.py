"""A round is committed by one object and served by one pointer: killed on either side of either, it happens once."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest
from forks import ForkedProcess
from servers import Servers
from victims import promoting
from wire import wire

from headrace.catalog import CHECKPOINTS, MODELS, PROMOTIONS, ROUNDS
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.training import manifest
from headrace.training.promote import serve_promoted
from headrace.training.promotions import champion, versions

pytest_plugins = ["shared"]
pytestmark = pytest.mark.story
METER = Meter(Ledger(), "test")

# Where a round's promotion can be cut: which server is asked what, on which side of its work, and what then stands:
# (committed, served, recorded).
CUTS: tuple[tuple[str, str, str, tuple[bool, bool, bool]], ...] = (
    ("s3", r"PUT /headrace/models/reranker/{version}/card\.json", "before", (False, False, False)),
    ("s3", r"PUT /headrace/rounds/{round}\.json", "before", (False, False, False)),
    ("s3", r"PUT /headrace/rounds/{round}\.json", "after", (True, False, False)),
    ("s3", r"PUT /headrace/models/reranker/champion\.json", "before", (True, False, False)),
    ("s3", r"PUT /headrace/models/reranker/champion\.json", "after", (True, True, False)),
    ("catalog", r"POST \S+/tables/promotions ", "before", (True, True, False)),
    ("catalog", r"POST \S+/tables/promotions ", "after", (True, True, True)),
)


@pytest.fixture
def endpoints(shared_servers: Servers) -> Endpoints:
    checkpoints = ObjectWriter(CHECKPOINTS, shared_servers.endpoints, METER)
    checkpoints.put("reranker/d1/weights/model.safetensors", os.urandom(100_000))
    checkpoints.put("reranker/d1/weights/config.json", b"{}")
    return shared_servers.endpoints


def standing(endpoints: Endpoints) -> tuple[list[int], str, int]:
    """What a reader sees now: the committed rounds, the served version, and how many moves are recorded."""
    rounds = manifest.numbers(ObjectReader(ROUNDS, endpoints, METER))
    return rounds, champion(ObjectReader(MODELS, endpoints, METER))[0].version, TableReader(PROMOTIONS, endpoints, METER).count()


def finish(endpoints: Endpoints) -> None:
    """What every next round does first."""
    serve_promoted(
        ObjectWriter(MODELS, endpoints, METER),
        ObjectReader(ROUNDS, endpoints, METER),
        TableWriter(PROMOTIONS, endpoints, METER),
        "reranker",
    )


def cut(endpoints: Endpoints, number: int, server: str, request: str, side: str) -> None:
    """Promote in a process that is killed before that request arrives, or once it was answered but nobody heard it."""
    victim: list[ForkedProcess] = []

    def strike() -> bool:
        victim[0].kill()
        return False

    def asked() -> None:
        if side == "before":
            strike()
            raise ConnectionAbortedError

    field = {"s3": "s3_endpoint", "catalog": "catalog_uri"}[server]
    wanted = request.format(round=f"{number:06d}", version=f"v{number:06d}").encode()
    with wire(getattr(endpoints, field), wanted, asked=asked, answered=strike) as between:
        victim.append(ForkedProcess(promoting, endpoints.model_copy(update={field: between.url}), number))
        victim[0].killed()


def test_rounds_killed_around_their_commit_happen_once_each(endpoints: Endpoints) -> None:
    served = "none"
    for number, (server, request, side, (committed, moved, recorded)) in enumerate(CUTS, 1):
        cut(endpoints, number, server, request, side)
        before, now = list(range(1, number)), f"v{number:06d}"
        seen = ([*before, number] if committed else before, now if moved else served, number if recorded else number - 1)
        assert standing(endpoints) == seen, (request, side)
        if not committed:
            assert ForkedProcess(promoting, endpoints, number).result()["serving"] == now
        for _ in range(2):
            finish(endpoints)
            assert standing(endpoints) == ([*before, number], now, number), (request, side)
        served = now

    # And two processes that commit the same round at once: one does.
    number = len(CUTS) + 1
    both = [ForkedProcess(promoting, endpoints, number) for _ in range(2)]
    assert sorted(process.wait() for process in both) == [0, 1]
    assert "LostRace" in next(process.said[-1] for process in both if process.wait())
    assert standing(endpoints) == (list(range(1, number + 1)), f"v{number:06d}", number)

    cards = versions(ObjectReader(MODELS, endpoints, METER))
    assert [card["round"] for card in cards] == list(range(1, number + 1))
    assert all({file["name"] for file in card["files"]} == {"model.safetensors", "config.json"} for card in cards)

    # And one that is late: it replaces nothing of what is committed, though weights of different processors differ.
    models = ObjectReader(MODELS, endpoints, METER)
    released = {info.key: models.get(info.key) for info in models.list(f"reranker/v{number:06d}/")}
    ObjectWriter(CHECKPOINTS, endpoints, METER).put("reranker/d1/weights/model.safetensors", os.urandom(100_000))
    late = ForkedProcess(promoting, endpoints, number)
    assert late.wait() == 1
    assert "LostRace" in late.said[-1]
    assert {name: models.get(name) for name in released} == released


@pytest.mark.parametrize("name", ["[0-9a-f]{16}/model\\.safetensors", "card\\.json"], ids=["weights", "card"])
def test_a_promotion_that_is_frozen_inside_a_put_changes_nothing_that_another_commits(endpoints: Endpoints, name: str) -> None:
    """It had looked before that request whether the round was open: what was served had no longer the hashes of its card."""
    models, rounds = ObjectReader(MODELS, endpoints, METER), ObjectReader(ROUNDS, endpoints, METER)
    number = max(manifest.numbers(rounds), default=0) + 1
    arrived, go_on = threading.Event(), threading.Event()

    def asked() -> None:
        arrived.set()
        assert go_on.wait(60)

    wanted = f"PUT /headrace/models/reranker/v{number:06d}/{name}".encode()
    with wire(endpoints.s3_endpoint, wanted, asked=asked) as between:
        late = ForkedProcess(promoting, endpoints.model_copy(update={"s3_endpoint": between.url}), number)
        assert arrived.wait(60)
        # On another processor weights differ in their last bits.
        ObjectWriter(CHECKPOINTS, endpoints, METER).put("reranker/d1/weights/model.safetensors", os.urandom(100_000))
        assert ForkedProcess(promoting, endpoints, number).result()["serving"] == f"v{number:06d}"
        folder = f"reranker/v{number:06d}/"
        committed = {info.key: models.get(info.key) for info in models.list(folder)}
        go_on.set()
        assert late.wait() == 1
    assert "LostRace" in late.said[-1]
    assert {key: models.get(key) for key in committed} == committed
    card = versions(models)[-1]
    for file in card["files"]:
        data = models.get(f"{folder}{file['folder']}/{file['name']}")
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
    assert card["files"] == manifest.read(rounds, number).weights.files
