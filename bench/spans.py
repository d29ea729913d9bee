"""spans: fit the weights of short answers, and measure them on articles they were not fitted on.

`python -m bench.spans DIR... [--half dev] [--heads N] [-o FILE]`: folders as of `bench.reader`. For each question, the
candidates of every sentence that holds the answer, of the three that the rule for quotes puts first, are labelled with SQuAD's F1
to the accepted answers. Weights maximise the log-likelihood, under softmax over a sentence's candidates, of F1 to the power of
`_POWER` (which is nearly exact match), with an L2 penalty. Prints, cross-fitted over documents, how often a short answer is shown
at several shares, how often it is right, and how often it is wrong though its sentence is right; before that, the F1 of the best
candidate of every first sentence (`best_candidate`) and of the whole sentence. `-o` writes the weights fitted on all.

`--heads N` adds, to see what a reader could gain, two features of each of N attention heads of the embedded generator: how much
of a sentence the last token of "Text: … Question: … Answer:" attends to in a candidate. The heads are those whose favourite
candidate is best on the articles that the weights are fitted on. Nothing of it is shipped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

from bench.reader import Asked as Question
from bench.reader import beir_questions, folder_questions, holds
from headrace.app import App
from headrace.models.asked import Asked, asked_of
from headrace.models.client import Embedder
from headrace.models.extract import WEIGHTS, features, shortlist, to_read
from headrace.models.measures import f1
from headrace.models.question_parts import parts
from headrace.models.question_words import word_weights
from headrace.models.quotable import Quote, SourceText, quotes
from headrace.models.spans import Tokens, candidates, nested
from headrace.models.spans import features as span_features
from headrace.settings import Settings

_SENTENCES = 3
_POWER, _L2, _LEAST_SCALE, _LEAST_WEIGHT = 4.0, 10.0, 0.1, 0.02
_FOLDS = 4
_HEAD = "head_"
_SHARES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sentence:
    """A quoted sentence's candidates: features by name, F1 of each, and their places. `right`: it holds the answer."""

    question: str
    text: str
    group: str
    first: bool
    right: bool
    values: Mapping[str, Vector]
    f1s: Vector
    whole_f1: float
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


def sentence_of(
    question: str, asked: Asked, quote: Quote, known: Sequence[str], group: str, *, first: bool, right: bool
) -> Sentence | None:
    """The candidates of one quote, labelled; `None` if it has none."""
    tokens = Tokens(quote.said)
    starts, ends = candidates(asked, tokens)
    if not len(starts):
        return None
    texts = [quote.said[tokens.spans[a][0] : tokens.spans[b][1]] for a, b in zip(starts, ends, strict=True)]
    f1s = np.array([max(f1(text, answer) for answer in known) if right else 0.0 for text in texts])
    whole = max(f1(quote.said, answer) for answer in known)
    return Sentence(
        question, quote.said, group, first, right, span_features(asked, tokens, starts, ends), f1s, whole, starts, ends
    )


def fit(sentences: Sequence[Sentence], names: Sequence[str]) -> dict[str, float]:
    """The weights under which the right candidates of sentences that hold an answer come first."""
    known = [one for one in sentences if one.f1s.max() > 0]
    rows = np.concatenate([_matrix(one, names) for one in known])
    scales = np.maximum(rows.std(0), _LEAST_SCALE)
    matrix = csr_matrix(rows / scales)
    transposed = matrix.T.tocsr()
    lengths = np.array([len(one.f1s) for one in known])
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    right = np.concatenate([one.f1s for one in known]) ** _POWER

    def loss(weights: Vector) -> tuple[float, Vector]:
        scores = matrix @ weights
        likely = np.exp(scores - np.repeat(np.maximum.reduceat(scores, begins), lengths))
        likely /= np.repeat(np.add.reduceat(likely, begins), lengths)
        hit = np.add.reduceat(likely * right, begins) + 1e-9
        slope = 2 * _L2 * weights - transposed @ (likely * right / np.repeat(hit, lengths) - likely)
        return float(_L2 * weights @ weights - np.log(hit).sum()), slope

    fitted = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B", options={"maxiter": 80}).x / scales
    return {name: round(float(weight), 3) for name, weight in zip(names, fitted, strict=True)}


def cross_fitted(sentences: Sequence[Sentence], names: Sequence[str], heads: int) -> list[dict[str, float]]:
    """What `short_answer` would say of each question's first sentence, with weights fitted without its document."""
    plain = [name for name in names if not name.startswith(_HEAD)]
    groups = sorted({one.group for one in sentences})
    said = []
    for fold in range(_FOLDS):
        held = set(groups[fold::_FOLDS])
        others = [one for one in sentences if one.group not in held]
        used = [*plain, *_best_heads(others, [name for name in names if name.startswith(_HEAD)], heads)]
        weights = fit(others, used)
        said += [_said(one, weights, used) for one in sentences if one.group in held and one.first]
    return said


def with_attention(sentences: Sequence[Sentence]) -> list[Sentence]:
    """The sentences with two features of each attention head of the embedded generator."""
    import torch

    from headrace.models.server.generator import packaged

    model, tokenizer, _ = packaged(None)
    model.set_attn_implementation("eager")
    found, started = [], time.process_time()
    for one in sentences:
        begin = "<|im_start|>user\nAnswer in a few words of the text.\nText: "
        text = f"{begin}{one.text}\nQuestion: {one.question}<|im_end|>\n<|im_start|>assistant\nAnswer:"
        read = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        with torch.inference_mode():
            layers = model(read["input_ids"], output_attentions=True).attentions
        heads = torch.stack([layer[0, :, -1] for layer in layers])  # layers, heads, tokens
        offsets = read["offset_mapping"][0].numpy() - len(begin)
        words = Tokens(one.text).spans
        inside = np.array([[first < end and last > start for first, last in offsets] for start, end in words], np.float64)
        attended = heads.flatten(0, 1).numpy() @ inside.T
        attended /= attended.sum(1, keepdims=True) + 1e-9
        sums = np.concatenate([np.zeros((len(attended), 1)), np.cumsum(attended, 1)], 1)
        within = sums[:, one.ends + 1] - sums[:, one.starts]
        mean = within / np.sqrt(one.ends - one.starts + 1)
        named = {f"{_HEAD}{number}": row.astype(np.float32) for number, row in enumerate(mean)}
        named |= {f"{_HEAD}{number}_sum": row.astype(np.float32) for number, row in enumerate(within)}
        found.append(replace(one, values={**one.values, **named}))
    print(json.dumps({"attention_ms_of_processor_time": round(1e3 * (time.process_time() - started) / len(sentences))}))
    return found


def _best_heads(sentences: Sequence[Sentence], names: Sequence[str], heads: int) -> list[str]:
    """The features of the heads whose favourite candidate has the highest mean F1, of sentences that hold the answer."""
    known = [one for one in sentences if one.f1s.max() > 0]
    first = [name for name in names if not name.endswith("_sum")]
    best = sorted(first, key=lambda name: -_mean([one.f1s[int(one.values[name].argmax())] for one in known]))[:heads]
    return [*best, *(f"{name}_sum" for name in best)]


def _said(one: Sentence, weights: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    scores = _matrix(one, names) @ np.array([weights[name] for name in names])
    best, share = nested(scores, one.starts, one.ends)
    return {"share": share, "f1": float(one.f1s[best]), "right": float(one.right), "whole": one.whole_f1 if one.right else 0.0}


def curve(said: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """At each share: how many are shown, and of these how many are right, or wrong though the sentence is right."""
    rows = []
    for least in _SHARES:
        shown = [one for one in said if one["share"] >= least]
        rows.append(
            {
                "share": least,
                "shown": len(shown) / len(said),
                "exact": _mean([one["f1"] == 1 for one in shown]),
                "overlaps": _mean([one["f1"] > 0 for one in shown]),
                "sentence_right": _mean([one["right"] for one in shown]),
                "wrong_though_sentence_right": _mean([one["f1"] == 0 and one["right"] for one in shown]),
                "f1_of_all": _mean([one["f1"] if one["share"] >= least else one["whole"] for one in said]),
            }
        )
    return [{name: round(value, 3) for name, value in row.items()} for row in rows]


def names_of(sentences: Sequence[Sentence]) -> list[str]:
    """Every feature that a candidate has."""
    return sorted({name for one in sentences for name in one.values})


def _matrix(one: Sentence, names: Sequence[str]) -> Vector:
    none = np.zeros(len(one.f1s))
    return np.column_stack([one.values.get(name, none) for name in names])


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def sentences_of(app: App, asked: Sequence[Question], tenant: str, name_of: Mapping[str, str]) -> list[Sentence]:
    """The first sentences of each question that has an answer, through the service's retrieval."""
    found: list[Sentence] = []
    with Embedder(app.runner.endpoints.embedder) as embedder:
        for one in app.runner.bars.track(asked, "read", total=len(asked), of="questions"):
            if not one.answers:
                continue
            passages = app.answers.search(one.text, tenant=tenant, user="bench", record=False).passages
            sources = [
                SourceText(hit.text, hit.uri, hit.similarity, hit.heading) for hit in (passage.hit for passage in passages)
            ]
            documents = [name_of.get(passage.hit.uri, passage.hit.uri) for passage in passages]
            part = parts(one.text)[0]
            short = shortlist(part, sources, quotes(sources, to_read(one.text, sources)))
            vectors = embedder.embed([part, *(quote.said for quote in short)], kind="passage")
            found += labelled(one, sources, documents, short, list(vectors[1:] @ vectors[0]))
    return found


def labelled(
    one: Question, sources: Sequence[SourceText], documents: Sequence[str], short: Sequence[Quote], near: Sequence[float]
) -> list[Sentence]:
    """A question's best quotes with their candidates."""
    part = parts(one.text)[0]
    scores = features(part, sources, short, near) @ np.array(list(WEIGHTS.values()))
    asked = asked_of(part, word_weights(part, sources))
    found = []
    for rank, index in enumerate(np.argsort(-scores, kind="stable")[:_SENTENCES]):
        quote = short[index]
        if quote.text.startswith("|"):
            continue
        right = holds(quote.said, one.answers[0]) and documents[quote.source] in one.documents
        group = min(one.documents).partition("#")[0]
        sentence = sentence_of(part, asked, quote, one.answers[0], group, first=rank == 0, right=right)
        if sentence is not None:
            found.append(sentence)
    return found


def main() -> None:
    """Fit, measure cross-fitted, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.spans", description=__doc__)
    parser.add_argument("dirs", type=Path, nargs="+")
    parser.add_argument("--half", choices=("dev", "judge"))
    parser.add_argument("--heads", type=int, default=0)
    parser.add_argument("-o", dest="file", type=Path)
    given = parser.parse_args()
    sentences: list[Sentence] = []
    for folder in given.dirs:
        with tempfile.TemporaryDirectory() as scratch, App(Settings.load(home=Path(scratch) / "home"), "bench") as app:
            if (folder / "questions.jsonl").is_file():
                sentences += sentences_of(app, *folder_questions(app, folder, given.half))
            else:
                sentences += sentences_of(app, *beir_questions(app, folder, given.half, Path(scratch)))
    first = [one for one in sentences if one.first]
    best = {"sentence_right": [one.right for one in first], "best_candidate": [one.f1s.max() for one in first]}
    best["whole_sentence"] = [one.whole_f1 if one.right else 0.0 for one in first]
    print(json.dumps({"sentences": len(first), **{name: round(_mean(values), 3) for name, values in best.items()}}))
    if given.heads:
        sentences = with_attention(sentences)
    names = names_of(sentences)
    print(json.dumps(curve(cross_fitted(sentences, names, given.heads)), indent=2))
    if given.file and not given.heads:
        given.file.write_text(json.dumps(shipped(fit(sentences, names)), indent=1) + "\n")


def shipped(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights that count."""
    return {name: weight for name, weight in weights.items() if abs(weight) >= _LEAST_WEIGHT}


if __name__ == "__main__":
    main()
