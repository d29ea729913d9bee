"""`headrace init` and `config show`: every setting is in the file, and what it says is what the code does."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from headrace.cli.render.settings import members, sections, template
from headrace.settings import Settings, changed_settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


def uncommented(text: str, section: str) -> str:
    """The lines of one section, as a person would uncomment them; keys without a default stay comments."""
    lines = text.split("\n\n")
    [found] = [part for part in lines if f"# [{section}]" in part and 'type = "vast"' not in part]
    return "\n".join(
        line[2:]
        for line in found.splitlines()
        if (line.startswith(("# [", "# ")) and " = " in line) or line.startswith("# [")
        if not line.startswith("#  ") and "\u2026" not in line
    )


def test_the_file_changes_nothing_until_something_is_uncommented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headrace.toml").write_text(template())
    assert tomllib.loads(template()) == {}
    assert changed_settings(Settings.load()) == {}


@pytest.mark.parametrize("section", ["platform", "maintenance", "landing", "inference", "training.gate", "limits", "files"])
def test_a_section_that_is_uncommented_says_the_defaults(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = uncommented(template(), section)
    assert len(tomllib.loads(text)), text
    (tmp_path / "headrace.toml").write_text(text)
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "headrace.toml"))
    assert changed_settings(Settings.load()) == {}


def test_every_key_of_every_section_is_there() -> None:
    text = template()
    for path, section in sections():
        assert not path or f"# [{path}]" in text
        for name, field in section.model_fields.items():
            if not members(field.annotation):
                assert f"# {name} = " in text, (path, name)


def test_what_is_changed_is_shown_by_its_full_name_without_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "headrace.toml"))
    (tmp_path / "headrace.toml").write_text(
        """
        [objects]
        type = "s3"
        endpoint = "https://s3.example.net"
        access_key = "known"
        secret_key = "hush"
        [head]
        type = "kafka"
        bootstrap = "kafka:9092"
        properties = {"sasl.username" = "me", "sasl.password" = "hush"}
        [tables]
        type = "rest"
        uri = "https://catalog"
        warehouse = "w"
        properties = {token = "hush", "s3.endpoint" = "x"}
        [training.recipe.sft]
        epochs = 3
        [[sources]]
        place = "s3://theirs/docs"
        notifications = {bootstrap = "k:9092", topic = "events", properties = {"sasl.password" = "hush", "sasl.username" = "me"}}
        [[sources]]
        place = "/mnt/docs"
        [[triggers]]
        name = "publish"
        on = ["document.created"]
        action = {type = "topic", topic = "t", bootstrap = "kafka:9092", properties = {"ssl.key.password" = "hush"}}
        [[triggers]]
        name = "call"
        on = ["document.created"]
        action = {type = "http", url = "https://me:hush@portal.example.net/hook"}
        """
    )
    found = changed_settings(Settings.load())
    assert found["objects.endpoint"] == "https://s3.example.net"
    assert found["head.properties.sasl.username"] == "me"
    assert found["training.recipe.sft.epochs"] == 3
    assert "hush" not in str(found)
    assert found["triggers.1.action.url"] == "https://me:**********@portal.example.net/hook"
    assert found["objects.secret_key"] == found["head.properties.sasl.password"] == found["tables.properties.token"]
    assert "inference.retrieve" not in found
    assert (found["sources.0.place"], found["sources.1.place"]) == ("s3://theirs/docs", "/mnt/docs")
    assert found["sources.0.notifications.properties.sasl.username"] == "me"
    assert {name for name in found if name.startswith("sources.1.")} == {"sources.1.place"}
    assert {name for name, value in found.items() if name.startswith("triggers.0.") and value == found["objects.secret_key"]} == {
        "triggers.0.action.properties.ssl.key.password"
    }
    assert changed_settings(Settings.load(), whole=True)["inference.retrieve"] == 20
