"""Extractive answers: the sentence or table row of the passages that answers a question, word for word, or none of them.

Each sentence and row (a quote) gets a score, a weighted sum of features: which share of the question's words it has, rare words
counting more, and which share the heading, table header or file name above it has, or the sentences beside it; its embedding's
similarity to the question, and its passage's; whether it has what is asked for (a number and its unit, a date, a person, a
cause) that the question does not have itself; and which names and numbers of the question it lacks. Below `ENOUGH` no quote is
evidence, and the answer is that the documents have none; nor where the passage has none of the question's names, or lacks one
of its numbers. `python -m bench.reader` fits the weights and measures them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from headrace.models.support import above, alike, content_words, facts, sentences

PASSAGES = 6
"""How many of the best passages are read."""
ENOUGH = 5.0
"""The least score of an answer."""
IN_DOUBT = 2.5
"""How much more it takes where the passage lacks a name of the question, or the quote the kind of thing that is asked for."""
WEIGHTS: Mapping[str, float] = {
    "own": 6.2,
    "over": 2.4,
    "beside": 1.8,
    "embedding": 6.0,
    "passage": 4.1,
    "fits": 1.1,
    "unit": 0.4,
    "lacks_name": -1.1,
    "lacks_number": -1.7,
}
"""By how much each feature counts, as fitted (docs/reference/benchmarks.md says on what)."""
_SHORT = 8  # quotes that are embedded; embedding all of them answered none of 391 questions better (docs/reference/benchmarks.md)
_WORDS = 64  # of a question that are looked for
_QUOTES = 96  # that are scored; what a passage of few words and many lines has beyond that is not looked at
_USUAL = {"embedding": 0.45, "passage": 0.5}  # similarities where no embedder can be asked: the same for all, so the order stays
_COLUMNS = 8  # of a row that is shown whole
_LEAST_WORD, _LEAST_NAME = 0.2, 1.5  # that a word of the question, or a name in it, weighs however common it is
# A line of prose that was wrapped has so many characters and words; a sentence is put together up to so many characters.
_WRAPPED, _PROSE, _LONGEST = 45, 6, 600
_ENDED = re.compile(r"[.!?:;{}=|][\"')\]]*$")
_MARK = re.compile(r"^(?:[-*•]|\d{1,3}[.)])\s+")  # of a list
_RULE = re.compile(r"[\s|:+=-]+")
_PART = re.compile(
    r",?\s+(?:and|und)\s+(?=(?:who|when|where|why|how|what|which|whose|wer|wann|wo|warum|wie|was|welche[rsnm]?)\b)", re.IGNORECASE
)
_NAMED = re.compile(r"(?<=\s)(?!I\b)[A-Z]\b|(?<=\s)\d\b")  # "cluster C", "wave 2"
_CAPITAL = re.compile(r"(?<=[\s(|,;])[A-ZÄÖÜ][\w'’-]+")
_DATE = re.compile(
    r"\b\d{4}-\d\d-\d\d\b|\b(?:19|20)\d\d\b|\b\d{1,2}[.:]\d\d\b|day\b|\b(?:January|February|March|April|May|June|July|August|"
    r"September|October|November|December|Januar|Februar|März|Mai|Juni|Juli|Oktober|Dezember)\b"
)
_CAUSE = re.compile(
    r"\bbecause\b|\bcaus|\bdue to\b|\bsince\b|\bafter\b|\bso that\b|\breason|\bweil\b|\bda\b|\bwegen\b", re.IGNORECASE
)
_AGE = re.compile(r"\baged?\b|\bborn\b|\byears? old\b|\bJahre alt\b", re.IGNORECASE)
_TIMES = "us ms second minute hour day week month year"
_BYTES = "byte kb mb gb tb pb kib mib gib tib"
# What a question asks for, the first that fits; a number with the units that it may have.
_ASKED = tuple(
    (re.compile(pattern, re.IGNORECASE), kind, frozenset(units.split()))
    for pattern, kind, units in (
        (r"\bhow old\b|\bwie alt\b", "age", ""),
        (r"\bwhen\b|\bwhat (?:date|day|time|year|month)\b|\bwhich (?:day|year|month)\b|\bwann\b", "date", ""),
        (r"\bhow (?:long|often|soon|quickly|late|early)\b|\bwie (?:lange|oft)\b", "number", f"{_TIMES} m km"),
        (r"\b(?:costs?|prices?|fees?|charged?|budget|salary|pay|paid|kostet|wie teuer)\b", "number", "eur usd gbp"),
        (r"\bhow (?:big|large|heavy)\b|\bwie groß\b", "number", f"{_BYTES} m km kg w kw million billion"),
        (r"\bhow far\b|\bwie weit\b", "number", "m km mile"),
        (r"\b(?:percent|percentage|share|rate)\b|\bProzent\b", "number", "percent"),
        (r"\bhow (?:much|many|high|low|fast|tall|wide|deep|poor|small)\b|\bwie ?(?:viele?|hoch|schnell)\b", "number", ""),
        (r"\bwhat (?:number|limit|reading|temperature|threshold|size|capacity|speed|period)\b", "number", ""),
        (r"\bwho\b|\bwho's\b|\bwhose\b|\bwhom\b|\bwer\b", "person", ""),
        (r"\bwhy\b|\bcaus|\breason\b|\bbehind\b|\bwarum\b|\bweshalb\b", "cause", ""),
    )
)  # fmt: skip

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SourceText:
    """A passage to be read: its text, its file's name, and its similarity to the question where dense search found it."""

    text: str
    name: str
    similarity: float | None = None


@dataclass(frozen=True)
class Quote:
    """Characters `start` to `end` of passage `source` (from 0): a sentence, a line of code or a list, a row of a table."""

    source: int
    start: int
    end: int
    text: str
    over: str
    beside: str

    @property
    def said(self) -> str:
        """What is shown: the text, of a row its cells behind the names of their columns."""
        if not self.text.startswith("|"):
            # A number in brackets would pose as a citation.
            return re.sub(r"\[(\d+)\]", r"(\1)", re.sub(r"\s*\n\s*", " ", _MARK.sub("", self.text)))
        names, cells = _cells(self.over.rpartition("\n")[2]), _cells(self.text)
        names += [""] * (len(cells) - len(names))
        told = [f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell]
        return "; ".join(told[:_COLUMNS])


@dataclass(frozen=True)
class Extract:
    """A part of the question, the best quote (`None` of no passages), its score, and whether that is evidence enough."""

    part: str
    quote: Quote | None
    score: float
    found: bool


def parts(question: str) -> list[str]:
    """The questions in a question: "who owns C and which version does it run" is two, the second about the names of the first."""
    first, *more = _PART.split(question.strip())
    named = " ".join([*sorted(facts(first).names), *_NAMED.findall(first)])
    return [first, *(f"{part} {named}" if named and not facts(part).names else part for part in more)]


def quotes(sources: Sequence[SourceText]) -> list[Quote]:
    """Every sentence, line and row of the best passages, but for headings, headers of tables and rules."""
    found: list[Quote] = []
    for number, source in enumerate(sources[:PASSAGES]):
        text, name = source.text, re.sub(r"[/_.-]+", " ", source.name)
        heading = text.find("\n")
        own: list[tuple[int, int]] = []
        for start, end in sentences(text):
            if _RULE.fullmatch(text[start:end]):
                if own and text[own[-1][0]] == "|":
                    own.pop()
            elif end <= heading:
                continue
            elif own and _goes_on(text, own[-1], start):
                own[-1] = (own[-1][0], end)
            else:
                own.append((start, end))
        texts = [text[start:end] for start, end in own]
        for place, (start, end) in enumerate(own):
            row = texts[place].startswith("|")
            beside = "" if row else " ".join([*texts[max(0, place - 1) : place], *texts[place + 1 : place + 2]])
            found.append(Quote(number, start, end, texts[place], f"{name}\n{above(text, start)}", beside))
    return found[:_QUOTES]


def _goes_on(text: str, before: tuple[int, int], start: int) -> bool:
    """Whether what starts here is the rest of a sentence that was wrapped: prose, a long line above, nothing that ends it."""
    said, between = text[slice(*before)], text[before[1] : start]
    line = said.rpartition("\n")[2] if "\n" in said else text[text.rfind("\n", 0, before[0]) + 1 : before[1]]
    return (
        between.count("\n") == 1
        and not between.strip()
        and len(line.strip()) >= _WRAPPED
        and len(said) < _LONGEST
        and len(line.split()) >= _PROSE
        and not _ENDED.search(said)
        and (text[start].isalpha() or text[start] in "\"'(“„*`")
        and _MARK.match(text[start:]) is None
        and not said.startswith(("|", "#"))
    )


def features(
    question: str, sources: Sequence[SourceText], found: Sequence[Quote], similarities: Sequence[float] | None
) -> npt.NDArray[np.float64]:
    """One row a quote, the columns in the order of `WEIGHTS`. `similarities` are of the quotes' embeddings to the question."""
    wanted = dict.fromkeys(sorted(content_words(question), key=question.lower().find)[:_WORDS])
    texts = [_terms(f"{source.name}\n{source.text}") for source in sources]
    asked = facts(question)
    numbers = [readings for readings, _ in asked.numbers]
    names = asked.names | {name.casefold() for name in _NAMED.findall(question)}
    weights = {word: max(_LEAST_NAME if word in names else _LEAST_WORD, _idf(word, texts)) for word in wanted}
    total = sum(weights.values()) or 1.0
    kind, units = next(((kind, units) for pattern, kind, units in _ASKED if pattern.search(question)), ("", frozenset[str]()))
    rows = []
    for place, quote in enumerate(found):
        source = sources[quote.source]
        own, over, beside = _terms(quote.text), _terms(quote.over), _terms(quote.beside)
        shares = {"own": 0.0, "over": 0.0, "beside": 0.0}
        for word, weight in weights.items():
            where = next((at for at, terms in zip(shares, (own, over, beside), strict=True) if _has(terms, word)), None)
            if where is not None:
                shares[where] += weight / total
        whole = facts(f"{quote.over}\n{source.text}")
        held = [readings for readings, _ in whole.numbers]
        there = texts[quote.source] | over | whole.names
        lacks_name = sum(not _has(there, name) for name in names) / len(names) if names else 0.0
        lacks_number = sum(not any(read & other for other in held) for read in numbers) / len(numbers) if numbers else 0.0
        fits, unit = _fits(kind, units, quote, question, numbers)
        rows.append(
            {
                **shares,
                "embedding": _USUAL["embedding"] if similarities is None else similarities[place],
                "passage": _USUAL["passage"] if source.similarity is None else source.similarity,
                "fits": fits,
                "unit": unit,
                "lacks_name": lacks_name,
                "lacks_number": lacks_number,
            }
        )
    return np.array([[row[name] for name in WEIGHTS] for row in rows], np.float64).reshape(len(rows), len(WEIGHTS))


def shortlist(question: str, sources: Sequence[SourceText], found: Sequence[Quote]) -> list[Quote]:
    """The quotes that are worth an embedding: those that words alone put first."""
    if not found:
        return []
    scores = features(question, sources, found, None) @ np.array(list(WEIGHTS.values()))
    return [found[place] for place in np.argsort(-scores, kind="stable")[:_SHORT]]


def best(question: str, sources: Sequence[SourceText], found: Sequence[Quote], similarities: Sequence[float] | None) -> Extract:
    """The quote that answers one part of a question best."""
    if not found:
        return Extract(question, None, -math.inf, False)
    rows = features(question, sources, found, similarities)
    scores = rows @ np.array(list(WEIGHTS.values()))
    place = int(scores.argmax())
    of = dict(zip(WEIGHTS, rows[place], strict=True))
    doubtful = of["lacks_name"] > 0 or of["fits"] < 0
    about_another = of["lacks_name"] == 1 or of["lacks_number"] > 0
    enough = scores[place] >= ENOUGH + IN_DOUBT * doubtful and not about_another
    return Extract(question, found[place], float(scores[place]), bool(enough))


def _fits(
    kind: str, units: frozenset[str], quote: Quote, question: str, numbers: Sequence[frozenset[str]]
) -> tuple[float, float]:
    """Whether a quote has what is asked for, in itself and not from the question; and the same of the unit of a number.

    Each is 1 where it has it, -1 where it lacks it, 0 where nothing such is asked.
    """
    own = facts(quote.text)
    new = [(readings, unit) for readings, unit in own.numbers if not any(readings & other for other in numbers)]
    match kind:
        case "number":
            # A column may be headed by the unit of its cells.
            there = {unit for _, unit in new} | (facts(quote.over.rpartition("\n")[2]).units if new else frozenset())
            return (1.0 if new else -1.0), (0.0 if not units or not new else 1.0 if there & units else -1.0)
        case "date":
            has = bool(new) and _DATE.search(quote.text) is not None
        case "age":
            has = bool(new) and _AGE.search(f"{quote.text} {quote.over}") is not None
        case "person":
            known = question.casefold()
            has = any(name.casefold() not in known for name in _CAPITAL.findall(f" {quote.text}"))
        case "cause":
            has = _CAUSE.search(quote.text) is not None
        case _:
            return 0.0, 0.0
    return (1.0 if has else -1.0), 0.0


@lru_cache(maxsize=4096)
def _terms(text: str) -> frozenset[str]:
    return frozenset(content_words(text))


@lru_cache(maxsize=65536)
def _has(terms: frozenset[str], word: str) -> bool:
    return word in terms or any(alike(word, other) for other in terms)


def _idf(word: str, texts: Sequence[frozenset[str]]) -> float:
    """How rare a word is among the passages, by Robertson and Sparck Jones; of one in none of them as if one more had it."""
    count = sum(_has(terms, word) for terms in texts)
    return math.log(1 + (len(texts) - count + 0.5) / (count + 0.5)) if count else math.log(1 + 2 * len(texts))


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|"))]
