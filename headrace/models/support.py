"""Whether a text supports a sentence, judged by its words: numbers with their units, dates, names, identifiers, negation.

A language model's sentence is compared with the words of a passage, not judged by another model. A run of up to three adjacent
sentences or table rows supports it if the run has

- every number of the sentence (1,000 is 1000 and 1.000; "four" is 4; 2025-04-17 is 17 April 2025) with the same unit, and in the
  same sentence or row the names and half of the other words of the number's clause,
- every other name, acronym and identifier,
- a negation if the sentence has one, and none if it has none,
- and at least half of the sentence's words.

The heading above and a table's header count as part of the run for names, units and words, not for numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

LEAST_WORDS = 0.5
_SENTENCES = 3  # the longest run that is evidence
_FEW_WORDS = 3  # a sentence with fewer is read together with the question
_CLAUSE = re.compile(r"[,;:]\s+|\s+(?:and|or|but|und|oder|aber|while|whereas)\s+")
_FAMILIES = {
    unit: family
    for family, units in {
        "money": "eur usd gbp chf",
        "time": "us ms second minute hour day week month year",
        "bytes": "byte kb mb gb tb pb kib mib gib tib",
    }.items()
    for unit in units.split()
}
_ANOTHER = 0.75  # share of a sentence's words in one with other numbers from which both make the same statement

_BOLD = re.compile(r"(?<![\w*\\`])(\*{2,3})(?=[^\s*])([^*`\n]+)(?<=\S)\1(?![\w*`])")

_CASE = {"may": True, "mars": False}  # a month only with a capital letter, or only without

_COMMON = frozenset(
    re.findall(
        r"\S+",
        """
        a about an and any are as at be been but by can do does did for from had has have how if in into is it its many may more
        most much of on one or other our so some such than that the their them then there these they this to up used uses using
        was we were what when where which who whom whose why will with would you your aber als am an auf aus bei bin bis da das
        dass dem den der des die dies diese dieser du durch ein eine einem einen einer eines er es für hat haben ich ihr im in
        ist ja man mit nach oder sich sie sind so über um und uns von vor war waren was wenn wer wie wir wird wo zu zum zur
        """,
    )
)
_NEGATIONS = frozenset(
    re.findall(
        r"\S+",
        """
        no not never none neither nor nobody nothing without cannot can't don't doesn't didn't isn't aren't wasn't weren't won't
        wouldn't shouldn't couldn't hasn't haven't hadn't kein keine keinen keiner keinem keines nicht nichts nie niemals
        niemand ohne weder
        """,
    )
)
WORDS_FOR = {
    word: str(number)
    for number, words in enumerate(
        [
            "zero null",
            "one ein eins eine",
            "two zwei",
            "three drei",
            "four vier",
            "five fünf",
            "six sechs",
            "seven sieben",
            "eight acht",
            "nine neun",
            "ten zehn",
            "eleven elf",
            "twelve zwölf",
        ]
    )
    for word in words.split()
}
_AMBIGUOUS = frozenset(["one", "ein", "eins", "eine", "null"])  # articles and pronouns more often than numbers
UNITS = {
    word: unit
    for unit, words in {
        "eur": "€ eur euro euros",
        "usd": "$ usd dollar dollars",
        "gbp": "£ gbp pound pounds",
        "percent": "% percent prozent",
        "second": "s sec secs second seconds sekunde sekunden seconde secondes segundo segundos",
        "minute": "min mins minute minutes minuten minuto minutos",
        "hour": "h hr hrs hour hours stunde stunden heure heures hora horas",
        "day": "d day days tag tage tagen jour jours día días",
        "week": "week weeks woche wochen semaine semaines semana semanas",
        "month": "month months monat monate monaten mois mes meses",
        "year": "year years jahr jahre jahren ans année années año años",
        "byte": "b byte bytes",
        "kb": "kb kilobyte kilobytes",
        "mb": "mb megabyte megabytes",
        "gb": "gb gigabyte gigabytes",
        "tb": "tb terabyte terabytes",
        "pb": "pb petabyte petabytes",
        "kib": "kib",
        "mib": "mib",
        "gib": "gib",
        "tib": "tib",
        "ms": "ms millisecond milliseconds",
        "us": "µs us microsecond microseconds",
        "chf": "chf franc francs franken",
        "mm": "mm millimetre millimetres millimeter millimeters",
        "cm": "cm centimetre centimetres centimeter centimeters zentimeter zentimetern",
        "m": "m metre metres meter meters metern mètre mètres",
        "km": "km kilometre kilometres kilometer kilometers kilometern kilomètre kilomètres kilómetro kilómetros",
        "mile": "mile miles mi",
        "yard": "yard yards yd",
        "foot": "foot feet ft",
        "inch": "inch inches",
        "m2": "m² m2 sqm",
        "hectare": "ha hectare hectares hektar",
        "acre": "acre acres",
        "m3": "m³ m3",
        "ml": "ml millilitre millilitres milliliter milliliters",
        "litre": "l litre litres liter liters litern litro litros",
        "gallon": "gallon gallons",
        "mg": "mg milligram milligrams",
        "g": "g gram grams gramm gramme grammes gramos",
        "kg": "kg kilogram kilograms kilo kilos kilogramm",
        "tonne": "t tonne tonnes ton tons tonnen",
        "degree": "° °c °f degree degrees celsius fahrenheit",
        "bar": "bar bars",
        "w": "w watt watts",
        "kw": "kw kilowatt kilowatts",
        "mw": "mw megawatt megawatts",
        "kwh": "kwh",
        "volt": "v volt volts",
        "hz": "hz hertz",
        "khz": "khz",
        "mhz": "mhz",
        "ghz": "ghz",
        "rpm": "rpm",
        "kmh": "km/h kmh kph",
        "mph": "mph",
        "knot": "knot knots",
        "mbit": "mbit mbps",
        "gbit": "gbit gbps",
        "million": "million millions millionen",
        "billion": "billion billions",
    }.items()
    for word in words.split()
}
_ALSO_WORDS = frozenset(["bar", "bars", "foot", "feet", "degree", "degrees", "knot", "knots", "ton", "tons", "mile", "miles"])
"""Units that are other things too where no number stands before them."""
MONTHS = {
    name: number
    for number, names in enumerate(
        [
            "january januar jan janvier enero",
            "february februar feb février febrero",
            "march märz mar mars marzo",
            "april apr avril abril",
            "may mai mayo",
            "june juni jun juin junio",
            "july juli jul juillet julio",
            "august aug août agosto",
            "september sep sept septembre septiembre",
            "october oktober oct octobre octubre",
            "november nov novembre noviembre",
            "december dezember dec décembre diciembre",
        ],
        1,
    )
    for name in names.split()
}
# No text can be read in two ways, so that none takes longer than its length: these read what clients and documents say.
_TOKEN = re.compile(
    r"(?P<date>\b\d{4}-\d{2}-\d{2}\b)"
    r"|(?P<name>\b\d+(?:[.:]\d+){2,}\b|\b\d{1,2}:\d{2}\b|\b(?=\d*+[^\W\d])\w++(?:[./-]\w++){0,30}\.\w++"
    r"|\b[^\W\d_]++-\d[\w-]*\b|\b(?=\w*\d)(?=\w*[^\W\d_])(?!\d+(?:st|nd|rd|th)\b)(?!\d+[^\W\d_]{1,3}\b)\w++(?:-\w++)*+"
    r"|\b(?=\w+?_\w)\w++)"
    r"|(?P<number>(?<![\w.])\d{1,3}(?:[,.'’\u00a0\u202f ]\d{3})+(?:[.,]\d+)?(?!\d)|\d+(?:[.,]\d+)*)(?:st|nd|rd|th)?"
    r"|(?P<sign>[%€$£µ°])"
    r"|(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)?)"
)
# A full stop ends a sentence before white space, and without it in scripts that have no spaces, unless it ends a quotation within
# a sentence; a line break always does (headings, rows of a table).
_CLOSING = "」』）】〉》”’"
_SENTENCE = re.compile(
    rf"[^\n]+?(?:[.!?؟۔।][\"')\]]*(?=\s)|[。！？｡](?:[{_CLOSING}]+(?![ぁ-ん、，])|(?![{_CLOSING}。！？｡]))|(?=\n)|$)"
)


@dataclass(frozen=True)
class Facts:
    """What can be checked in a text. A number is the set of its readings, with its unit or an empty string."""

    numbers: tuple[tuple[frozenset[str], str], ...]
    units: frozenset[str]
    names: frozenset[str]
    words: frozenset[str]
    negated: bool


@dataclass(frozen=True)
class Evidence:
    """What a passage says about a sentence: its characters `start` to `end` support or contradict it."""

    start: int
    end: int
    share: float
    contradicts: bool = False


def content_words(text: str) -> set[str]:
    """The words of a text in lower case, without the most common ones."""
    return {word for word in re.findall(r"\w+", text.lower()) if word not in _COMMON}


@lru_cache(maxsize=4096)
def facts(text: str) -> Facts:
    """What can be checked in a text."""
    numbers: list[tuple[frozenset[str], str]] = []
    units: set[str] = set()
    names: set[str] = set()
    words: set[str] = set()
    negated = False
    before, currency, bare = 0, "", False  # where the last token ended, and whether it was a currency or a number without a unit
    for match in _TOKEN.finditer(text):
        kind, said = match.lastgroup, match[0]
        low = said.casefold().replace("’", "'")
        unit = UNITS.get(low, "") if kind in ("sign", "word") else ""
        beside = not text[before : match.start()].strip(" \u00a0\u202f-")
        is_number = kind == "number" or (kind == "word" and low in WORDS_FOR and low not in _AMBIGUOUS)
        taken = False
        if kind == "date":
            year, month, day = (str(int(part)) for part in said.split("-"))
            numbers += [(frozenset({part}), "") for part in (year, f"month {month}", day)]
        elif is_number:
            read = _readings(match["number"]) if kind == "number" else frozenset({WORDS_FOR[low]})
            numbers.append((read, currency if beside else ""))
        elif unit and bare and beside:
            numbers[-1] = (numbers[-1][0], unit)
            units.add(unit)
            taken = True
        elif kind == "name":
            if len(low) > 3 or not low.replace(".", "").isalpha():  # not "e.g"
                names.add(low)
        elif low in _NEGATIONS:
            negated = True
        elif unit:
            units.add(unit)
            if low in _ALSO_WORDS:
                words.add(low)
        elif low in MONTHS and said[0].isupper() == _CASE.get(low, said[0].isupper()):
            numbers.append((frozenset({f"month {MONTHS[low]}"}), ""))
        elif low not in _COMMON and len(low) > 1:
            (names if _is_name(said, first=before == 0) else words).add(low)
        bare = is_number and not numbers[-1][1]
        currency = unit if _FAMILIES.get(unit) == "money" and not taken else ""
        before = match.end()
    return Facts(tuple(numbers), frozenset(units), frozenset(names), frozenset(words), negated)


def evidence(sentence: str, passage: str, question: str = "") -> Evidence | None:
    """The shortest run of a passage's sentences that supports a sentence best, else one that contradicts it; `None` for neither.

    For a sentence of few words ("38.00 EUR.") the run must also have the names of the `question` next to the number.
    """
    said = facts(sentence)
    if not (said.words or said.names or said.numbers):
        return None
    about = facts(question).names if question and len(said.words | said.names) < _FEW_WORDS else frozenset[str]()
    clauses = [one for text in _CLAUSE.split(sentence) if (one := facts(text)).numbers] if said.numbers else []
    best: Evidence | None = None
    contradicted: Evidence | None = None
    spans = sentences(passage)
    each = [facts(passage[start:end]) for start, end in spans]
    over = [facts(above(passage, start)) for start, _ in spans]
    about = frozenset(name for name in about if any(_known(name, *both) for both in zip(each, over, strict=True)))
    for first, (start, _) in enumerate(spans):
        for last in range(first, min(first + _SENTENCES, len(spans))):
            end = spans[last][1]
            own, around = facts(passage[start:end]), over[first]
            share = _share(said, own, around)
            run = range(first, last + 1)
            nearest = max(run, key=lambda at: _share(said, each[at], over[at]))
            if share < LEAST_WORDS or each[nearest].negated != said.negated:
                continue
            known = all(_known(name, own, around) for name in said.names)
            if known and all(any(_states(each[at], over[at], clause, about) for at in run) for clause in clauses):
                if best is None or (share, start - end) > (best.share, best.start - best.end):
                    best = Evidence(start, end, share)
            elif (
                known
                and first == last
                and share >= _ANOTHER
                and _differs(said, own)
                and (contradicted is None or share > contradicted.share)
            ):
                contradicted = Evidence(start, end, share, contradicts=True)
    return best or contradicted


def _states(own: Facts, around: Facts, clause: Facts, about: frozenset[str]) -> bool:
    """Whether one sentence has a clause's numbers, its names and half of its words."""
    return (
        all(_holds(own, around, number) for number in clause.numbers)
        and all(_known(name, own, around) for name in clause.names | about)
        and _share(clause, own, around) >= LEAST_WORDS
    )


def _differs(said: Facts, own: Facts) -> bool:
    """Whether a sentence that makes the same statement has other numbers of the same kind."""
    if len(said.words | said.names) < _FEW_WORDS:
        return False
    kinds = {_FAMILIES.get(unit, unit) for _, unit in own.numbers}
    held = [readings for readings, _ in own.numbers]
    return any(
        (_FAMILIES.get(unit, unit) in kinds and not any(read & other for other in held))
        or any(read & readings and unit and beside and unit != beside for readings, beside in own.numbers)
        for read, unit in said.numbers
    )


def without_bold(text: str) -> str:
    """Markdown without the asterisks of bold text; those of code, such as `**options` and 2**8, stay."""
    return _BOLD.sub(r"\2", text)


def sentences(passage: str) -> list[tuple[int, int]]:
    """Where each sentence, line or table row of a passage begins and ends, in characters."""
    found = []
    for match in _SENTENCE.finditer(passage):
        text = match[0]
        if text.strip():
            found.append((match.start() + len(text) - len(text.lstrip()), match.start() + len(text.rstrip())))
    return found


def above(passage: str, start: int) -> str:
    """The heading above an offset in a passage, and the first row of the table at that offset."""
    lines = passage[:start].splitlines()
    if not passage[:start].endswith("\n") and lines:
        lines = lines[:-1]  # the line that contains the offset
    heading = next((line for line in reversed(lines) if line.startswith("#")), lines[0] if lines else "")
    header = ""
    if passage[start : start + 1] == "|":
        for line in reversed(lines):
            if not line.startswith("|"):
                break
            header = line
    return f"{heading}\n{header}"


def _readings(number: str) -> frozenset[str]:
    """The possible values of a number: 1.000 is a thousand in some languages and one in others."""
    bare = re.sub(r"['’\u00a0\u202f ]", "", number)
    points, commas = bare.count("."), bare.count(",")
    if points and commas:
        decimal = "." if bare.rindex(".") > bare.rindex(",") else ","
        return frozenset({_plain(bare.replace("," if decimal == "." else ".", "").replace(decimal, "."))})
    if points + commas > 1:
        return frozenset({_plain(bare.replace(".", "").replace(",", ""))})
    decimal = bare.replace(",", ".")
    if "." in decimal and len(decimal.partition(".")[2]) == 3:
        return frozenset({_plain(decimal.replace(".", "")), *({_plain(decimal)} if points else ())})
    return frozenset({_plain(decimal)})


def _plain(number: str) -> str:
    whole, _, fraction = number.partition(".")
    fraction = fraction.rstrip("0")
    whole = whole.lstrip("0") or "0"
    return f"{whole}.{fraction}" if fraction else whole


def _is_name(said: str, first: bool) -> bool:
    """Whether a word is written like a name: an acronym anywhere, or a capital letter except at the beginning."""
    return (said.isupper() and len(said) > 1) or (said[0].isupper() and not first)


def _holds(own: Facts, around: Facts, number: tuple[frozenset[str], str]) -> bool:
    """Whether a run has a number with its unit."""
    read, unit = number
    there = [beside for readings, beside in own.numbers if readings & read]
    if not there:
        return False
    if not unit or unit in there:
        return True
    return "" in there and unit in own.units | around.units


def _known(name: str, own: Facts, around: Facts) -> bool:
    return any(alike(name, other) for other in _all(own) | _all(around))


def _all(of: Facts) -> frozenset[str]:
    return of.names | of.words


def _share(said: Facts, own: Facts, around: Facts) -> float:
    words = said.words | said.names
    if not words:
        return 1.0
    there = _all(own) | _all(around)
    return sum(any(alike(word, other) for other in there) for word in words) / len(words)


def alike(one: str, other: str) -> bool:
    """Whether two words are equal or forms of one word: the same beginning, other last letters."""
    if one == other or any(map(str.isdigit, one + other)):
        return one == other
    least = min(len(one), len(other))
    return least >= 4 and abs(len(one) - len(other)) <= 3 and one[: max(4, least - 2)] == other[: max(4, least - 2)]


def best_of(sentence: str, passages: Sequence[str], question: str = "") -> tuple[int, Evidence] | None:
    """(number from 1, evidence) of the passage that supports a sentence best, else of one that contradicts it."""
    found = [
        (number, one) for number, passage in enumerate(passages, 1) if (one := evidence(sentence, passage, question)) is not None
    ]
    return max(found, key=lambda one: (not one[1].contradicts, one[1].share, -one[0]), default=None)
