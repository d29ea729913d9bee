"""HTML to Markdown: headings, lists, tables and emphasis survive; programs, styles and embedded images do not."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeGuard
from urllib.parse import urlparse

from bs4 import BeautifulSoup, Tag
from bs4.element import NavigableString
from markdownify import ATX, MarkdownConverter

from headrace.documents.formats.contract import DocumentFile, Output, line
from headrace.documents.formats.encoding import decoded

_SPAN = 1_000  # rows or columns of one cell, at most
_COPIES = 20_000  # of merged cells in a page, and
_COPIED_CHARACTERS = 1_000_000  # the characters in them
_LEADING = 200  # parts of a page that are looked at
_LINKED = ("", "http", "https", "file")
_APART = re.compile(
    "address|aside|caption|center|details|dialog|fieldset|figcaption|footer|form|header|hgroup|legend|main|menu|nav|search|summary"
)
_WORD = re.compile(r"\w")
_BESIDE = re.compile("button|label|optgroup|option|output|select|textarea")  # set apart from what is on the same line


def write_html(file: DocumentFile, out: Output) -> None:
    """Write an HTML page, in the encoding detected or declared."""
    write_page(decoded(file.data), out)


def write_page(page: str, out: Output) -> None:
    """Write HTML that is decoded already; its title is the first heading if it has no heading of the first level."""
    soup = BeautifulSoup(page, "html.parser")
    title = line(soup.title.get_text()) if soup.title else ""
    for tag in soup(["script", "style", "template", "title"]):
        tag.extract()
    body = soup.find("body") or soup
    _without_navigation(body)
    _square(body.find_all("table"))
    titled = body.find("h1") is not None
    try:
        text = _Converter(heading_style=ATX, table_infer_header=True).convert_soup(body).strip()
    except RecursionError:
        text = body.get_text("\n", strip=True)
    if title and text and not titled:
        out.write(f"# {title}\n\n")
    out.write(text)


def _without_navigation(body: Tag) -> None:
    """Take out what leads to other pages, unless the page has nothing else.

    Each page of a site has it, so as text it would be found beside the one passage that answers.
    """
    taken = []
    for tag in body.select("nav, [role=navigation], header, footer, aside", limit=_LEADING):
        texts = tag.find_all(string=_WORD)
        linked = sum(text.find_parent("a") is not None for text in texts)
        if linked and (tag.name == "nav" or tag.get("role") == "navigation" or linked == len(texts) > 1):
            gap = NavigableString("")
            tag.replace_with(gap)
            taken.append((gap, tag))
    if not _WORD.search(body.get_text()):
        for gap, tag in reversed(taken):
            gap.replace_with(tag)


class _Converter(MarkdownConverter):
    """What markdownify leaves to its users: bars in cells, blocks apart from the text, and what embedded images show."""

    def convert_td(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return f" {line(text).replace('|', chr(92) + '|')} |"

    convert_th = convert_td

    def convert_a(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        try:
            kept = urlparse(str(el.get("href") or "")).scheme.lower() in _LINKED
        except ValueError:
            kept = False
        above: Any = super()
        return str(above.convert_a(el, text, parent_tags)) if kept else text

    def convert_img(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        shown = line(str(el.get("alt") or ""))
        if "_inline" in parent_tags or not el.get("src") or str(el["src"])[:5].lower() == "data:":
            return shown
        return f"![{shown}]({el['src']})"

    def convert_input(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        kind = str(el.get("type") or "text").lower()
        if kind in ("checkbox", "radio"):
            return "[x] " if el.has_attr("checked") else "[ ] "
        return "" if kind in ("hidden", "password", "image") else f" {line(str(el.get('value') or ''))} "

    def convert_rt(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return f"({text.strip()})" if text.strip() else ""

    def convert_rp(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return ""

    def get_conv_fn(self, tag_name: str) -> Any:
        above: Any = super()
        if _APART.fullmatch(tag_name):
            return above.get_conv_fn("div")
        if _BESIDE.fullmatch(tag_name):
            return self._beside
        return above.get_conv_fn(tag_name)

    def _beside(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return f" {text.strip()}\n" if el.name in ("option", "optgroup") and "_inline" not in parent_tags else f" {text.strip()} "


def _square(tables: Iterable[Tag]) -> None:
    """Make each table a grid: a merged cell is repeated in its rows and columns, a table within a cell is one line of it.

    A table that only lays out other tables is taken apart.
    """
    copies, characters = _COPIES, _COPIED_CHARACTERS
    for table in tables:
        rows = [(row, [cell for cell in row.children if _is(cell, "td", "th")]) for row in _rows(table)]
        if any(cell.find("table") for _, cells in rows for cell in cells):
            _part(table, rows)
        if table.name != "table":
            continue
        above: dict[int, tuple[int, Tag]] = {}  # column → rows left and the cell that reaches down to it
        for row, cells in rows:
            if not cells:
                continue
            column, waiting = 0, list(cells)
            alone = len(cells) == 1 and not above
            while waiting or any(at >= column for at in above):
                reaching = above.get(column)
                if reaching is None and not waiting:
                    cell = copy.copy(cells[0])
                    cell.clear()  # this cell is empty, but a merged one reaches down further right
                    wide, left = 1, 1
                    row.append(cell)
                elif reaching is None:
                    cell = waiting.pop(0)
                    wide = 1 if alone else _span(cell, "colspan")
                    left = _span(cell, "rowspan")
                    size = len(cell.get_text())
                    if wide * left > copies or wide * left * size > characters:
                        wide = left = 1
                    copies, characters = copies - wide * left, characters - wide * left * size
                    for name in ("colspan", "rowspan"):
                        if cell.has_attr(name):
                            del cell[name]
                else:
                    left, cell = reaching
                    cell = copy.copy(cell)
                    wide = 1
                    if waiting:
                        waiting[0].insert_before(cell)
                    else:
                        row.append(cell)
                for n in range(wide):
                    if n:
                        again = copy.copy(cell)
                        cell.insert_after(again)
                        cell = again
                    if left > 1:
                        above[column + n] = (left - 1, cell)
                    else:
                        above.pop(column + n, None)
                column += wide


def _rows(table: Tag) -> Iterator[Tag]:
    for child in table.children:
        if _is(child, "tr"):
            yield child
        elif _is(child, "thead", "tbody", "tfoot"):
            yield from (row for row in child.children if _is(row, "tr"))


def _is(node: Any, *names: str) -> TypeGuard[Tag]:
    return isinstance(node, Tag) and node.name in names


def _span(cell: Tag, name: str) -> int:
    value = str(cell.get(name) or "1").strip()
    return max(1, min(_SPAN, int(value))) if value.isascii() and value.isdigit() else 1


def _part(table: Tag, rows: Sequence[tuple[Tag, list[Tag]]]) -> None:
    """Take apart a table of tables, unless it has data of its own; there each inner table becomes one line."""
    filled = [any(not cell.find("table") and cell.get_text(strip=True) for cell in cells) for _, cells in rows]
    if sum(filled) >= 2 and max(len(cells) for _, cells in rows) >= 2:
        for inner in table.find_all("table"):
            lines = (", ".join(line(cell.get_text(" ")) for cell in row.find_all(["td", "th"])) for row in inner.find_all("tr"))
            inner.name, inner.string = "span", "; ".join(lines)
        return
    for row, cells in rows:
        for tag in (row, *cells):
            tag.name = "div"
    for child in table.children:
        if _is(child, "thead", "tbody", "tfoot"):
            child.name = "div"
    table.name = "div"
