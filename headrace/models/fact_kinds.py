"""What kind of fact a question asks for: a number and its unit, a date, a person, a cause; and whether a text has one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.models.asked import RATE_BY_TIME
from headrace.models.concepts import concepts_of
from headrace.models.counts import LABELLED
from headrace.models.identifiers import AskedIdentifier, asked_identifier
from headrace.models.quotable import Quote
from headrace.models.support import MONTHS, UNITS, facts
from headrace.models.word_match import terms

# A capital letter in the middle of a sentence, or at its beginning in front of a verb: "Holm is", but not "Eleven metres".
CAPITAL = re.compile(
    r"(?:(?<=[\w,;:(|&/–-] )|(?<=\())[A-ZÄÖÜÉ][\w'’-]+|^\W*[A-ZÄÖÜÉ][\w'’-]+(?=\s+(?:is|was|has|had|\w{3,}ed)\b)"
)
_DATE = re.compile(
    r"\b\d{4}-\d\d-\d\d\b|\b(?:1[0-9]|20)\d\d\b|\b\d{1,2}[.:]\d\d\b|\b\d{1,2}\s?(?:am|pm|h|Uhr)\b|day\b|days\b|tag\b|\b(?:January|February"
    r"|March|April|May|June|July|August|September|October|November|December|Januar|Februar|März|Mai|Juni|Juli|Oktober|Dezember"
    r"|(?i:lundi|mardi|mercredi|jeudi|vendredi|samedi|dimanche|lunes|martes|miércoles|jueves|viernes|sábado|domingo"
    r"|janvier|février|mars|avril|mai|juin|juillet|août|septembre|octobre|novembre|décembre"
    r"|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre))\b"
)
_MONTH = "|".join(sorted(MONTHS, key=len, reverse=True))
CLOSES_AT = re.compile(
    r"\b(?:close|shut)s?\b|(?:\b(?:to|until|till|at|by|before)|[-–])\s*(?:\d|noon|midnight|dusk|sunset"
    r"|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b)",
    re.IGNORECASE,
)
"""Says when something closes."""
ROLE_WORD = re.compile(
    r"\b(?:by|von|durch)\s+(?:the|an?|our|its|their|de[rmn]|die|das)\b|\b(?:we|volunteers|members|owners?)\b", re.IGNORECASE
)
"""Says that somebody without a name did something."""
# A day of a month is no amount.
DAY_OF_MONTH = re.compile(
    rf"\b\d{{1,2}}(?:\.|st|nd|rd|th)?\s+(?:{_MONTH})\b(?:,?\s+\d{{4}}\b)?|\b\d{{4}}-\d\d-\d\d\b", re.IGNORECASE
)
_DECADE = re.compile(r"\b(?:1[0-9]|20)\d0['’]?s\b|\b\d{1,2}(?:st|nd|rd|th) century\b")  # "1950s" is read as a name
_CLOCK = re.compile(r"\b\d{1,2}:\d\d\b")
_AFTER = re.compile(
    r"\b(?:days?|weeks?|months?|years?) (?:later|earlier|before|after|ago)\b|\b(?:Tage?|Wochen?|Monate?|Jahre?) später\b"
)
_CAUSE = re.compile(
    r"\bbecause\b|\bcaus|\bdue to\b|\bsince\b|\bafter\b|\bso that\b|\breason|\bweil\b|\bda\b|\bwegen\b|\bparce que\b|\bporque\b"
    r"|\bdebido\b|\bà cause\b|\bgrund\b|\bursache",
    re.IGNORECASE,
)
_AGE = re.compile(r"\baged?\b|\bborn\b|\byears? old\b|\bJahre alt\b", re.IGNORECASE)
_FREE = re.compile(
    r"\b(?:free|nothing|none|no (?:fee|charge)|included|kostenlos|kostenfrei|frei|gratis|gratuit\w*|gratuitement)\b",
    re.IGNORECASE,
)
_PHONE = re.compile(
    r"(?<![\w.,-])\+?\(?\d[\d ()/–-]{5,20}\d(?![\w,-]|\.\d)|\b(?:ext\.|extension|Durchwahl|poste)\s+\d{2,6}\b",
    re.IGNORECASE,
)
_MAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}")
_TIMES = "us ms second minute hour day week month year"
_BYTES = "byte kb mb gb tb pb kib mib gib tib"
_LENGTHS = "mm cm m km mile yard foot inch"
_MASSES = "mg g kg tonne"
_VOLUMES = "ml litre m3 gallon"
_MONEY = "eur usd gbp chf"
MONEY = frozenset(_MONEY.split())
"""The units of a price."""
# What a question asks for, by the first pattern that matches; a number with its possible units.
_ASKED = tuple(
    (re.compile(pattern, re.IGNORECASE), kind, frozenset(units.split()))
    for pattern, kind, units in (
        (r"^\W*(?:who|whose|whom|wer|wem|wen|qui|quién)\b", "person", ""),
        (r"^\W*(?:why|warum|weshalb|wieso|pourquoi|por qué)\b", "cause", ""),
        (r"^\W*(?:what|which|wie|was|welche)\b.*\be-?mail\b|\be-?mail address|\bE-Mail-Adresse", "mail", ""),
        (r"^\W*(?:what|which)\b.*\b(?:tele)?phone\b|\b(?:tele)?phone number|\b(?:Telefon|Ruf)nummer", "phone", ""),
        (r"\bhow old\b|\bwie alt\b", "age", ""),
        (
            r"\bwhen\b|\bwhat (?:date|day|time|year|month)\b|\bwhich (?:day|year|month)\b|\bwann\b|\bquand\b|\bcuándo\b"
            r"|\b(?:welche[mnrs]?|quel|qué) (?:Tag|Jahr|Monat|jour|año|día)\b|\bquelle heure\b",
            "date",
            "",
        ),
        (r"\bhow (?:long|often|soon|quickly|late|early)\b|\bwie (?:lange|oft)\b", "number", f"{_TIMES} m km cm"),
        (r"\bhow far\b|\bwie weit\b", "number", "m km mile"),  # also "on a full charge", which is no price
        (
            r"\b(?:costs?|prices?|fees?|fares?|charged?|budget|salary|(?<!to )(?<!'t )(?<!not )(?:pay|paid)|how much .{0,80}\bpay"
            r"|kostet|kosten|wie teuer|coûte|cuesta)\b",
            "number",
            _MONEY,
        ),
        (r"\bhow much (?:is|are)\b", "number", f"{_MONEY} {_VOLUMES} {_MASSES} {_BYTES} percent million billion"),
        (r"\bhow heavy\b|\bweigh|\bweight\b|\bwie schwer\b", "number", _MASSES),
        (r"\bhow (?:big|large)\b|\bwie groß\b", "number", f"{_BYTES} {_LENGTHS} {_MASSES} {_VOLUMES} w kw million billion"),
        (r"\bhow (?:hot|warm|cold)\b|\btemperature\b|\bTemperatur\b|\bwie (?:heiß|warm|kalt)\b", "number", "degree"),
        (r"\bhow (?:tall|wide|deep|high)\b|\bwie (?:tief|breit|lang)\b|\b(?:depth|width|altitude)\b", "number", _LENGTHS),
        # The rate of a thing by time is what it costs; a rate of anything else is a share, or a speed in any unit.
        (rf"{RATE_BY_TIME}|\b(?:Stundensätze?|Tagessätze?|Stundensatz|Tagessatz|Stundenlohn)\b", "number", _MONEY),
        (r"\b(?:percent|percentage|share)\b|\bProzent\b", "number", "percent"),
        (r"\brates?\b", "number", ""),
        (
            r"\bhow (?:much|many|low|fast|poor|small)\b|\bwie ?(?:viele?|hoch|schnell)\b|\bcombien\b|\bcuánt[oa]s?\b",
            "number",
            "",
        ),
        (r"\bwhat (?:number|limit|reading|threshold|size|capacity|speed|period|length|height|weight)\b", "number", ""),
        (r"\bwho\b|\bwho's\b|\bwhose\b|\bwhom\b|\bwer\b", "person", ""),
        (r"\bwhy\b|\bcaus|\breason\b|\bbehind\b|\bwarum\b|\bweshalb\b", "cause", ""),
    )
)  # fmt: skip
_YEAR = re.compile(r"1[5-9]\d\d|20\d\d")
_COSTS = frozenset(["price", "pay", "salary", "bill", "deposit", "refund", "discount", "fine", "tax", "budget", "allowance"])
_COUNTED = re.compile(r"\b(?:how (?:many|much)|wie ?viele?)\s+(\w+)(?:\s+(\w+))?|\bin (\w+)\W*$", re.IGNORECASE)


def _costs(quote: Quote) -> bool:
    return any(concepts_of(word) & _COSTS for word in terms(f"{quote.own}\n{quote.over}"))


@dataclass(frozen=True)
class FactKind:
    """What a question asks for: "number" with its possible units, "date", "person", "cause", "age", "mail", "phone",
    "identifier", or "".

    `numbers` are the question's own, which are no answer.
    """

    kind: str
    units: frozenset[str]
    question: str
    numbers: tuple[frozenset[str], ...]
    identifier: AskedIdentifier | None = None

    def is_missing(self, quote: Quote, fits: float) -> bool:
        """Whether a quote cannot be the answer, whatever else it has: no address where one is asked for, no sum and not free."""
        if fits >= 0:
            return False
        return self.is_exact or (self.units == MONEY and _FREE.search(quote.own) is None)

    @property
    def is_exact(self) -> bool:
        """Whether a text without such a fact cannot be the answer, whatever else it has."""
        return self.kind in ("mail", "phone", "age", "identifier")

    def fits(self, quote: Quote) -> tuple[float, float]:
        """Whether a quote has the kind of fact asked for, not counting the question's own; and the same for a number's unit.

        Each is 1 if it has it, -1 if it lacks it, and 0 if the question asks for none or the number has no unit.
        """
        own = facts(LABELLED.sub(" ", DAY_OF_MONTH.sub(" ", quote.own)) if self.kind == "number" else quote.own)
        new = [
            (readings, unit)
            for readings, unit in own.numbers
            if not any(readings & other for other in self.numbers)
            and not (self.units and not unit and any(map(_YEAR.fullmatch, readings)))
        ]
        match self.kind:
            case "number":
                # A column's name may have the unit of its cells.
                there = {unit for _, unit in new} | (own.units if new else frozenset())
                if not self.units or not new:
                    return (1.0 if new else -1.0), 0.0
                # A number without a unit may be of any, "Price: 12.00", but is no sum where nothing costs or is paid.
                bare = "" in there and (not self.units >= MONEY or _costs(quote))
                return 1.0, (1.0 if there & self.units else 0.0 if bare else -1.0)
            case "date":
                is_time = bool(new) or _CLOCK.search(quote.own) is not None  # "21:30" is read as a name
                has = (is_time and _DATE.search(quote.own) is not None) or _WEEKDAY.search(quote.own) is not None
                has = has or _DECADE.search(quote.own) is not None or (bool(new) and _AFTER.search(quote.own) is not None)
            case "age":
                has = bool(new) and _AGE.search(f"{quote.own} {quote.over}") is not None
            case "person":
                known = self.question.casefold()
                named = (
                    name for name in CAPITAL.findall(quote.own) if name.casefold() not in MONTHS and not _WEEKDAY.match(name)
                )
                has = any(name.casefold() not in known for name in named)
            case "cause":
                # It says more than other kinds: a sentence with all words of the question may say what happened, not why.
                return (2.0 if _CAUSE.search(quote.own) else -2.0), 0.0
            case "mail":
                has = _MAIL.search(quote.text) is not None
            case "phone":
                has = _PHONE.search(quote.text) is not None
            case "identifier" if self.identifier is not None:
                has = self.identifier.found_in(quote.own, self.question)
            case _:
                return 0.0, 0.0
        return (1.0 if has else -1.0), 0.0


_WEEKDAY = re.compile(
    r"\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?\b|\b(?:Mon|Diens|Donners|Frei|Sams|Sonn)tags?\b|\bMittwochs?\b"
    r"|\b(?:lundi|mardi|mercredi|jeudi|vendredi|samedi|dimanche|lunes|martes|miércoles|jueves|viernes|sábado|domingo)s?\b"
)


def fact_kind(question: str, numbers: Sequence[frozenset[str]], texts: Sequence[str] = ()) -> FactKind:
    """What a question asks for. `texts` are the passages, which tell whether "the contract with X" is known by an identifier."""
    asked = asked_identifier(question)
    if asked is not None and (asked.always or any(asked.found_in(text, question) for text in texts)):
        return FactKind("identifier", frozenset(), question, tuple(numbers), asked)
    kind, units = next(((kind, units) for pattern, kind, units in _ASKED if pattern.search(question)), ("", frozenset[str]()))
    if kind == "number":
        named = frozenset(UNITS[word] for m in _COUNTED.finditer(question) for word in m.groups() if word and word in UNITS)
        units = named or units
    return FactKind(kind, units, question, tuple(numbers))
