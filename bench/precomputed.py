"""precomputed: two ways to find more of a prompt's keys and values stored, and what each does to the answers.

- Documents precomputed: the keys and values of each passage are computed once, alone behind the prompt's beginning, as they could
  be when it is indexed. A prompt takes them one behind another, with keys turned to their new positions (RoPE; TurboRAG,
  arXiv:2410.07590; MatKV, arXiv:2512.22195), and computes only its question. Passages then do not read each other.
- Passages in an order that different questions share: by document, or the most often retrieved first, instead of best first.

The packaged generator reads prompts with the questions of a folder with `docs/` and `questions.jsonl`. Passages are paragraphs of
the documents, chosen by the packaged embedder. What a way does to answers is the change of the mean log-probability of the right
answer's tokens, with a 95 % interval, and whether the first token is the same. All ways take turns with each question.

`python -m bench.precomputed [FOLDER] [--minutes N]`
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.core.statistics import interval, percentile
from headrace.models.kv.format import BLOCK

if TYPE_CHECKING:
    import torch

    from headrace.models.server.generator import SmolLM

_PASSAGES, _CHARACTERS = 3, 600
_SEED = 17
_MARK = "\x00"


def measure(folder: Path, minutes: float = 15.0) -> dict[str, Any]:
    """No bound: what pays is kept, and docs/kv-cache.md says what did not."""
    from headrace.models.server import generator

    with tempfile.TemporaryDirectory() as scratch:
        model = generator.load(Path(scratch))
        prompts = _prompts(folder, model)
        stored = _Precomputed(model, prompts, Path(scratch))
        rows: list[dict[str, Any]] = []
        began = time.monotonic()
        for asked in prompts.questions:
            if time.monotonic() - began > 60 * minutes:
                break
            rows.append(_row(model, prompts, stored, asked))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"model": model.version, "folder": folder.name, "questions": len(rows), **_summary(rows, prompts, stored)}


@dataclass(frozen=True)
class _Asked:
    text: str
    answer: list[int]
    """The token ids of the right answer."""
    best: list[int]
    """Its passages, the best first."""


@dataclass(frozen=True)
class _Prompts:
    """Passages as token ids with a blank line behind each, the prompt's beginning, and the questions in the order of asking."""

    head: list[int]
    passages: list[list[int]]
    questions: list[_Asked]
    ends: dict[str, list[int]]
    """Question → the token ids of what is behind the passages."""
    rank: dict[int, int]
    """Passage → its place among those retrieved most often."""

    def ordered(self, asked: _Asked, order: str) -> list[int]:
        if order == "by document":
            return sorted(asked.best)
        return sorted(asked.best, key=self.rank.__getitem__) if order == "most retrieved first" else asked.best

    def tokens(self, asked: _Asked, order: str) -> list[int]:
        return [*self.head, *(token for at in self.ordered(asked, order) for token in self.passages[at]), *self.ends[asked.text]]


ORDERS = ("best first", "by document", "most retrieved first")
WAYS = ("best first", "most retrieved first", "precomputed")
"""What prompts are read with; of the other order only hits are counted."""


def _prompts(folder: Path, model: SmolLM) -> _Prompts:
    from headrace.models.prompt import messages
    from headrace.models.server.encoders import MiniLM

    texts: list[str] = []
    for path in sorted((folder / "docs").rglob("*")):
        if path.is_file():
            texts.extend(_paragraphs(path.read_text(errors="replace")))
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["answers"] and not any(isinstance(one, list) for one in row["answers"])]
    random.Random(_SEED).shuffle(rows)
    embedder = MiniLM()

    def embedded(some: Sequence[str]) -> np.ndarray:
        return np.vstack([embedder.embed([piece]) for piece in embedder.word_pieces(some, "END")])

    scores = embedded([row["text"] for row in rows]) @ embedded(texts).T
    best = [[int(at) for at in np.argsort(-own)[:_PASSAGES]] for own in scores]

    def encoded(text: str) -> list[int]:
        ids: list[int] = model._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    questions = [_Asked(row["text"], encoded(row["answers"][0]), own) for row, own in zip(rows, best, strict=True)]

    def framed(question: str) -> tuple[str, str]:
        chat = messages(question, [_MARK])
        whole = model._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        before, _, behind = whole.partition(f"{_MARK}\n\n")
        return before, behind

    counted = Counter(at for own in best for at in own)
    return _Prompts(
        encoded(framed("")[0]),
        [encoded(f"{text}\n\n") for text in texts],
        questions,
        {one.text: encoded(framed(one.text)[1]) for one in questions},
        {at: place for place, (at, _) in enumerate(counted.most_common())},
    )


def _paragraphs(text: str) -> list[str]:
    """Paragraphs, joined up to so many characters."""
    found: list[str] = []
    for part in filter(None, map(str.strip, text.split("\n\n"))):
        if found and len(found[-1]) + len(part) < _CHARACTERS:
            found[-1] += f"\n{part}"
        else:
            found.append(part)
    return found


class _Precomputed:
    """Keys and values of each passage in a file of its own, (layers, 2, heads, tokens, width) in two bytes."""

    def __init__(self, model: SmolLM, prompts: _Prompts, folder: Path) -> None:
        import torch

        self._model, self._prompts, self._folder = model, prompts, folder
        self.bytes = self.tokens = 0
        began = time.process_time()
        with torch.inference_mode():
            self.head = _computed(model, prompts.head)
            for at in sorted({at for one in prompts.questions for at in one.best}):
                ids = prompts.passages[at]
                values = _computed(model, [*prompts.head, *ids])[..., len(prompts.head) :, :].to(torch.float16).numpy()
                np.save(folder / f"{at}.npy", values)
                self.bytes, self.tokens = self.bytes + values.nbytes, self.tokens + len(ids)
        self.cpu_s = time.process_time() - began
        rotary = model._model.model.rotary_emb
        self._frequencies = rotary.inv_freq.float()

    def joined(self, passages: Sequence[int]) -> torch.Tensor:
        """The beginning's and the passages' keys and values, one behind another, keys turned to where they are now."""
        import torch

        parts, at = [self.head], len(self._prompts.head)
        for one in passages:
            part = torch.from_numpy(np.load(self._folder / f"{one}.npy")).float()
            angle = (at - len(self._prompts.head)) * self._frequencies
            cosine, sine = torch.cat([angle.cos()] * 2), torch.cat([angle.sin()] * 2)
            keys = part[:, 0]
            half = keys.shape[-1] // 2
            turned = torch.cat([-keys[..., half:], keys[..., :half]], dim=-1)
            part[:, 0] = keys * cosine + turned * sine
            parts.append(part)
            at += part.shape[-2]
        return torch.cat(parts, dim=-2)


def _computed(model: SmolLM, tokens: Sequence[int]) -> torch.Tensor:
    import torch
    from transformers import DynamicCache

    past = DynamicCache()
    model._model(torch.tensor([list(tokens)]), past_key_values=past, use_cache=True, logits_to_keep=1)
    return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in past.layers])


def _read(
    model: SmolLM, tokens: Sequence[int], answer: Sequence[int], known: torch.Tensor | None
) -> tuple[float, np.ndarray, float]:
    """Read a prompt of which keys and values of the first tokens may be `known`.

    Returns when its first word could be chosen, that word's log-probabilities, and the mean of those of the answer's tokens.
    """
    import torch
    from transformers import DynamicCache

    with torch.inference_mode():
        past, start = DynamicCache(), 0
        if known is not None:
            start = known.shape[-2]
            for at, layer in enumerate(known):
                past.update(layer[None, 0], layer[None, 1], at)
        logits = model._model(
            torch.tensor([list(tokens[start:])]), past_key_values=past, use_cache=True, logits_to_keep=1
        ).logits[0]
        done = time.perf_counter()
        behind = model._model(torch.tensor([list(answer)]), past_key_values=past, use_cache=True).logits[0, :-1]
        chances = torch.log_softmax(torch.cat([logits, behind]), -1)
        likelihood = float(chances[torch.arange(len(answer)), torch.tensor(answer)].mean())
    return done, chances[0].numpy(), likelihood


def _row(model: SmolLM, prompts: _Prompts, stored: _Precomputed, asked: _Asked) -> dict[str, Any]:
    row: dict[str, Any] = {"question": asked.text, "tokens": len(prompts.tokens(asked, "best first"))}
    first: dict[str, np.ndarray] = {}
    for way in WAYS:
        order = way if way in ORDERS else "best first"
        tokens = prompts.tokens(asked, order)
        began, cpu = time.perf_counter(), time.thread_time()
        values = stored.joined(prompts.ordered(asked, order)) if way == "precomputed" else None
        loaded = time.perf_counter()
        done, first[way], likelihood = _read(model, tokens, asked.answer, values)
        row[way] = {
            "first_token_s": round(done - began, 4),
            "load_s": round(loaded - began, 4),
            "cpu_s": round(time.thread_time() - cpu, 4),
            "likelihood": round(likelihood, 4),
            "same_first_token": float(first[way].argmax() == first["best first"].argmax()),
            "divergence": round(float((np.exp(first["best first"]) * (first["best first"] - first[way])).sum()), 4),
        }
    return row


def _hits(prompts: _Prompts, order: str) -> float:
    """The share of the prompts' tokens in whole blocks that earlier prompts have, each asked once, without a bound."""
    seen: set[tuple[int, ...]] = set()
    found = every = 0
    for asked in prompts.questions:
        tokens = prompts.tokens(asked, order)
        every += len(tokens)
        hit = True
        for end in range(BLOCK, len(tokens), BLOCK):
            prefix = tuple(tokens[:end])
            hit = hit and prefix in seen
            found += BLOCK * hit
            seen.add(prefix)
    return round(found / every, 4)


def _summary(rows: Sequence[dict[str, Any]], prompts: _Prompts, stored: _Precomputed) -> dict[str, Any]:
    def of(way: str, what: str) -> list[float]:
        return [row[way][what] for row in rows]

    def lost(way: str) -> dict[str, float]:
        pairs = zip(of(way, "likelihood"), of("best first", "likelihood"), strict=True)
        found = interval([one - other for one, other in pairs], _SEED)
        return {"mean": found.mean, "low": found.low, "high": found.high}

    return {
        "prompt_tokens_p50": percentile([row["tokens"] for row in rows], 0.5),
        "precomputed": {
            "passages": len({at for one in prompts.questions for at in one.best}),
            "tokens": stored.tokens,
            "bytes": stored.bytes,
            "bytes_of_embeddings": 4 * 384 * len({at for one in prompts.questions for at in one.best}),
            "cpu_s": round(stored.cpu_s, 1),
        },
        "ways": {
            way: {
                "first_token_s_p50": percentile(of(way, "first_token_s"), 0.5),
                "load_s_p50": percentile(of(way, "load_s"), 0.5),
                "cpu_s_p50": percentile(of(way, "cpu_s"), 0.5),
                "likelihood": interval(of(way, "likelihood"), _SEED).mean,
                "likelihood_change": lost(way),
                "same_first_token": interval(of(way, "same_first_token"), _SEED).mean,
                "divergence_p50": percentile(of(way, "divergence"), 0.5),
            }
            for way in WAYS
        },
        "token_hit_rate": {order: _hits(prompts, order) for order in ORDERS},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.precomputed", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "town")
    parser.add_argument("--minutes", type=float, default=15.0)
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.folder, chosen.minutes), indent=1))
