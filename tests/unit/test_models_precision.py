"""bfloat16 where the processor has it: close to float32, and float32 itself where that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from headrace.models.cards import RerankerCard
from headrace.models.precision import has_bfloat16
from headrace.models.tokens import INSTEAD, embedder_folder

# sentence-transformers is loaded here: files that say so share a process under xdist, for its import takes seconds.
TEXTS = [
    "Paris is the capital of France.",
    "A decorator is a function that returns another.",
    "The Seine. " * 90,
    "naïve 日本 🎉",
]


def weights(of: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of a tiny embedder, or of the packaged one."""
    if of == "tiny":
        monkeypatch.setenv(INSTEAD, str(tiny.folder()))
    return str(embedder_folder())


# The tiny one's last layer widens its vectors, in bfloat16.
@pytest.mark.parametrize(("of", "off"), [("tiny", 3e-3), pytest.param("packaged", 1e-5, marks=pytest.mark.soak)])
def test_embeddings_are_those_of_float32_but_for_their_last_digits(of: str, off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Here and below: every process that collects tests would import it for seconds.
    from sentence_transformers import SentenceTransformer

    from headrace.models.server.encoders import MiniLM

    folder = weights(of, monkeypatch)
    quick, exact = MiniLM(), MiniLM(exact=True)
    pieces = exact.word_pieces(TEXTS, "END")
    ours, theirs = quick.embed(pieces), exact.embed(pieces)
    bare = SentenceTransformer(folder, device="cpu").encode(TEXTS)
    assert np.abs(theirs - bare).max() < 1e-5
    assert ours.dtype == np.float32
    lengths = np.linalg.norm(ours, axis=1)
    assert ((ours * theirs).sum(axis=1) / lengths).min() > 0.9995
    assert np.abs(lengths - 1).max() < off
    assert np.array_equal(ours, theirs) != has_bfloat16()


@pytest.mark.parametrize("of", ["tiny", pytest.param("packaged", marks=pytest.mark.soak)])
def test_scores_of_passages_keep_their_digits(of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import CrossEncoder

    from headrace.models.server.encoders import PairScorer

    torch.manual_seed(3)
    model = CrossEncoder(weights(of, monkeypatch), num_labels=1, max_length=128, device="cpu")
    model.save_pretrained(str(tmp_path), create_model_card=False)
    card = RerankerCard.model_construct(version="v000001", round=1, files=[], max_tokens=128)
    pairs = [("Where does the Seine run?", text) for text in TEXTS]
    bare = model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    exact = PairScorer(card, tmp_path, exact=True).score(pairs[0][0], TEXTS).logits
    quick = PairScorer(card, tmp_path).score(pairs[0][0], TEXTS).logits
    assert exact == pytest.approx(bare, abs=1e-5)
    assert quick == pytest.approx(bare, abs=0.02)
    # A bfloat16 has eight binary digits; a score that had no more would tie with its neighbours.
    assert any(score != float(torch.tensor(score).bfloat16()) for score in quick)
