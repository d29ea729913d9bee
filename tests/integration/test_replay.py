"""Replay against real servers: in this process, through the API, interrupted, poisoned, and sixteen users at a time."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from serving import Api, started
from shell import as_json, run
from traffic import until

from headrace.core.run import runs

if TYPE_CHECKING:
    from conftest import Home

THINGS = ("pump", "valve", "turbine", "sluice", "weir", "penstock")
PLACES = ("northern", "southern", "upper", "lower")
ASKED = ("On which day was the {} of the {} station greased", "When did they grease the {} at the {} station")


def beir(place: Path, variants: int = 1) -> Path:
    """A document for each thing at each place, and questions whose answer it has."""
    (place / "qrels").mkdir(parents=True)
    documents, questions, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for number, (thing, where) in enumerate((thing, where) for thing in THINGS for where in PLACES):
        name = f"{thing}#{where}"
        text = f"The {thing} of the {where} station was greased on day {number + 40} by crew {number + 7}."
        documents.append({"_id": name, "title": f"The {thing}, {where}", "text": text})
        for way, asked in enumerate(ASKED):
            for variant in range(variants):
                key = f"{name}-{way}-{variant}"
                again = f", asked for the {variant}th time" if variant else ""
                questions.append({"_id": key, "text": f"{asked.format(thing, where)}{again}?", "answers": [f"day {number + 40}"]})
                qrels.append(f"{key}\t{name}\t1")
    (place / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (place / "queries.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (place / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n")
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return beir(tmp_path_factory.mktemp("replay") / "stations")


def landed(api: Api, table: str, tenant: str, count: int) -> list[dict[str, Any]]:
    """A tenant's rows in a table, once that many have landed."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = api.sql(f"SELECT * FROM {table} WHERE tenant = '{tenant}'")
        return len(found) >= count

    until(60, there, lambda: f"{len(found)} of {count} have landed in {table}")
    return found


@pytest.mark.soak(minutes=0.5)
def test_replayed_here_every_verdict_counted_has_landed(api: Api, folder: Path, tmp_path: Path) -> None:
    some = tmp_path / "some.txt"
    ids = [json.loads(line)["_id"] for line in (folder / "queries.jsonl").read_text().splitlines()]
    some.write_text("\n".join(ids[:16]))
    told = as_json(
        api.home, "replay", folder, "--questions", some, "--limit", "10", "--users", "3", "--poison", "0.3", "--searches"
    )
    assert (told["questions"], told["answers"], told["errors"], told["users"]) == (10, 10, 0, 4)
    more = as_json(api.home, "replay", folder, "--limit", "2", "--seed", "3", "--tenant", told["tenant"])
    assert more["kind"] == "answers"
    assert more["verdicts"]["answers_up"] + more["verdicts"]["answers_down"] == 2
    rows = landed(api, "feedback", told["tenant"], 10 * 6 + 2 * 3)
    assert len(rows) == 10 * 6 + 2 * 3
    assert [told["verdicts"][way] + more["verdicts"][way] for way in ("up", "down")] == [
        sum(row["up"] == way for row in rows) for way in (True, False)
    ]
    assert all(row["simulated"] and row["user"].startswith("simulated-") for row in rows)
    flipped = [row for row in rows if row["user"] == "simulated-poisoner"]
    assert len(flipped) == told["verdicts"]["flipped"] == 3 * 6
    assert all(row["reason"].startswith("flipped: ") for row in flipped)
    honest = [row for row in rows if row["user"] != "simulated-poisoner" and row["chunk_id"]]
    assert {(row["up"], row["reason"]) for row in honest} == {(True, "holds the answer"), (False, "about something else")}
    assert all(row["correction"].startswith("day ") for row in rows if not row["chunk_id"] and not row["up"])
    asked = landed(api, "interactions", told["tenant"], 12)
    assert all(row["simulated"] for row in asked)
    assert sorted(row["kind"] for row in asked) == ["answer"] * 2 + ["search"] * 10


@pytest.mark.soak(minutes=1)
def test_a_replay_asks_a_running_service_and_waits_its_turn(api: Api, tmp_path: Path) -> None:
    folder = beir(tmp_path / "served")
    api.tenant("nobody")
    key = api.mint("nobody", "read", "simulate")[0]
    denied = run(api.home, "replay", folder, "--via", api.url, "--token", key, code=1)
    assert "--tenant" in denied.stderr
    told = as_json(api.home, "replay", folder, "--via", api.url, "--token", api.token, "--searches", "--limit", "8")
    assert (told["answers"], told["errors"]) == (8, 0)
    late = run(api.home, "replay", folder, "--via", api.url, "--token", key, "--tenant", "nobody", "--limit", "5", code=1)
    assert "nothing to judge" in late.stderr
    tenant = told["tenant"]
    api.tenant(tenant, questions=2)
    key = api.mint(tenant, "read", "simulate")[0]
    words = ["replay", folder, "--via", api.url, "--tenant", tenant, "--users", "6", "--limit", "18"]
    assert api.models is not None
    api.models.pause = 0.02
    try:
        told = as_json(api.home, *words, HEADRACE_TOKEN=key)
    finally:
        api.models.pause = 0.0
    assert (told["answers"], told["errors"]) == (18, 0)
    assert told["waits"] > 0, "six users, two places"
    count = 8 * 6 + told["verdicts"]["up"] + told["verdicts"]["down"]
    rows = landed(api, "feedback", tenant, count)
    assert len(rows) == count
    assert all(row["simulated"] and row["user"].startswith("simulated-") for row in rows)
    words = ["replay", folder, "--via", api.url, "--token", "hr_wrong", "--limit", "8"]
    assert "key" in run(api.home, *words, code=1).stderr
    refused = run(api.home, *words, "--tenant", tenant, code=1)
    assert refused.stderr.count("The API key is missing, wrong or revoked.") == 1, "said once, and not for each question"
    person = api.client(key).post("/v1/search", json={"question": "pump", "simulated_user": "root"})
    assert person.status_code == 400, "a name that could be a person's"


def sixteen(api: Api, place: Path, most: float, enough: Callable[[int], bool]) -> dict[str, Any]:
    """Sixteen users of one tenant with as many places as every tenant has, interrupted once enough is answered."""
    folder = beir(place / "many", variants=max(40, int(most) * 2))
    brought = as_json(api.home, "replay", folder, "--via", api.url, "--token", api.token, "--searches", "--limit", "1")
    tenant = brought["tenant"]
    api.tenant(tenant, requests_per_minute=100_000)
    key = api.mint(tenant, "read", "simulate")[0]
    before = len(landed(api, "feedback", tenant, 6))
    service = psutil.Process(api.process.pid)
    words = ["replay", folder, "--via", api.url, "--tenant", tenant, "--users", "16", "--json"]
    process = api.home.start(*words, HEADRACE_TOKEN=key)
    counter = re.compile(rf'^headrace_questions_total{{kind="answer",tenant="{tenant}"}} (\S+)$', re.M)
    try:
        end, memory, answered = time.monotonic() + most, [service.memory_info().rss >> 20], 0
        while time.monotonic() < end and process.poll() is None and not enough(answered):
            time.sleep(0.25)
            memory.append(service.memory_info().rss >> 20)
            found = counter.search(api.client().get("/metrics").text)
            answered = int(float(found[1])) if found else 0
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, err
    told: dict[str, Any] = json.loads(out)
    assert told["interrupted"]
    assert told["errors"] == 0, told["first_errors"]
    assert told["answers"] >= 16
    count = before + told["verdicts"]["up"] + told["verdicts"]["down"]
    assert len(landed(api, "feedback", tenant, count)) == count, "what is counted is there, and no more"
    by_user = api.sql(
        "SELECT \"user\", count(*) AS asked FROM interactions WHERE kind = 'answer'"
        f" AND tenant = '{tenant}' GROUP BY \"user\" ORDER BY asked"
    )
    assert len(by_user) == 16, "nobody was kept waiting all the time"
    assert by_user[0]["asked"] >= by_user[-1]["asked"] / 2 - 1, by_user
    return {**told, "memory_mib": (memory[len(memory) // 5], memory[-1]), "asked": (by_user[0]["asked"], by_user[-1]["asked"])}


@pytest.mark.soak(minutes=1)
def test_sixteen_users_at_a_time_are_interrupted(api: Api, tmp_path: Path) -> None:
    sixteen(api, tmp_path, 60, lambda answered: answered >= 64)


@pytest.mark.soak(minutes=7)
@pytest.mark.timeout(3600)
def test_sixteen_users_for_five_minutes(real_home: Home, tmp_path: Path) -> None:
    api = started(real_home, tmp_path / "log")
    try:
        seconds = float(os.environ.get("HEADRACE_SOAK_SECONDS", "300"))
        told = sixteen(api, tmp_path, seconds, lambda _: False)
        assert api.stop() == 0, api.log.read_text()
    finally:
        api.kill()
    print({name: told[name] for name in ("answers", "verdicts", "p50_ms", "p95_ms", "max_ms", "waits", "asked", "memory_mib")})
    was, now = told["memory_mib"]
    assert now <= 1.1 * was, f"{was} MiB after a fifth of the time, {now} MiB at the end"


@pytest.mark.soak(minutes=0.3)
def test_ctrl_c_on_a_replay_here_says_what_was_done(api: Api, tmp_path: Path) -> None:
    folder = beir(tmp_path / "long", variants=30)
    process = api.home.start("replay", folder, "--searches", "--rate", "600")
    try:
        until(120, lambda: process.poll() is not None or has_judged(api.home), lambda: "it asked nothing")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert "questions were not asked; all answers received are judged" in err
    counts = {line.rsplit(maxsplit=1)[0].strip(): line.rsplit(maxsplit=1)[1] for line in out.splitlines()[1:] if line.strip()}
    tenant = next(line for line in out.splitlines() if "tenant" in line).split()[-1].rstrip(".")
    assert int(counts["answers"]) > 0
    count = int(counts["verdicts up"]) + int(counts["verdicts down"])
    assert len(landed(api, "feedback", tenant, count)) == count == 6 * int(counts["answers"])


def has_judged(home: Home) -> bool:
    """Whether a replay that runs has given a verdict: its journal names the stage."""
    running = [run for run in runs(home.path) if (run["command"], run["state"]) == ("replay", "running")]
    return any(row["stage"] == "feedback" for run in running for row in run["rows"])
