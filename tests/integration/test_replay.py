"""Replay against real servers: in this process, through the API, interrupted, poisoned, and sixteen users at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Home, clear, new_home
from serving import Api, started

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


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, models_cache: Path, handbook: Path) -> Iterator[Api]:
    """A service of our own: what is counted in it is what was replayed."""
    place = tmp_path_factory.mktemp("replayed")
    home = new_home(place, models_cache, handbook)
    home.env["HEADRACE_LIMITS__REQUESTS_PER_MINUTE"] = "100000"
    api = started(home, place / "log")
    try:
        yield api
        assert api.stop() == 0, api.log.read_text()
    finally:
        api.kill()
        clear(home)


def verdicts(home: Home, tenant: str) -> list[dict[str, Any]]:
    """What the tables have of a tenant's verdicts, once everything has landed."""
    home.run("land", "--once")
    return home.sql(f"SELECT * FROM feedback WHERE tenant = '{tenant}'")


def test_replayed_here_every_verdict_counted_has_landed(module_home: Home, folder: Path, tmp_path: Path) -> None:
    some = tmp_path / "some.txt"
    ids = [json.loads(line)["_id"] for line in (folder / "queries.jsonl").read_text().splitlines()]
    some.write_text("\n".join(ids[:16]))
    told = module_home.json("replay", folder, "--questions", some, "--limit", 10, "--users", 3, "--poison", 0.3, "--searches")
    assert (told["questions"], told["answers"], told["errors"], told["users"]) == (10, 10, 0, 4)
    more = module_home.json("replay", folder, "--limit", 2, "--seed", 3, "--tenant", told["tenant"])
    assert more["kind"] == "answers"
    assert more["verdicts"]["answers_up"] + more["verdicts"]["answers_down"] == 2
    rows = verdicts(module_home, told["tenant"])
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
    asked = module_home.sql(f"SELECT simulated, kind FROM interactions WHERE tenant = '{told['tenant']}'")
    assert all(row["simulated"] for row in asked)
    assert sorted(row["kind"] for row in asked) == ["answer"] * 2 + ["search"] * 10


def test_a_replay_asks_a_running_service_and_waits_its_turn(api: Api, folder: Path) -> None:
    api.tenant("nobody")
    key = api.mint("nobody", "read")[0]
    denied = api.home.run("replay", folder, "--via", api.url, "--token", key, code=1)
    assert "--tenant" in denied.stderr
    early = api.home.run("replay", folder, "--via", api.url, "--token", key, "--tenant", "nobody", "--searches", code=1)
    assert early.stderr.count("No document has been indexed yet.") == 1, "said once, and not for each question"
    told = api.home.json("replay", folder, "--via", api.url, "--token", api.token, "--searches", "--limit", 8)
    assert (told["answers"], told["errors"]) == (8, 0)
    late = api.home.run("replay", folder, "--via", api.url, "--token", key, "--tenant", "nobody", "--limit", 5, code=1)
    assert "nothing to judge" in late.stderr
    tenant = told["tenant"]
    api.tenant(tenant, questions=2)
    key = api.mint(tenant, "read")[0]
    words = ["replay", folder, "--via", api.url, "--tenant", tenant, "--users", 6, "--limit", 18, "--json"]
    told = json.loads(api.home.run(*map(str, words), HEADRACE_TOKEN=key).stdout)
    assert (told["answers"], told["errors"]) == (18, 0)
    assert told["waits"] > 0, "six users, two places"
    rows = verdicts(api.home, tenant)
    assert len(rows) == 8 * 6 + told["verdicts"]["up"] + told["verdicts"]["down"]
    assert all(row["simulated"] and row["user"].startswith("simulated-") for row in rows)
    refused = api.home.run("replay", folder, "--via", api.url, "--token", "hr_wrong", "--limit", 8, code=1)
    assert "key" in refused.stderr
    person = api.client(key).post("/v1/search", json={"question": "pump", "simulated_user": "root"})
    assert person.status_code == 400, "a name that could be a person's"


def sixteen(api: Api, place: Path, seconds: float) -> dict[str, Any]:
    """Sixteen users of one tenant with the limits that every tenant has, for some seconds and then interrupted."""
    folder = beir(place / "many", variants=max(20, int(seconds) * 2))
    brought = api.home.json("replay", folder, "--via", api.url, "--token", api.token, "--searches", "--limit", 1)
    tenant = brought["tenant"]
    if not any(known["tenant"] == tenant for known in api.client().get("/v1/tenants").json()["data"]):
        api.tenant(tenant)
    key = api.mint(tenant, "read")[0]
    before = len(verdicts(api.home, tenant))
    words = ["replay", folder, "--via", api.url, "--tenant", tenant, "--users", "16", "--json"]
    service = psutil.Process(api.process.pid)
    process = api.home.start(*words, HEADRACE_TOKEN=key)
    try:
        end, memory = time.monotonic() + seconds, []
        while time.monotonic() < end and process.poll() is None:
            time.sleep(1.0)
            memory.append(service.memory_info().rss >> 20)
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
    rows = verdicts(api.home, tenant)
    assert len(rows) - before == told["verdicts"]["up"] + told["verdicts"]["down"], "what is counted is there, and no more"
    by_user = api.home.sql(
        "SELECT \"user\", count(*) AS asked FROM interactions WHERE kind = 'answer'"
        f" AND tenant = '{tenant}' GROUP BY \"user\" ORDER BY asked"
    )
    assert len(by_user) == 16, "nobody was kept waiting all the time"
    assert by_user[0]["asked"] >= by_user[-1]["asked"] / 2 - 1, by_user
    return {**told, "memory_mib": (memory[len(memory) // 5], memory[-1]), "asked": (by_user[0]["asked"], by_user[-1]["asked"])}


def test_sixteen_users_for_twenty_seconds(api: Api, tmp_path: Path) -> None:
    sixteen(api, tmp_path, 20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_sixteen_users_for_five_minutes(api: Api, tmp_path: Path) -> None:
    told = sixteen(api, tmp_path, float(os.environ.get("HEADRACE_SOAK_SECONDS", "300")))
    print({name: told[name] for name in ("answers", "verdicts", "p50_ms", "p95_ms", "max_ms", "waits", "asked", "memory_mib")})
    was, now = told["memory_mib"]
    assert now <= 1.1 * was, f"{was} MiB after a fifth of the time, {now} MiB at the end"


def test_ctrl_c_on_a_replay_here_says_what_was_done(module_home: Home, tmp_path: Path) -> None:
    folder = beir(tmp_path / "long", variants=30)
    process = module_home.start("replay", folder, "--searches", "--rate", "600")
    try:
        _until_asked(module_home, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "questions were not asked; what was asked is judged" in err
    counts = {line.rsplit(maxsplit=1)[0].strip(): line.rsplit(maxsplit=1)[1] for line in out.splitlines()[1:] if line.strip()}
    tenant = next(line for line in out.splitlines() if "tenant" in line).split()[-1].rstrip(".")
    assert int(counts["answers"]) > 0
    rows = verdicts(module_home, tenant)
    assert len(rows) == int(counts["verdicts up"]) + int(counts["verdicts down"]) == 6 * int(counts["answers"])


def _until_asked(home: Home, process: subprocess.Popen[str]) -> None:
    """Wait until the replay has asked something: its run's journal names the stage."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        journals = sorted((home.path / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime)
        newest = json.loads(journals[-1].read_text()) if journals else {}
        if newest.get("command") == "replay" and any(row["stage"] == "feedback" for row in newest.get("rows", ())):
            return
        time.sleep(0.2)
    raise AssertionError("it asked nothing")
