"""A command asks the `headrace up` of its home, over TLS too; there is one to a home, at the address its settings say."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from headrace.api.app import bound, check_certificate
from headrace.cli.running import RunningApi, digest_of, running_api
from headrace.errors import BadSettings, NotFound, Unavailable, WrongUsage
from headrace.models import http
from headrace.platform.certificates import certificate_of
from headrace.platform.home import Home
from headrace.platform.state import FileId, RunningService, only_service, read_service, recorded_service, this_process
from headrace.settings import ApiSettings, Settings


async def _ask(request: Request) -> Response:
    asked = await request.json()
    if request.headers["authorization"] != "Bearer a-token" or asked["question"] == "unknown":
        return JSONResponse({"error": {"message": "No answer is known here."}}, 404)
    return PlainTextResponse('event: piece\ndata: {"text": "35"}\n\nevent: answer\ndata: {"answer": "35"}\n\n')


async def _ready(_: Request) -> Response:
    return JSONResponse({"status": "not_ready"}, 503)


async def _odd(request: Request) -> Response:
    kind = request.path_params["kind"]
    if kind == "redirect":
        return Response(status_code=302, headers={"location": "/odd/stolen"})
    if kind == "stolen":
        return JSONResponse({"authorization": request.headers.get("authorization")})
    return Response({"list": b"[1]", "deep": b"[" * 100_000, "text": b"<html>", "null": b"null"}[kind])


@contextmanager
def served(own: ApiSettings) -> Iterator[str]:
    """A server with the API's own configuration, at an address of `own`."""
    check_certificate(own)
    app = Starlette(routes=[Route("/v1/ask", _ask, methods=["POST"]), Route("/health/ready", _ready), Route("/odd/{kind}", _odd)])
    config = http.config(app, keep_alive_s=5, grace_s=1, log_level="critical", certificate=own.certificate, key=own.key)
    server = http.QuietServer(config)
    with bound(0, own.host) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            yield own.url(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


def service(url: str, certificate: Path | None = None, settings: str = "") -> RunningService:
    return RunningService(process=this_process(), url=url, token="a-token", settings=settings, certificate=certificate)


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_command_asks_it_and_reads_its_errors(tmp_path: Path, encrypted: bool) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    pem = certificate_of(home) if encrypted else None
    with served(ApiSettings(certificate=pem, key=pem)) as url:
        assert url.startswith("https://127.0.0.1:" if encrypted else "http://127.0.0.1:")
        api = RunningApi.in_home(service(url, pem))
        assert [*api.events("/v1/ask", {"question": "how long?"})] == [("piece", {"text": "35"}), ("answer", {"answer": "35"})]
        with pytest.raises(NotFound, match="No answer is known"):
            [*api.events("/v1/ask", {"question": "unknown"})]
        assert api.get("/health/ready", seconds=5) == {"status": "not_ready"}, "an answer, though its status is 503"
    with pytest.raises(Unavailable, match="does not answer"):
        api.post("/v1/ask", {})


def test_another_certificate_is_not_trusted(tmp_path: Path) -> None:
    pems = []
    for name in ("one", "other"):
        home = Home(tmp_path / name)
        home.prepare()
        pems.append(certificate_of(home))
    with served(ApiSettings(certificate=pems[0], key=pems[0])) as url, pytest.raises(Unavailable, match=r"(?i)certificate"):
        RunningApi.in_home(service(url, pems[1])).post("/v1/ask", {"question": "?"})


def test_it_is_found_by_its_record_unless_its_settings_are_others(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    home = Home(tmp_path)
    home.prepare()
    assert running_api(settings) is None
    with recorded_service(home, service("http://127.0.0.1:1", settings=digest_of(settings))):
        assert home.service.stat().st_mode & 0o777 == 0o600, "it holds the token"
        assert running_api(settings) is not None
        assert running_api(settings.model_copy(update={"tenant": "acme"})) is not None, "a request names its tenant"
        other = Settings(home=tmp_path, inference={"passages": 7})  # type: ignore[arg-type]
        assert running_api(other) is None
    assert read_service(home) is None


def test_a_record_of_another_user_leads_no_question_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, home = Settings(home=tmp_path), Home(tmp_path)
    home.prepare()
    with recorded_service(home, service("http://127.0.0.1:1", settings=digest_of(settings))):
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert running_api(settings) is None
        monkeypatch.undo()
        assert running_api(settings) is not None


def test_a_record_that_was_copied_with_its_home_leads_no_command_to_the_original(tmp_path: Path) -> None:
    """A question that was asked in a copy of a home was answered, and recorded, by the service of the original."""
    home, copy = Home(tmp_path / "home"), Home(tmp_path / "copy")
    with only_service(home):
        own = service("http://127.0.0.1:1").model_copy(update={"lock": FileId.from_path(home.service_lock)})
        with recorded_service(home, own):
            assert read_service(home) == own
            shutil.copytree(home.root, copy.root)
            assert read_service(copy) is None
            with only_service(copy):
                pass
            home.root.rename(tmp_path / "moved")
            assert read_service(Home(tmp_path / "moved")) == own, "a home that was moved is the same"
            (tmp_path / "moved").rename(home.root)


def test_a_home_has_one_up(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with only_service(home), recorded_service(home, service("http://127.0.0.1:8484")):
        with (
            pytest.raises(WrongUsage, match=r"runs in the home .* already: http://127.0.0.1:8484, process \d+"),
            only_service(home),
        ):
            pass
        with only_service(Home(tmp_path / "another")):
            pass
    with only_service(home):
        pass


def test_the_address_and_the_names_it_answers_to_are_settings(tmp_path: Path) -> None:
    assert ApiSettings().named == ("127.0.0.1", "localhost")
    everywhere = ApiSettings(host="0.0.0.0", hosts=("rag.example.net",))
    assert everywhere.named == ("127.0.0.1", "localhost", "rag.example.net")
    assert everywhere.url(8484) == "http://127.0.0.1:8484"
    assert everywhere.open_without_tls
    assert ApiSettings(host="::1").url(1) == "http://[::1]:1"
    assert ApiSettings(host="127.0.0.2").named == ("127.0.0.1", "localhost", "127.0.0.2")
    assert not ApiSettings(host="127.0.0.2").open_without_tls
    for wrong in ({"host": "rag.example.net"}, {"certificate": "x.pem"}, {"key": "x.pem"}):
        with pytest.raises(ValueError, match=r"hosts|go together"):
            ApiSettings(**wrong)  # type: ignore[arg-type]
    (tmp_path / "x.pem").write_text("no certificate")
    for name in ("x.pem", "missing.pem"):
        with pytest.raises(BadSettings, match=r"TLS cannot be served .*x.pem|missing.pem"):
            check_certificate(ApiSettings(certificate=tmp_path / name, key=tmp_path / name))
    with pytest.raises(WrongUsage, match="not an address of this machine"):
        bound(0, "192.0.2.1")


def test_a_settings_file_may_begin_with_a_byte_order_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "headrace.toml"
    file.write_bytes(b"\xef\xbb\xbf[inference]\npassages = 3\n")
    monkeypatch.setenv("HEADRACE_SETTINGS", str(file))
    assert Settings.load().inference.passages == 3
    monkeypatch.delenv("HEADRACE_SETTINGS")
    monkeypatch.chdir(tmp_path)
    assert Settings.load().inference.passages == 3


def test_any_shape_of_error_is_a_sentence() -> None:
    async def odd(_: Request) -> Response:
        return PlainTextResponse("<html>", 502)

    app: Any = Starlette(routes=[Route("/x", odd, methods=["POST"])])
    server = http.QuietServer(http.config(app, keep_alive_s=5, grace_s=1, log_level="critical"))
    with bound(0) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            with pytest.raises(Unavailable, match="answered 502"):
                RunningApi.in_home(service(f"http://127.0.0.1:{listening.getsockname()[1]}")).post("/x", {})
        finally:
            server.should_exit = True
            thread.join()


def test_what_answers_but_is_no_service_is_said_and_gets_the_key_nowhere_else() -> None:
    with served(ApiSettings()) as url:
        api = RunningApi(url, "a-token")
        for kind in ("list", "deep", "text", "null"):
            for ask in (lambda path: api.get(path, seconds=30), lambda path: api.fetch(path, {})):
                with pytest.raises(Unavailable, match="is not a `headrace up` of this version"):
                    ask(f"/odd/{kind}")
        with pytest.raises(Unavailable, match="The service answered 302"):
            api.fetch("/odd/redirect", {})
