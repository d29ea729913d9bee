"""The embedded re-ranker: the champion cross-encoder that the training loop released to the object tier.

In the store `models`, `reranker/champion.json` names the served version, and moving that pointer is all a promotion does;
`reranker/<version>/card.json` lists the version's files, which lie beside it.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from sentence_transformers import CrossEncoder

from headrace.catalog import MODELS
from headrace.errors import HeadraceError, NotFound, RequestRefused, Unavailable
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader

POINTER = "reranker/champion.json"
LOOK_S = 1.0
"""Seconds for which a look at the pointer holds."""
RETRY_S = 10.0
"""Seconds before a version that could not be loaded, or a store that did not answer, is tried again."""
KEPT = 2
"""Versions kept on disk and in memory: the champion, and the one before it or the one last asked for by name."""

log = logging.getLogger("headrace.models")


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or len(path.parts) > 2 or path.is_absolute() or ".." in path.parts or str(path) != name:
        raise ValueError(f"{name!r} is no file name inside a release")
    return name


Version = Annotated[str, Field(pattern=r"^v\d{6,12}$")]


class Pointer(BaseModel):
    """`champion.json`: which version is served ("none" after a rollback to before the first), and its turn."""

    version: Version | Literal["none"]
    turn: int


class CardFile(BaseModel):
    """One file of a version, by its name below the version's folder."""

    name: Annotated[str, AfterValidator(_inside)]
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Card(BaseModel):
    """`card.json`: one released version, the share the retrieval score keeps beside its logits, and its files."""

    version: Version
    turn: int
    retrieval_weight: float = Field(ge=0, le=1)
    max_tokens: int = Field(ge=8, le=512)
    files: list[CardFile] = Field(min_length=1)

    @property
    def digest(self) -> str:
        """16 hex digits that stand for the contents."""
        lines = "".join(f"{file.name} {file.sha256}\n" for file in sorted(self.files, key=lambda file: file.name))
        return hashlib.sha256(f"{self.max_tokens}\n{lines}".encode()).hexdigest()[:16]


class NoChampion(NotFound):
    """No re-ranker was promoted yet: retrieval order stands."""

    def __init__(self) -> None:
        super().__init__(
            "No re-ranker was promoted yet, so retrieval order stands.",
            hint="Give feedback on answers, then run `headrace turn`.",
        )


@dataclass(frozen=True)
class Ranked:
    """Raw logits in the order of the passages, the tokens read, and who gave them."""

    logits: list[float]
    tokens: int
    version: str
    retrieval_weight: float


@dataclass(frozen=True)
class _Loaded:
    card: Card
    model: CrossEncoder


class _Broken(Exception):
    """A released version that is not what its card says."""


class Rerankers:
    """The champion, and other versions that somebody asked for by name.

    Not safe to share between threads: one lane calls it. `endpoints` is asked only when storage is needed; `loading` is
    held while libraries load, since they do not like to be imported twice at once.
    """

    def __init__(self, endpoints: Callable[[], Endpoints], cache: Path, loading: threading.Lock) -> None:
        self._endpoints = endpoints
        self._cache = cache / "reranker"
        self._loading = loading
        self._champion: _Loaded | None = None
        self._etag = ""
        self._look_again = 0.0
        self._failed: tuple[str, float, str] = ("", 0.0, "")  # etag of the pointer, until when, why
        self._recent: list[_Loaded] = []  # latest first

    def rank(
        self, question: str, passages: Sequence[str], ledger: Ledger, *, version: str | None = None, cut: bool = True
    ) -> Ranked:
        """Score each passage for the question, with the champion or the version named.

        `cut` shortens over-long pairs at their end; without it they raise `RequestRefused`. Raises `NoChampion` before the
        first promotion, `NotFound` for a version that was never released, `Unavailable`.
        """
        loaded = self._current(ledger) if version is None else self._named(version, ledger)
        pairs = [(question, passage) for passage in passages]
        most = loaded.card.max_tokens
        lengths = [len(ids) for ids in loaded.model.tokenizer(pairs, truncation=False, verbose=False)["input_ids"]]
        if not cut and max(lengths) > most:
            place = lengths.index(max(lengths))
            raise RequestRefused(
                f"Passage {place} and the question have {lengths[place]} tokens, the model reads {most}.",
                hint='Shorten it or send "truncate": "END".',
            )
        logits = loaded.model.predict(
            pairs, batch_size=32, activation_fn=torch.nn.Identity(), show_progress_bar=False, convert_to_numpy=True
        )
        return Ranked(
            logits=[float(logit) for logit in logits],
            tokens=sum(min(length, most) for length in lengths),
            version=loaded.card.version,
            retrieval_weight=loaded.card.retrieval_weight,
        )

    def _reader(self, ledger: Ledger) -> ObjectReader:
        return ObjectReader(MODELS, self._endpoints(), Meter(ledger, "models"))

    def _current(self, ledger: Ledger) -> _Loaded:
        if time.monotonic() >= self._look_again:
            try:
                self._look(self._reader(ledger))
            except HeadraceError as error:
                if self._champion is None:
                    raise
                self._look_again = time.monotonic() + RETRY_S
                log.warning("re-ranker %s goes on serving: %s", self._champion.card.version, _one_line(error))
        if self._champion is None:
            raise NoChampion
        return self._champion

    def _look(self, reader: ObjectReader) -> None:
        self._look_again = time.monotonic() + LOOK_S
        try:
            data, etag = reader.get_with_etag(POINTER)
        except NotFound:
            self._champion, self._etag = None, ""
            return
        if etag == self._etag:
            return
        failed, until, why = self._failed
        if etag != failed or time.monotonic() >= until:
            try:
                version = Pointer.model_validate_json(data).version
                champion = None if version == "none" else self._open(version, reader)
            except (NotFound, _Broken, ValidationError) as error:
                why = _one_line(error)
                self._failed = (etag, time.monotonic() + RETRY_S, why)
                serving = self._champion.card.version if self._champion else "none"
                log.warning("a promoted re-ranker cannot be loaded, %s goes on serving: %s", serving, why)
            else:
                self._champion, self._etag = champion, etag
                log.info("re-ranker %s serves", version)
                self._prune()
                return
        if self._champion is None:
            raise Unavailable(
                f"The promoted re-ranker cannot be loaded: {why}.", hint="Run a turn, or `headrace rollback reranker`."
            )

    def _named(self, version: str, ledger: Ledger) -> _Loaded:
        if not re.fullmatch(r"v\d{6,12}", version):
            raise NotFound(f"{version!r} is no version of the re-ranker.", hint="See `headrace models`.")
        for loaded in self._recent:
            if loaded.card.version == version:
                return loaded
        try:
            loaded = self._open(version, self._reader(ledger))
        except (_Broken, ValidationError) as error:
            raise RequestRefused(
                f"Re-ranker {version} cannot be loaded: {_one_line(error)}.", hint="Run a turn to release another."
            ) from error
        self._prune()
        return loaded

    def _open(self, version: str, reader: ObjectReader) -> _Loaded:
        prefix = f"reranker/{version}/"
        card = Card.model_validate_json(reader.get(prefix + "card.json"))
        if card.version != version:
            raise _Broken(f"the card of {version} is that of {card.version}")
        loaded = next((one for one in self._recent if one.card == card), None)
        if loaded is None:
            folder = self._cache / f"{version}-{card.digest}"
            if not _whole(folder, card):
                shutil.rmtree(folder, ignore_errors=True)
                self._fetch(card, prefix, folder, reader)
            loaded = _Loaded(card, self._load(card, folder))
        self._recent = [loaded, *(one for one in self._recent if one.card.version != version)]
        return loaded

    def _fetch(self, card: Card, prefix: str, folder: Path, reader: ObjectReader) -> None:
        arriving = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
        try:
            for file in card.files:
                path = arriving / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                reader.download(prefix + file.name, path)
            if not _whole(arriving, card):
                raise _Broken(f"the files of {card.version} are not those its card lists")
            arriving.rename(folder)
        except OSError as error:
            raise Unavailable(
                f"{self._cache} cannot be written: {error.strerror or error}.", hint="Free some space or check its owner."
            ) from error
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def _load(self, card: Card, folder: Path) -> CrossEncoder:
        with self._loading:
            started = time.perf_counter()
            try:
                model = CrossEncoder(str(folder), num_labels=1, max_length=card.max_tokens, device="cpu", local_files_only=True)
                model.eval()
                model.predict([("", "")], show_progress_bar=False)
            except Exception as error:  # whatever a library makes of files that are not what they claim to be
                raise _Broken(f"{card.version} is no cross-encoder ({_one_line(error)})") from error
            log.info("loaded re-ranker %s in %.1f s", card.version, time.perf_counter() - started)
        return model

    def _prune(self) -> None:
        """Keep `KEPT` versions, the champion among them, in memory and on disk."""
        kept = [self._champion] if self._champion else []
        kept += [loaded for loaded in self._recent if loaded is not self._champion]
        kept = kept[:KEPT]
        self._recent = [loaded for loaded in self._recent if loaded in kept]
        names = {f"{loaded.card.version}-{loaded.card.digest}" for loaded in kept}
        for folder in self._cache.iterdir() if self._cache.is_dir() else ():
            if folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)


def _whole(folder: Path, card: Card) -> bool:
    for file in card.files:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            return False
        with path.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                return False
    return True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
