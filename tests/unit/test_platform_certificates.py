"""The certificate of a home: made once, private, and made anew where it is no good."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from headrace.platform import certificates
from headrace.platform.certificates import certificate_of, context_of
from headrace.platform.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    found.prepare()
    return found


def other(home: Home) -> Home:
    found = Home(home.root.parent / "other")
    found.prepare()
    return found


def test_it_is_made_once_and_is_the_owners_alone(home: Home) -> None:
    made = certificate_of(home).read_bytes()
    assert stat.S_IMODE(home.certificate.stat().st_mode) == 0o600
    assert made.count(b"PRIVATE KEY-----") == 2, "one: nobody can have another certificate made by the same authority"
    assert certificate_of(home).read_bytes() == made
    assert certificate_of(other(home)).read_bytes() != made


def test_it_opens_its_own_home_and_no_other(home: Home) -> None:
    assert shakes(certificate_of(home), certificate_of(home))
    assert not shakes(certificate_of(home), certificate_of(other(home)))


def shakes(server: Path, client: Path) -> bool:
    """Whether a server lets a client in, both in memory; the client would take any server."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server)
    serving.load_verify_locations(server)
    serving.verify_mode = ssl.CERT_REQUIRED
    asking = context_of(client)
    asking.load_verify_locations(server)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        serving.wrap_bio(to_server, to_client, server_side=True),
        asking.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return True


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_a_damaged_one_is_made_anew(home: Home, kept: float) -> None:
    made = certificate_of(home).read_bytes()
    home.certificate.write_bytes(made[: int(kept * len(made))])
    again = certificate_of(home)
    assert shakes(again, again)
    assert again.read_bytes() != made


def test_one_that_ends_soon_or_begins_later_is_made_anew(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "_DAYS", 29)
        ending = certificate_of(home).read_bytes()
    made = certificate_of(home).read_bytes()
    assert made != ending
    monkeypatch.setattr(certificates.time, "time", lambda: 0.0)  # the clock was wrong when it was made
    assert certificate_of(home).read_bytes() != made


def test_one_of_another_machine_is_made_anew(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    made = certificate_of(home).read_bytes()
    monkeypatch.setattr(certificates.socket, "gethostname", lambda: "elsewhere")
    assert certificate_of(home).read_bytes() != made
