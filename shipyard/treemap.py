"""Rectangles whose areas are proportional to sizes, near to squares, the same from the same sizes. Pure functions.

The algorithm is "squarified treemaps" (Bruls, Huizing and van Wijk, 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rectangle:
    """A place in a drawing, in its own units, from the upper left corner."""

    x: float
    y: float
    width: float
    height: float


def divide(sizes: Sequence[float], place: Rectangle) -> list[Rectangle]:
    """One rectangle of ``place`` per size, in the order given; a size of zero or less gets an empty one."""
    order = sorted(
        (number for number, size in enumerate(sizes) if size > 0), key=lambda number: (-sizes[number], number)
    )
    found = [Rectangle(place.x, place.y, 0.0, 0.0)] * len(sizes)
    if not order or place.width <= 0 or place.height <= 0:
        return found
    scale = place.width * place.height / sum(sizes[number] for number in order)
    rest = place
    while order:
        row = _row([sizes[number] * scale for number in order], min(rest.width, rest.height))
        cells, rest = _lay(row, rest, last=len(row) == len(order))
        for number, cell in zip(order, cells, strict=False):
            found[number] = cell
        order = order[len(row) :]
    return found


def _row(areas: Sequence[float], side: float) -> list[float]:
    """The first areas that, side by side along ``side``, are nearest to squares."""
    row = [areas[0]]
    for area in areas[1:]:
        if _worst([*row, area], side) > _worst(row, side):
            break
        row.append(area)
    return row


def _worst(row: Sequence[float], side: float) -> float:
    """The most oblong of a row of areas: the ratio of its longer to its shorter side."""
    depth = sum(row) / side
    return max(max(area / depth**2, depth**2 / area) for area in row)


def _lay(row: Sequence[float], place: Rectangle, *, last: bool) -> tuple[list[Rectangle], Rectangle]:
    """A row's rectangles along the shorter side of ``place``, and what is left of it."""
    upright = place.width >= place.height
    side, room = (place.height, place.width) if upright else (place.width, place.height)
    depth = room if last else sum(row) / side  # the last row ends where the place does, whatever was rounded
    cells, along = [], 0.0
    for area in row:
        length = area / depth
        if upright:
            cells.append(Rectangle(place.x, place.y + along, depth, length))
        else:
            cells.append(Rectangle(place.x + along, place.y, length, depth))
        along += length
    if upright:
        return cells, Rectangle(place.x + depth, place.y, place.width - depth, place.height)
    return cells, Rectangle(place.x, place.y + depth, place.width, place.height - depth)
