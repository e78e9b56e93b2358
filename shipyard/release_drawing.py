"""release.html, drawn from the document of release.json alone: one file that asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from shipyard.treemap import Rectangle, divide

_PAGE = Path(__file__).with_name("page")
#: The treemap is drawn once for each of these widths and heights, in CSS pixels; the style sheet shows the one that fits.
_CANVASES = {"wide": (1080, 400), "middle": (640, 420), "narrow": (340, 480)}
#: CSS pixels: of an average character of a label, around a label, and the least height of a cell for one and for two lines.
_CHARACTER = 7.6
_MARGIN = 8
_ONE_LINE = 26
_TWO_LINES = 50
#: Hues for images, as far from each other as they can be while they are few (degrees of oklch).
_HUES = 8
#: By hand: what the calendar module says depends on the machine's locale.
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def page(document: Mapping[str, Any]) -> str:
    """The whole page. Everything from the document is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"megabytes": megabytes, "duration": duration, "date": date, "change": change}
    style, script = (_PAGE / "page.css").read_text(), (_PAGE / "page.js").read_text()
    return environment.get_template("page.html").render(
        release=document,
        style=style,
        script=script,
        policy=_policy(style, script),
        hues={image["key"]: number % _HUES for number, image in enumerate(document["images"])},
        maps=maps(document["images"]),
        totals=_totals(document["images"]),
        bars=bars([step["seconds"] for step in document["steps"]]),
        kinds=sorted({each["kind"] for each in document["sbom"]["components"]}),
    )


def _policy(style: str, script: str) -> str:
    """Nothing may be loaded, and only this very style and script may work."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    rules = zip(("style-src", "script-src"), hashes, strict=True)
    allowed = "; ".join(f"{name} 'sha256-{digest}'" for name, digest in rules)
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def maps(images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A treemap per platform and canvas: every layer of every image as a cell whose area is its share of all bytes."""
    names = sorted({part["platform"] for image in images for part in image["platforms"]})
    return [
        {
            "platform": name,
            "size": sum(part["size"] for _, part in _of(images, name)),
            "canvases": [
                {"name": canvas, "width": width, "height": height, "groups": _groups(_of(images, name), width, height)}
                for canvas, (width, height) in _CANVASES.items()
            ],
        }
        for name in names
    ]


def _of(images: Sequence[Mapping[str, Any]], platform: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(image["key"], part) for image in images for part in image["platforms"] if part["platform"] == platform]


def _groups(parts: Sequence[tuple[str, Mapping[str, Any]]], width: int, height: int) -> list[dict[str, Any]]:
    """One group per image, largest areas first as they are laid, with its layers inside."""
    weights = [sum(layer["size"] for layer in part["layers"]) for _, part in parts]
    groups = []
    for (key, part), weight, place in zip(parts, weights, divide(weights, Rectangle(0, 0, width, height)), strict=True):
        if weight == 0:
            continue
        sizes = [layer["size"] for layer in part["layers"]]
        cells = [
            {**layer, "number": number, "place": _rounded(cell), "label": _label(megabytes(layer["size"]), cell)}
            for number, (layer, cell) in enumerate(zip(part["layers"], divide(sizes, place), strict=True), 1)
            if layer["size"] > 0
        ]
        groups.append({"key": key, "place": _rounded(place), "label": _name(key, place), "cells": cells})
    return groups


def _rounded(place: Rectangle) -> dict[str, float]:
    """To a hundredth of a pixel, so that the text is the same on every machine."""
    return {name: round(value, 2) for name, value in vars(place).items()}


def _label(text: str, place: Rectangle, height: int = _TWO_LINES) -> str:
    """The text where there is room for it, else nothing: the cell's title and the tables tell it anyway."""
    fits = place.height >= height and place.width >= len(text) * _CHARACTER + 2 * _MARGIN
    return text if fits else ""


def _name(key: str, place: Rectangle) -> str:
    """The image's key, or without the usual target where that is too long."""
    return _label(key, place, _ONE_LINE) or _label(key.removesuffix("-prod"), place, _ONE_LINE)


def bars(seconds: Sequence[float]) -> list[dict[str, float]]:
    """A bar per step in thousandths of the whole, one after the other: pauses between resumed runs are left out."""
    whole = sum(seconds) or 1.0
    found, begin = [], 0.0
    for each in seconds:
        width = max(1000 * each / whole, 3)  # what took no time is still to be seen
        found.append({"x": round(min(begin, 1000 - width), 2), "width": round(width, 2)})
        begin += 1000 * each / whole
    return found


def _totals(images: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Bytes per image, all platforms together, with every blob counted once as the registry stores it."""
    return {
        image["key"]: sum({x["digest"]: x["size"] for part in image["platforms"] for x in part["layers"]}.values())
        for image in images
    }


def megabytes(size: int) -> str:
    """Bytes as decimal megabytes, small ones as kilobytes or bytes."""
    for unit, worth in (("MB", 10**6), ("kB", 10**3)):
        if size >= worth:
            return f"{size / worth:.1f} {unit}"
    return f"{size} B"


def duration(seconds: float) -> str:
    """``0.4 s``, ``12.3 s``, ``3 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def date(moment: str) -> str:
    """``23 November 2026, 22:01 UTC`` from the ISO form of release.json."""
    found = datetime.fromisoformat(moment)
    month = _MONTHS[found.month - 1]
    return f"{found.day} {month} {found:%Y, %H:%M} UTC"


def change(size: int, before: int | None) -> str:
    """How a size compares with the one before: ``+1.2 MB (+3.1 %)``; empty when there was none."""
    if before is None:
        return ""
    if size == before:
        return "same size"
    sign = "+" if size > before else "\N{MINUS SIGN}"
    share = f" ({sign}{100 * abs(size - before) / before:.1f} %)" if before else ""
    return f"{sign}{megabytes(abs(size - before))}{share}"
