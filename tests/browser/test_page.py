"""The page as a person uses it: documents are dropped, a question is asked, its citation opened, its answer judged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from chromium import Tab
from traffic import until

pytestmark = pytest.mark.story

TENANT = "browser-test"
VIEWS = ("overview", "ask", "documents", "training", "head", "storage", "tenants")
BACKUP = "# Backups\n\nNightly backups start at 02:00 UTC and are kept for 35 days.\n\nNot <img src=x onerror=alert(1)>.\n"


@pytest.fixture(scope="module")
def page(api: Any, tab: Tab) -> Tab:
    """The page, opened at the address that `headrace up` prints, in a tenant of its own."""
    api.tenant(TENANT)
    tab.size(1280)
    tab.open(f"{api.url}/#token={api.token}")
    tab.until("document.querySelector('#tenant').value !== ''")
    tab.type("#tenant", TENANT)
    tab.evaluate("document.querySelector('#tenant').dispatchEvent(new Event('change'))")
    return tab


def view(page: Tab, address: str) -> None:
    page.evaluate(f"location.hash = '#/{address}'")
    page.until(f"!!document.querySelector('.view.{address.partition('?')[0]}:not([hidden]) h1')")


def rows(page: Tab, selector: str) -> list[str]:
    return list(page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((row) => row.innerText)"))


def row_with(pattern: str) -> str:
    return f"[...document.querySelectorAll('.documents .list tbody tr')].some((row) => /{pattern}/.test(row.innerText))"


def test_the_token_has_left_the_address(api: Any, page: Tab) -> None:
    assert api.token not in page.evaluate("location.href")
    page.until("document.querySelector('#state').textContent.startsWith('Run ')")


def test_files_are_put_and_the_reason_is_shown_where_one_cannot_be_read(page: Tab, tmp_path: Path) -> None:
    view(page, "documents")
    page.until("document.body.innerText.includes('No documents yet')")
    (tmp_path / "backup.md").write_text(BACKUP)
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "nothing.txt").write_bytes(b"")
    page.files("#files", tmp_path / "backup.md", tmp_path / "photo.png", tmp_path / "nothing.txt")
    page.until("document.querySelector('.uploads').innerText.includes('the file is empty')")
    page.until(row_with("backup.md[^]*indexed"), 150)
    page.until(row_with("photo.png[^]*failed[^]*not supported"), 150)
    assert not page.evaluate(row_with("nothing.txt"))


def test_an_answer_is_streamed_with_its_citation_and_where_its_time_went(page: Tab) -> None:
    view(page, "ask")
    page.type("#question", "How long are nightly backups kept?")
    page.click("#send")
    page.until("!!document.querySelector('.answer .latency') && !document.querySelector('#send').disabled", 150)
    text = page.evaluate("document.querySelector('.answer').innerText")
    assert "35 days" in text
    assert "backup.md" in text
    assert "Retrieve" in page.evaluate("document.querySelector('.latency').getAttribute('aria-label')")
    page.click(".inspect summary", "Passages")
    assert any("cited as 1" in row for row in rows(page, ".inspect tbody tr"))


def test_a_citation_opens_its_words_in_the_document(page: Tab) -> None:
    page.click("button.cite")
    marked = page.until("[...document.querySelectorAll('dialog mark')].map((mark) => mark.textContent).join(' ')")
    assert "35 days" in marked
    assert "<img src=x" in page.evaluate("document.querySelector('dialog .markdown').innerText")
    assert page.evaluate("document.querySelectorAll('dialog img').length") == 0, "what a document holds is text"
    assert page.evaluate("document.activeElement.closest('dialog') !== null"), "the focus is in it"
    page.click("dialog button[aria-label=Close]")
    page.until("!document.querySelector('dialog')")


def test_a_verdict_with_a_correction_is_seen_to_land(api: Any, page: Tab) -> None:
    page.click(".verdict button", "Not helpful")
    page.type(".why input", "outdated")
    page.type(".why textarea", "For 30 days.")
    page.click(".why button", "Record verdict")
    page.until("document.querySelectorAll('.way .done').length === 2", 150)
    said = page.evaluate("document.querySelector('.way').innerText")
    place = said.partition("feedback/")[2].split()[0]
    (partition, offset) = place.split("/")
    found = api.sql(f'SELECT reason, correction, up FROM feedback WHERE partition = {partition} AND "offset" = {offset}')
    assert found == [{"reason": "outdated", "correction": "For 30 days.", "up": False}]


def test_answers_and_verdicts_stay_over_a_reload(page: Tab) -> None:
    page.reload()
    page.until("document.querySelectorAll('.answer').length === 1")
    page.until("document.querySelectorAll('.way .done').length === 2")
    assert page.evaluate("document.querySelector('.verdict button[aria-pressed=true]').textContent") == "Not helpful"


def test_a_document_that_is_deleted_is_gone(page: Tab) -> None:
    view(page, f"documents?tenant={TENANT}&status=failed")
    page.until("document.querySelectorAll('.documents .list tbody tr').length === 1")
    assert "photo.png" in rows(page, ".documents .list tbody tr")[0]
    page.click(".documents button", "Delete")
    page.click("dialog button", "Cancel")
    page.click(".documents button", "Delete")
    page.click("dialog button.danger")
    page.until("document.body.innerText.includes('No document is failed')", 150)


def test_a_key_is_made_and_revoked(api: Any, page: Tab) -> None:
    view(page, f"tenants?tenant={TENANT}")
    page.click("dialog button", "Create a key")
    page.click("dialog.small button.main", "Create")
    codes = "[...document.querySelectorAll('dialog code')].map((code) => code.textContent)"
    key = page.until(f"{codes}.find((text) => text.startsWith('hr_'))")
    assert api.client(key).get("/v1/documents/backup.md").json()["status"] == "indexed"
    page.evaluate("[...document.querySelectorAll('dialog.small')].forEach((dialog) => dialog.close())")
    page.click("dialog button", "Revoke")
    page.click("dialog.small button.danger")
    page.until("document.querySelector('dialog').innerText.includes('revoked')")
    until(60, lambda: api.client(key).get("/v1/documents").status_code == 401, lambda: "the key still opens something")
    page.evaluate("document.querySelector('dialog').close(); location.hash = '#/overview'")
    page.until("!!document.querySelector('.view.overview:not([hidden]) h1')")
    assert page.evaluate("location.hash") == "#/overview", "the dialog's end calls no view back"


def test_the_diagram_says_what_is_at_work_and_shows_figures_where_it_is_chosen(page: Tab) -> None:
    view(page, "overview")
    page.until("!!document.querySelector('#diagram .stage')")
    assert "moved" in page.evaluate("document.querySelector('#diagram svg').getAttribute('aria-label')")
    page.evaluate("document.querySelector('#diagram .stage[data-name=Retrieve]').focus()")
    for kind in ("rawKeyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)
    page.until("document.querySelector('dialog tbody').innerText.includes('retrieve')")
    page.click("dialog button[aria-label=Close]")
    asking = "fetch('/v1/ask', {method: 'POST', headers: {Authorization: 'Bearer ' + sessionStorage.getItem('headrace-token'),"
    body = json.dumps(json.dumps({"question": "How long are nightly backups kept?", "tenant": TENANT}))
    page.evaluate(f"{asking} 'Content-Type': 'application/json'}}, body: {body}}}).then((answer) => answer.status)")
    page.until("/At work now: [^]*Retrieve/.test(document.querySelector('.work').textContent)")
    flow = "document.querySelector('#diagram .flow:has(line)')"
    moves = f"({flow}.classList.add('active'), getComputedStyle({flow}.querySelector('line:last-of-type')).animationName)"
    assert page.evaluate(moves) == "flows"
    page.click("button", "Motion")
    assert page.evaluate(moves) == "none"
    page.click("button", "Motion")
    page.size(1280, motion=False)
    assert page.evaluate(moves) == "none", "as the reader's system prefers"
    page.size(1280)


@pytest.mark.parametrize("width", [390, 1280, pytest.param(1920, marks=pytest.mark.soak(minutes=0.1))])
def test_no_view_is_wider_than_its_window_or_logs_an_error(page: Tab, width: int) -> None:
    for theme in ("light", "dark"):
        page.size(width, theme=theme)
        for name in VIEWS:
            view(page, name)
            page.until("!document.querySelector('.view:not([hidden]) .loading')")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, theme)
            assert page.evaluate("document.title").endswith("Headrace")
    page.size(1280)
    assert [error for error in page.errors if "nothing.txt" not in error] == [], "an empty file is refused, and no other error"


def test_every_view_is_reached_by_keyboard_and_named_for_screen_readers(page: Tab) -> None:
    view(page, "overview")
    named = "e.ariaLabel || e.labels?.length || e.textContent.trim() || e.title || e.closest('[role=region][aria-label]')"
    acting = "button, a, input, select, textarea, [role=img], table"
    visible = f"[...document.querySelectorAll('{acting}')].filter((e) => e.checkVisibility())"
    nameless = f"{visible}.filter((e) => !({named})).map((e) => e.outerHTML.slice(0, 100))"
    for name in VIEWS:
        view(page, name)
        page.until("!document.querySelector('.view:not([hidden]) .loading')")
        assert page.evaluate(nameless) == [], name
        assert page.evaluate("document.querySelector('nav [aria-current=page]').textContent") == page.evaluate(
            "document.title.split(' · ')[0]"
        )
    assert page.evaluate("[...document.querySelectorAll('dialog')].map((dialog) => dialog.ariaLabel)") == []
    page.evaluate("document.querySelector('.skip').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert page.evaluate("document.activeElement.className") == "brand"


def test_what_scrolls_sideways_is_reached_by_keyboard_and_a_label_says_what_is_written(page: Tab) -> None:
    page.size(390)
    scrolls = "['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth"
    shown = "[...document.querySelectorAll('.view:not([hidden]) *')].filter((e) => e.checkVisibility())"
    cut = f"{shown}.filter((e) => {scrolls} && e.tabIndex < 0)"
    words = "(text) => text.toLowerCase().replace(/[^a-z0-9]+/g, '')"
    written = "[...e.querySelectorAll('text')].map((text) => text.textContent).join(' ')"
    other = f"!({words})(e.ariaLabel).includes(({words})({written}))"
    unsaid = f"[...document.querySelectorAll('#diagram .stage')].filter((e) => {other}).map((e) => e.ariaLabel)"
    for name in VIEWS:
        view(page, name)
        page.until("!document.querySelector('.view:not([hidden]) .loading')")
        assert page.evaluate(f"{cut}.map((e) => e.outerHTML.slice(0, 100))") == [], name
    view(page, "overview")
    page.until("!!document.querySelector('#diagram .stage')")
    assert page.evaluate(unsaid) == []
    page.size(1280)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(page: Tab, theme: str) -> None:
    """axe-core over each view, wide and on a phone; HEADRACE_AXE names its axe.min.js."""
    if not (axe := os.environ.get("HEADRACE_AXE")):
        pytest.skip("HEADRACE_AXE names no axe.min.js: npm pack axe-core, and unpack it")
    page.evaluate(f"void (0, eval)({json.dumps(Path(axe).read_text())})")
    grave = "found.violations.filter(({impact}) => impact === 'serious' || impact === 'critical')"
    named = "({id, nodes}) => [id, ...nodes.map((node) => node.html.slice(0, 120))]"
    for width in (1280, 390):
        page.size(width, theme=theme, motion=False)
        for name in VIEWS:
            view(page, name)
            page.until("!document.querySelector('.view:not([hidden]) .loading')")
            faults = page.evaluate(f"axe.run(document, {{resultTypes: ['violations']}}).then((found) => {grave}.map({named}))")
            assert faults == [], (name, width)
    page.size(1280)


def test_a_view_whose_server_is_out_of_reach_says_so_and_is_shown_again(page: Tab) -> None:
    def network(*, offline: bool) -> None:
        page.call("Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1)

    view(page, "overview")
    network(offline=True)
    view(page, "tenants")
    try:
        page.until("document.querySelectorAll('.tenants .notice').length === 2")
        assert "Is headrace up still running?" in page.evaluate("document.querySelector('.tenants .notice p').innerText")
        assert not page.evaluate("document.querySelector('.tenants table').checkVisibility()")
    finally:
        network(offline=False)
    page.click(".tenants button", "Try again")
    page.until(f"document.querySelector('.tenants table').innerText.includes({json.dumps(TENANT)})")


def test_the_page_asked_nobody_but_its_server(api: Any, page: Tab) -> None:
    asked = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert asked
    assert {url for url in asked if not url.startswith(f"{api.url}/")} == set()
    assert not any(api.token in url for url in asked)
