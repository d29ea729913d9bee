"""Filters as people write them, and the attributes that they go by."""

from __future__ import annotations

import pytest

from headrace.errors import WrongUsage
from headrace.storage.filters import NO_FILTERS, Filters, check_attributes
from headrace.storage.vectors.labels import Description, condition, labels_of

DAY_S = 86_400
FIRST_S = 1_769_817_600  # 2026-01-31T00:00Z


def test_the_same_key_means_any_of_its_values_and_different_keys_mean_all() -> None:
    found = Filters.parse(["team=hydro", "kind=pdf", " team=wind ", "team=hydro"])
    assert found.labels == (("team=hydro", "team=wind"), ("kind=pdf",))
    assert found.said == ("team=hydro", "kind=pdf", "team=wind")
    assert (found.since_s, found.until_s) == (None, None)
    assert not Filters.parse([])
    assert Filters.parse([]) == NO_FILTERS


@pytest.mark.parametrize(
    ("texts", "since_s", "until_s"),
    [
        (["changed>=2026-01-31"], FIRST_S, None),
        (["changed<=2026-01-31"], None, FIRST_S + DAY_S - 1),
        (["changed=2026-01-31"], FIRST_S, FIRST_S + DAY_S - 1),
        (["changed >= 2026-01-31T12:00"], FIRST_S + DAY_S // 2, None),
        (["changed<=2026-01-31T00:00Z"], None, FIRST_S),
        (["changed>=2026-01-31T02:00+02:00", "changed>=2020-01-01"], FIRST_S, None),
        (["changed<=2026-01-31T00:00:00Z", "changed<=2030-01-01"], None, FIRST_S),
    ],
)
def test_a_date_is_a_whole_day_in_utc_and_of_two_bounds_the_narrower_counts(
    texts: list[str], since_s: int | None, until_s: int | None
) -> None:
    found = Filters.parse(texts)
    assert (found.since_s, found.until_s, found.labels) == (since_s, until_s, ())


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "team", "=hydro", "Team=hydro", "team=", "team>=hydro", "1=1", "team = \n", "a b=c", "ä=ö", "x" * 41 + "=1"),
        *(
            "changed=yesterday",
            "changed>=2026-13-01",
            "changed>=",
            "changed>=9999999-01-01",
            "' OR 1=1",
            "team=a\0b",
            "team=\ud800",
        ),
        "document=" + "x" * 5_000,
    ],
)
def test_what_is_no_filter_is_refused_and_named(wrong: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        Filters.parse(["kind=pdf", wrong])
    assert caught.value.hint
    assert "\0" not in caught.value.message


def test_there_are_no_more_filters_than_somebody_types() -> None:
    with pytest.raises(WrongUsage, match="51 filters"):
        Filters.parse(f"team={number}" for number in range(51))


def test_a_value_never_becomes_a_query() -> None:
    asked = Filters.parse(["team=x'] ) OR true --", "document=o'brien/'"])
    where = condition("acme", ["ann"], asked, {"readers_idx"})
    assert where == (
        "array_has_any(readers, ['4:acme', '4:acmeann']) AND array_has_any(labels, ['team=x''] ) OR true --'])"
        " AND array_has_any(labels, ['document=o''brien/'''])"
    )
    assert condition("acme", [], Filters.parse(["changed=2026-01-31"]), {"readers_idx"}).endswith(
        f" AND changed_s >= {FIRST_S} AND changed_s <= {FIRST_S + DAY_S - 1}"
    )


def test_a_documents_labels_are_its_attributes_its_kinds_and_the_folders_above_it() -> None:
    labels = labels_of("handbook/ops/pump.md", ("markdown", "text/markdown"), ("site=north", "crew=7"))
    assert labels == (
        *("crew=7", "site=north", "kind=markdown", "kind=text/markdown"),
        *("document=handbook/", "document=handbook/ops/", "document=handbook/ops/pump.md"),
    )
    deep = labels_of("a/" * 500 + "b.md", (), ())
    assert len(deep) == 17
    assert deep[-1].endswith("/b.md")


def test_a_description_is_the_same_whatever_the_order_and_another_with_another_reader() -> None:
    one = Description(("ann", "bob"), ("a=1", "b=2"), 5)
    assert one.id == Description(("bob", "ann"), ("b=2", "a=1"), 5).id
    assert len({one.id, one._replace(readers=("ann",)).id, one._replace(labels=("a=1",)).id, one._replace(changed_s=6).id}) == 4


@pytest.mark.parametrize(
    "wrong", ["team", "Team=x", "team=", "team=a\nb", "team=a\n", "kind=pdf", "changed=1", "document=a", "=x"]
)
def test_what_is_no_attribute_is_refused(wrong: str) -> None:
    with pytest.raises(WrongUsage):
        check_attributes(["site=north", wrong])


def test_attributes_have_a_bound_together() -> None:
    check_attributes(["site=north", "team=日本 & co", "note=a=b"])
    with pytest.raises(WrongUsage, match="longer than 4,000"):
        check_attributes([f"k{number}={'x' * 190}" for number in range(25)])
