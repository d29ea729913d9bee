"""Released versions of a model: their format in the object tier, and loading them into this process.

In the store `models`, `<model>/champion.json` is the pointer to the served version (`models/pointer.py`), and
`<model>/<version>/card.json` lists the files of a version, which are below the same folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from headrace.catalog import MODELS
from headrace.errors import HeadraceError, InvalidState, NotFound, RequestRefused, Unavailable
from headrace.models.cards import Card
from headrace.models.pointer import NONE, ChampionPointer, parse_pointer, pointer_key
from headrace.models.server.queue import ModelQueue
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader

LOOK_S = 1.0
"""Seconds before the pointer is read again."""
RETRY_S = 10.0
"""Seconds before a version that could not be loaded, or a store that did not answer, is tried again."""
PATIENCE_S = 4.0
"""Seconds that requests wait for the pointer and a new version; after that the previous version answers."""
FIRST_S = 30.0
"""The same while there is no previous version, and for the first read of the pointer."""
KEPT = 3
"""Versions kept on disk and in memory: champion, canary and the last other one used, so that a rollback loads nothing."""
_ABANDONED_S = 3600.0

log = logging.getLogger("headrace.models")


C = TypeVar("C", bound=Card)
M = TypeVar("M")


@dataclass
class Release(Generic[C, M]):
    """A version in memory; `used` is the time of its last request (monotonic seconds)."""

    card: C
    model: M
    used: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True)
class ActiveReleases(Generic[C, M]):
    """The releases that the pointer names: `champion` and `canary`, `None` where there is none.

    `retry_at` is when loading is tried again after a failure; `trouble` is why no release can answer.
    """

    etag: str = ""
    pointer: ChampionPointer | None = None
    champion: Release[C, M] | None = None
    canary: Release[C, M] | None = None
    retry_at: float = float("inf")
    trouble: str = ""

    def release_for(self, answer_id: str) -> Release[C, M] | None:
        """The release for an answer, of those in memory."""
        if self.canary and self.pointer and self.pointer.served(answer_id) == self.canary.card.version:
            return self.canary
        return self.champion


class _Broken(Exception):
    """A released version that does not match its card."""


class LoadedReleases(Generic[C, M]):
    """One model's releases: those that its pointer names, and others requested by name.

    They are fetched and loaded on their own thread while the current ones answer. Call it on one event loop only.

    - `noun`: the model's name in messages.
    - `load`: makes a model from a card and the folder of its files; raises any exception if they are not such a model.
    - `endpoints`: called only when storage is needed.
    - `must_look`: no answer before the pointer was read once. Without it the packaged model answers until then.
    """

    def __init__(
        self,
        model: str,
        noun: str,
        card: type[C],
        load: Callable[[C, Path], M],
        *,
        endpoints: Callable[[], Endpoints],
        cache: Path,
        must_look: bool = True,
    ) -> None:
        self._model = model
        self._noun = noun
        self._card = card
        self._load = load
        self._endpoints = endpoints
        self._cache = cache / "releases" / model
        self._queue = ModelQueue(f"{noun}'s releases")
        self._active: ActiveReleases[C, M] | None = None if must_look else ActiveReleases()
        self._error: HeadraceError | None = None
        self._looking: asyncio.Task[None] | None = None
        self._looked = False
        self._look_again = self._wait_until = 0.0
        self._between = Ledger()  # I/O of the pointer and releases that no request has reported yet
        self._loaded: tuple[Release[C, M], ...] = ()  # replaced on the queue, read anywhere

    def refresh(self) -> None:
        """Start reading the pointer and loading what it names, unless that happened in the last `LOOK_S`."""
        now = time.monotonic()
        if self._looking is None and now >= self._look_again:
            self._looking = asyncio.ensure_future(self._refresh_soon())
            self._wait_until = now + (PATIENCE_S if self._looked and self._active else FIRST_S)

    async def serving(self, answer_id: str, ledger: Ledger) -> Release[C, M] | None:
        """The release for this answer, or `None` if none is served. Raises `Unavailable`, `NotFound`."""
        self.refresh()
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=max(0.0, self._wait_until - time.monotonic()))
        moved, self._between = self._between, Ledger()
        ledger.fold(moved.export())
        if self._active is None:
            raise self._error or Unavailable(f"The {self._noun}'s storage has not answered yet.", hint="Try again in a moment.")
        release = self._active.release_for(answer_id)
        if release is None and self._active.trouble:
            raise Unavailable(
                f"The promoted {self._noun} cannot be loaded: {self._active.trouble}.",
                hint=f"Run `headrace train`, or `headrace rollback {self._model}`.",
            )
        return release

    async def requested(self, version: str, answer_id: str, ledger: Ledger) -> Release[C, M] | None:
        """The release for a request: the version it names, `None` for "none", or the served one if it names none."""
        if version == NONE:
            return None
        return await (self.by_name(version, ledger) if version else self.serving(answer_id, ledger))

    async def by_name(self, version: str, ledger: Ledger) -> Release[C, M]:
        """One version by its name. Raises `NotFound` if it was never released, `RequestRefused` if it is broken."""
        if not re.fullmatch(r"v\d{6,12}", version):
            raise NotFound(f"{version!r} is not a version of the {self._noun}.", hint="See `headrace models`.")
        for release in self._loaded:
            if release.card.version == version:
                release.used = time.monotonic()
                return release
        return await self._queue.run(partial(self._name, version, ledger))

    def stop(self) -> None:
        """Load no more. Takes no lock, so that a signal handler may call it."""
        self._queue.stop()

    async def _refresh_soon(self) -> None:
        moved = Ledger()
        now = time.monotonic()
        try:
            await self._queue.run(partial(self._refresh, moved))
            self._look_again = now + LOOK_S
        except HeadraceError as error:
            self._error = error
            if self._active is not None:
                self._look_again = time.monotonic() + RETRY_S
                log.warning("%s %s goes on serving: %s", self._noun, _version(self._active.champion), _one_line(error))
        finally:
            self._between.fold(moved.export())
            self._looked, self._looking = True, None

    # The methods below run on the queue.

    def _reader(self, ledger: Ledger) -> ObjectReader:
        return ObjectReader(MODELS, self._endpoints(), Meter(ledger, "models"))

    def _refresh(self, ledger: Ledger) -> None:
        before = self._active
        reader = self._reader(ledger)
        try:
            data, etag = reader.get_with_etag(pointer_key(self._model))
        except NotFound:
            self._active = ActiveReleases()
            return
        if before is None or before.etag != etag or time.monotonic() >= before.retry_at:
            self._active = self._follow(data, etag, before, reader)
            self._prune()

    def _follow(self, data: bytes, etag: str, before: ActiveReleases[C, M] | None, reader: ObjectReader) -> ActiveReleases[C, M]:
        try:
            pointer = parse_pointer(self._model, data)
        except InvalidState as error:
            return self._stay(before, etag, error.message.rstrip("."))
        # Independent of the champion: the end of a canary takes effect at once, and a broken canary does not block a champion.
        canary, why = self._try(pointer.canary.version, reader) if pointer.canary else (None, "")
        if why:
            log.warning("a %s canary cannot be loaded, the champion answers for it: %s", self._noun, why)
        champion, trouble = self._try(pointer.version, reader) if pointer.version != NONE else (None, "")
        if trouble:
            return replace(self._stay(before, etag, trouble), pointer=pointer, canary=canary)
        share = f", {canary.card.version} answers {pointer.canary.share:.0%}" if canary and pointer.canary else ""
        log.info("%s %s serves%s", self._noun, _version(champion), share)
        return ActiveReleases(etag, pointer, champion, canary, time.monotonic() + RETRY_S if why else float("inf"))

    def _stay(self, before: ActiveReleases[C, M] | None, etag: str, why: str) -> ActiveReleases[C, M]:
        """Keep the previous champion, if any, although the pointer names another."""
        former = before.champion if before else None
        log.warning("a promoted %s cannot be loaded, %s goes on serving: %s", self._noun, _version(former), why)
        trouble = why if before is None or before.trouble else ""
        retry_at = time.monotonic() + RETRY_S
        return ActiveReleases(etag, before.pointer if before else None, former, None, retry_at, trouble)

    def _try(self, version: str, reader: ObjectReader) -> tuple[Release[C, M] | None, str]:
        """The version, or why it cannot be loaded."""
        try:
            return self._open(version, reader), ""
        except (HeadraceError, _Broken, ValidationError) as error:
            return None, _one_line(error)

    def _name(self, version: str, ledger: Ledger) -> Release[C, M]:
        try:
            release = self._open(version, self._reader(ledger))
        except NotFound:
            raise NotFound(f"No {self._noun} {version} was released.", hint="See `headrace models`.") from None
        except (_Broken, ValidationError) as error:
            raise RequestRefused(
                f"The {self._noun} {version} cannot be loaded: {_one_line(error)}.",
                hint="Run `headrace train` to release another.",
            ) from error
        self._prune()
        return release

    def _open(self, version: str, reader: ObjectReader) -> Release[C, M]:
        prefix = f"{self._model}/{version}/"
        card = self._card.model_validate_json(reader.get(prefix + "card.json"))
        if card.version != version:
            raise _Broken(f"the card of {version} is for {card.version}")
        release = next((one for one in self._loaded if one.card == card), None)
        if release is None:
            folder = self._cache / f"{version}-{card.digest}"
            if not _whole(folder, card):
                shutil.rmtree(folder, ignore_errors=True)
                self._fetch(card, prefix, folder, reader)
            release = Release(card, self._made(card, folder))
        release.used = time.monotonic()
        self._loaded = (release, *(one for one in self._loaded if one.card.version != version))
        return release

    def _fetch(self, card: C, prefix: str, folder: Path, reader: ObjectReader) -> None:
        arriving = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
        try:
            for file in card.files:
                path = arriving / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                reader.download(prefix + file.key, path)
            if not _whole(arriving, card):
                raise _Broken(f"the files of {card.version} are not those that its card lists")
            arriving.rename(folder)
        except OSError as error:
            raise Unavailable(
                f"{self._cache} cannot be written: {error.strerror or error}.", hint="Free some space or check its owner."
            ) from error
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def _made(self, card: C, folder: Path) -> M:
        started = time.perf_counter()
        try:
            model = self._load(card, folder)
        except HeadraceError:
            raise
        except Exception as error:  # libraries raise any exception for files that are not such a model
            raise _Broken(f"{card.version} is not a {self._noun} ({_one_line(error)})") from error
        log.info("loaded %s %s in %.1f s", self._noun, card.version, time.perf_counter() - started)
        return model

    def _prune(self) -> None:
        """Keep `KEPT` versions in memory and on disk, including champion and canary."""
        answering = [self._active.champion, self._active.canary] if self._active else []
        others = sorted((one for one in self._loaded if one not in answering), key=lambda one: -one.used)
        keep = [*(one for one in answering if one is not None), *others][:KEPT]
        self._loaded = tuple(one for one in self._loaded if one in keep)
        names = {f"{one.card.version}-{one.card.digest}" for one in keep}
        for folder in self._cache.iterdir() if self._cache.is_dir() else ():
            if folder.name not in names and not (folder.name.startswith(".") and _fresh(folder)):
                shutil.rmtree(folder, ignore_errors=True)


def _version(release: Release[Any, Any] | None) -> str:
    return release.card.version if release else NONE


def _whole(folder: Path, card: Card) -> bool:
    for file in card.files:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            return False
        with path.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                return False
    return True


def _fresh(folder: Path) -> bool:
    """Whether another server may still be writing to a folder."""
    try:
        return time.time() - folder.stat().st_mtime < _ABANDONED_S
    except OSError:
        return False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
