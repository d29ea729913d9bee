"""Personal data in texts: what is found by form and checksum, what is not, and what the policy makes of it."""

from __future__ import annotations

import random
import string
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.documents.formats.contract import ParseLimits
from headrace.documents.parser import Parsed, Parser
from headrace.documents.pii import find_pii, note_of, refusal_of, screen
from headrace.errors import BadDocument
from headrace.settings import Inference, PiiPolicy

ALL = frozenset({"email", "phone", "card", "iban", "ssn"})


def found(text: str, *kinds: str) -> list[tuple[str, str]]:
    return [(match.kind, text[match.start : match.end]) for match in find_pii(text, frozenset(kinds) or ALL)]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("email", "ada.lovelace+notes@mail.example.co.uk"),
        ("email", "o'hara@example.org"),
        ("phone", "+49 221 471-0815"),
        ("phone", "+442079460958"),
        ("phone", "+1 (212) 555-0187"),
        ("phone", "(212) 555-0187"),
        ("phone", "212-555-0187"),
        ("phone", "+12345678"),
        ("phone", "+123456789012345"),
        ("card", "4111 1111 1111 1111"),
        ("card", "5500-0000-0000-0004"),
        ("card", "378282246310005"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "GB82WEST12345698765432"),
        ("iban", "NO9386011117947"),
        ("ssn", "078-05-1120"),
    ],
)
def test_each_kind_is_found_in_a_sentence_and_alone(kind: str, data: str) -> None:
    assert found(data) == [(kind, data)]
    assert found(f"It is ({data}), they say.") == [(kind, data)]
    assert found(f"one\n{data}\ntwo") == [(kind, data)]
    assert found(f"|{data}|") == [(kind, data)]
    assert found(data, *(ALL - {kind})) == [], "only what is asked for"


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # Luhn says no
        "0000 0000 0000 0000",
        "ISBN 978-3-16-148410-0",
        "a run of 1234567890123456789012345",
        "DE89 3704 0044 0532 0130 01",
        "XX89 3704 0044 0532 0130 00",
        "DE89 3704 0044 0532 0130 0",
        "DE893704004405320130001",
        "666-05-1120",
        "078-00-1120",
        "2026-11-30",
        "10.11.2026 18:00",
        "version 1.2.3-4567",
        "+12",
        "192.168.100.200",
        "user@localhost",
        "@example.com",
        "a..b@example",
        "3.14159265358979323846",
        "part no. 212-555-01877",
    ],
)
def test_what_only_looks_alike_is_not_found(text: str) -> None:
    assert found(text) == []


def test_what_has_a_checksum_goes_before_what_has_none() -> None:
    assert found("DE89 3704 0044 0532 0130 00 or ada@example.org") == [
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("email", "ada@example.org"),
    ]


def test_the_policy_says_what_becomes_of_it() -> None:
    text = "Ask ada@example.org or bob@example.org; the card is 4111 1111 1111 1111."
    assert screen(text, PiiPolicy().actions()) == (text, {})
    warns = PiiPolicy(email="warn").actions()
    assert screen(text, warns) == (text, {"email": 2})
    assert (note_of({"email": 2}, warns), refusal_of({"email": 2}, warns)) == ("it holds 2 e-mail addresses", "")
    masks = PiiPolicy(email="mask", card="warn").actions()
    masked, counts = screen(text, masks)
    assert masked == "Ask ███@███████.███ or ███@███████.███; the card is 4111 1111 1111 1111."
    assert note_of(counts, masks) == "it holds 1 card number; 2 e-mail addresses masked"
    refuses = PiiPolicy(email="warn", card="refuse").actions()
    assert refusal_of(screen(text, refuses)[1], refuses) == "it holds 1 card number, which this service does not take in"
    assert note_of({}, refuses) == refusal_of({}, refuses) == ""


def test_the_parser_searches_text_and_name() -> None:
    def parsed(uri: str, text: str, **actions: Any) -> Parsed:
        with Parser(ParseLimits.from_settings(Inference(pii=PiiPolicy(**actions)))) as parser:
            return parser.parse(uri, text.encode())

    text = "# Of ada@example.org\n\nAsk bob@example.org; the card is 4111 1111 1111 1111.\n"
    masked = parsed("a.md", text, email="mask", card="warn")
    assert (masked.title, masked.pii) == ("Of ███@███████.███", {"email": 2, "card": 1})
    assert masked.text.startswith("# Of ███@███████.███\n\nAsk ███@███████.███; the card is 4111 1111 1111 1111.")
    assert parsed("ada@example.org.txt", "nothing", email="mask").title.startswith("███@███████.███")
    assert parsed("a.md", text).pii == {}
    for uri, said in (("a.md", text), ("4111 1111 1111 1111.txt", "nothing")):
        with pytest.raises(BadDocument, match="1 card number, which this service does not take in"):
            parsed(uri, said, card="refuse")


@given(st.text(alphabet=string.ascii_letters + string.digits + "@.+-() \n", max_size=300))
def test_a_masked_text_is_as_long_and_holds_no_more_of_it(text: str) -> None:
    policy = PiiPolicy(email="mask", phone="mask", card="mask", iban="mask", ssn="mask")
    masked, _ = screen(text, policy.actions())
    assert len(masked) == len(text)
    assert [place for place, letter in enumerate(text) if letter == "\n"] == [
        place for place, letter in enumerate(masked) if letter == "\n"
    ]
    assert not find_pii(masked, ALL)


HOSTILE = (
    *("1 ", "1", "+1", "+1 ", "a@", "@a.", "@a.a", "a", "DE12 ", "A", "(212) ", "1-", "212-"),
    *("+" + "1" * 38 + "x ", "+1(23)" + "4" * 30 + "x"),  # a run of digits that could be split in many ways
)


@pytest.mark.parametrize("piece", HOSTILE)
def test_the_time_grows_with_the_text_and_no_faster(piece: str) -> None:
    """The bound is far above what it takes: what grows with the square takes minutes."""
    text = piece * (400_000 // len(piece))
    started = time.process_time()
    find_pii(text, ALL)
    assert time.process_time() - started < 10


def test_random_digits_are_rarely_cards() -> None:
    numbers = random.Random(17)
    texts = ["".join(numbers.choices(string.digits, k=16)) for _ in range(2_000)]
    share = sum(bool(found(text, "card")) for text in texts) / len(texts)
    assert share < 0.08, "a tenth of the half with such a first digit"
