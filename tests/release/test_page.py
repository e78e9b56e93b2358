"""release.html in a real browser, opened from disk: quiet, alone, readable in every form, and useful without its script."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shipyard import release_page
from tests.support import released
from tests.support.chromium import Browser, Page, chromium

#: Every element with text of its own that is to be seen, and the contrast of that text (WCAG 2.2, 1.4.3).
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const pixel = (...colours) => {
    canvas.fillStyle = "#fff"; canvas.fillRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const each of document.querySelectorAll("body *")) {
    const own = [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || each.closest("script, title, .told, .skip, option") || !each.checkVisibility()) continue;
    let ink = getComputedStyle(each).color;
    const grounds = [];
    for (let up = each; up; up = up.parentElement) grounds.unshift(getComputedStyle(up).backgroundColor);
    const shapes = [grounds];
    if (each instanceof SVGElement) {
      ink = getComputedStyle(each).fill;
      const cells = each.closest("g").querySelectorAll("a rect");
      shapes.splice(0, 1, ...[...cells].map((cell) => [getComputedStyle(cell).fill]));
    }
    for (const layers of shapes) {
      const [a, b] = [light(pixel(...layers)), light(pixel(...layers, ink))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      found.push([ratio, each.tagName + "." + each.getAttribute("class") + ": " + each.textContent.trim().slice(0, 40)]);
    }
  }
  return found;
})()"""

#: What reaches beyond the window, but for what scrolls or is cut within its own box.
TOO_WIDE = """[...document.querySelectorAll("body *")].filter((each) => each.checkVisibility()
  && !each.closest(".scroll, nav, .skip, .told, svg") && each.getBoundingClientRect().right > innerWidth + 0.5)
  .map((each) => each.tagName + "." + each.className)"""

NAMES = '[...document.querySelectorAll("#components tbody tr")].filter((row) => !row.hidden).map((r) => r.cells[0].innerText)'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """The page of 1.2.3 after 1.2.2; at the end it has asked for nothing but itself and complained of nothing."""
    release_page.write(tmp_path, release_page.document(released.release("1.2.2")))
    release_page.write(tmp_path, release_page.document(released.release(), release_page.earlier(tmp_path)))
    with browser.page() as found:
        found.shape(1280)
        found.open(f"file://{tmp_path}/release.html")
        yield found
        assert found.errors == []
        assert set(found.requests) == {f"file://{tmp_path}/release.html"}


def fill(page: Page, where: str, value: str) -> None:
    page.run(
        f"(() => {{ const e = document.querySelector('{where}'); e.value = '{value}'; e.dispatchEvent(new Event('input')) }})()"
    )


def test_the_browser_notices_requests_and_errors(browser: Browser, tmp_path: Path) -> None:
    """The positive control of what the others find absent."""
    (tmp_path / "bad.html").write_text("<img src='http://example.invalid/x.png'><script>console.error('seen')</script>")
    with browser.page() as found:
        found.open(f"file://{tmp_path}/bad.html")
        assert "http://example.invalid/x.png" in found.requests
        assert any("seen" in each for each in found.errors)


def test_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    release_page.write(tmp_path, release_page.document(released.release(hostile=True)))
    with browser.page() as found:
        found.shape(360)
        found.open(f"file://{tmp_path}/release.html")
        assert found.run("document.title") == "Release 1.2.3"
        assert found.run("document.querySelectorAll('script, img').length") == 1
        assert released.HOSTILE in found.run("document.querySelector('.notes').textContent")
        assert found.run("document.documentElement.scrollWidth") == 360
        assert (found.errors, len(found.requests)) == ([], 1)


@pytest.mark.parametrize("width", [360, 600, 760, 1280])
def test_nothing_reaches_beyond_the_window(page: Page, width: int) -> None:
    page.shape(width)
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    assert page.run("document.documentElement.scrollWidth") == width
    assert page.run(TOO_WIDE) == []
    assert page.run("[...document.querySelectorAll('.map svg')].filter((each) => each.checkVisibility()).length") == 1


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out(page: Page, dark: bool) -> None:
    page.shape(1280, dark=dark)
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    found: list[list[Any]] = page.run(CONTRAST)
    assert len(found) > 1000
    assert [each for each in found if each[0] < 4.5] == []


def test_cells_are_as_large_as_their_layers(page: Page) -> None:
    cells = page.run(
        "[...document.querySelectorAll('.wide')].filter((e) => e.checkVisibility()).flatMap((svg) =>"
        " [...svg.querySelectorAll('a rect')].map((e) => [+e.dataset.size, e.getBBox().width * e.getBBox().height]))"
    )
    whole = sum(size for size, _ in cells)
    assert len(cells) == sum(len(sizes) for sizes in released.SIZES.values())
    for size, area in cells:
        assert area == pytest.approx(size / whole * 1080 * 400, rel=0.02, abs=12)  # drawn to a hundredth of a pixel


def test_a_cell_says_what_it_is_and_leads_to_its_layer(page: Page) -> None:
    first = "document.querySelector('.wide a')"
    page.run(f"{first}.focus()")
    assert "api-prod, layer 1: COPY /rootfs /" in page.run("document.getElementById('readout').textContent")
    page.press("Enter", 13)
    row = "document.querySelector('tr:target')"
    assert page.run(f"{row}.closest('details').open && {row}.checkVisibility()") is True
    assert "21.4 MB" in page.run(f"{row}.innerText")


def test_the_other_platform_is_one_key_away(page: Page) -> None:
    page.run("document.getElementById('map-1').focus()")
    page.press("ArrowRight", 39)
    assert page.run("document.querySelector('figure[aria-label*=arm64]').checkVisibility()") is True
    assert page.run("document.querySelector('figure[aria-label*=amd64]').checkVisibility()") is False


def test_the_filter(page: Page) -> None:
    assert page.run("document.getElementById('filter-count').value") == "400 of 400"
    fill(page, "#filter-text", "mit REDIS")
    shown = len(page.run(NAMES))
    assert 0 < shown < 400
    assert page.run("document.getElementById('filter-count').value") == f"{shown} of 400"
    fill(page, "#filter-kind", "deb")
    assert 0 < len(page.run(NAMES)) < shown
    fill(page, "#filter-text", "nothing has this name")
    assert page.run(NAMES) == []
    fill(page, "#filter-kind", "")
    fill(page, "#filter-text", "")
    assert len(page.run(NAMES)) == 400


def test_sorting(page: Page) -> None:
    head = "document.querySelectorAll('#components thead th')[1]"
    column = "[...document.querySelectorAll('#components tbody tr')].map((row) => row.cells[1].innerText)"
    page.run(f"{head}.querySelector('button').click()")
    up = page.run(column)
    assert page.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    assert [int(each.split(".")[0]) for each in up] == sorted(int(each.split(".")[0]) for each in up)  # 2 before 10
    page.run(f"{head}.querySelector('button').click()")
    assert page.run(f"{head}.getAttribute('aria-sort')") == "descending"
    assert page.run(column)[0] == up[-1]


def test_a_licence_shows_its_components(page: Page) -> None:
    page.run("document.querySelector('.licences button').click()")
    name = page.run("document.querySelector('.licences button').innerText")
    assert page.run("document.getElementById('filter-text').value") == name
    assert 0 < len(page.run(NAMES)) < 400


def test_every_digest_can_be_copied(page: Page) -> None:
    places = page.run(
        "[...document.querySelectorAll('[data-copy]')].map((e) => [e.dataset.copy, e.nextSibling.tagName])"
    )
    assert {tag for _, tag in places} == {"BUTTON"}
    copied = " ".join(text for text, _ in places)
    for image in released.release().images:
        digests = [image.digest, *(part.digest for part in image.platforms)]
        digests += [layer.digest for part in image.platforms for layer in part.layers]
        assert [each for each in digests if each not in copied] == []
    page.ask("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    button = "document.querySelector('.reference .copy')"
    page.ask("Runtime.evaluate", expression=f"{button}.click()", userGesture=True)
    page.run(
        f"new Promise((done) => {{ const f = () => {button}.textContent === 'Copy' ? requestAnimationFrame(f) : done(); f() }})"
    )
    assert page.run("document.getElementById('told').textContent") == "Copied reference of api-prod"
    assert page.run(f"{button}.textContent") == "Copied"


def test_keyboard_and_screen_readers_find_their_way(page: Page) -> None:
    page.press("Tab", 9)
    assert page.run("document.activeElement.className") == "skip"
    assert page.run("document.activeElement.getBoundingClientRect().left >= 0") is True
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    assert [roles.count(role) for role in ("banner", "navigation", "main", "contentinfo")] == [1, 1, 1, 1]
    nameless = [
        node
        for node in nodes
        if not node["ignored"]
        and node["role"]["value"] in ("link", "button", "table", "region", "article", "radio", "searchbox", "combobox")
        and not node.get("name", {}).get("value")
    ]
    assert nameless == []
    levels = page.run("[...document.querySelectorAll('h1, h2, h3')].map((each) => +each.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = page.run("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))


def test_without_its_script_the_page_is_complete(page: Page) -> None:
    page.ask("Emulation.setScriptExecutionDisabled", value=True)
    page.open(page.run("location.href"))
    assert page.run("document.getElementById('filter').checkVisibility()") is False
    assert page.run("document.querySelectorAll('.copy, .sort').length") == 0
    assert len(page.run(NAMES)) == 400
    assert page.run("getComputedStyle(document.querySelector('.digest')).userSelect") == "all"


def test_it_prints_everything_and_nothing_that_only_works_on_a_screen(page: Page) -> None:
    page.shape(718, dark=True, media="print")
    assert page.run("document.querySelector('nav').checkVisibility()") is False
    assert page.run("[...document.querySelectorAll('.copy')].some((each) => each.checkVisibility())") is False
    assert page.run("document.querySelector('.card tbody tr').checkVisibility({contentVisibilityAuto: true})") is True
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("document.documentElement.scrollWidth") == 718
    assert page.pdf().count(b"/Type /Page\n") > 5
