"""What release.json says, how treemap and bars are measured, and that nothing from outside becomes markup."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shipyard import release_drawing, release_page, treemap
from shipyard.treemap import Rectangle
from tests.support import released


class Reader(HTMLParser):
    """The elements of a page and the attributes that can lead out of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def page(hostile: bool = False) -> str:
    return release_drawing.page(release_page.document(released.release(hostile=hostile)))


def test_the_document_tells_everything() -> None:
    document = release_page.document(released.release())
    assert json.loads(json.dumps(document)) == json.loads(json.dumps(document, sort_keys=True))
    assert (document["version"], document["created"], document["verified"]) == ("1.2.3", "2026-11-23T22:01:00Z", True)
    image = document["images"][0]
    assert image["key"] == "api-prod"
    assert image["reference"] == f"127.0.0.1:5000/llm-call-api@{image['digest']}"
    assert image["tags"] == ("1.2.3", "1.2", "1", "latest")
    assert [layer["size"] for layer in image["platforms"][0]["layers"]] == [21_400_000, 9_800_000, 74_000]
    assert document["steps"][2] == {
        "name": "build",
        "title": "all images for all platforms in one request",
        "state": "done",
        "begun": "2026-11-23T22:01:01Z",
        "seconds": 11.2,
    }
    assert len(document["sbom"]["components"]) == 400


def test_licences_are_counted_the_commonest_first() -> None:
    rows = [replace(row, licences=names) for row, names in zip(released.components(4), LICENCES, strict=True)]
    document = release_page.document(replace(released.release(), components=tuple(rows)))
    assert document["sbom"]["licences"] == [
        {"licence": "MIT", "components": 3},
        {"licence": "Apache-2.0", "components": 1},
        {"licence": "Zlib", "components": 1},
    ]


LICENCES = (("MIT",), ("MIT", "Zlib", "MIT"), (), ("Apache-2.0", "MIT"))


def test_each_digest_has_a_command_that_verifies_it() -> None:
    document = release_page.document(released.release())
    commands = "\n".join(each["command"] for each in document["verify"])
    for image in document["images"]:
        assert f"{image['repository']}@{image['digest']}\n" in commands
        assert all(f"{image['repository']}@{each['subject']}" in commands for each in image["attestations"])
    assert "--key cosign.pub" in commands
    assert document["verify"][0]["command"] == "./scripts/invoke verify 1.2.3"


def test_without_a_key_the_signers_identity_is_asked_for() -> None:
    release = replace(released.release(), public_key="")
    commands = [each["command"] for each in release_page.document(release)["verify"][1:]]
    assert all(f"--certificate-identity {released.digest('key')}" in each for each in commands)
    assert not any("--key" in each for each in commands)


def test_it_is_compared_with_the_release_before_and_keeps_that_when_written_again(tmp_path: Path) -> None:
    release_page.write(tmp_path, release_page.document(released.release("1.2.2")))
    first = release_page.document(released.release(), release_page.earlier(tmp_path))
    assert first["previous"]["version"] == "1.2.2"
    assert first["previous"]["sizes"]["redis-prod"]["linux/amd64"] == 9_900_000 + 1_310_000 + 7_312
    release_page.write(tmp_path, first)
    again = release_page.document(released.release(), release_page.earlier(tmp_path))
    assert again == first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}'])
def test_an_earlier_document_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "release.json").write_text(text)
    assert release_page.earlier(tmp_path) is None
    assert release_page.earlier(tmp_path / "absent") is None


def test_what_is_written_already_is_left_alone(tmp_path: Path) -> None:
    document = release_page.document(released.release())
    release_page.write(tmp_path, document)
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_text()) for path in tmp_path.iterdir()}
    release_page.write(tmp_path, document)
    after = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_text()) for path in tmp_path.iterdir()}
    assert after == before
    assert set(before) == {"release.json", "release.html"}
    release_page.write(tmp_path, release_page.document(released.release(verified=False)))
    assert all((tmp_path / name).read_text() != text for name, (_, _, text) in before.items())


def test_the_same_release_gives_the_same_page() -> None:
    assert page() == page()


def test_a_hostile_name_is_text_everywhere() -> None:
    plain, hostile = Reader(page()), Reader(page(hostile=True))
    assert plain.tags.count("script") == hostile.tags.count("script") == 1
    assert "img" not in hostile.tags
    assert [name for name, _ in hostile.attributes if name.startswith("on")] == []
    assert page(hostile=True).count("&lt;script&gt;") > 10


def test_the_page_leads_nowhere_and_styles_nothing_in_place() -> None:
    reader = Reader(page())
    assert not {"link", "img", "iframe", "object", "base"} & set(reader.tags)
    assert not {"src", "style", "action"} & {name for name, _ in reader.attributes}
    assert all(value and value.startswith("#") for name, value in reader.attributes if name == "href")


@pytest.mark.parametrize("name", ["page.css", "page.js"])
def test_style_and_script_fit_into_their_elements(name: str) -> None:
    text = (Path(release_drawing.__file__).with_name("page") / name).read_text()
    assert not any(each in text for each in ("</style", "</script", "<!--", "http:", "https:", "url(", "@import"))


def test_a_release_of_nothing_can_be_drawn() -> None:
    empty = replace(released.release(), images=(), steps=(), components=(), notes=(), public_key="", verified=False)
    text = release_drawing.page(release_page.document(empty))
    assert "Not verified" in text
    assert "No licences are told." in text


@pytest.mark.parametrize(
    "sizes", [[1.0], [6, 6, 4, 3, 2, 2, 1], [1, 1e9], [5, 0, 5, -1, 3], list(range(1, 60)), [7] * 12]
)
@pytest.mark.parametrize("place", [Rectangle(0, 0, 600, 400), Rectangle(10, 20, 3, 900)])
def test_areas_are_proportional_to_sizes_and_fill_the_place(sizes: list[float], place: Rectangle) -> None:
    found = treemap.divide(sizes, place)
    whole = sum(size for size in sizes if size > 0)
    for size, cell in zip(sizes, found, strict=True):
        share = max(size, 0) / whole
        assert cell.width * cell.height == pytest.approx(share * place.width * place.height, rel=1e-6)
        assert place.x - 1e-6 <= cell.x <= cell.x + cell.width <= place.x + place.width + 1e-6
        assert place.y - 1e-6 <= cell.y <= cell.y + cell.height <= place.y + place.height + 1e-6


def test_no_two_cells_overlap() -> None:
    cells = treemap.divide([6, 6, 4, 3, 2, 2, 1], Rectangle(0, 0, 600, 400))
    for number, one in enumerate(cells):
        for other in cells[number + 1 :]:
            wide = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            high = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert wide < 1e-6 or high < 1e-6


def test_cells_are_as_square_as_the_paper_says() -> None:
    """The example of Bruls, Huizing and van Wijk: 6, 6, 4, 3, 2, 2, 1 in 6 by 4; its worst cell is 2.8 to 1 at most."""
    cells = treemap.divide([6, 6, 4, 3, 2, 2, 1], Rectangle(0, 0, 6, 4))
    assert (cells[0], cells[1]) == (Rectangle(0, 0, 3, 2), Rectangle(0, 2, 3, 2))
    assert max(max(each.width / each.height, each.height / each.width) for each in cells) < 2.8


def test_nothing_and_no_room() -> None:
    assert treemap.divide([], Rectangle(0, 0, 6, 4)) == []
    assert treemap.divide([0, 0], Rectangle(1, 2, 6, 4)) == [Rectangle(1, 2, 0, 0)] * 2
    assert treemap.divide([3], Rectangle(0, 0, 0, 4)) == [Rectangle(0, 0, 0, 0)]


def test_bars_follow_each_other_and_are_never_invisible() -> None:
    assert release_drawing.bars([1.0, 3.0, 0.0]) == [
        {"x": 0.0, "width": 250.0},
        {"x": 250.0, "width": 750.0},
        {"x": 997, "width": 3},
    ]
    assert release_drawing.bars([0.0]) == [{"x": 0.0, "width": 3}]


def test_how_figures_are_told() -> None:
    assert [release_drawing.megabytes(size) for size in (12, 2_150, 999_999, 21_400_000)] == [
        "12 B",
        "2.1 kB",
        "1000.0 kB",
        "21.4 MB",
    ]
    assert [release_drawing.duration(seconds) for seconds in (0.04, 59.9, 185.2)] == ["0.0 s", "59.9 s", "3 min 05 s"]
    assert release_drawing.date("2026-01-02T03:04:05Z") == "2 January 2026, 03:04 UTC"
    assert release_drawing.change(100, None) == ""
    assert release_drawing.change(100, 100) == "same size"
    assert release_drawing.change(1_100_000, 1_000_000) == "+100.0 kB (+10.0 %)"
    assert release_drawing.change(500, 1_000) == "\N{MINUS SIGN}500 B (\N{MINUS SIGN}50.0 %)"
    assert release_drawing.change(5, 0) == "+5 B"


def test_layers_take_the_lines_of_history_that_made_them() -> None:
    blob = {"mediaType": "x", "size": 5}
    manifest = {
        "config": {**blob, "digest": released.digest("config")},
        "layers": [{**blob, "digest": released.digest(name)} for name in "ab"],
    }
    history = [{"created_by": "COPY a /"}, {"created_by": "ENV x=y", "empty_layer": True}, {"created_by": "COPY b /"}]
    found = release_page.layers(manifest, {"history": history})
    assert [(layer.size, layer.created_by) for layer in found] == [(5, "COPY a /"), (5, "COPY b /")]
    assert [layer.created_by for layer in release_page.layers(manifest, {})] == ["", ""]
