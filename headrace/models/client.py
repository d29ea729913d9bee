"""Clients of NIM and OpenAI-style model endpoints: embeddings, ranking, chat completions.

They are synchronous, safe to share between threads, and keep connections alive. Fields that only some servers know
(`input_type`, `truncate`, `headrace`, …) are sent until the server rejects one by name; the client then omits it.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from ssl import SSLContext
from types import TracebackType
from typing import Any, Literal, Self, cast
from urllib.parse import urlparse

import httpx
import numpy as np
from httpx_sse import EventSource, SSEError

from headrace.errors import HeadraceError, MissingPart, Overloaded, RequestRefused, Unavailable
from headrace.models.ranking import RankingWeights
from headrace.models.wire import MISSING_PART, NO_CHAMPION, UNAVAILABLE, ChatChunk, ResponseExtras
from headrace.retry import backoff
from headrace.storage.endpoints import ModelEndpoint

_TRIES = 4
_BACKOFF_S = 0.2
_LONGEST_WAIT_S = 5.0
_CONNECT_S = 5.0
_EMBED_BATCH = 64
_RANK_BATCH = 512
_RESPONSE_BYTES = 32 << 20
"""Most bytes of a response: 64 embeddings of 8,192 numbers as text are 13 MB."""
_STREAM_TIMES = 10
"""How many times `timeout_s` a streamed answer may take in all; each of its events has `timeout_s`."""
_PENALTIES = ("frequency_penalty", "presence_penalty")
_TOKEN_CHARACTERS = 64
"""Most characters of a streamed answer for each token that was asked for."""

Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@dataclass(frozen=True)
class Ranking:
    """Raw logits in passage order; `None` where no re-ranker was promoted yet: the order then stays that of retrieval.

    `ranking` has the weights by which passages that it scored are ordered, as its card says, `None` where none are known;
    `storage` is what the server moved for this request, for `Ledger.fold`.
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
    `not_stored` says why they could not be. `left_out` names what was asked for and the endpoint does not know.
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


@cache
def _trusted() -> SSLContext:
    """The trusted certificates. Read once, since it takes as long as some requests; plain HTTP does not need them."""
    return httpx.create_ssl_context()


class EndpointConnection:
    """One endpoint: sends JSON, retries transient faults, and raises Headrace's errors."""

    def __init__(self, endpoint: ModelEndpoint) -> None:
        self.endpoint = endpoint
        self._url = endpoint.url.rstrip("/")
        self.left_out: set[str] = set()
        """Fields that the server rejected by name."""
        # A few kilobytes can unpack to gigabytes.
        headers = {"Accept-Encoding": "identity"}
        if endpoint.api_key:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(endpoint.timeout_s, connect=min(_CONNECT_S, endpoint.timeout_s)),
            # A proxy from the environment is not used for a server on this machine.
            trust_env=not _loopback(self._url),
            verify=_trusted() if self._url.startswith("https:") else False,
        )

    def post(self, path: str, body: Mapping[str, Any], *, optional: Sequence[str] = ()) -> dict[str, Any]:
        """POST JSON, return JSON. Raises `Unavailable`, `Overloaded`, `RequestRefused` or `MissingPart`."""
        with self.open(path, body, optional=optional) as response:
            with self._faults(path):
                data = response.read()
            try:
                answer = json.loads(data)
            except (ValueError, RecursionError):
                answer = None
            if not isinstance(answer, dict):
                raise RequestRefused(
                    f"{self._url}{path} returned something that is not a JSON object.", hint="Does the url end in /v1?"
                )
            return answer

    @contextmanager
    def open(self, path: str, body: Mapping[str, Any], *, optional: Sequence[str] = ()) -> Iterator[httpx.Response]:
        """POST JSON and yield the response once its status is 2xx; its body is not read yet."""
        response = self._send(path, body, optional)
        try:
            yield response
        finally:
            response.close()

    def ready(self, seconds: float) -> bool:
        """Whether the endpoint says it is ready, or answers but has no such route."""
        try:
            response = self._http.get(f"{self._url}/health/ready", timeout=seconds)
        except httpx.TransportError:
            return False
        return response.status_code < 500

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, path: str, body: Mapping[str, Any], optional: Sequence[str]) -> httpx.Response:
        tries = 0
        while True:
            content = {name: value for name, value in body.items() if name not in self.left_out}
            tries += 1
            try:
                with self._faults(path):
                    response = self._http.send(self._http.build_request("POST", self._url + path, json=content), stream=True)
                    response.stream = _Bounded(response, self.endpoint.timeout_s)
            except Unavailable as error:
                if tries >= _TRIES or not isinstance(error.__cause__, httpx.ConnectError):
                    raise
                time.sleep(_pause(tries))
                continue
            if response.is_success:
                return response
            with self._faults(path):
                try:
                    reply = ErrorReply.read(response)
                finally:
                    response.close()
            unknown = {name for name in optional if name in content and name in reply.message}
            if reply.status in (400, 422) and unknown:
                self.left_out |= unknown
                tries = 0
                continue
            if reply.busy and tries < _TRIES:
                time.sleep(_pause(tries, reply.retry_after))
                continue
            raise reply.error(self._url + path)

    @contextmanager
    def _faults(self, path: str) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise Unavailable(
                f"{self._url}{path} did not answer within {self.endpoint.timeout_s:g} s.",
                hint="Is the server busy or still loading? Raise timeout_s under [models] or try again.",
            ) from error
        except _TooMuch as error:
            raise RequestRefused(
                f"{self._url}{path} returned {error}.", hint="Check the endpoint's url and model under [models]."
            ) from None
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"{self._url}{path} cannot be reached: {str(error) or type(error).__name__}.",
                hint="Check that the model server runs and that its url under [models] is right.",
            ) from error


class _TooMuch(Exception):
    """A response is larger than any right one; the message is the object of "returned"."""


class _Bounded(httpx.SyncByteStream):
    """The body of a response, bounded in bytes and time. httpx bounds no size, and starts its timeout anew with each byte."""

    def __init__(self, response: httpx.Response, seconds: float) -> None:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            response.close()
            raise _TooMuch("a compressed body, which was not asked for")
        self._stream = response.stream
        self.until = time.monotonic() + seconds

    def __iter__(self) -> Iterator[bytes]:
        assert isinstance(self._stream, httpx.SyncByteStream)
        left = _RESPONSE_BYTES
        for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise _TooMuch(f"more than {_RESPONSE_BYTES >> 20} MiB")
            if time.monotonic() > self.until:
                raise httpx.ReadTimeout("the body did not come in time")
            yield piece

    def close(self) -> None:
        """Close the connection."""
        assert isinstance(self._stream, httpx.SyncByteStream)
        self._stream.close()


@dataclass(frozen=True)
class ErrorReply:
    """A server's error response: HTTP status, OpenAI error code and message."""

    status: int
    code: str
    message: str
    retry_after: float | None = None
    storage: tuple[dict[str, Any], ...] = ()

    @classmethod
    def read(cls, response: httpx.Response) -> ErrorReply:
        """Read any of the formats in use: OpenAI's `error`, FastAPI's `detail`, or plain text."""
        text = response.read()[:65536].decode("utf-8", "replace")
        try:
            body = json.loads(text)
        except ValueError:
            body = text
        try:
            retry_after: float | None = float(response.headers.get("retry-after", ""))
        except ValueError:
            retry_after = None
        return cls.from_body(response.status_code, body, retry_after)

    @classmethod
    def from_body(cls, status: int, body: Any, retry_after: float | None = None) -> ErrorReply:
        """Read a decoded body."""
        code, message = "", body
        storage: tuple[dict[str, Any], ...] = ()
        if isinstance(body, dict):
            message = body.get("error", body.get("detail", body.get("message", body)))
            storage = tuple(_extras(body).entries)
            if isinstance(message, dict):
                code = str(message.get("code") or "")
                message = message.get("message", message)
        if not isinstance(message, str):
            message = json.dumps(message)
        return cls(status, code, message.strip()[:500] or "no reason given", retry_after, storage)

    @property
    def busy(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.status == 429 or (self.status == 503 and self.code not in (MISSING_PART, UNAVAILABLE))

    def error(self, url: str) -> HeadraceError:
        """The error to raise, of errors.py."""
        if self.code == MISSING_PART:
            return MissingPart(self.message)
        sentence = f"{url} answered {self.status}: {self.message.rstrip('.')}."
        if self.busy:
            return Overloaded(sentence, hint="Try again in a moment, or send less at once.")
        if self.code == UNAVAILABLE:  # its message says what to do
            return Unavailable(sentence)
        if self.status >= 500:
            return EndpointFailure(self, sentence, hint="Look into that server's log and try again.")
        if self.status in (401, 403):
            return EndpointRefusal(self, sentence, hint="Check the endpoint's api_key under [models].")
        if self.status == 404:
            return EndpointRefusal(self, sentence, hint="Check the endpoint's url (it ends in /v1) and model under [models].")
        return EndpointRefusal(self, sentence, hint="Check the endpoint's model under [models] and what was sent.")


class EndpointRefusal(RequestRefused):
    """The endpoint rejected the request; `reply` is its response."""

    def __init__(self, reply: ErrorReply, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.reply = reply


class EndpointFailure(Unavailable):
    """The endpoint failed with a fault of its own (5xx); `reply` is its response."""

    def __init__(self, reply: ErrorReply, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.reply = reply


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
        if not all(vector.ndim == 1 and len(vector) and np.isfinite(vector).all() for vector in vectors):
            raise RequestRefused(
                f"{self.endpoint.url}/embeddings returned something else than finite numbers.",
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
            extras = _extras(answer)
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


class Generator(_Client):
    """Writes answers at `/v1/chat/completions`."""

    def stream(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        tenant: str = "",
        stop: Sequence[str] = (),
        sampling: SamplingParameters = GREEDY,
        cache: bool = True,
        kv_cache_bytes: int | None = None,
        version: str | None = None,
        answer_id: str = "",
    ) -> Iterator[str | Completion]:
        """Yield the answer's text as it arrives, then one `Completion`. Closing the iterator stops the generator.

        `version` is one of the embedded generator ("none": the packaged one); without it the champion answers, or a canary
        chosen by `answer_id`. Raises `Unavailable`, `Overloaded`, `RequestRefused` or `MissingPart`.
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

    def _chunks(self, body: Mapping[str, Any]) -> Iterator[ChatChunk]:
        path, seconds = "/chat/completions", self.endpoint.timeout_s
        optional = ("stream_options", "headrace", "seed", *_PENALTIES)
        with self._connection.open(path, body, optional=optional) as response, self._connection._faults(path):
            end, bounded = time.monotonic() + _STREAM_TIMES * seconds, cast(_Bounded, response.stream)
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


def wait_ready(endpoint: ModelEndpoint, seconds: float) -> None:
    """Wait until `/v1/health/ready` answers: an embedded server may still be importing torch. Raises `Unavailable`."""
    connection = EndpointConnection(endpoint)
    until = time.monotonic() + seconds
    try:
        while not connection.ready(max(0.1, min(2.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                raise Unavailable(
                    f"The model server at {endpoint.url} was not ready within {seconds:g} s.",
                    hint="Look into its log under the home's logs directory, then run the command again.",
                )
            time.sleep(0.05)
    finally:
        connection.close()


def _vector(embedding: str | Iterable[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    return np.asarray(embedding, np.float32)


def _extras(body: Mapping[str, Any]) -> ResponseExtras:
    """What the server reports under `headrace`; nothing where that is not as ours report it."""
    try:
        return ResponseExtras.model_validate(body.get("headrace") or {})
    except ValueError:
        return ResponseExtras()


def _pause(tries: int, retry_after: float | None = None) -> float:
    own = backoff(tries, first_s=_BACKOFF_S, longest_s=_LONGEST_WAIT_S, spread=0.2)
    return min(_LONGEST_WAIT_S, max(own, retry_after or 0.0))


def _loopback(url: str) -> bool:
    host = urlparse(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
