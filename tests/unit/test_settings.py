"""Settings: where a value comes from, and what is said of one that is off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.errors import BadSettings
from headrace.platform.address import brought
from headrace.settings import S3, EmbeddedPart, Settings, descriptions


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without headrace.toml and an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


def write(text: str, name: str = "headrace.toml") -> None:
    Path(name).write_text(text)


def test_every_setting_says_what_it_is_once_that_is_asked() -> None:
    assert descriptions(Settings)["tenant"] == "Default tenant of commands."
    assert descriptions(Settings)["tables"].endswith("catalog in the metadata\nstore's database.")
    assert descriptions(EmbeddedPart) == {}
    assert Settings.model_fields["tenant"].description is None  # reading the sources of all sections costs every command


def test_with_nothing_given_everything_is_embedded() -> None:
    settings = Settings.load()
    assert settings.home == Path(".headrace")
    assert settings.tenant == "default"
    parts = (settings.objects, settings.tables, settings.head, settings.models.embedder, settings.models.generator)
    assert all(isinstance(part, EmbeddedPart) for part in parts)
    assert settings.inference.document_bytes == 50_000_000


def test_the_file_the_environment_and_the_caller_each_win_over_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    write('tenant = "file"\n[training]\nverdicts = 5\nminutes = 4\n')
    assert (Settings.load().tenant, Settings.load().training.verdicts) == ("file", 5)
    monkeypatch.setenv("HEADRACE_TENANT", "environment")
    monkeypatch.setenv("HEADRACE_TRAINING__VERDICTS", "7")
    settings = Settings.load()
    assert (settings.tenant, settings.training.verdicts, settings.training.minutes) == ("environment", 7, 4)
    assert Settings.load(tenant="caller").tenant == "caller"
    assert Settings.load(tenant=None).tenant == "environment"


def test_another_file_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write('tenant = "here"')
    write('tenant = "there"', "other.toml")
    monkeypatch.setenv("HEADRACE_SETTINGS", "other.toml")
    assert Settings.load().tenant == "there"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tenent = 'x'", "tenent"),
        ("[inference]\nchunk_token = 100", "inference.chunk_token"),
        ("[inference]\nchunk_tokens = 4000", "inference.chunk_tokens"),
        ("[objects]\ntype = 'gcs'", "objects"),
        ("[objects]\ntype = 's3'\naccess_key = 'a'\nsecret_key = 'b'", "endpoint"),
        (
            "[objects]\ntype = 's3'\nendpoint = 'x'\naccess_key = 'a'",
            "  objects.secret_key: it is missing; set it there, or HEADRACE_OBJECTS__SECRET_KEY",
        ),
        ("[objects]\ntype = 's3'\nendpoint = 'x'\naccess_key = 'a'\nsecret = 'b'", "  objects.secret: there is no such key"),
        ("[models.generator]\ntype = 'endpoint'\nmodel = 'm'", "set it there, or HEADRACE_MODELS__GENERATOR__URL"),
        ("[[triggers]]\nname = 'a'\nevery_s = 60\naction = {type = 'command'}", "  triggers.0.action.command: it is missing"),
        ("[[sources]]\nplace = 'd'\npermissions = {type = 'tags', prefix = 1}", "  sources.0.permissions.prefix"),
        ("[models]\ngenerator = {url = 'x'}", "set models.generator.type"),
        ("tenant = 'No Spaces'", "tenant"),
        ("[inference]\npassages = 9\nretrieve = 8", "inference.passages cannot exceed inference.retrieve"),
        ("[tables]\ntype = 'rest'\nuri = 'http://127.0.0.1:1'\nwarehouse = 'w'", 'set "s3.endpoint"'),
        ("tenant = ", "headrace.toml is not TOML"),
    ],
)
def test_a_file_that_is_off_is_refused_with_the_place(text: str, said: str) -> None:
    write(text)
    with pytest.raises(BadSettings) as caught:
        Settings.load()
    assert said in caught.value.message
    assert caught.value.exit_code == 2


def test_every_fault_gets_a_line() -> None:
    write("a = 1\nb = 2\n[training]\nverdicts = 0")
    with pytest.raises(BadSettings) as caught:
        Settings.load()
    assert len(caught.value.message.splitlines()) == 4


def test_a_file_that_is_not_text_is_refused() -> None:
    Path("headrace.toml").write_bytes(b"tenant = '\xff\xfe'")
    with pytest.raises(BadSettings, match="is not TOML"):
        Settings.load()


def test_a_variable_that_is_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TRAINING__VERDICTS", "many")
    with pytest.raises(BadSettings, match=r"training\.verdicts"):
        Settings.load()


def test_a_catalog_of_the_users_is_taken_once_its_files_have_an_endpoint() -> None:
    catalog = "[tables]\ntype = 'rest'\nuri = 'http://127.0.0.1:1'\nwarehouse = 'w'\n"
    write(catalog + "[tables.properties]\n's3.endpoint' = 'http://127.0.0.1:2'")
    assert Settings.load().tables.type == "rest"


@pytest.mark.parametrize(
    ("text", "kept_s"),
    [
        ("", 60.0),
        ("[landing]\nkeep_s = 5", 5.0),
        ("[landing]\ntrim = false\nkeep_s = 5", None),
        ('[head]\ntype = "kafka"\nbootstrap = "k:9092"', None),
        ('[head]\ntype = "kafka"\nbootstrap = "k:9092"\n[landing]\ntrim = true', 86_400.0),
    ],
)
def test_the_embedded_head_is_trimmed_and_one_of_the_users_when_told_to(text: str, kept_s: float | None) -> None:
    write(text)
    assert Settings.load().head_kept_s == kept_s


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[objects]\ntype = 's3'\nendpoint = 'http://127.0.0.1:1'\naccess_key = 'id'\n")
    monkeypatch.setenv("HEADRACE_OBJECTS__SECRET_KEY", "sesame")
    settings = Settings.load()
    assert isinstance(settings.objects, S3)
    assert settings.objects.secret_key.get_secret_value() == "sesame"
    assert "sesame" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_a_fault_beside_a_secret_does_not_show_it() -> None:
    write("[objects]\ntype = 's3'\nendpoint = 'http://127.0.0.1:1'\nsecret_key = 'sesame'\nregion = 3")
    with pytest.raises(BadSettings) as caught:
        Settings.load()
    assert "objects" in caught.value.message
    assert "sesame" not in str(caught.value)


def test_a_broker_of_ones_own_has_signed_events_only_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = {"type": "kafka", "bootstrap": "kafka:9092"}
    assert brought(Settings.load(head=kafka))["signing_key"] == ""
    assert brought(Settings.load(head={**kafka, "signing_key": "s" * 32}))["signing_key"] == "s" * 32
    assert "signing_key" not in brought(Settings.load()), "the embedded one has a key of its home"
    with pytest.raises(BadSettings, match=r"head.*signing_key"):
        Settings.load(head={**kafka, "signing_key": "short"})


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"typ": "s3"}, "it has keys but no `type`, which says what it is; set objects.type"),
        ({"type": "s4"}, "there is no type 's4'; choose from 'embedded', 's3'"),
        ({"type": "embedded", "bukket": "x"}, "objects.bukket: there is no such key"),
    ],
)
def test_a_section_that_is_wrong_is_told_in_words(value: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSettings) as wrong:
        Settings.load(objects=value)
    assert says in str(wrong.value)
    monkeypatch.setenv("HEADRACE_OBJECTS__SECRET_KEY", "secret")
    with pytest.raises(BadSettings, match=r"set in the environment: HEADRACE_OBJECTS__SECRET_KEY") as half:
        Settings.load()
    assert "'secret'" not in str(half.value)
