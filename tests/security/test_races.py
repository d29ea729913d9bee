"""What happens between a check and the change that it allows: quotas and revoked keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from headrace.api.documents import Documents
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.documents.view import DocumentView
from headrace.errors import Forbidden, QuotaReached
from headrace.platform import open_platform
from headrace.settings import Settings, TenantLimits
from headrace.storage.metadata import By, Metadata


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("races")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        settings = Settings(home=folder / "home")
        with open_platform(settings, parts=frozenset({"objects", "head"})) as endpoints:
            yield Runner(Run("test", settings.home), endpoints)


class SlowView(DocumentView):
    """Stops for a moment once it has counted, as a thread does that another one interrupts."""

    counted, go_on = threading.Event(), threading.Event()

    def usage(self, tenant: str, *, look: bool = True) -> tuple[int, int]:
        usage = super().usage(tenant, look=look)
        if threading.current_thread().name == "late":
            self.counted.set()
            self.go_on.wait(2)
        return usage


def test_a_document_that_is_put_while_another_is_counted_counts(runner: Runner) -> None:
    view = SlowView(runner)
    documents = Documents(runner, view, lambda tenant: None)
    limits, refused = TenantLimits(documents=1), []

    def late() -> None:
        try:
            documents.put("race", "late.md", b"late", limits)
        except QuotaReached as error:
            refused.append(error)

    thread = threading.Thread(target=late, name="late")
    thread.start()
    assert view.counted.wait(30)
    try:
        documents.put("race", "early.md", b"early", limits)
    except QuotaReached as error:
        refused.append(error)
    finally:
        view.go_on.set()
        thread.join()
    assert (len(refused), view.usage("race")[0]) == (1, 1), "one of both"


def test_a_key_that_is_revoked_makes_no_key_any_more(runner: Runner) -> None:
    """Its holder was looked up up to half a second ago: a key made then would outlive the one that made it."""
    metadata = Metadata(runner.endpoints)
    metadata.add_tenant("acme")
    _, admin = metadata.create_key("acme", ["tenant-admin"])
    by = By("acme", admin.id, "127.0.0.1")
    metadata.create_key("acme", ["tenant-admin"], by=by)
    metadata.revoke_key(admin.id)
    with pytest.raises(Forbidden, match="was revoked"):
        metadata.create_key("acme", ["tenant-admin"], by=by)
    assert len(metadata.keys("acme")) == 2
    metadata.close()
