"""Identifiers: the ticket, order, invoice, contract or serial number that a question asks for, and whether a text has one.

An identifier stands beside the noun of its class ("change ticket CHG-1042", "invoice number: 4711", a cell below "Serial
number"), or begins with an abbreviation of it (INC-0412 is an incident). What is below or beside another class is none: the
serial number of a device is not its inventory number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.models.concepts import concepts_of
from headrace.models.support import UNITS, alike

_READ = 400  # characters of a question
_BEFORE, _BEHIND, _BESIDE_PLAIN = 6, 4, 4  # words between the noun and its identifier, and one of digits alone
_TYPES = (
    "serial|order|invoice|ticket|case|contract|account|customer|client|policy|part|article|item|batch|lot|tracking|reference"
    "|registration|licen[cs]e|permit|certificate|member(?:ship)?|asset|inventory|passport|tax|vat|file|incident|request|change"
    "|project|booking|reservation|shipment|delivery|quotation|job|claim|complaint|document|drawing|patent|docket|approval"
)
_NUMBER = r"(?:number|no|id|identifier|reference)s?\b"
_ASKS = r"(?:what|which|what's|under (?:what|which)|by (?:what|which))"
_THE = r"(?:\s+(?:is|are|was|were))?(?:\s+(?:the|our|its|their))?\s+"
# "what is the (support contract) number", "what is the number of the support contract"
_NUMBERED = re.compile(
    rf"\b{_ASKS}{_THE}((?:[\w-]+\s+)?(?:{_TYPES}))[\s-]+{_NUMBER}"
    rf"|\b{_ASKS}{_THE}{_NUMBER}\s+of\s+(?:the|our|an?)\s+((?:[\w-]+\s+)?(?:{_TYPES}))\b",
    re.IGNORECASE,
)
_NUMBERED_ELSEWHERE = re.compile(
    r"\b(?!telefon|ruf|haus|zimmer|fax|post|konten|seiten|an)([^\W\d_]{3,20}?)s?(?:nummer|kennung)\b"
    r"|\bnum[ée]ro de (s[ée]rie|commande|facture|contrat|ticket|client|dossier)\b"
    r"|\bnúmero de (serie|pedido|factura|contrato|ticket|caso|cliente)\b",
    re.IGNORECASE,
)
_ALWAYS = re.compile(
    rf"\b{_ASKS}{_THE}((?:change|incident|support|service|helpdesk|trouble|problem|repair|maintenance)\s+ticket"
    r"|(?:purchase|work|change|job|service)\s+order|(?:change|pull|merge|service)\s+request)\b",
    re.IGNORECASE,
)
# These may be asked for by what they say, too; they are identifiers where the passages name one by its identifier.
_SOMETIMES = re.compile(
    r"\b(?:what|what's)\s+(?:is|was)\s+(?:the|our|its)\s+((?:[\w-]+\s+)?(?:ticket|invoice|order|case|incident|contract|claim|booking|permit"
    r"|certificate|policy|docket|request))\s+(?:of|for|to|with|from|behind)\b",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[#№]?\w+(?:[-–/_.]\w+)*|[;.\n]")
_DATE = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|(?:19|20)\d\d(?:[-/](?:19|20)?\d\d)?")
_AMOUNT = re.compile(r"\d+(?:[.,]\d+)*(?:st|nd|rd|th|s)?|\d+(?:[.,]\d+)*[-–/]\d+(?:[.,]\d+)*")
_PREFIX = re.compile(r"[A-Z]{2,6}(?=[-–/_]?\d)")
_MONEY = re.compile(r"\s*(?:[€$£%°]|[^\W\d_]+)")
# What the usual abbreviations stand for.
_ABBREVIATED = {
    "CHG": "change", "CR": "change request", "RFC": "change request", "INC": "incident", "PRB": "problem", "REQ": "request",
    "SR": "service request", "PO": "purchase order", "WO": "work order", "INV": "invoice", "SN": "serial", "TKT": "ticket",
    "CTR": "contract", "ORD": "order",
}  # fmt: skip


@dataclass(frozen=True)
class AskedIdentifier:
    """The words for the class of an identifier that is asked for, the last one its noun; `always`: nothing else is an answer."""

    words: tuple[str, ...]
    always: bool

    def found_in(self, text: str, question: str) -> bool:
        """Whether a text has such an identifier that the question does not have."""
        known = set(_TOKEN.findall(question[:_READ].casefold()))
        tokens = list(_TOKEN.finditer(text))
        for at, token in enumerate(tokens):
            said = token[0]
            if not any(map(str.isdigit, said)) or said.casefold() in known or _DATE.fullmatch(said):
                continue
            plain = _AMOUNT.fullmatch(said) is not None
            if plain and (len(re.sub(r"\D", "", said)) < _LEAST_DIGITS or _is_measured(text, token.end())):
                continue
            if not plain and said[0] not in "#№" and not any(map(str.isupper, said)):
                continue  # "17th", "4x"
            if (prefix := _PREFIX.match(said)) and (named := self._abbreviates(prefix[0])) is not None:
                if named:
                    return True
                continue
            before = _words(tokens, range(at - 1, max(-1, at - 1 - _BEFORE), -1))
            behind = [] if plain else _words(tokens, range(at + 1, min(len(tokens), at + 1 + _BEHIND)))
            if self._named_by(before[:_BESIDE_PLAIN] if plain else before) or self._named_by(behind):
                return True
        return False

    def _abbreviates(self, prefix: str) -> bool | None:
        """Whether the letters before a number abbreviate the class; `None` if they are known for no class."""
        if prefix in ("".join(word[0] for word in self.words).upper(), f"{self.words[-1][0]}N".upper()):
            return True
        if any(prefix[0] == word[0].upper() and _is_within(prefix.lower(), word) for word in self.words):
            return True
        return False if prefix in _ABBREVIATED else None

    def _named_by(self, words: Sequence[str]) -> bool:
        """Whether words beside an identifier name the class: its noun, with what describes it or without another such word."""
        return any(_means(word, self.words[-1]) for word in words) and (
            len(self.words) == 1 or any(_means(word, self.words[0]) for word in words) or not _DESCRIBES.intersection(words)
        )


_LEAST_DIGITS = 3
_DESCRIBES = frozenset(
    [
        "purchase",
        "work",
        "change",
        "incident",
        "support",
        "service",
        "problem",
        "repair",
        "maintenance",
        "serial",
        "inventory",
        "job",
    ]
)


def asked_identifier(question: str) -> AskedIdentifier | None:
    """The identifier that a question asks for; `None` if it asks for something else."""
    read = question[:_READ]
    for pattern, always in ((_NUMBERED, True), (_NUMBERED_ELSEWHERE, True), (_ALWAYS, True), (_SOMETIMES, False)):
        if found := pattern.search(read):
            words = next(group for group in found.groups() if group).lower().split()
            return AskedIdentifier(tuple(word for word in words if word not in ("the", "our", "its")), always)
    return None


def _words(tokens: Sequence[re.Match[str]], places: range) -> list[str]:
    """The words at these places, up to the end of a sentence, clause or cell."""
    found = []
    for at in places:
        if at < 0 or tokens[at][0] in ";.\n":
            break
        found.append(tokens[at][0].lower())
    return found


def _is_measured(text: str, end: int) -> bool:
    """Whether a unit or a currency follows a number."""
    behind = _MONEY.match(text, end)
    return behind is not None and behind[0].strip().lower() in UNITS


def _is_within(letters: str, word: str) -> bool:
    """Whether a word has these letters in this order: "chg" of change."""
    rest = iter(word)
    return all(letter in rest for letter in letters)


def _means(word: str, other: str) -> bool:
    return alike(word, other) or bool(concepts_of(word) & concepts_of(other))
