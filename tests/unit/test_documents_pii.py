"""Personal data in texts: what is found by form and checksum, what is not, and what the policy makes of it."""

from __future__ import annotations

import random
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.documents.pii import find_pii, screen
from headrace.errors import BadDocument
from headrace.settings import PiiPolicy

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
    nothing = screen("a.md", text, "T", PiiPolicy())
    assert (nothing.text, nothing.note, nothing.counts) == (text, "", {})
    warned = screen("a.md", text, "T", PiiPolicy(email="warn"))
    assert (warned.text, warned.note) == (text, "it holds 2 e-mail addresses")
    masked = screen("a.md", text, "Of ada@example.org", PiiPolicy(email="mask", card="warn"))
    assert masked.text == "Ask ███@███████.███ or ███@███████.███; the card is 4111 1111 1111 1111."
    assert masked.title == "Of ███@███████.███"
    assert masked.note == "it holds 1 card number; 2 e-mail addresses masked"
    with pytest.raises(BadDocument) as refused:
        screen("a.md", text, "T", PiiPolicy(email="warn", card="refuse"))
    assert refused.value.reason == "it holds 1 card number, which this service does not take in"
    with pytest.raises(BadDocument):
        screen("a.md", "nothing", "4111 1111 1111 1111", PiiPolicy(card="refuse"))


@given(st.text(alphabet=string.ascii_letters + string.digits + "@.+-() \n", max_size=300))
def test_a_masked_text_is_as_long_and_holds_no_more_of_it(text: str) -> None:
    policy = PiiPolicy(email="mask", phone="mask", card="mask", iban="mask", ssn="mask")
    masked = screen("a.md", text, "", policy).text
    assert len(masked) == len(text)
    assert [place for place, letter in enumerate(text) if letter == "\n"] == [
        place for place, letter in enumerate(masked) if letter == "\n"
    ]
    assert not find_pii(masked, ALL)


HOSTILE = ("1 ", "1", "+1", "+1 ", "a@", "@a.", "@a.a", "a", "DE12 ", "A", "(212) ", "1-", "212-")


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
