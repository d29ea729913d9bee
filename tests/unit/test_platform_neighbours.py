"""Who else can log in, what is said about it, and whose programs run."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from headrace.platform import home
from headrace.platform.home import other_users, started_notes, trust
from headrace.settings import Kafka, PlatformSettings, Settings


def user(name: str, uid: int, shell: str) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", f"/home/{name}", shell))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", "none.toml")
    users = [
        user("root", 0, "/bin/bash"),
        user("daemon", 1, "/usr/sbin/nologin"),
        user("postgres", 110, "/bin/bash"),
        user("nobody", 65_534, "/bin/sh"),
        user("builds", 1001, "/bin/false"),
        user("eve", 1003, "/bin/bash"),
        user("ann", 1002, "/usr/bin/zsh"),
        user("me", 4242, "/bin/bash"),
    ]
    monkeypatch.setattr(home.pwd, "getpwall", lambda: users)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)


def test_people_are_named_and_services_and_we_are_not() -> None:
    assert other_users() == ["ann", "eve"]


def test_what_they_can_do_to_the_embedded_head_is_said() -> None:
    assert "other users (ann, eve): they can read" in trust(Settings())
    assert trust(Settings(head=Kafka(type="kafka", bootstrap="kafka:9092"))) == "", "what a broker lets in is up to it"


def test_nothing_is_said_where_nobody_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home.pwd, "getpwall", lambda: [user("me", 4242, "/bin/bash")])
    assert started_notes(Settings()) == []


def test_many_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home.pwd, "getpwall", lambda: [user(f"u{number}", 2000 + number, "/bin/sh") for number in range(9)])
    assert "(u0, u1, u2 and 6 more)" in trust(Settings())


def test_programs_of_ones_own_are_named() -> None:
    notes = started_notes(Settings(platform=PlatformSettings(weed=Path("/opt/weed"))))
    assert notes[0] == "SeaweedFS is your own program, /opt/weed."
    assert len(notes) == 2
