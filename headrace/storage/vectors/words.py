"""The words of a text as full-text search has them, in every script; the same for a question.

Widths and ligatures are folded (NFKC), and marks that show nothing are left out, so that a word is found however it was written.
The index's tokenizer divides at spaces and punctuation. Scripts without spaces are therefore cut into overlapping pieces: two
characters of Chinese, Japanese and Korean (whose words carry endings), three of Thai, Lao, Khmer and Burmese.
"""

from __future__ import annotations

import re
import unicodedata

from headrace.unicode import normalized

_HIDDEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_HAN = re.compile("[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff]+")
_THAI = re.compile("[\u0e01-\u0e4e\u0e80-\u0edf\u1000-\u104f\u1780-\u17d3]+")
_HIRAGANA = re.compile("[\u3041-\u309f]+")  # endings, particles and question words of Japanese
_TONES = re.compile("[\u0e47-\u0e4e\u0ec8-\u0ecd\u1037-\u103a\u17c6-\u17d3]")  # at which the tokenizer would cut


def indexed_words(text: str) -> str:
    """A text for the index, with single characters too, which a question may consist of."""
    return _THAI.sub(_in_threes, _HAN.sub(_in_twos_and_ones, _folded(text)))


def searched_words(question: str) -> str:
    """A question's words, without punctuation, which could be query syntax."""
    cut = _THAI.sub(_in_threes, _HAN.sub(_in_twos, _folded(question)))
    words = "".join(c if c.isalnum() or c == "_" or unicodedata.category(c)[0] == "M" else " " for c in cut)
    return " ".join(words.split())


def unspaced_pieces(text: str) -> frozenset[str]:
    """The pieces of what a text has in scripts without spaces, but for those of hiragana alone, which say little."""
    folded = _folded(text)
    cut = [_in_twos(run) for run in _HAN.finditer(folded)] + [_in_threes(run) for run in _THAI.finditer(folded)]
    return frozenset(piece for pieces in cut for piece in pieces.split() if not _HIRAGANA.fullmatch(piece))


def _folded(text: str) -> str:
    return text if text.isascii() else _HIDDEN.sub("", normalized("NFKC", text))


def _in_twos(run: re.Match[str]) -> str:
    return _pieces(run[0], 2)


def _in_twos_and_ones(run: re.Match[str]) -> str:
    return f"{_pieces(run[0], 2)}{' '.join(run[0])} " if len(run[0]) > 1 else f" {run[0]} "


def _in_threes(run: re.Match[str]) -> str:
    return _pieces(_TONES.sub("", run[0]), 3)


def _pieces(run: str, length: int) -> str:
    """Overlapping pieces of a run, or the run if it is shorter, with a space on either side."""
    return f" {' '.join(run[at : at + length] for at in range(max(1, len(run) - length + 1)))} "
