"""Homes that older commits made, opened by today's code. One of today's format is read as it was written, and work goes on
from it; one of an older format is refused, and left as it was.

README.md says what is in it, what is not, and how it was made.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.api.audit import audit
from headrace.catalog import (
    AUDIT,
    CHUNK_ROWS,
    CHUNKS,
    DATASETS,
    DEAD_LETTERS,
    EXAMPLES,
    FEEDBACK_ROWS,
    MODELS,
    ROUNDS,
    Store,
    Tier,
    stores,
)
from headrace.core.maintain import record
from headrace.core.run import Run, runs
from headrace.core.runner import Runner
from headrace.documents.queue import PROCESSED_OFFSETS
from headrace.errors import HomeRefused
from headrace.landing.land import Landed, land
from headrace.lineage.forget import Subject, forget
from headrace.lineage.forget.forget import is_unmodified
from headrace.lineage.forget.subject import USER
from headrace.lineage.graph import trace_answer, trace_event
from headrace.platform import open_platform
from headrace.platform.home import FORMAT
from headrace.settings import Maintenance, Preparing, Settings, Training
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger, summed
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.vectors.handles import VectorReader
from headrace.training import manifest
from headrace.training.cutoff import Exclusions, suppressed
from headrace.training.data import prepare
from headrace.training.promotions import champion, versions
from headrace.training.round import plan

METER = Meter(Ledger(), "test")
TENANT, WHO = "acme", "cli:ann"


@dataclass
class OldHome:
    """The home, its platform, what the old code said that it holds, and what today's code read before anything was changed."""

    path: Path
    endpoints: Endpoints
    runner: Runner
    told: dict[str, Any]
    tables: dict[str, dict[str, Any]]

    def objects(self, store: Store) -> ObjectWriter:
        return ObjectWriter(store, self.endpoints, METER)

    def rows(self, store: Store) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = TableReader(store, self.endpoints, METER).read().to_pylist()
        return found


def unpacked(archive: str, folder: Path) -> Path:
    """The home of an archive."""
    with tarfile.open(Path(__file__).parent / archive) as packed:
        packed.extractall(folder, filter="data")
    (folder / "home").chmod(0o700)
    return folder / "home"


@pytest.fixture(scope="module", params=sorted(path.name for path in Path(__file__).parent.glob(f"format-{FORMAT}*.tar.xz")))
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OldHome]:
    folder = tmp_path_factory.mktemp("golden")
    home = unpacked(request.param, folder)
    told = json.loads((folder / "told.json").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        with open_platform(Settings(home=home), parts=frozenset({"objects", "head"})) as endpoints:
            read = {store.name: _read(TableReader(store, endpoints, METER), told["tables"]) for store in stores(Tier.TABLE)}
            yield OldHome(home, endpoints, Runner(Run("golden", folder / "runs"), endpoints), told, read)


def _read(table: TableReader, told: dict[str, Any]) -> dict[str, Any]:
    """A table as the old code summed it up: of the columns that it knew."""
    known = told.get(table.store.name, {}).get("columns", [])
    lines = sorted(json.dumps(row, sort_keys=True, default=_text) for row in table.read().select(known).to_pylist())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return {"columns": known, "rows": len(lines), "sha256": digest, "properties": table.snapshot_properties()}


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


# what is refused


@pytest.mark.parametrize(("archive", "found"), [("040d79c.tar.xz", "1")])
def test_a_home_of_another_format_is_refused_and_left_as_it_was(archive: str, found: str, tmp_path: Path) -> None:
    home = unpacked(archive, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    with (
        pytest.raises(HomeRefused, match=f"has format {found}; .* reads and writes format {FORMAT}") as refused,
        open_platform(Settings(home=home), parts=frozenset({"objects", "head"})),
    ):
        pass
    assert "--home DIR" in (refused.value.hint or "")
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


# what it holds


def test_every_table_has_the_rows_and_properties_that_were_committed(old: OldHome) -> None:
    assert {name: old.tables[name] for name in old.told["tables"]} == old.told["tables"]
    assert sum(table["rows"] for table in old.tables.values()) > 100


def test_the_index_finds_what_it_found(old: OldHome) -> None:
    vectors = VectorReader(CHUNKS, old.endpoints, METER)
    assert [hit.uri for hit in vectors.fulltext("raised by the mill", tenant=TENANT, most=5)] == old.told["fulltext"]
    near = vectors.dense(np.random.default_rng(0).random(384).astype("f4"), tenant=TENANT, most=5)
    assert [[hit.uri, hit.text] for hit in near] == old.told["dense"]
    assert vectors.fulltext("raised by the mill", tenant="other", most=5) == []


def test_the_champion_and_the_round_that_made_it_are_known(old: OldHome) -> None:
    pointer = champion(old.objects(MODELS), "reranker")[0]
    assert {name: getattr(pointer, name) for name in old.told["champion"]} == old.told["champion"]
    assert [(card["model"], card["version"], card["round"]) for card in versions(old.objects(MODELS))] == [
        ("reranker", "v000001", 1)
    ]
    # A shard is what its round's manifest names, or what its list says that forgetting made of it.
    named = {file["key"]: file["sha256"] for file in manifest.read(old.objects(ROUNDS), 1).dataset.files}
    datasets = ObjectReader(DATASETS, old.endpoints, METER)
    listed = json.loads(datasets.get(f"{next(iter(named)).partition('/')[0]}/list.json"))["files"]
    held = {file["key"]: file.get("forgotten", file)["sha256"] for file in listed}
    assert {key: hashlib.sha256(datasets.get(key)).hexdigest() for key in named} == held
    assert 0 < sum(held[key] != sha256 for key, sha256 in named.items()) < len(named)


def test_an_answer_is_traced_to_the_verdicts_behind_it_and_a_forgotten_event_to_who_forgot_it(old: OldHome) -> None:
    found, told = old.runner.run(trace_answer, answer_id="a-late"), old.told["answer"]
    assert found["answer"] == {"ranking_version": "none", **told["answer"]}
    assert [passage["event"] for passage in found["passages"]] == [passage["event"] for passage in told["passages"]]
    (model,) = [one for one in found["models"] if one["version"] == "v000001"]
    (was,) = [one for one in told["models"] if one["version"] == "v000001"]
    assert {one["example_id"] for one in model["examples"]} == {one["example_id"] for one in was["examples"]}
    assert model["verdicts"] == was["verdicts"]
    assert model["round"]["recipe"] == "reranker"
    gone = old.runner.run(trace_event, event="feedback/0/49")
    assert (gone["event"]["status"], gone["event"]["suppressions"]) == (
        "forgotten",
        old.told["forgotten"]["event"]["suppressions"],
    )


def test_keys_open_what_they_opened_and_waiting_lines_of_the_audit_are_written(old: OldHome) -> None:
    with closing(Metadata(old.endpoints)) as metadata:
        assert [(tenant.name, tenant.quotas) for tenant in metadata.tenants()] == [(TENANT, {"documents": 7})]
        caller = metadata.holder_of(old.told["key"])
        assert caller is not None
        assert (caller.tenant, caller.scopes) == (TENANT, ("read", "write"))
        assert metadata.holder_of(old.told["revoked"]) is None
        assert [(one.label, one.revoked_at is None) for one in metadata.keys(TENANT)] == [("reader", True), ("", False)]
        old.runner.run(audit)
    actions = sorted(row["action"] for row in old.rows(AUDIT))
    assert actions == ["key.create", "key.create", "key.revoke", "tenant.add"]


def test_what_ran_is_listed_and_its_ledger_added_up(old: OldHome) -> None:
    found = runs(old.path)
    assert [(one["command"], one["state"]) for one in found] == [("demo", "done"), ("runs", "done")]
    by_tier = summed(found[0]["ledger"], by=("tier",))
    assert {row["tier"] for row in by_tier} == {"stream", "table", "object"}
    assert sum(row["bytes"] for row in by_tier) == sum(row["bytes"] for row in found[0]["rows"]) > 0
    # The second was not in the tables yet; the first is, and does not go in again.
    assert old.runner.run(record, home=old.path).runs == 1
    assert old.runner.run(record, home=old.path).runs == 0


# and how it goes on


@dataclass
class Landing:
    """What came of what lay in the old head and had not landed; of landing again; and what the tables had then."""

    first: Landed
    again: Landed
    places: list[str]
    letters: list[bytes]


@pytest.fixture(scope="module")
def landing(old: OldHome) -> Landing:
    first, again = old.runner.run(land), old.runner.run(land)
    places = [f"{row['topic']}/{row['partition']}/{row['offset']}" for row in old.rows(FEEDBACK_ROWS)]
    return Landing(first, again, places, sorted(row["value"] for row in old.rows(DEAD_LETTERS)))


def test_landing_goes_on_behind_the_last_row_and_lands_nothing_twice(old: OldHome, landing: Landing) -> None:
    assert (landing.first.events["feedback"], landing.first.dead, landing.first.divergences) == (2, 1, ())
    assert (landing.again.total, landing.again.dead) == (0, 0)
    assert len(landing.places) == len(set(landing.places)) == old.told["tables"]["feedback"]["rows"] + 2
    assert set(old.told["late"]) < set(landing.places)
    assert landing.letters == [b"nor this", b"not JSON"]


def test_the_next_round_learns_from_old_rows_and_new_ones_and_never_from_who_was_forgotten(
    old: OldHome, landing: Landing
) -> None:
    settings = Training(preparing=Preparing(simulated=True))  # as all verdicts of that time are learned from
    planned = old.runner.run(plan, settings=settings, recipe="reranker", exclusions=old.runner.run(suppressed))
    assert (planned.round, planned.parent, planned.champion) == (2, 1, "v000001")
    made = old.runner.run(
        prepare,
        snapshots=planned.snapshots,
        version=planned.dataset_version,
        seed=settings.seed,
        settings=settings.preparing,
        exclusions=Exclusions.from_dict(planned.exclusions),
        generator_history=planned.generator_history,
    )
    rows = [row for row in old.rows(EXAMPLES) if row["dataset"] == made.version]
    assert sum(made.examples.values()) == len(rows)
    # Of what was judged at the time the labels are the same; what ann says of the last answer is new.
    was = {row["example_id"]: row["label"] for row in old.rows(EXAMPLES) if row["dataset"] != made.version}
    now = {row["example_id"]: row["label"] for row in rows}
    assert {name: now[name] for name in was} == was
    assert {row["answer_id"] for row in rows if row["example_id"] not in was} == {"a-late"}
    late_of_eve = old.told["late"][1]
    assert all("eve" not in (row["users"] or ()) and late_of_eve not in row["origins"] for row in rows)


def test_forgetting_goes_on_from_an_old_proof(old: OldHome, landing: Landing) -> None:
    """Eve, who was forgotten, said something since: that goes, too, in a second proof; the first one is as it was."""
    assert is_unmodified(old.told["proof"])
    proof = forget(old.runner, Subject(USER, TENANT, "eve"), who=WHO, embedded=True)
    assert is_unmodified(proof)
    assert proof["id"].endswith("/00002")
    assert [(one["store"], one["count"]) for one in proof["removed"]][-1] == ("feedback", 1)
    assert "eve" not in {row["user"] for row in old.rows(FEEDBACK_ROWS)}


def test_maintenance_of_old_tables_keeps_their_rows(old: OldHome) -> None:
    writer = TableWriter(CHUNK_ROWS, old.endpoints, METER)
    kept = writer.maintain(Maintenance(merge=2))
    assert kept is not None
    assert kept.merged > 1
    assert _read(writer, old.told["tables"])["sha256"] == old.told["tables"]["chunks"]["sha256"]
    assert writer.snapshot_property(PROCESSED_OFFSETS) == old.told["tables"]["chunks"]["properties"][PROCESSED_OFFSETS]
