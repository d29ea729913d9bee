"""The re-ranker's recipe, the default one: what is learned from, and the loss on a case worked by hand."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from headrace.errors import BadSettings
from headrace.training.recipe import Policy
from headrace.training.recipes import RECIPES
from headrace.training.recipes.reranker import RerankerRecipe, RerankerSettings

RECIPE = RerankerRecipe()


def settings(**given: Any) -> RerankerSettings:
    found = RECIPE.settings({"exact": True, **given})
    assert isinstance(found, RerankerSettings)
    return found


def verdict(question: str, passage: str, label: float, rank: int, tenant: str = "acme", **more: Any) -> dict[str, Any]:
    return {
        "example_id": f"{question}/{passage}",
        "kind": "passage",
        "tenant": tenant,
        "question": question,
        "passage": passage,
        "label": label,
        "retrieval_rank": rank,
        **more,
    }


def test_the_settings_fit_on_a_screen_and_bad_ones_are_refused() -> None:
    lines = (Path(__file__).parents[2] / "headrace/training/recipes/reranker.toml").read_text().splitlines()
    assert len(lines) <= 20
    assert all("#" in line for line in lines)
    assert settings().negatives == 3
    with pytest.raises(BadSettings, match=r"training\.recipe\.reranker\.negatives"):
        settings(negatives=0)
    assert RECIPES["reranker"].model == "reranker"


def test_a_question_is_learned_from_once_with_its_best_liked_passage_and_the_hardest_that_were_not() -> None:
    rows = [
        verdict("q2", "easy", 0.0, 9),
        verdict("q2", "hard", 0.0, 2),
        verdict("q2", "hardest", 0.0, 1),
        verdict("q2", "good", 1.0, 4),
        verdict("q2", "best", 1.0, 3),
        verdict("q1", "only liked", 1.0, 1),
        verdict("q3", "only disliked", 0.0, 1),
        verdict("q0", "theirs", 0.0, 1, tenant="other"),  # asked by both tenants, liked by one, disliked by the other
        verdict("q0", "ours", 1.0, 2),
        verdict("q4", "yes", 1.0, 5),
        verdict("q4", "no", 0.0, 6),
        verdict("q5", "", 1.0, 0, kind="answer"),
        verdict("q5", "no", 0.0, 1),
    ]
    wanted = [("q2", ["best", "hardest", "hard"]), ("q4", ["yes", "no"])]
    assert RECIPE.items(rows, settings(negatives=2)) == wanted
    assert RECIPE.items(rows[::-1], settings(negatives=2)) == wanted, "the order of the rows does not count"
    assert RECIPE.items(rows, settings(negatives=1))[0] == ("q2", ["best", "hardest"])
    assert RECIPE.items(rows, settings())[0] == ("q2", ["best", "hardest", "hard", "easy"])
    # Of before rows had a kind.
    assert RECIPE.items([{**row, "kind": None} for row in rows[-4:-2]], settings()) == wanted[1:]


WEIGHTS = {"first": 1.0, "second": -2.0, "good": 2.0, "bad": 0.5, "worse": -1.0, "filler": 0.0}
WORDS = ["[PAD]", "[SEP]", *WEIGHTS]


class Product(torch.nn.Module):
    """Scores a pair: the sum of the passage's weights, times that of the question's. Any pair that is mixed up shows."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([0.0, 0.0, *WEIGHTS.values()]))

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor, **_: Any) -> Any:
        each = self.weights[input_ids]
        return SimpleNamespace(logits=((each * token_type_ids).sum(1) * (each * (1 - token_type_ids)).sum(1)).unsqueeze(-1))


@pytest.fixture
def policy() -> Policy:
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[PAD]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(single="$A", pair="$A [SEP] $B:1", special_tokens=[("[SEP]", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", model_input_names=["input_ids", "token_type_ids"]
    )
    return Policy(Product(), tokenizer)


def test_the_loss_is_the_cross_entropy_of_the_liked_passage_among_its_own_questions_passages(policy: Policy) -> None:
    items = [("first", ["good", "bad", "worse"]), ("second", ["bad", "good"])]
    loss, told = RECIPE.loss(policy, items, settings(), step_seed=1)
    # Logits 2, 0.5, -1 of the first question, -1 and -4 of the second; a question counts as much as another.
    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(0.5) + math.exp(-1)))
    second = -math.log(math.exp(-1) / (math.exp(-1) + math.exp(-4)))
    assert float(loss.detach()) == pytest.approx((first + second) / 2, abs=1e-6)
    assert told == {}


def test_a_step_moves_each_passage_by_what_it_was_taken_for_too_much_or_too_little(policy: Policy) -> None:
    loss, _ = RECIPE.loss(policy, [("first", ["good", "bad"])], settings(), step_seed=1)
    torch.autograd.backward(loss)
    share = math.exp(0.5) / (math.exp(2) + math.exp(0.5))  # of the disliked one
    gradient = dict(zip(WORDS, policy.model.weights.grad.tolist(), strict=True))
    assert gradient["good"] == pytest.approx(-share, abs=1e-6)
    assert gradient["bad"] == pytest.approx(share, abs=1e-6)
    assert gradient["worse"] == 0.0


def test_what_is_too_long_loses_the_end_of_its_passage_and_never_of_its_question(policy: Policy) -> None:
    question = "first " + "filler " * 9
    shown = ["good " + "filler " * 4 + "bad", "bad"]  # 10 and a mark, then 6 word pieces
    whole, _ = RECIPE.loss(policy, [(question, shown)], settings(max_tokens=17), 1)
    assert float(whole.detach()) == pytest.approx(-math.log(math.exp(2.5) / (math.exp(2.5) + math.exp(0.5))), abs=1e-6)
    cut, _ = RECIPE.loss(policy, [(question, shown)], settings(max_tokens=16), 1)
    assert float(cut.detach()) == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + math.exp(0.5))), abs=1e-6)
