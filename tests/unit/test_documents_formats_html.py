"""HTML as the page shows it: what stands apart stays apart, merged cells in each of their rows, the title."""

from __future__ import annotations

import pytest

from headrace.documents.formats.contract import Output
from headrace.documents.formats.html import write_page


def markdown(page: str) -> str:
    out = Output(1_000_000)
    write_page(page, out)
    return "\n".join(text for text, _ in out.parts())


def rows(page: str) -> list[str]:
    return [row for row in markdown(page).splitlines() if row.startswith("|") and "---" not in row]


def test_a_merged_cell_stands_in_each_of_its_rows_and_columns() -> None:
    assert rows(
        "<table><tr><th>Hall</th><th>Part</th><th colspan=2>Limit</th></tr>"
        "<tr><td rowspan=3>North</td><td>Valve</td><td>1</td><td>2</td></tr>"
        "<tr><td rowspan='2'>Pump</td><td>3</td><td>4</td></tr><tr><td colspan=2>5</td></tr>"
        "<tr><td>South</td><td>Seal</td><td>6</td><td>7</td></tr></table>"
    ) == [
        "| Hall | Part | Limit | Limit |",
        "| North | Valve | 1 | 2 |",
        "| North | Pump | 3 | 4 |",
        "| North | Pump | 5 | 5 |",
        "| South | Seal | 6 | 7 |",
    ]


def test_a_cell_that_reaches_down_in_the_last_column_or_beyond_a_gap_keeps_its_column() -> None:
    assert rows(
        "<table><tr><td>a</td><td>b</td><td rowspan=2>c</td></tr><tr><td>d</td><td>e</td></tr></table>"
        "<table><tr><td>a</td><td>b</td><td rowspan=2>c</td></tr><tr><td>d</td></tr></table>"
    ) == ["| a | b | c |", "| d | e | c |", "| a | b | c |", "| d |  | c |"]


def test_a_row_that_is_one_cell_says_it_once() -> None:
    assert rows("<table><tr><td colspan=3>Prices</td></tr><tr><td>a</td><td>b</td><td>c</td></tr></table>")[0] == "| Prices |"


def test_spans_that_would_fill_the_memory_are_not_followed() -> None:
    cell = "<td rowspan=65000 colspan=1000>" + "x" * 100 + "</td>"
    assert len(markdown(f"<table><tr>{cell * 50}</tr>{'<tr><td>y</td></tr>' * 100}</table>")) < 100_000
    assert rows("<table><tr><td rowspan=-1>a</td><td colspan=x>b</td><td rowspan=999999999999>c</td></tr></table>") == [
        "| a | b | c |"
    ]


def test_a_bar_in_a_cell_divides_nothing() -> None:
    assert rows("<table><tr><td>a | b</td><td><code>x|y</code></td></tr></table>") == ["| a \\| b | `x\\|y` |"]


def test_a_table_in_a_cell_is_one_line_of_it_and_a_table_of_tables_is_taken_apart() -> None:
    inner = "<table><tr><td>1</td><td>2</td></tr><tr><td>3</td><td>4</td></tr></table>"
    data = f"<table><tr><td>Size</td><td>Parts</td></tr><tr><td>L</td><td>{inner}</td></tr></table>"
    assert rows(data) == ["| Size | Parts |", "| L | 1, 2; 3, 4 |"]
    layout = f"<table><tr><td>Menu</td><td><p>Prices</p>{inner}</td></tr></table>"
    assert rows(layout) == ["| 1 | 2 |", "| 3 | 4 |"]
    assert "Menu\n\nPrices" in markdown(layout)


APART = "address article aside button center details dialog fieldset figcaption footer form header label legend main nav option"


@pytest.mark.parametrize("tag", APART.split())
def test_what_stands_apart_on_a_page_is_not_one_word(tag: str) -> None:
    assert markdown(f"<{tag}>pump</{tag}><{tag}>valve</{tag}>").split() == ["pump", "valve"]
    assert markdown("<b>pump</b><i>s</i>") == "**pump***s*"


def test_what_only_leads_to_other_pages_is_no_text_of_a_page() -> None:
    links = "<a href=/>Home</a> | <a href=/docs>Docs</a>"
    page = (
        f"<header>{links}</header><nav><b>Contents</b><ul><li><a href=a>Mounts</a></ul></nav><div role=navigation>{links}</div>"
    )
    page += f"<h1>Mounts</h1><p>See <a href=b>ports</a>.<footer>{links}</footer>"
    assert markdown(page) == "# Mounts\n\nSee [ports](b)."
    kept = "<header>Call 4711</header><aside><a href=a>Only one</a></aside><nav>x</nav>"
    kept += "<footer>© Weir Ltd · <a href=/>Imprint</a></footer>"
    assert [part in markdown(kept) for part in ("4711", "Only one", "Weir Ltd", "x")] == [True] * 4
    assert markdown(f"<header>{links}</header><nav><p>Index</p>{links}</nav>").count("Home") == 2  # there is nothing else


def test_the_title_of_a_page_is_its_first_heading_unless_it_has_one() -> None:
    assert markdown("<html><head><title>Refunds\n of the shop</title></head><body><p>In 14 days.</p></body></html>") == (
        "# Refunds of the shop\n\nIn 14 days."
    )
    assert markdown("<title>Shop</title><h1>Refunds</h1>In 14 days.") == "# Refunds\n\nIn 14 days."
    assert markdown("<title>Shop</title><h2>Refunds</h2>In 14 days.") == "# Shop\n\n## Refunds\n\nIn 14 days."
    assert markdown("<title>Shop</title><script>1</script>") == ""


def test_values_of_a_form_and_readings_of_characters_are_shown() -> None:
    page = "<input value='Hall 7'><input type=hidden value=token><input type=checkbox checked>done "
    page += "<ruby>漢字<rp>(</rp><rt>かんじ</rt></ruby>"
    assert markdown(page).split() == ["Hall", "7", "[x]", "done", "漢字(かんじ)"]
