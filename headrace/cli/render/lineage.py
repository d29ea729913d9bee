"""Lineage as a tree on the terminal. Long lists are counted and cut to the first few; `--json` has all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from headrace.models import EMBEDDER, GENERATOR, RANKING, RERANKER

_FIRST = 3
_WORDS = 60  # characters of a question or a reason
_PACKAGED = {
    RERANKER: "none",
    RANKING: "none: retrieval's own order, or the re-ranker's",
    GENERATOR: "the packaged generator",
    EMBEDDER: "the packaged embedder",
}
_ROLE = {RERANKER: "re-ranker", RANKING: "ranking", GENERATOR: "generator", EMBEDDER: "embedder"}


def answer_tree(trace: Mapping[str, Any]) -> Tree:
    """An answer, its passages and verdicts, and each model involved, down to the verdicts it learned from."""
    answer = trace["answer"]
    tree = Tree(_line(f"answer {answer['answer_id']}", f"{answer['event']} · {answer['at'][:19]} · {answer['tenant']}"))
    tree.add(_line("question", _short(answer["question"])))
    _listed(
        tree.add(_line(_count(trace["passages"], "passage"), f"of index {trace['index']['version']}")),
        trace["passages"],
        _passage,
    )
    _listed(tree.add(_line(f"{_count(trace['verdicts'], 'verdict')} on it")), trace["verdicts"], _verdict_line)
    for model in trace["models"]:
        _model(tree, model)
    return tree


def event_tree(trace: Mapping[str, Any]) -> Tree:
    """An event and the examples, datasets, rounds and models that used it."""
    event = trace["event"]
    about = [event["status"], event.get("tenant"), event.get("user") or event.get("uri"), (event.get("at") or "")[:19]]
    tree = Tree(_line(event["event"], " · ".join(filter(None, about))))
    for suppression in event["suppressions"]:
        tree.add(
            _line("forgotten", f"{suppression['kind']} {suppression['name']}, {suppression['at'][:19]} by {suppression['who']}")
        )
    if question := event.get("question") or event.get("reason"):
        tree.add(_line("question" if event.get("question") else "reason", _short(question)))
    if "up" in event:
        tree.add(_line("verdict", f"{'up' if event['up'] else 'down'} on answer {event['answer_id']}"))
    examples = tree.add(_line(_count(trace["examples"], "example"), _splits(trace["examples"])))
    _listed(examples, trace["examples"], lambda one: f"{one['split']} {one['label']:.0f}  {_short(one['question'])}")
    datasets = tree.add(_line(_count(trace["datasets"], "dataset")))
    _listed(datasets, trace["datasets"], lambda one: f"{one['dataset']}: {_counts(one['examples'])}")
    rounds = tree.add(_line(_count(trace["rounds"], "round")))
    _listed(rounds, trace["rounds"], _round_line)
    models = tree.add(_line(f"learned from it: {_count(trace['models'], 'model')}"))
    _listed(models, trace["models"], _learner, most=len(trace["models"]))
    if trace["models"]:
        tree.add(_line("to train without it and later events", trace["retrain"]))
    return tree


def _model(tree: Tree, model: Mapping[str, Any]) -> None:
    role, version, made_by = _ROLE[model["model"]], model["version"], model["round"]
    if made_by is None:
        unknown = "from an index generation since removed" if version == "" else version
        tree.add(_line(role, _PACKAGED[model["model"]] if version == "none" else unknown))
        return
    share = f", answers {model['share']:.0%} now" if model["served"] else ", not served now"
    node = tree.add(_line(f"{role} {version}", f"made by round {made_by['round']}, recipe {made_by['recipe']}{share}"))
    node.add(_line("manifest", f"{made_by['key']}, committed {(made_by['committed'] or '')[:19]}"))
    dataset = node.add(_line(f"dataset {model['dataset']['version']}", _count(model["dataset"]["files"], "file")))
    _listed(dataset, model["dataset"]["files"], lambda file: f"{file['key'].partition('/')[2]}  sha256 {file['sha256'][:16]}…")
    gone = f"{model['dataset']['forgotten']:,} forgotten since" if model["dataset"]["forgotten"] else ""
    about = ", ".join(filter(None, (_splits(model["examples"]), gone)))
    examples = dataset.add(_line(_count(model["examples"], "example"), about))
    _listed(examples, model["examples"], lambda one: f"{one['split']}: {', '.join(one['origins'][:3])}")
    _listed(node.add(_line(f"{_count(model['verdicts'], 'verdict')} behind it")), model["verdicts"], _verdict_line)
    if model["parent"] is not None:
        _model(node.add(_line("began from")), model["parent"])
    elif model["began_from"] is not None:
        node.add(_line("began from", f"{model['began_from']}, and so on"))


def _listed(node: Tree, items: Sequence[Any], line: Callable[[Any], str], *, most: int = _FIRST) -> None:
    for item in items[:most]:
        node.add(Text(line(item)))
    if len(items) > most:
        node.add(Text(f"… and {len(items) - most:,} more", style="dim"))


def _line(name: str, about: str = "") -> Text:
    return Text.assemble((name, "bold"), f"  {about}" if about else "")


def _passage(passage: Mapping[str, Any]) -> str:
    of = "no longer in the tables" if passage.get("gone") else f"version {passage['version'][:12]}, {passage['event']}"
    return f"{passage['document']}{' (cited)' if passage['cited'] else ''}: {of}"


def _verdict_line(verdict: Mapping[str, Any]) -> str:
    if "gone" in verdict:
        return f"{verdict['event']}: {verdict['gone']}"
    texts = {"reason": _short(verdict["reason"]), "correction": _short(verdict["correction"])}
    words = "".join(f", {name}: {text}" for name, text in texts.items() if text)
    return f"{verdict['event']}: {'up' if verdict['up'] else 'down'} by {verdict['user']}{words}"


def _round_line(entry: Mapping[str, Any]) -> str:
    outcome = f"released {entry['version']}" if entry["version"] else "released nothing"
    return f"round {entry['round']} ({entry['recipe']}), {(entry['committed'] or '')[:19]}: {outcome}"


def _learner(model: Mapping[str, Any]) -> str:
    how = f"began from {model['began_from']}" if model["dataset"] is None else f"round {model['round']}"
    now = f"answers {model['share']:.0%} now" if model["served"] else "not served now"
    return f"{_ROLE[model['model']]} {model['version']} ({how}): {now}, gave {model['answers']:,} answers"


def _count(items: Sequence[Any], noun: str) -> str:
    return f"{len(items):,} {noun}{'' if len(items) == 1 else 's'}"


def _splits(examples: Iterable[Mapping[str, Any]]) -> str:
    return _counts(Counter(example["split"] for example in examples))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in sorted(counts.items()))


def _short(text: str | None) -> str:
    flat = " ".join((text or "").split())
    return flat if len(flat) <= _WORDS else flat[: _WORDS - 1] + "…"
