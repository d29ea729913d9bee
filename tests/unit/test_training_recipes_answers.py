"""How a generator's challenger is held against its champion: held-out questions, greedy answers, measures."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny import bigram, random_llama, row

from headrace.core.progress import ProgressBars
from headrace.models.cards import CARDS
from headrace.models.measures import groundedness, repetition, unmarked
from headrace.training import causal
from headrace.training.measures.answers import compare, held_out, measure
from headrace.training.recipes.sft import Sft
from headrace.training.served_order import ServedOrder


def test_texts_measured_by_hand() -> None:
    # Runs of three: (a b c) (b c a) (c a b) (a b c): one of four was there before.
    assert repetition("a b c a b c") == pytest.approx(1 / 4)
    assert repetition("a b") == 0.0
    assert repetition("no no no no no") == pytest.approx(2 / 3)
    assert groundedness("The sky is blue. Bananas ripen quickly.", ["The sky is blue."]) == 0.5
    assert groundedness("", ["The sky is blue."]) is None
    assert unmarked("Blue. [1] Red [2]") == "Blue. Red"


def test_questions_are_asked_once_with_all_that_is_known() -> None:
    rows = [
        row(users=["ada"]),
        row(label=0.0, answer="red", target="azure", users=["bob"]),
        row(question="which", target=None, label=0.0),
        row(tenant="zeta", users=["cid"]),
        {**row(question="x"), "kind": "passage"},
    ]
    asked = held_out(rows, 30)
    assert [(one.tenant, one.known, one.users) for one in asked] == [
        ("acme", ("blue", "azure"), ("ada", "bob")),
        ("zeta", ("blue",), ("cid",)),
    ]
    many = held_out([row(question=f"q{i:02}") for i in range(20)], 5)
    assert [one.question for one in many] == ["q00", "q04", "q08", "q12", "q16"]


# The last word of a prompt is "assistant": what follows is said, whatever was asked.
SAYS = {"assistant": {"blue": 1.0}, "blue": {"blue": 1.0}}


def test_answers_are_measured(tmp_path: Path) -> None:
    model, tokenizer = causal.merged(bigram(tmp_path, SAYS), None)
    # "blue blue blue blue blue" against "blue": one word in common, of five and one: 2·1/6.
    # Runs of three words: three times the same one, two of them were there before.
    asked = held_out([row(), row(question="other", target="the blue blue blue blue blue", label=0.0)], 9)
    other, sky = measure(model, tokenizer, asked, most_tokens=5)
    assert sky["answer"] == other["answer"] == "blue blue blue blue blue"
    assert sky["score"] == sky["f1"] == pytest.approx(1 / 3)
    assert (sky["em"], other["em"], other["f1"]) == (0.0, 1.0, 1.0)  # SQuAD's normalisation drops "the"
    assert (sky["tokens"], sky["wanted"], other["wanted"]) == (5, 1, 6)
    assert sky["repetition"] == pytest.approx(2 / 3)
    assert (sky["groundedness"], sky["refused"]) == (1.0, 0.0)
    assert (sky["question"], sky["tenant"], sky["users"]) == ("which colour is the sky", "acme", ["ada"])


def test_a_challenger_is_held_against_the_base_question_by_question(tmp_path: Path) -> None:
    base = random_llama(tmp_path / "base")
    recipe = Sft(base)
    settings = recipe.settings({"rank": 4, "alpha": 8, "answer_tokens": 3, "max_tokens": 64, "held_out": 30})
    policy = recipe.fresh(None, settings, 1)
    rows = [row(question=f"which colour is it {'the ' * i}".strip(), users=[f"u{i}"]) for i in range(3)]
    items = recipe.items(rows, settings)
    optimizer = torch.optim.AdamW([p for p in policy.model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(12):
        loss, _figures = recipe.loss(policy, items, settings, 0)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    recipe.save(policy, tmp_path / "challenger")
    bars = ProgressBars(Console(file=io.StringIO()))
    found = compare(tmp_path / "challenger", None, {}, ServedOrder(), [], rows, settings, bars, base=base)
    released = {"version": "v000001", "round": 1, "files": [{"name": "weights", "bytes": 1, "sha256": "0" * 64}]}
    CARDS["generator"].model_validate(released | found.card)
    assert found.card == {"form": "lora"}, "the model server takes nothing for granted"
    assert found.measure == "F1"
    assert [one["score"] for one in found.ours] == [1.0] * 3
    assert [one["score"] for one in found.theirs] == [0.0] * 3
    assert [(a["question"], a["users"]) for a in found.ours] == [(b["question"], b["users"]) for b in found.theirs]
    again = compare(tmp_path / "challenger", tmp_path / "challenger", {}, ServedOrder(), [], rows, settings, bars, base=base)
    assert again.ours == again.theirs == found.ours
