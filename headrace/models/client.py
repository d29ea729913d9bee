"""Clients of NIM and OpenAI-style model endpoints: embeddings, ranking, chat completions.

They are synchronous, safe to share between threads, and keep connections alive. Fields that only some servers know
(`input_type`, `truncate`, `headrace`, …) are sent until the server rejects one by name; the client then omits it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, cast

import numpy as np

from headrace.errors import RequestRefused, Unavailable
from headrace.models.connection import BoundedBody, EndpointConnection, EndpointRefusal, ErrorReply, extras_of
from headrace.models.ranking import RankingWeights
from headrace.models.wire import NO_CHAMPION, ChatChunk, ResponseExtras
from headrace.storage.endpoints import ModelEndpoint

_EMBED_BATCH = 64
_RANK_BATCH = 512
_SHORTEST, _LONGEST = 1e-12, 1e15
"""Lengths of embeddings: their squares, and sums of these, are far from where float32 ends."""
_STREAM_TIMES = 10
"""How many times `timeout_s` a streamed answer may take in all; each of its events has `timeout_s`."""
_PENALTIES = ("frequency_penalty", "presence_penalty")
_TOKEN_CHARACTERS = 64
"""Most characters of a streamed answer for each token that was asked for."""

Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@dataclass(frozen=True)
class Ranking:
    """Raw logits in passage order, or `None` before a re-ranker is promoted: retrieval's order is then kept.

    `ranking` has the weights, from the re-ranker's card, that order the passages it scored; `None` if it has none. `storage` is
    what the server moved for this request, for `Ledger.fold`.
    """

    logits: tuple[float, ...] | None
    version: str
    ranking: RankingWeights | None
    storage: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class SamplingParameters:
    """How a generator chooses tokens, in OpenAI's terms; `temperature` 0 takes the most likely one."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    @property
    def penalized(self) -> bool:
        """Whether tokens that were chosen before are less likely."""
        return bool(self.frequency_penalty or self.presence_penalty)


GREEDY = SamplingParameters()


@dataclass(frozen=True)
class Completion:
    """A finished answer. Fields that only the embedded server reports are empty for other endpoints.

    `logprobs` are natural logarithms, one per completion token, under the distribution after `temperature` and `top_p`;
    `reused_tokens` counts prompt tokens whose keys and values came from files, `stored_tokens` those written there;
    `not_stored` says why they were not. `left_out` names requested parameters that the endpoint does not know.
    """

    text: str
    prompt_tokens: list[int]
    completion_tokens: list[int]
    logprobs: list[float]
    usage: dict[str, Any]
    storage: list[dict[str, Any]]
    version: str
    timings_ms: dict[str, float]
    reused_tokens: int
    finish_reason: str = ""
    sampling: SamplingParameters = GREEDY
    stored_tokens: int = 0
    not_stored: str = ""
    left_out: tuple[str, ...] = ()


class _Client:
    def __init__(self, endpoint: ModelEndpoint) -> None:
        self.endpoint = endpoint
        self._connection = EndpointConnection(endpoint)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Embedder(_Client):
    """Computes embeddings at `/v1/embeddings`."""

    def __init__(self, endpoint: ModelEndpoint, *, batch: int = _EMBED_BATCH) -> None:
        super().__init__(endpoint)
        self._batch = batch

    def embed(self, texts: Sequence[str], *, kind: Literal["query", "passage"]) -> Vectors:
        """Embed texts, in their order: float32, (n, dimensions). Texts that are too long are cut at their end.

        Raises `Unavailable`, `Overloaded` or `RequestRefused`.
        """
        return self._embed(texts, kind, "END")[0]

    def embed_whole(self, texts: Sequence[str], *, kind: Literal["query", "passage"]) -> tuple[Vectors, int]:
        """As `embed`, with the number of tokens that the server reports; the server refuses a text that is too long."""
        return self._embed(texts, kind, "NONE")

    def _embed(self, texts: Sequence[str], kind: str, truncate: str) -> tuple[Vectors, int]:
        # Each request has texts of similar length: the server pads a batch to its longest.
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors: list[np.ndarray[Any, np.dtype[np.float32]] | None] = [None] * len(texts)
        tokens = 0
        for start in range(0, len(order), self._batch):
            batch = order[start : start + self._batch]
            found, read = self._request([texts[index] for index in batch], kind, truncate)
            tokens += read
            for index, vector in zip(batch, found, strict=True):
                vectors[index] = vector
        rows = [vector for vector in vectors if vector is not None]
        if not rows:
            return np.zeros((0, 0), np.float32), 0
        if len({len(row) for row in rows}) != 1:
            raise RequestRefused(
                f"{self.endpoint.url} returned embeddings of different widths.", hint="Check the model under [models]."
            )
        stacked: Vectors = np.stack(rows)
        return stacked, tokens

    def _request(self, texts: list[str], kind: str, truncate: str) -> tuple[list[np.ndarray[Any, np.dtype[np.float32]]], int]:
        answer = self._connection.post(
            "/embeddings",
            {
                "model": self.endpoint.model,
                "input": texts,
                "input_type": kind,
                "truncate": truncate,
                "encoding_format": "base64",
            },
            optional=("input_type", "truncate", "encoding_format"),
        )
        try:
            data = sorted(answer["data"], key=lambda entry: entry["index"])
            vectors = [_vector(entry["embedding"]) for entry in data]
            if [entry["index"] for entry in data] != list(range(len(texts))):
                vectors = []
        except (KeyError, TypeError, ValueError):
            vectors = []
        if not all(map(_is_usable, vectors)):
            raise RequestRefused(
                f"{self.endpoint.url}/embeddings returned embeddings that are not finite numbers,"
                " or of a length near 0 or infinity.",
                hint="Check the model under [models].",
            )
        if len(vectors) != len(texts):
            raise RequestRefused(
                f"{self.endpoint.url}/embeddings returned {len(vectors)} embeddings for {len(texts)} texts.",
                hint="Does this endpoint speak the OpenAI embeddings format?",
            )
        usage = answer.get("usage")
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return vectors, tokens if isinstance(tokens, int) and tokens > 0 else 0


class Reranker(_Client):
    """Scores (question, passage) pairs at `/v1/ranking`."""

    def rank(self, question: str, passages: Sequence[str], *, version: str | None = None, answer_id: str = "") -> Ranking:
        """Score passages against a question, with the served re-ranker or the embedded server's `version`.

        `answer_id` decides whether the champion or a canary ranks. Before the first promotion the ranking has no logits and
        version "none". Raises `Unavailable`, `Overloaded` or `RequestRefused`.
        """
        if not passages:
            return Ranking((), version or "none", None)
        model = self.endpoint.model if version is None else f"{self.endpoint.model}@{version}"
        logits: list[float] = []
        storage: list[dict[str, Any]] = []
        served, weights = "", None
        for start in range(0, len(passages), _RANK_BATCH):
            batch = passages[start : start + _RANK_BATCH]
            try:
                answer = self._request(model, question, batch, answer_id)
            except EndpointRefusal as error:
                if error.reply.code == NO_CHAMPION:
                    return Ranking(None, "none", None, [*storage, *error.reply.storage])
                raise
            logits += self._logits(answer, len(batch))
            extras = extras_of(answer)
            storage += extras.entries
            weights = extras.ranking
            was, served = served, str(extras.version or answer.get("model") or self.endpoint.model)
            if was and was != served:  # promoted between two batches: logits of two models cannot be compared
                return self.rank(question, passages, version=version, answer_id=answer_id)
        return Ranking(tuple(logits), served, weights, storage)

    def _request(self, model: str, question: str, passages: Sequence[str], answer_id: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "query": {"text": question},
            "passages": [{"text": passage} for passage in passages],
            "truncate": "END",
        }
        if answer_id:
            body["headrace"] = {"answer_id": answer_id}
        return self._connection.post("/ranking", body, optional=("truncate", "headrace"))

    def _logits(self, answer: Mapping[str, Any], count: int) -> list[float]:
        try:
            logits = {int(entry["index"]): float(entry["logit"]) for entry in answer["rankings"]}
            if not all(map(math.isfinite, logits.values())):
                raise ValueError("not finite")
            return [logits[index] for index in range(count)]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise RequestRefused(
                f"{self.endpoint.url}/ranking returned no logit for some passages.",
                hint="Does this endpoint speak the NIM ranking format?",
            ) from None


def _digest(readers: Collection[str]) -> str:
    """The same for the same readers, whatever the order: sha256 in hex. The endpoint need not know their names."""
    return hashlib.sha256(json.dumps(sorted(set(readers))).encode()).hexdigest()


class Generator(_Client):
    """Writes answers at `/v1/chat/completions`.

    With a `salt_key`, each request has a `cache_salt` of its tenant and readers, which NIM and vLLM put into the names of cached
    prefixes: nobody else's prompts find them. It is made here, from a key that no caller has.
    """

    def __init__(self, endpoint: ModelEndpoint, *, salt_key: bytes = b"") -> None:
        super().__init__(endpoint)
        self._salt_key = salt_key

    def stream(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        tenant: str = "",
        readers: Collection[str] = (),
        documents: Collection[str] | None = None,
        run: str = "",
        stop: Sequence[str] = (),
        sampling: SamplingParameters = GREEDY,
        cache: bool = True,
        kv_cache_bytes: int | None = None,
        version: str | None = None,
        answer_id: str = "",
    ) -> Iterator[str | Completion]:
        """Yield the answer's text as it arrives, then one `Completion`. Closing the iterator stops the generator.

        Only prompts of the same tenant and `readers` share blocks of the KV cache, which go with the `documents` (ids) whose
        passages are in the prompt. What is stored behind an answer of a `run` is reported with its next one.

        `version` is one of the embedded generator ("none": the packaged one); without it the champion answers, or a canary chosen
        by `answer_id`. Raises `Unavailable`, `Overloaded`, `RequestRefused` or `MissingPart`.
        """
        body: dict[str, Any] = {
            "model": self.endpoint.model if version is None else f"{self.endpoint.model}@{version}",
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            "headrace": {"tenant": tenant, "cache": cache},
        }
        if readers:
            body["headrace"]["readers_id"] = _digest(readers)
        if documents is not None:
            body["headrace"]["documents"] = sorted(set(documents))
        if run:
            body["headrace"]["run"] = run
        if self._salt_key:
            whose = json.dumps([tenant, _digest(readers)]).encode()
            body["cache_salt"] = base64.urlsafe_b64encode(hmac.digest(self._salt_key, whose, "sha256")).decode().rstrip("=")
        if answer_id:
            body["headrace"]["answer_id"] = answer_id
        if kv_cache_bytes is not None:
            body["headrace"]["kv_cache_bytes"] = kv_cache_bytes
        if stop:
            body["stop"] = list(stop)
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        for name in _PENALTIES:
            if penalty := getattr(sampling, name):
                body[name] = penalty
        text: list[str] = []
        usage: dict[str, Any] = {}
        extras = ResponseExtras()
        model, finish = "", ""
        left = _TOKEN_CHARACTERS * max_tokens
        for chunk in self._chunks(body):
            model = chunk.model or model
            usage = dict(chunk.usage or usage)
            extras = chunk.headrace or extras
            for choice in chunk.choices or ():
                finish = choice.finish_reason or finish
                if choice.delta is not None and (piece := choice.delta.content):
                    left -= len(piece)
                    if left < 0:
                        raise RequestRefused(
                            f"{self.endpoint.url} returned more than the {max_tokens:,} tokens that it was asked for.",
                            hint="Does this endpoint know max_tokens?",
                        )
                    text.append(piece)
                    yield piece
        if not finish:
            raise Unavailable(f"{self.endpoint.url} stopped in the middle of an answer.", hint="Ask again; its log may say why.")
        yield Completion(
            text="".join(text),
            prompt_tokens=extras.prompt_tokens,
            completion_tokens=extras.completion_tokens,
            logprobs=extras.logprobs,
            usage=usage,
            storage=extras.entries,
            version=extras.version or model or self.endpoint.model,
            timings_ms=extras.timings_ms,
            reused_tokens=extras.reused_tokens,
            stored_tokens=extras.stored_tokens,
            not_stored=extras.not_stored,
            finish_reason=finish,
            sampling=sampling,
            left_out=tuple(name for name in ("seed", *_PENALTIES) if name in body and name in self._connection.left_out),
        )

    def settle(self, run: str, *, seconds: float) -> list[dict[str, Any]]:
        """Wait until the blocks of a run's prompts are stored, for at most so many seconds; what that moved, for `Ledger.fold`.

        For the embedded server alone.
        """
        answer = self._connection.post("/kv/settle", {"run": run, "seconds": seconds})
        return extras_of(answer).entries

    def _chunks(self, body: Mapping[str, Any]) -> Iterator[ChatChunk]:
        from httpx_sse import EventSource, SSEError  # only a stream needs it

        path, seconds = "/chat/completions", self.endpoint.timeout_s
        optional = ("stream_options", "headrace", "cache_salt", "seed", *_PENALTIES)
        with self._connection.open(path, body, optional=optional) as response, self._connection.faults(path):
            end, bounded = time.monotonic() + _STREAM_TIMES * seconds, cast(BoundedBody, response.stream)
            try:
                for event in EventSource(response).iter_sse():
                    bounded.until = min(end, time.monotonic() + seconds)
                    if event.data == "[DONE]":
                        return
                    chunk = json.loads(event.data)
                    if not isinstance(chunk, dict):
                        raise ValueError("not an object")
                    if "error" in chunk:
                        raise ErrorReply.from_body(int(chunk.get("status", 500)), chunk).error(self.endpoint.url + path)
                    yield ChatChunk.model_validate(chunk)
            except (SSEError, ValueError, TypeError, RecursionError) as error:
                raise RequestRefused(
                    f"{self.endpoint.url}{path} did not return a stream of events.",
                    hint="Does this endpoint speak the OpenAI chat format with stream=true?",
                ) from error


def _is_usable(vector: np.ndarray[Any, np.dtype[np.float32]]) -> bool:
    """Whether it is a vector with a direction that float32 can compute, or 0, which is near nothing.

    The square of a shorter one is 0: it would be infinitely near to everything, and the first passage of each answer.
    """
    if vector.ndim != 1 or not len(vector):
        return False
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return math.isfinite(length) and (length == 0.0 or _SHORTEST < length < _LONGEST)


def _vector(embedding: str | Iterable[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    return np.asarray(embedding, np.float32)
