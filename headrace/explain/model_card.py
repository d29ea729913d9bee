"""The card of a released model: what it is, learned from, scored, and is good for; as JSON and as Markdown.

Sections follow Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv 1810.03993); the Markdown begins with the metadata
that model hubs read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from headrace.explain.diagram.format import human_bytes
from headrace.explain.diagram.markdown import plain
from headrace.models.pointer import ChampionPointer
from headrace.training.manifest import Manifest

_USES = {
    "ranking": "Orders the passages that a search retrieved, by a weighted sum of what retrieval knew of them.",
    "reranker": "Scores pairs of question and passage, to order what a search retrieved.",
    "embedder": "Turns questions and passages into vectors that are near where they belong together.",
    "generator": "Writes answers from a question and its passages; an adapter on the packaged generator.",
}
_LIMITS = (
    "It learned from verdicts on this installation's documents and was compared on questions held out from the same verdicts:"
    " on other documents it may be worse than what it replaced.",
    "The interval of its gain is of these questions and users; it does not cover that they change.",
)


def model_card(card: Mapping[str, Any], manifest: Manifest, pointer: ChampionPointer) -> dict[str, Any]:
    """The card of a released version, from its files, the round that made it, and the pointer; JSON-ready."""
    evaluation = manifest.evaluation.model_dump()
    return {
        "model": manifest.model,
        "version": card["version"],
        "released": manifest.committed,
        "round": manifest.round,
        "recipe": manifest.recipe,
        "recipe_settings": manifest.recipe_settings,
        "started_from": manifest.start or "the packaged weights",
        "use": _USES[manifest.model],
        "share_of_answers": pointer.share(card["version"]),
        "data": {
            "dataset": manifest.dataset.version,
            "snapshots": manifest.snapshots,
            **{
                name: value
                for name, value in (manifest.dataset.model_extra or {}).items()
                if name in ("examples", "questions", "left_out")
            },
            "newest_verdict": manifest.newest_verdict,
        },
        "training": {
            name: value
            for name, value in {**manifest.training.model_dump(), **(manifest.training.model_extra or {})}.items()
            if isinstance(value, int | float | str)
        },
        "evaluation": {name: value for name, value in evaluation.items() if isinstance(value, int | float | str)},
        "decision": manifest.decision.model_dump(),
        "seconds": manifest.timings,
        "limits": list(_LIMITS),
        "files": card["files"],
    }


def card_markdown(card: Mapping[str, Any]) -> str:
    """A `model_card` as Markdown."""
    evaluation, decision = card["evaluation"], card["decision"]
    why = decision["why"]
    lines = [
        "---",
        "library_name: headrace",
        f"tags: {json.dumps(list(dict.fromkeys(['headrace', card['model'], card['recipe']])))}",
        "---",
        "",
        f"# {plain(card['model'])} {plain(card['version'])}",
        "",
        plain(card["use"]),
        "",
        f"Released {card['released'][:10]} by round {card['round']} with recipe {plain(card['recipe'])}, from"
        f" {plain(card['started_from'])}. It gives {card['share_of_answers']:.0%} of the answers now.",
        "",
        "## Evaluation",
        "",
        f"{plain(str(evaluation['measure']))} on {evaluation['questions']:,} held-out questions: champion"
        f" {evaluation['champion']:.4f}, this version {evaluation['challenger']:.4f}. {plain(why[:1].upper() + why[1:])}.",
        "",
        *(f"- alarm: {plain(alarm)}" for alarm in decision["alarms"]),
        *([""] if decision["alarms"] else []),
    ]
    for title, rows in (
        ("Training data", card["data"]),
        ("Training", card["training"]),
        ("Figures of the evaluation", evaluation),
        ("Settings of the recipe", card["recipe_settings"]),
        ("Seconds of the round", card["seconds"]),
    ):
        lines += [
            f"## {title}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {plain(name)} | {_cell(value)} |" for name, value in rows.items()),
            "",
        ]
    lines += ["## Limits", "", *(f"- {plain(one)}" for one in card["limits"]), "", "## Files", "", "| file | bytes | SHA-256 |"]
    lines += ["|---|---:|---|"]
    lines += [f"| {plain(file['name'])} | {human_bytes(file['bytes'])} | {file['sha256']} |" for file in card["files"]]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return plain(value if isinstance(value, str) else json.dumps(value))
