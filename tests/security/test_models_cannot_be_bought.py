"""Who can make the model that everybody gets: not one key under many names, not a handful of verdicts, not without an opt-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pyarrow as pa
import pytest
import tiny
from shell import run
from traffic import until

from headrace.catalog import CHUNK_ROWS, EXAMPLES, FEEDBACK, INTERACTIONS, MODELS, ROUNDS, Store
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.errors import NothingToLearn, WrongUsage
from headrace.models.tokens import INSTEAD
from headrace.platform import open_platform
from headrace.registry.serve import RoundRunner
from headrace.settings import Gate, Preparing, Settings, Training
from headrace.storage.ledger import Ledger
from headrace.storage.metadata import SHARED, Metadata
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader
from headrace.storage.records import batch
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.training import manifest

pytestmark = pytest.mark.story
METER = Meter(Ledger(), "test")
TINY = Training(threads=1, recipe={"reranker": {"epochs": 1, "batch": 4, "max_tokens": 32, "most_steps": 2}})
REAL = ("1" * 16, "2" * 16)
BUYER = "b" * 16


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoundRunner]:
    folder = tmp_path_factory.mktemp("bought")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        patch.setenv(INSTEAD, str(tiny.folder()))
        settings = Settings(home=folder / "home", training=TINY)
        with (
            open_platform(settings, parts=frozenset({"objects", "head"})) as endpoints,
            recorded("train", settings.home) as run,
        ):
            yield RoundRunner(settings, Runner(run, endpoints))


def filled(schema: pa.Schema, **given: Any) -> dict[str, Any]:
    """A row of a schema; what is not given is null, or empty where it must not be."""
    return {
        field.name: given.get(field.name, None if field.nullable else [] if pa.types.is_list(field.type) else "")
        for field in schema
    } | given


@dataclass
class Said:
    """What a tenant's users asked and judged, written all at once."""

    loop: RoundRunner
    tenant: str
    rows: dict[Store, list[dict[str, Any]]] = field(default_factory=lambda: {CHUNK_ROWS: [], INTERACTIONS: [], FEEDBACK: []})

    def asked(self, name: str, passages_shown: int = 2) -> str:
        """A question, answered with passages `NAME-1`, `NAME-2` and so on."""
        passages = []
        for rank in range(1, passages_shown + 1):
            chunk = {"chunk_id": f"{name}-{rank}", "document_id": f"d{name}-{rank}", "text": f"word {name} {rank}"}
            self.rows[CHUNK_ROWS].append(self._row(CHUNK_ROWS, **chunk, position=rank, partition=0, offset=0))
            passage = {"document": name, "retrieval_score": 1 / rank, "retrieval_rank": rank, "cited": False}
            passages.append({"chunk_id": chunk["chunk_id"], **passage})
        answer = {"answer_id": f"a-{name}", "kind": "search", "user": REAL[0], "question": f"what is {name} of them?"}
        self.rows[INTERACTIONS].append(self._row(INTERACTIONS, **answer, passages=passages))
        return name

    def judged(self, name: str, rank: int, up: bool, user: str, key: str | None, *, simulated: bool = False) -> None:
        """A verdict as the API records it."""
        verdict = {"verdict_id": f"{name}-{rank}-{user}", "answer_id": f"a-{name}", "chunk_id": f"{name}-{rank}"}
        self.rows[FEEDBACK].append(self._row(FEEDBACK, **verdict, user=user, key=key, up=up, simulated=simulated))

    def send(self) -> None:
        """Write it."""
        endpoints = self.loop.runner.endpoints
        TableWriter(CHUNK_ROWS, endpoints, METER).append(batch(CHUNK_ROWS.columns, self.rows[CHUNK_ROWS]))
        for topic in (INTERACTIONS, FEEDBACK):
            TopicWriter(topic, endpoints, METER).append(self.rows[topic], key="answer_id")

    def _row(self, store: Store, **given: Any) -> dict[str, Any]:
        filled: dict[str, Any] = {"tenant": self.tenant, "simulated": False, "at": datetime.now(UTC), **given}
        for column in store.columns:
            filled.setdefault(column.name, None if column.nullable else [] if pa.types.is_list(column.type) else "")
        return filled


def learning(loop: RoundRunner, **preparing: Any) -> RoundRunner:
    """The loop with other settings of what is learned from."""
    training = loop.settings.training.model_copy(update={"preparing": Preparing(**preparing)})
    return replace(loop, settings=loop.settings.model_copy(update={"training": training}))


def examples(loop: RoundRunner) -> dict[str, dict[str, Any]]:
    """The examples of the newest dataset, by chunk."""
    table = TableReader(EXAMPLES, loop.runner.endpoints, METER)
    rows = [row for row in table.read().to_pylist() if row["dataset"] == table.snapshot_property("datasets")[-1]]
    return {row["chunk_id"]: row for row in rows}


def test_a_key_under_many_names_is_one_user(loop: RoundRunner) -> None:
    """Two keys like passage 1 of six questions; a third, under four invented names, dislikes it and likes passage 2."""
    with closing(Metadata(loop.runner.endpoints)) as metadata:
        metadata.add_tenant("alpha", training=SHARED)
    said = Said(loop, "alpha")
    for n in range(6):
        name = said.asked(f"thing{n}")
        for key in REAL:
            said.judged(name, 1, True, key, key)
        for sybil in range(4):
            for rank, up in ((1, False), (2, True)):
                said.judged(name, rank, up, f"simulated-s{sybil}", BUYER, simulated=True)
    said.send()
    # Worst of all: the home learns from simulated users, as one may while it is tried out.
    with pytest.raises(NothingToLearn):
        learning(loop, simulated=True).round("reranker")
    learned = examples(loop)
    assert {learned[f"thing{n}-1"]["label"] for n in range(6)} == {1.0}, "two against one, not two against four"
    assert {tuple(learned[f"thing{n}-1"]["users"]) for n in range(6)} == {(*REAL, BUYER)}


def test_a_handful_of_questions_buys_no_model(loop: RoundRunner) -> None:
    """The same key alone about questions of its own, which nobody else judges; and a tenant that nobody asked to take part."""
    with closing(Metadata(loop.runner.endpoints)) as metadata:
        metadata.add_tenant("beta")
    said, secret = Said(loop, "alpha"), Said(loop, "beta")
    for n in range(8):
        name = said.asked(f"own{n}")
        for sybil in range(4):
            for rank, up in ((1, False), (2, True)):
                said.judged(name, rank, up, f"simulated-s{sybil}", BUYER, simulated=True)
    for rank, up in ((1, True), (2, False)):
        secret.judged(secret.asked("secret") if rank == 1 else "secret", rank, up, REAL[0], REAL[0])
    said.send()
    secret.send()
    for recipe in ("ranking", "reranker"):
        with pytest.raises(NothingToLearn, match=rf"{recipe} is not trained: \d+ (judged|held-out) questions?"):
            learning(loop, simulated=True).round(recipe)
    assert {row["tenant"] for row in examples(loop).values()} == {"alpha"}, "nobody asked beta"
    assert loop.unshared() == {"beta"}
    # Nor is it enough where fewer questions are: one user alone judged them.
    with pytest.raises(NothingToLearn, match="judged questions are known, by 1 user; at least 3 are required"):
        few(learning(loop, simulated=True)).round("ranking")
    assert manifest.numbers(ObjectReader(ROUNDS, loop.runner.endpoints, METER)) == []
    assert loop.runner.open(ObjectReader, MODELS, stage="test").info("ranking/champion.json") is None


def test_a_key_that_judges_whatever_others_judge_buys_no_model(loop: RoundRunner) -> None:
    """Two people dislike the third passage of each question; a third key tells all that the second is best, and the first worst.

    No question is judged by that key alone, and none is judged without it.
    """
    with closing(Metadata(loop.runner.endpoints)) as metadata:
        metadata.add_tenant("delta", training=SHARED)
        metadata.set_training("alpha", "none")
    said = Said(loop, "delta")
    for n in range(60):
        name = said.asked(f"place{n}", 3)
        said.judged(name, 3, False, REAL[n % 2], REAL[n % 2])
        said.judged(name, 1, False, BUYER, BUYER)
        said.judged(name, 2, True, BUYER, BUYER)
    said.send()
    done = loop.round("ranking")
    assert (done.evaluation.questions, done.evaluation.users, done.evaluation.alone) == (60, 3, {BUYER: 60})
    assert not done.decision.promoted, done.decision
    assert f"without {BUYER}'s verdicts 60 of the 60 held-out questions would tell nothing" in done.decision.why
    with closing(Metadata(loop.runner.endpoints)) as metadata:
        metadata.set_training("alpha", SHARED)
        metadata.set_training("delta", "none")


def few(loop: RoundRunner) -> RoundRunner:
    """The loop with a gate that a few questions pass."""
    training = loop.settings.training.model_copy(update={"gate": Gate(least_questions=1, headroom=1e6)})
    return replace(loop, settings=loop.settings.model_copy(update={"training": training}))


def test_without_being_told_to_nothing_is_learned_from_simulated_users(loop: RoundRunner) -> None:
    with pytest.raises(NothingToLearn):
        loop.round("reranker")
    learned = examples(loop)
    assert set(learned) == {f"thing{n}-1" for n in range(6)}
    assert {tuple(row["users"]) for row in learned.values()} == {REAL}
    assert not any(row["simulated"] for row in learned.values())


def test_what_a_tenant_says_trains_what_all_get_by_its_opt_in_alone(loop: RoundRunner) -> None:
    with closing(Metadata(loop.runner.endpoints)) as metadata:
        own = loop.settings.tenant
        assert own not in loop.unshared(), "nobody added it: it belongs to whoever runs this home"
        metadata.add_tenant(own)
        assert own in loop.unshared(), "what it says would be served to others"
        metadata.add_tenant("gamma")
        assert "gamma" in loop.unshared()
        metadata.set_training("gamma", SHARED)
        assert "gamma" not in loop.unshared()
        metadata.set_training("gamma", "none")
        assert "gamma" in loop.unshared()
        with pytest.raises(WrongUsage, match="is not a training setting"):
            metadata.set_training("gamma", "all")


# at the door


@pytest.fixture(scope="module")
def shop(api: Any) -> httpx.Client:
    """A tenant with one document; the client may read and write."""
    api.tenant("shop")
    client: httpx.Client = api.client(api.mint("shop", "read", "write")[0])
    assert client.put("/v1/documents/returns.md", content=b"# Returns\n\nThings go back within ten days.\n").status_code == 202
    assert api.indexed(client, "returns.md")["status"] == "indexed"
    return client


def found(client: httpx.Client, **more: Any) -> httpx.Response:
    return client.post("/v1/search", json={"question": "When do things go back?", **more})


def rows_of(api: Any, table: str, answer: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def landed() -> bool:
        rows[:] = api.sql(f"SELECT * FROM {table} WHERE answer_id = '{answer}'")
        return bool(rows)

    until(60, landed, lambda: f"nothing of {answer} in {table}")
    return rows


def test_a_key_needs_a_scope_to_play_users_and_another_to_name_them(api: Any, shop: httpx.Client) -> None:
    answer = found(shop).raise_for_status().json()["answer_id"]
    verdict = {"answer_id": answer, "up": True}
    for refused in (
        found(shop, simulated_user="simulated-s0"),
        shop.post("/v1/ask", json={"question": "When?", "simulated_user": "simulated-s0"}),
        shop.post("/v1/feedback", json={**verdict, "simulated_user": "simulated-s0"}),
    ):
        assert (refused.status_code, "scope simulate" in refused.text) == (403, True), refused.text
    for refused in (found(shop, user="ann"), shop.post("/v1/feedback", json={**verdict, "user": "ann"})):
        assert (refused.status_code, "scope users" in refused.text) == (403, True), refused.text
    names = api.client(api.mint("shop", "read", "users")[0])
    assert found(names, simulated_user="simulated-s0").status_code == 403
    plays = api.client(api.mint("shop", "read", "simulate")[0])
    assert found(plays, user="ann").status_code == 403
    for taken in ("0123456789abcdef", "simulated-s0", "page", "a\nb", " "):
        assert found(names, user=taken).status_code == 400, taken
    both = api.client().post("/v1/search", json={"question": "When?", "user": "ann", "simulated_user": "simulated-s0"})
    assert both.status_code == 400


def test_who_counts_as_one_user_is_recorded_with_each_verdict(api: Any, shop: httpx.Client) -> None:
    answer = found(shop).raise_for_status().json()["answer_id"]
    minted = {
        name: api.mint("shop", "read", *scopes)
        for name, scopes in (("plain", ()), ("plays", ("simulate",)), ("names", ("users",)))
    }
    for name, more in (
        ("plain", {}),
        ("plays", {"simulated_user": "simulated-s0"}),
        ("plays", {"simulated_user": "simulated-s1"}),
        ("names", {"user": "ann"}),
        ("names", {"user": "bob"}),
    ):
        given = {"answer_id": answer, "up": True, **more}
        api.client(minted[name][0]).post("/v1/feedback", json=given).raise_for_status()
    until(60, lambda: len(rows_of(api, "feedback", answer)) == 5, lambda: rows_of(api, "feedback", answer))
    recorded = {(row["user"], row["key"], row["simulated"]) for row in rows_of(api, "feedback", answer)}
    ids = {name: key_id for name, (_, key_id) in minted.items()}
    assert recorded == {
        (ids["plain"], ids["plain"], False),
        ("simulated-s0", ids["plays"], True),
        ("simulated-s1", ids["plays"], True),
        ("ann", None, False),
        ("bob", None, False),
    }


def test_keys_that_a_tenant_makes_itself_are_one_user(api: Any, shop: httpx.Client) -> None:
    """Its admin makes keys, and another admin that makes more: whoever makes keys must not make voters."""
    answer = found(shop).raise_for_status().json()["answer_id"]
    key, root = api.mint("shop", "tenant-admin")
    admin = api.client(key)
    minted = [admin.post("/v1/keys", json={"tenant": "shop", "scopes": [scope]}).json() for scope in ("read", "tenant-admin")]
    again = api.client(minted[1]["key"]).post("/v1/keys", json={"tenant": "shop", "scopes": ["read"]}).json()
    keys = [key, *(made["key"] for made in (*minted, again))]
    for one in keys:
        api.client(one).post("/v1/feedback", json={"answer_id": answer, "up": True}).raise_for_status()
    until(60, lambda: len(rows_of(api, "feedback", answer)) == len(keys), lambda: rows_of(api, "feedback", answer))
    rows = rows_of(api, "feedback", answer)
    assert {row["key"] for row in rows} == {root}, "one vote"
    assert {row["user"] for row in rows} == {root, *(made["id"] for made in (*minted, again))}, "and who it was is known"


def test_who_asks_with_keys_that_a_tenant_makes_itself_is_one_user(api: Any, shop: httpx.Client) -> None:
    """What is asked counts in a canary, too."""
    key, root = api.mint("shop", "tenant-admin")
    made = api.client(key).post("/v1/keys", json={"tenant": "shop", "scopes": ["read"]}).json()
    names = api.mint("shop", "read", "users")[0]
    asked = [
        found(api.client(key)),
        found(api.client(made["key"])),
        api.client(made["key"]).post("/v1/ask", json={"question": "When do things go back?"}),
        found(api.client(names), user="ann"),
    ]
    (rows,) = zip(*(rows_of(api, "interactions", one.raise_for_status().json()["answer_id"]) for one in asked), strict=True)
    whose = [(row["user"], row["key"]) for row in rows]
    assert whose == [(root, root), (made["id"], root), (made["id"], root), ("ann", None)]


def test_openais_user_is_recorded_where_the_key_may_name_users_and_can_be_forgotten(api: Any, shop: httpx.Client) -> None:
    key, key_id = api.mint("shop", "read")
    chat = {"model": "headrace", "messages": [{"role": "user", "content": "When do things go back?"}], "user": "cid of the shop"}
    said = api.client(key).post("/v1/chat/completions", json=chat).raise_for_status().json()["headrace"]["answer_id"]
    assert [row["user"] for row in rows_of(api, "interactions", said)] == [key_id]
    key, _ = api.mint("shop", "read", "users")
    client = api.client(key)
    said = client.post("/v1/chat/completions", json=chat).raise_for_status().json()["headrace"]["answer_id"]
    client.post("/v1/feedback", json={"answer_id": said, "up": True, "user": "cid of the shop"}).raise_for_status()
    assert [row["user"] for row in rows_of(api, "interactions", said)] == ["cid of the shop"]
    rows_of(api, "feedback", said)
    run(api.home, "forget", "--user", "cid of the shop", "--tenant", "shop", "--yes")
    for table in ("interactions", "feedback"):
        assert api.sql(f"SELECT 1 AS one FROM {table} WHERE answer_id = '{said}'") == []


def test_the_operator_alone_says_whose_verdicts_train_for_all(api: Any, shop: httpx.Client) -> None:
    path = "/v1/tenants/shop/training"
    assert shop.put(path, json={"training": "shared"}).status_code == 403
    listed = {row["tenant"]: row["training"] for row in api.client().get("/v1/tenants").json()["data"]}
    assert listed["shop"] == "none"
    assert api.client().put(path, json={"training": "everything"}).status_code == 400
    assert api.client().put(path, json={"training": "shared"}).json() == {"tenant": "shop", "training": "shared"}
    assert api.client().put(path, json={"training": "none"}).status_code == 200
    assert api.client().put("/v1/tenants/nobody-here/training", json={"training": "none"}).status_code == 404
    admin = api.client(api.mint("shop", "tenant-admin")[0])
    assert admin.put(path, json={"training": "shared"}).status_code == 403
    for scope in ("users", "simulate"):
        minted = admin.post("/v1/keys", json={"tenant": "shop", "scopes": ["read", scope]})
        assert minted.status_code == 403, "whoever invents users decides what all are served"
    assert found(admin, user="ann").status_code == found(admin, simulated_user="simulated-s0").status_code == 403


def test_the_only_tenant_of_a_home_trains_itself(loop: RoundRunner, tmp_path: Any) -> None:
    endpoints = loop.runner.endpoints
    assert endpoints.metadata is not None
    alone = endpoints.model_copy(update={"metadata": endpoints.metadata.model_copy(update={"file": tmp_path / "metadata.db"})})
    with closing(Metadata(alone)) as metadata, recorded("train", tmp_path) as run:
        home = replace(loop, runner=Runner(run, alone))
        metadata.add_tenant(loop.settings.tenant)
        assert home.unshared() == set()
        metadata.add_tenant("another")
        assert home.unshared() == {loop.settings.tenant, "another"}
