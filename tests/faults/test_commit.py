"""A turn is committed by one object and served by one pointer: killed on either side of either, it happens once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from wire import wire

from headrace.catalog import CHECKPOINTS, MODELS, PROMOTIONS, TURNS
from headrace.pipeline import manifest
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.tables import TableReader, TableWriter
from headrace.training.champion import champion, versions
from headrace.training.promote import settle

# The stage with a challenger that has won, as a process of its own: it is killed, which no test survives in its own process.
PROMOTE = """
import json, sys
from pathlib import Path
from headrace.catalog import TURNS
from headrace.pipeline import manifest
from headrace.pipeline.run import Run
from headrace.pipeline.runner import Runner
from headrace.settings import Training
from headrace.training.clock import Clock
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.training.evaluate import Evaluation
from headrace.training.loop import Trained
from headrace.training.prepare import Dataset
from headrace.training.promote import promote
endpoints = Endpoints.model_validate_json(sys.stdin.readline())
plan = {"turn": int(sys.argv[2]), "parent": None, "recipe": "reranker", "settings": Training().model_dump()}
plan = manifest.begin(ObjectWriter(TURNS, endpoints, Meter(Ledger(), "plan")), plan["turn"], plan)
decision = Runner(Run("turn", Path(sys.argv[1])), endpoints).run(
    promote,
    plan=plan,
    dataset=Dataset("d1", {"train": 1}, {"train": 1}, ()),
    trained=Trained("reranker/d1/weights", "", 1, 1, 1, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0),
    evaluation=Evaluation("nDCG@10", "none", 9, 0.5, 0.9, 0.4, 0.3, 0.5, 1.0, 0.5, {"retrieval_weight": 0.2, "max_tokens": 64}),
    settings=Training(),
    run="test",
    clock=Clock(None, 0.0),
)
print(json.dumps(vars(decision)))
"""
# Where a turn's promotion can be cut: which server is asked what, on which side of its work, and what then stands:
# (committed, served, recorded).
CUTS: tuple[tuple[str, str, str, tuple[bool, bool, bool]], ...] = (
    ("s3", r"PUT /headrace/models/reranker/{version}/card\.json", "before", (False, False, False)),
    ("s3", r"PUT /headrace/turns/{turn}\.json", "before", (False, False, False)),
    ("s3", r"PUT /headrace/turns/{turn}\.json", "after", (True, False, False)),
    ("s3", r"PUT /headrace/models/reranker/champion\.json", "before", (True, False, False)),
    ("s3", r"PUT /headrace/models/reranker/champion\.json", "after", (True, True, False)),
    ("catalog", r"POST \S+/tables/promotions ", "before", (True, True, False)),
    ("catalog", r"POST \S+/tables/promotions ", "after", (True, True, True)),
)


@pytest.fixture
def endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoints]:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    with open_platform(Settings(home=tmp_path / "home"), parts=frozenset({"objects"})) as endpoints:
        checkpoints = ObjectWriter(CHECKPOINTS, endpoints, Meter(Ledger(), "test"))
        checkpoints.put("reranker/d1/weights/model.safetensors", os.urandom(100_000))
        checkpoints.put("reranker/d1/weights/config.json", b"{}")
        yield endpoints


def start(endpoints: Endpoints, folder: Path, turn: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROMOTE, str(folder), str(turn)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(endpoints.model_dump_json() + "\n")
    process.stdin.flush()
    return process


def standing(endpoints: Endpoints) -> tuple[list[int], str, int]:
    """What a reader sees now: the committed turns, the served version, and how many moves are recorded."""
    meter = Meter(Ledger(), "test")
    models = ObjectReader(MODELS, endpoints, meter)
    turns = manifest.numbers(ObjectReader(TURNS, endpoints, meter))
    return turns, champion(models)[0].version, TableReader(PROMOTIONS, endpoints, meter).count()


def finish(endpoints: Endpoints) -> None:
    """What every next turn does first."""
    meter = Meter(Ledger(), "test")
    settle(
        ObjectWriter(MODELS, endpoints, meter),
        ObjectReader(TURNS, endpoints, meter),
        TableWriter(PROMOTIONS, endpoints, meter),
        "reranker",
    )


def cut(endpoints: Endpoints, folder: Path, turn: int, server: str, request: str, side: str) -> None:
    """Promote in a process that is killed before that request arrives, or once it was answered but nobody heard it."""
    victim: list[subprocess.Popen[str]] = []

    def strike() -> bool:
        victim[0].send_signal(signal.SIGKILL)
        victim[0].wait()
        return False

    def asked() -> None:
        if side == "before":
            strike()
            raise ConnectionAbortedError

    field = {"s3": "s3_endpoint", "catalog": "catalog_uri"}[server]
    wanted = request.format(turn=f"{turn:06d}", version=f"v{turn:06d}").encode()
    with wire(getattr(endpoints, field), wanted, asked=asked, answered=strike) as between:
        victim.append(start(endpoints.model_copy(update={field: between.url}), folder, turn))
        out, err = victim[0].communicate(timeout=60)
    assert victim[0].returncode == -signal.SIGKILL, out + err


def test_turns_killed_around_their_commit_happen_once_each(endpoints: Endpoints, tmp_path: Path) -> None:
    served = "none"
    for turn, (server, request, side, (committed, moved, recorded)) in enumerate(CUTS, 1):
        cut(endpoints, tmp_path, turn, server, request, side)
        before, now = list(range(1, turn)), f"v{turn:06d}"
        seen = ([*before, turn] if committed else before, now if moved else served, turn if recorded else turn - 1)
        assert standing(endpoints) == seen, (request, side)
        if not committed:
            again = start(endpoints, tmp_path, turn)
            out, err = again.communicate(timeout=60)
            assert json.loads(out or "{}").get("serving") == now, err
        for _ in range(2):
            finish(endpoints)
            assert standing(endpoints) == ([*before, turn], now, turn), (request, side)
        served = now
    cards = versions(ObjectReader(MODELS, endpoints, Meter(Ledger(), "test")))
    assert [card["turn"] for card in cards] == list(range(1, len(CUTS) + 1))
    assert all({file["name"] for file in card["files"]} == {"model.safetensors", "config.json"} for card in cards)


def test_a_turn_that_was_committed_is_not_committed_again(endpoints: Endpoints, tmp_path: Path) -> None:
    one, two = start(endpoints, tmp_path, 1), start(endpoints, tmp_path, 1)
    said = [process.communicate(timeout=60) for process in (one, two)]
    assert sorted([one.returncode, two.returncode]) == [0, 1], said
    assert "LostRace" in next(err for _, err in said if err)
    assert standing(endpoints) == ([1], "v000001", 1)
