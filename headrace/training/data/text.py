"""Texts for training: replacing personal data, rejecting poor texts, and a normal form for comparisons."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import TEXT
from headrace.core.launch import Batches
from headrace.settings import Preparing
from headrace.unicode import normalized

# Each kind has a digit, an @ or ::, which most texts do not have.
_SUSPECT = re.compile(r"[0-9@]|::")
# Quantifiers are possessive or bounded, and matches start only at the start of a run, so that time is linear in any text.
_EMAIL = re.compile(r"(?<![\w.+%'-])[\w.+%'-]{1,64}+@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IBAN = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}[0-9]{2}(?:[ -]?[0-9A-Za-z]){11,30}")
_CARD = re.compile(r"(?<![0-9A-Za-z])(?<![0-9][ .,-])[2-6][0-9]{3}(?:[ -]?[0-9]){9,15}(?![0-9A-Za-z]|[.,-][0-9])")
_SSN = re.compile(r"(?<![0-9A-Za-z-])(?!000|666|9)[0-9]{3}([- ])(?!00)[0-9]{2}\1(?!0000)[0-9]{4}(?![0-9A-Za-z]|-[0-9])")
_IPV4 = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:])[0-9A-Fa-f:]{3,39}(?:\.[0-9]{1,3}){0,3}(?![\w:])")
_INTERNATIONAL = r"(?:\+|00(?=[1-9]))[0-9](?:[ ./()-]{0,3}[0-9]){7,14}"
_AMERICAN = r"(?:\([0-9]{3}\) ?|[0-9]{3}[.-])[0-9]{3}[.-][0-9]{4}|[2-9][0-9]{2} [2-9][0-9]{2} [0-9]{4}"
_NATIONAL = r"\(?0[1-9][0-9]{1,3}\)?[ /-]{1,2}[0-9]{2,4}(?:[ -]?[0-9]{2,4}){1,3}"
_PHONE = re.compile(rf"(?<![\w+(.,])(?<![0-9][ /-])(?:{_INTERNATIONAL}|{_AMERICAN}|{_NATIONAL})(?![0-9A-Za-z]|[.,/-][0-9])")

# Characters of an IBAN by country: SWIFT's IBAN registry, release 99.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH CR HR LI LV",
        22: "BG BH DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}


def scrub(text: str) -> tuple[str, tuple[str, ...]]:
    """The text with personal data replaced, and the kinds that were found, each once: email, iban, card, ssn, ip, phone."""
    if not _SUSPECT.search(text):
        return text, ()
    places = []
    for kind, spans in _FORMS:
        if marked := list(spans(text)):
            places.append(kind)
            pieces, at = [], 0
            for start, end in marked:
                pieces += [text[at:start], f"⟨{kind}⟩"]
                at = end
            text = "".join([*pieces, text[at:]])
    return text, tuple(places)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others: Luhn's formula, ISO/IEC 7812-1 annex B."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def mod97(iban: str) -> bool:
    """Whether an IBAN without spaces, in capitals, has its check digits: ISO 7064 mod 97-10 over the rotated text is 1."""
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


Spans = Callable[[str], Iterator[tuple[int, int]]]


def _all(pattern: re.Pattern[str], needed: str = "") -> Spans:
    def spans(text: str) -> Iterator[tuple[int, int]]:
        if needed in text:
            yield from (match.span() for match in pattern.finditer(text))

    return spans


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2].upper())
        # The text after it may look like more digits: only the country's number of characters counts.
        places = [place for place, character in enumerate(match[0]) if character not in " -"]
        if length is None or len(places) < length:
            continue
        end = places[length - 1] + 1
        after = match.start() + end
        if after < len(text) and text[after].isalnum():
            continue
        if mod97("".join(match[0][place] for place in places[:length]).upper()):
            yield match.start(), after


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        if luhn(re.sub(r"[ -]", "", match[0])):
            yield match.span()


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    """IP addresses, except loopback and unspecified ones, which manuals contain and which identify no one."""
    matches = [*_IPV4.finditer(text), *(_IPV6.finditer(text) if "::" in text or text.count(":") >= 7 else ())]
    taken = 0
    for match in sorted(matches, key=lambda match: (match.start(), -match.end())):
        try:
            address = ip_address(match[0].rstrip("."))
        except ValueError:
            continue
        if match.start() >= taken and not (address.is_loopback or address.is_unspecified):
            yield match.span()
            taken = match.end()


_FORMS: tuple[tuple[str, Spans], ...] = (
    ("email", _all(_EMAIL, "@")),
    ("iban", _ibans),
    ("card", _cards),
    ("ssn", _all(_SSN)),
    ("ip", _addresses),
    ("phone", _all(_PHONE)),
)


# How assistants, including this service, begin when they decline to answer.
_REFUSAL = re.compile(
    r"(?:i(?:'| a)m (?:very )?sorry|sorry|unfortunately)?[\s,.;:]*(?:but )?"
    r"(?:i (?:found nothing|do ?n[o']t (?:know|have)|ca(?:n'?t|n ?not)|(?:am|was) (?:not able|unable)|could ?n[o']t)"
    r"|i'm (?:not able|unable)|(?:that|this|it) is(?: n[o']t|n't) in th(?:e|ese|is) documents?"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model)"
    r"|(?:the|these|this) (?:given |provided )?(?:document|passage|text|context)s? do(?:es)? ?n[o']t"
    r" (?:contain|give|have|hold|include|mention|provide|say|specify|state))\b",
    re.IGNORECASE,
)


def poor_question(text: str, normal: str, settings: Preparing) -> str | None:
    """Why a question is left out, or `None`; its length is in characters, of its normal form at the lower bound."""
    if len(normal) < settings.shortest_question:
        return "question too short"
    if len(text) > settings.longest_question:
        return "question too long"
    return None


def poor_answer(text: str) -> str | None:
    """Why an uncorrected answer is left out, or `None`."""
    if not text.strip():
        return "empty"
    return "refusal" if refused(text) else None


def refused(text: str) -> bool:
    """Whether an answer declines to answer, judged by its beginning, with either kind of apostrophe."""
    return _REFUSAL.match(text.strip().replace("’", "'")) is not None


_WORD = re.compile(r"[^\W_]+")
_BATCH_ROWS = 2048

GIVEN = pa.schema([pa.field("text", TEXT, nullable=False)])
CLEANED = pa.schema(
    [
        pa.field("text", TEXT, nullable=False),
        pa.field("normal", TEXT, nullable=False),
        pa.field("personal", pa.list_(TEXT), nullable=False),  # the kinds of personal data that were replaced
    ]
)


def normal(text: str) -> str:
    """The words separated by single spaces: Unicode normal form NFKC, case-folded, without punctuation."""
    return " ".join(_WORD.findall(normalized("NFKC", text).casefold()))


class Clean:
    """Batch work, 1:1: texts to the same texts without personal data and their normal forms."""

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Clean a batch of `GIVEN` rows into `CLEANED` ones."""
        scrubbed = [scrub(text) for text in rows.column("text").to_pylist()]
        texts = [text for text, _ in scrubbed]
        columns = [texts, [normal(text) for text in texts], [list(kinds) for _, kinds in scrubbed]]
        return pa.RecordBatch.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, CLEANED, strict=True)], schema=CLEANED
        )


@dataclass(frozen=True)
class Texts:
    """Distinct cleaned texts (`CLEANED`), and for each source column the position of each value's text."""

    cleaned: pa.Table
    places: Mapping[str, pa.Array]

    @cached_property
    def private(self) -> frozenset[int]:
        """Positions of the texts in which something was replaced."""
        return frozenset(place for place, kinds in enumerate(self.cleaned["personal"].to_pylist()) if kinds)


def clean(columns: Mapping[str, pa.ChunkedArray], batches: Batches) -> Texts:
    """Clean columns of texts; each distinct text is cleaned once. Nulls stay null."""
    texts = {name: column.cast(TEXT) for name, column in columns.items()}
    distinct = pa.chunked_array([chunk for column in texts.values() for chunk in column.chunks], TEXT).unique().drop_null()

    def source() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(distinct), _BATCH_ROWS):
            yield pa.RecordBatch.from_arrays([distinct.slice(start, _BATCH_ROWS)], schema=GIVEN)

    cleaned = pa.Table.from_batches(list(batches.map(source(), Clean)), CLEANED)
    return Texts(cleaned, {name: whole(pc.index_in(column, value_set=distinct)) for name, column in texts.items()})


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
