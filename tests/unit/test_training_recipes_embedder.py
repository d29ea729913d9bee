"""The embedder's recipe: what is learned from, the loss on a case worked by hand, what is released, and how it is measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from headrace.core.progress import ProgressBars
from headrace.documents.generations import Embedders, endpoint_for, name_of, resolve, version_of
from headrace.errors import BadSettings
from headrace.models.cards import CARDS
from headrace.models.tokens import INSTEAD
from headrace.storage.endpoints import ModelEndpoint
from headrace.training.measures import measure_of
from headrace.training.measures.embeddings import cosines
from headrace.training.recipe import Policy
from headrace.training.recipes import RECIPES
from headrace.training.recipes.embedder import EmbedderRecipe, EmbedderSettings, Liked
from headrace.training.served_order import ServedOrder

# sentence-transformers is loaded here: files that say so share a process under xdist, for its import takes seconds.
RECIPE = EmbedderRecipe()


def settings(**given: Any) -> EmbedderSettings:
    found = RECIPE.settings(given)
    assert isinstance(found, EmbedderSettings)
    return found


def verdict(question: str, passage: str, label: float, rank: int, document: str = "d", **more: Any) -> dict[str, Any]:
    return {
        "example_id": f"{question}/{passage}/{document}",
        "kind": "passage",
        "tenant": "acme",
        "question": question,
        "passage": passage,
        "document_id": document,
        "label": label,
        "retrieval_rank": rank,
        **more,
    }


def test_the_settings_fit_on_a_screen_and_bad_ones_are_refused() -> None:
    lines = (Path(__file__).parents[2] / "headrace/training/recipes/embedder.toml").read_text().splitlines()
    assert len(lines) <= 20
    assert all("#" in line for line in lines)
    assert settings().negatives > 0
    with pytest.raises(BadSettings, match=r"training\.recipe\.embedder\.max_tokens"):
        settings(max_tokens=512)
    assert RECIPES["embedder"].model == "embedder"


def test_every_liked_passage_is_learned_from_with_the_hardest_that_were_not() -> None:
    rows = [
        verdict("q2", "easy", 0.0, 4, "d4"),
        verdict("q2", "hard", 0.0, 2, "d2"),
        verdict("q2", "good", 1.0, 3, "d3"),
        verdict("q2", "fine", 1.0, 1, "d1"),
        verdict("q1", "alone", 1.0, 1),
        verdict("q3", "lost", 0.0, 1),
        verdict("q2", "good", 0.0, 5, "copy"),  # the same words in another document cannot be wrong
        verdict("q9", "", 1.0, 0, kind="answer"),
    ]
    found = RECIPE.items(rows, settings(negatives=1))
    right, wrong = frozenset({"fine", "good"}), frozenset({"hard", "easy"})
    assert found == [
        Liked("q1", "alone", "d", (), frozenset({"alone"}), frozenset()),
        Liked("q2", "fine", "d1", (("hard", "d2"),), right, wrong),
        Liked("q2", "good", "d3", (("hard", "d2"),), right, wrong),
    ]
    assert RECIPE.items(rows[::-1], settings(negatives=1)) == found, "the order of the rows does not count"
    assert RECIPE.left_out(rows, settings()) == {"passages of questions with no liked one": 1}


VECTORS = {
    "ask a": (1.0, 0.0, 0.0),
    "ask b": (0.0, 1.0, 0.0),
    "a": (0.6, 0.8, 0.0),
    "b": (0.8, 0.6, 0.0),
    "not a": (0.0, 0.0, 1.0),
    "more of a": (1.0, 0.0, 0.0),
}


def by_hand(items: list[Liked], **given: Any) -> tuple[float, dict[str, float]]:
    """The loss with a model that has the vectors above for its texts."""
    import torch

    class Table(torch.nn.Module):
        def preprocess(self, texts: list[str]) -> list[str]:
            return texts

        def forward(self, texts: list[str]) -> dict[str, torch.Tensor]:
            return {"sentence_embedding": torch.tensor([VECTORS[text] for text in texts])}

    loss, told = RECIPE.loss(Policy(Table(), None), items, settings(**given), 0)
    return float(loss), told


def test_the_loss_is_that_of_a_case_worked_by_hand() -> None:
    a = Liked("ask a", "a", "da", (("not a", "dx"),), frozenset({"a"}), frozenset({"not a"}))
    b = Liked("ask b", "b", "db", (), frozenset({"b"}), frozenset())
    # Question a has the cosines 0.6 with its own, 0.8 with b's, 0 with the disliked one; question b has 0.6, 0.8, 0.
    one = -math.log(math.exp(2 * 0.6) / (math.exp(2 * 0.6) + math.exp(2 * 0.8) + 1))
    loss, told = by_hand([a, b], scale=2.0)
    assert loss == pytest.approx(one, abs=1e-6)
    assert told == {"first": 0.0}
    # At another temperature.
    sharp = -math.log(math.exp(0.6 * 20) / (math.exp(0.6 * 20) + math.exp(0.8 * 20) + 1))
    assert by_hand([a, b], scale=20.0)[0] == pytest.approx(sharp, abs=1e-4)


def test_what_may_answer_a_question_is_not_held_against_it() -> None:
    a = Liked("ask a", "a", "da", (), frozenset({"a"}), frozenset())
    alone = -math.log(math.exp(2 * 0.6) / (math.exp(2 * 0.6) + 1))

    def with_a(other: Liked) -> float:
        """What question a's own sum comes to beside another item's passages, of which only `not a` counts."""
        both, _ = by_hand([a, other], scale=2.0)
        its_own = [VECTORS["ask b"]] @ np.asarray([VECTORS[text] for text, counts in summed(other) if counts]).T
        sums = np.exp(2 * its_own[0])
        return 2 * both + math.log(sums[0] / sums.sum())

    def summed(other: Liked) -> list[tuple[str, bool]]:
        return [(other.passage, True), ("a", other.told_from("a", "da")), *((text, True) for text, _ in other.negatives)]

    # A passage of the liked one's own document, liked for another question; and one disliked there.
    same = Liked("ask b", "more of a", "da", (("not a", "dx"),), frozenset({"more of a"}), frozenset({"not a"}))
    assert with_a(same) == pytest.approx(alone, abs=1e-5)
    beside = Liked(
        "ask b", "b", "da", (("not a", "dx"), ("more of a", "da")), frozenset({"b"}), frozenset({"not a", "more of a"})
    )
    assert with_a(beside) == pytest.approx(alone, abs=1e-5)
    # The same text liked for another question, in another document.
    text = Liked("ask b", "a", "copy", (("not a", "dx"),), frozenset({"a"}), frozenset({"not a"}))
    assert with_a(text) == pytest.approx(alone, abs=1e-5)
    # But what was disliked for the question itself is held against it, whatever it is from.
    own = Liked("ask a", "a", "da", (("more of a", "da"),), frozenset({"a"}), frozenset({"more of a"}))
    told_apart = -math.log(math.exp(2 * 0.6) / (math.exp(2 * 0.6) + math.exp(2 * 1.0)))
    assert by_hand([own], scale=2.0)[0] == pytest.approx(told_apart, abs=1e-6)


@pytest.mark.parametrize(
    ("of", "liked", "other", "rate", "steps"),
    [("tiny", "yes", "never", 2e-3, 25), pytest.param("packaged", "never", "yes", 2e-4, 8, marks=pytest.mark.soak)],
)
def test_it_learns_what_the_verdicts_say_and_is_released_as_a_sentence_transformer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str, liked: str, other: str, rate: float, steps: int
) -> None:
    """Learned is the opposite of what the model says before."""
    import torch
    from sentence_transformers import SentenceTransformer

    if of == "tiny":
        monkeypatch.setenv(INSTEAD, str(tiny.folder()))

    chosen = settings(max_tokens=32)
    rows = []
    for n, thing in enumerate(("wheel", "weir", "gate", "lock")):
        for rank, word in enumerate((other, liked), 1):
            rows.append(verdict(f"does the {thing} turn?", f"{word} the {thing}", float(word == liked), rank, f"d{n}"))
    items = RECIPE.items(rows, chosen)
    torch.manual_seed(3)
    policy = RECIPE.fresh(None, chosen, 3)
    fixed = [name for name, parameter in policy.model.named_parameters() if not parameter.requires_grad]
    assert fixed
    assert all("embeddings" in name for name in fixed)
    words = policy.model.state_dict()[fixed[0]].clone()
    trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    policy.model.train()
    losses = []
    for step in range(steps):
        loss, told = RECIPE.loss(policy, items, chosen, step)
        assert 0 <= told["first"] <= 1
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    assert torch.equal(policy.model.state_dict()[fixed[0]], words)

    folder = tmp_path / "released"
    RECIPE.save(policy, folder)
    assert not (folder / "README.md").exists()
    assert {path.name for path in folder.rglob("*") if path.is_file()} >= {"modules.json", "model.safetensors", "tokenizer.json"}
    # A store has no empty folders: what has no files is gone when it comes back.
    for path in list(folder.iterdir()):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    loaded = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert loaded.max_seq_length == 256
    questions = [f"does the {thing} turn?" for thing in ("wheel", "gate")]
    vectors = loaded.encode([*questions, *(f"{word} the {thing}" for thing in ("wheel", "gate") for word in (other, liked))])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    assert vectors[0] @ vectors[3] > vectors[0] @ vectors[2]
    assert vectors[1] @ vectors[5] > vectors[1] @ vectors[4]
    again = RECIPE.fresh(folder, chosen, 3)
    assert all(torch.equal(one, policy.model.state_dict()[name]) for name, one in again.model.state_dict().items())

    # Measured as it is served: against the packaged one, on questions it has not seen; and against itself.
    held_out = [{**row, "question": row["question"].replace("the", "that")} for row in rows]
    compared = measure_of("embedder")(folder, None, {}, ServedOrder(), [], held_out, chosen, ProgressBars(quiet=True))
    released = {"version": "v000001", "round": 1, "files": [{"name": "weights", "bytes": 1, "sha256": "0" * 64}]}
    CARDS["embedder"].model_validate(released | compared.card)
    assert compared.card == {"max_tokens": 256}
    assert [row["question"].split()[2] for row in compared.ours] == ["gate", "lock", "weir", "wheel"]
    assert [row["score"] for row in compared.ours] == [1.0] * 4
    assert sum(row["score"] for row in compared.theirs) < 4
    assert compared.retrieval == pytest.approx(1 / math.log2(3))
    equal = measure_of("embedder")(folder, folder, compared.card, ServedOrder(), [], held_out, chosen, ProgressBars(quiet=True))
    assert equal.ours == equal.theirs
    assert {row["refused"] for row in equal.ours} == {0.0}
    far = measure_of("embedder")(
        folder, None, {}, ServedOrder(), [], held_out, settings(least_similarity=1.0), ProgressBars(quiet=True)
    )
    assert {row["refused"] for row in (*far.ours, *far.theirs)} == {1.0}
    nothing = measure_of("embedder")(folder, None, {}, ServedOrder(), [], [], chosen, ProgressBars(quiet=True))
    assert (nothing.ours, nothing.theirs) == ((), ())


def test_cosines_do_not_hang_on_lengths() -> None:
    found = np.asarray([[0, 2], [3, 3], [5, 0], [0, 0]], np.float32)
    assert cosines(np.asarray([0, 7], np.float32), found) == pytest.approx([1, math.sqrt(0.5), 0, 0])


def test_any_version_of_the_embedded_embedder_can_be_asked_and_no_other_model() -> None:
    ours, theirs = (ModelEndpoint(url="http://127.0.0.1:9/v1", model=model) for model in ("embedder", "words@1"))
    assert (name_of("none"), name_of("v000003")) == ("embedder", "embedder@v000003")
    named = ("embedder", "embedder@none", "embedder@v000003", "words", "embedder2@v000003")
    assert [version_of(name) for name in named] == ["none", "none", "v000003", None, None]
    assert endpoint_for(ours, "embedder@v000003").model == "embedder@v000003"
    assert endpoint_for(endpoint_for(ours, "embedder@v000003"), "embedder") == ours
    assert resolve(theirs, "words@1") == theirs
    for endpoint, made in ((ours, "words@1"), (theirs, "embedder@v000003"), (theirs, "words@2")):
        assert Embedders(endpoint).client_for(made) is None
        with pytest.raises(BadSettings, match=f"made with the embedder {made}; the settings name {endpoint.model}"):
            endpoint_for(endpoint, made)
    clients = Embedders(ours)
    client = clients.client_for("embedder@v000003")
    assert client is not None
    assert client is clients.client_for("embedder@v000003")
    assert client is not clients.client_for("embedder")
