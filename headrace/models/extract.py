"""Extractive answers: the sentence or table row of the passages that answers a question, word for word, or none.

Each sentence and row (a quote) gets a score, a weighted sum of features:

- the shares of the question's words in the quote itself, in the heading, table header or file name above it, and in the
  sentences beside it; rare words count more;
- the similarity of the quote's and of the passage's embedding to the question's;
- whether the quote has what the question asks for and does not have itself: a number and its unit, a date, a person, a cause;
- which names and numbers of the question are missing.

A quote is evidence if its score reaches `ENOUGH`, its passage has one of the question's names, and all of the question's numbers
are in the quote, above it or beside it: what a 15 TB drive does is no answer about one of 30 TB, though the passage names both.
Otherwise the answer is that the documents contain none. `python -m bench.reader` fits the weights and measures them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from headrace.models.support import above, alike, content_words, facts, sentences, without_bold

PASSAGES = 6
"""The number of best passages that are searched for quotes."""
ENOUGH = 5.0
"""The lowest score of an answer."""
IN_DOUBT = 2.5
"""The additional score required if the passage lacks a name of the question or the quote lacks the kind of fact asked for."""
CLOSE = 1.0
"""A second quote whose score is so near the first's is shown, too: of the development questions, one answer in four has one."""
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
"""The fitted weight of each feature; docs/reference/benchmarks.md names the data."""
_SHORT = 8  # quotes that are embedded; embedding all of them answered none of 391 questions better (docs/reference/benchmarks.md)
_PARTS = 4  # of a question, each with embeddings of its own: one of 400 parts took minutes
_WORDS = 64  # words of a question that are used
_QUOTES = 96  # quotes that are scored; a passage of many short lines may have more
_USUAL = {"embedding": 0.45, "passage": 0.5}  # similarities without an embedder: the same for all quotes
_COLUMNS = 8  # cells of a row that are shown
_LEAST_WORD, _LEAST_NAME = 0.2, 1.5  # lowest weights of a word of the question and of a name in it
# A wrapped line of prose has at least so many characters and words; a sentence is joined up to so many characters.
_WRAPPED, _PROSE, _LONGEST = 45, 6, 600
_ENDED = re.compile(r"[.!?:;{}=|][\"')\]]*$")
_STOPPED = re.compile(r"[.!?;][\"')\]*_]*$")
# "every" above "250 hours": an amount in the middle of a sentence, where neither an item of a list nor a time of a log begins so.
_AMOUNT = re.compile(r"\d{1,4}(?:[.,]\d+)*\s?[^\W\d_A-ZÄÖÜ]")
_MARK = re.compile(r"^(?:[-*•]|\d{1,3}[.)])\s+")  # of a list
# A hyphen at the end of a line, before the rest of its word; in "two- and" and "short- or" it ends one.
_HYPHEN = re.compile(r"(?<=\w[-‐])[ \t]*\n\s*(?!(?:and|or|to|und|oder|bis)\b)(?=[^\W\d_A-ZÄÖÜ])")
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
# What a question asks for, by the first pattern that matches; a number with its possible units.
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


@dataclass(frozen=True)
class SourceText:
    """A passage: its text, its file's name, and its similarity to the question if dense search found it."""

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
        """The text that is shown, without Markdown's bold; for a table row, each cell after the name of its column."""
        if not self.text.startswith("|"):
            return without_bold(re.sub(r"\s*\n\s*", " ", _HYPHEN.sub("", _MARK.sub("", self.text))))
        return "; ".join([f"{name}: {cell}" if name else cell for name, cell in self.cells][:_COLUMNS])

    @property
    def cells(self) -> list[tuple[str, str]]:
        """The cells of a table row that are not empty, each with its column's name; none of any other text."""
        if not self.text.startswith("|"):
            return []
        names, cells = (list(map(without_bold, _cells(row))) for row in (self.over.rpartition("\n")[2], self.text))
        names += [""] * (len(cells) - len(names))
        return [(name, cell) for name, cell in zip(names, cells, strict=False) if cell]


@dataclass(frozen=True)
class Extract:
    """A part of the question, the best quote (`None` if there are no passages), its score, and whether that is evidence enough.

    `other` is the second best, if it is evidence too and nearly as good. `known` is the share of the question's words, rare ones
    weighted higher, that the quote or what is above it has.
    """

    part: str
    quote: Quote | None
    score: float
    found: bool
    other: Quote | None = None
    known: float = 0.0


def parts(question: str) -> list[str]:
    """Split a question: "who owns C and which version does it run" is two, and the second gets the names of the first.

    A question of many parts has the rest of them in its last.
    """
    first, *more = _PART.split(question.strip(), maxsplit=_PARTS - 1)
    named = " ".join([*sorted(facts(first).names), *_NAMED.findall(first)])
    return [first, *(f"{part} {named}" if named and not facts(part).names else part for part in more)]


def quotes(sources: Sequence[SourceText]) -> list[Quote]:
    """Every sentence, line and row of the best passages, except headings, table headers and rules."""
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
        for index, (start, end) in enumerate(own):
            row = texts[index].startswith("|")
            beside = "" if row else " ".join([*texts[max(0, index - 1) : index], *texts[index + 1 : index + 2]])
            found.append(Quote(number, start, end, texts[index], f"{name}\n{above(text, start)}", beside))
    return found[:_QUOTES]


def with_block(quote: Quote, source: SourceText, found: Sequence[Quote]) -> Quote:
    """A quote that ends in a colon with the list or the example that it introduces, up to `_LONGEST` characters in all."""
    if not quote.text.endswith(":"):
        return quote
    end = quote.end
    for other in found:
        if other.source != quote.source or other.start < end:
            continue
        between = source.text[end : other.start]
        begun = end > quote.end
        if between.strip() or (begun and between.count("\n") > 1) or other.end - quote.start > _LONGEST:
            break
        end = other.end
    return replace(quote, end=end, text=source.text[quote.start : end])


def _goes_on(text: str, before: tuple[int, int], start: int) -> bool:
    """Whether `start` continues a wrapped sentence: prose below a long line that does not end a sentence."""
    said, between = text[slice(*before)], text[before[1] : start]
    line = said.rpartition("\n")[2] if "\n" in said else text[text.rfind("\n", 0, before[0]) + 1 : before[1]]
    return (
        between.count("\n") == 1
        and not between.strip()
        and len(line.strip()) >= _WRAPPED
        and len(said) < _LONGEST
        and len(line.split()) >= _PROSE
        and not _ENDED.search(said)
        and " = " not in line  # a setting and its comment
        and (text[start].isalpha() or text[start] in "\"'(“„*`" or bool(_AMOUNT.match(text, start)))
        and _MARK.match(text[start:]) is None
        and not said.startswith(("|", "#"))
    )


def features(
    question: str, sources: Sequence[SourceText], found: Sequence[Quote], similarities: Sequence[float] | None
) -> npt.NDArray[np.float64]:
    """One row per quote, with columns in the order of `WEIGHTS`. `similarities` are those of the quotes' embeddings."""
    texts = [_terms(f"{source.name}\n{source.text}") for source in sources]
    numbers = [readings for readings, _ in facts(question).numbers]
    names = _names(question)
    weights = word_weights(question, sources)
    total = sum(weights.values()) or 1.0
    kind, units = next(((kind, units) for pattern, kind, units in _ASKED if pattern.search(question)), ("", frozenset[str]()))
    rows = []
    for index, quote in enumerate(found):
        source = sources[quote.source]
        own, over, beside = _terms(quote.text), _terms(quote.over), _terms(quote.beside)
        shares = {"own": 0.0, "over": 0.0, "beside": 0.0}
        for word, weight in weights.items():
            where = next((at for at, terms in zip(shares, (own, over, beside), strict=True) if _has(terms, word)), None)
            if where is not None:
                shares[where] += weight / total
        whole = facts(f"{quote.over}\n{source.text}")
        held = [readings for readings, _ in facts(f"{quote.over}\n{quote.text}\n{quote.beside}").numbers]
        there = texts[quote.source] | over | whole.names
        lacks_name = sum(not _has(there, name) for name in names) / len(names) if names else 0.0
        lacks_number = sum(not any(read & other for other in held) for read in numbers) / len(numbers) if numbers else 0.0
        fits, unit = _fits(kind, units, quote, question, numbers)
        rows.append(
            {
                **shares,
                "embedding": _USUAL["embedding"] if similarities is None else similarities[index],
                "passage": _USUAL["passage"] if source.similarity is None else source.similarity,
                "fits": fits,
                "unit": unit,
                "lacks_name": lacks_name,
                "lacks_number": lacks_number,
            }
        )
    return np.array([[row[name] for name in WEIGHTS] for row in rows], np.float64).reshape(len(rows), len(WEIGHTS))


def word_weights(question: str, sources: Sequence[SourceText]) -> dict[str, float]:
    """What each word of a question counts: names and words that few passages have count more."""
    wanted = sorted(content_words(question), key=question.lower().find)[:_WORDS]
    texts = [_terms(f"{source.name}\n{source.text}") for source in sources]
    names = _names(question)
    return {word: max(_LEAST_NAME if word in names else _LEAST_WORD, _idf(word, texts)) for word in wanted}


def _names(question: str) -> frozenset[str]:
    return facts(question).names | {name.casefold() for name in _NAMED.findall(question)}


def shortlist(question: str, sources: Sequence[SourceText], found: Sequence[Quote]) -> list[Quote]:
    """The quotes to embed: those with the highest scores by words alone."""
    if not found:
        return []
    scores = features(question, sources, found, None) @ np.array(list(WEIGHTS.values()))
    return [found[index] for index in np.argsort(-scores, kind="stable")[:_SHORT]]


def best(question: str, sources: Sequence[SourceText], found: Sequence[Quote], similarities: Sequence[float] | None) -> Extract:
    """The quote that answers one part of a question best, and another that may."""
    if not found:
        return Extract(question, None, -math.inf, False)
    rows = features(question, sources, found, similarities)
    scores = rows @ np.array(list(WEIGHTS.values()))
    first, *second = (int(index) for index in np.argsort(-scores, kind="stable")[:2])
    enough = _enough(scores[first], rows[first])
    close = [
        index
        for index in second
        if scores[first] - scores[index] <= CLOSE and _enough(scores[index], rows[index]) and _whole(found[index].text)
    ]
    other = found[close[0]] if enough and close else None
    known = sum(value for name, value in zip(WEIGHTS, rows[first], strict=True) if name in ("own", "over"))
    return Extract(question, found[first], float(scores[first]), enough, other, float(known))


def _whole(text: str) -> bool:
    """Whether a quote is a statement of its own, not a line that introduces a list or an example."""
    return text.startswith("|") or bool(_STOPPED.search(text)) or (len(text.split()) < _PROSE and not text.endswith(":"))


def _enough(score: float, row: npt.NDArray[np.float64]) -> bool:
    """Whether a quote with these features is evidence."""
    feature = dict(zip(WEIGHTS, row, strict=True))
    doubtful = feature["lacks_name"] > 0 or feature["fits"] < 0
    about_another = feature["lacks_name"] == 1 or feature["lacks_number"] > 0
    return bool(score >= ENOUGH + IN_DOUBT * doubtful and not about_another)


def _fits(
    kind: str, units: frozenset[str], quote: Quote, question: str, numbers: Sequence[frozenset[str]]
) -> tuple[float, float]:
    """Whether a quote has the kind of fact asked for, not counting the question's own; and the same for a number's unit.

    Each is 1 if it has it, -1 if it lacks it, and 0 if the question asks for none.
    """
    own = facts(quote.text)
    new = [(readings, unit) for readings, unit in own.numbers if not any(readings & other for other in numbers)]
    match kind:
        case "number":
            # A column's header may name the unit of its cells.
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
    """Inverse document frequency over the passages (Robertson and Sparck Jones); a word in none of them counts as in one more."""
    count = sum(_has(terms, word) for terms in texts)
    return math.log(1 + (len(texts) - count + 0.5) / (count + 0.5)) if count else math.log(1 + 2 * len(texts))


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|"))]
