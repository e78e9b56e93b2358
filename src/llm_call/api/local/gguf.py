"""Reads the head of a GGUF file: how much memory its weights and a token of context take, and how it embeds texts.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llm_call.api.local import tensors

MAGIC = b"GGUF"
TEXT, ARRAY = 8, 9
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
LENGTH = struct.Struct("<Q")
MOST_DIMENSIONS = 4
ALIGNMENT = 32
"""What the tensors' bytes begin at a multiple of, unless `general.alignment` says otherwise."""
LONGEST_KEY, LONGEST_TEXT = 1 << 16, 1 << 24
"""In bytes; the second holds for chat templates, too. A longer one is no GGUF file but noise."""
MOST_TEXTS, MOST_NUMBERS = 1 << 22, 1 << 12
"""Of a list: texts that are passed over, more than any vocabulary has; numbers that are kept, one for each layer."""
BYTES_PER_NUMBER = 2
"""Of the context's keys and values: llama-server keeps them as f16 unless told otherwise."""
NO_POOLING = 0
"""Of `<architecture>.pooling_type`: llama.cpp's LLAMA_POOLING_TYPE_NONE, which it also takes where the file says nothing."""
PART = re.compile(r"(.+)-00001-of-(\d{5})\.gguf")


class NotGguf(ValueError):
    """The file is none, or a broken one; the text says why."""


@dataclass(frozen=True)
class Need:
    """In bytes: all weights, and one token of context (0 where the file does not tell).

    `pooled`: the file says how the numbers of a text's tokens become one embedding.
    """

    weights: int
    token: int
    pooled: bool = False

    def total(self, tokens: int) -> int:
        """Return what a model with so many tokens of context takes at least."""
        return self.weights + tokens * self.token


def need(path: Path) -> Need:
    """Return what the model at `path` needs. Raises NotGguf, also for a file that is shorter than its head says, and OSError.

    It may take 0.2 s for a large vocabulary.
    """
    parts = list(_parts(path))
    heads = [_head(part) for part in parts]
    weights = sum(part.stat().st_size for part in parts)
    told = heads[0]
    return Need(weights, _token(told), told.get("pooling_type", NO_POOLING) != NO_POOLING)


def _parts(path: Path) -> Iterator[Path]:
    """Yield the files of a model that may be split into several, of which the first is named."""
    yield path
    match = PART.fullmatch(path.name)
    for number in range(2, int(match[2]) + 1 if match else 2):
        assert match, "a file that is not split is its only part"
        part = path.with_name(f"{match[1]}-{number:05}-of-{match[2]}.gguf")
        if not part.exists():
            msg = f"is one of {int(match[2])}, and {part.name} is not beside it"
            raise NotGguf(msg)
        yield part


def _head(path: Path) -> dict[str, Any]:
    """Return the entries of one file, all of which has to be there."""
    with path.open("rb") as file:
        try:
            told, count = _figures(file)
            end = _end(file, count, told.get("general.alignment", ALIGNMENT))
        except (struct.error, UnicodeDecodeError) as error:
            msg = "is cut off or damaged"
            raise NotGguf(msg) from error
        size = os.fstat(file.fileno()).st_size
    if size < end:
        msg = f"is cut off: {size} of {end} bytes are there; copy it again"
        raise NotGguf(msg)
    return told


def _figures(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return the entries without the architecture's name before them, and how many tensors there are."""
    if (begin := file.read(4)) != MAGIC:
        msg = f"is no GGUF file: it begins with {begin!r}"
        raise NotGguf(msg)
    version, count, entries = _take(file, "<IQQ")
    if version not in (2, 3):
        msg = f"is a GGUF file of version {version}; known are 2 and 3"
        raise NotGguf(msg)
    found: dict[str, Any] = {}
    architecture = ""
    for _ in range(entries):
        key = _text(file, LONGEST_KEY).decode("utf-8")
        value = _value(file, _take(file, "<I")[0])
        if key == "general.architecture":
            architecture = bytes(value).decode("utf-8")
        found[key] = value
    return {key.removeprefix(f"{architecture}."): value for key, value in found.items()}, count


def _end(file: BinaryIO, count: int, alignment: Any) -> int:
    """Return the size that a file with so many tensors has at least; their descriptions are read next."""
    end = 0
    for _ in range(count):
        _text(file, LONGEST_KEY)
        (dimensions,) = _take(file, "<I")
        if dimensions > MOST_DIMENSIONS:
            msg = f"is damaged: a tensor of {dimensions} dimensions"
            raise NotGguf(msg)
        shape = _take(file, f"<{dimensions}Q")
        kind, offset = _take(file, "<IQ")
        end = max(end, offset + tensors.size(kind, shape))
    if type(alignment) is not int or alignment <= 0:
        msg = f"is damaged: its alignment is {alignment!r}"
        raise NotGguf(msg)
    return -(-file.tell() // alignment) * alignment + end if count else 0


def _token(told: dict[str, Any]) -> int:
    def figure(key: str, default: int = 0) -> int:
        value = told.get(key, default)
        if isinstance(value, list):  # one for each layer
            value = max(value, default=0)
        return value if isinstance(value, int) else default

    heads = figure("attention.head_count")
    width = figure("embedding_length") // heads if heads else 0
    both = figure("attention.key_length", width) + figure("attention.value_length", width)
    return figure("block_count") * figure("attention.head_count_kv", heads) * both * BYTES_PER_NUMBER


def _take(file: BinaryIO, kind: str) -> tuple[Any, ...]:
    return struct.unpack(kind, file.read(struct.calcsize(kind)))


def _size(file: BinaryIO, longest: int) -> int:
    size: int = _take(file, "<Q")[0]
    if size > longest:
        raise _noise(size)
    return size


def _noise(size: int) -> NotGguf:
    return NotGguf(f"is damaged: a text of {size} bytes")


def _text(file: BinaryIO, longest: int) -> bytes:
    size = _size(file, longest)
    text = file.read(size)
    if len(text) < size:
        msg = "is cut off"
        raise NotGguf(msg)
    return text


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == TEXT:
        return _text(file, LONGEST_TEXT)
    if kind == ARRAY:
        return _list(file, *_take(file, "<IQ"))
    return _take(file, _number(kind))[0]


def _list(file: BinaryIO, kind: int, count: int) -> list[Any]:
    """Return the numbers of a short list; of others nothing is kept: the file may be anything."""
    if kind == TEXT and count <= MOST_TEXTS:
        _skip_texts(file, count)
        return []
    if count <= MOST_NUMBERS:
        return [_take(file, _number(kind))[0] for _ in range(count)]
    _skip(file, count * struct.calcsize(_number(kind)))
    return []


def _skip_texts(file: BinaryIO, count: int) -> None:
    # A vocabulary has hundreds of thousands: nothing but this loop takes time.
    read, seek, unpack = file.read, file.seek, LENGTH.unpack
    for _ in range(count):
        (size,) = unpack(read(8))
        if size > LONGEST_TEXT:
            raise _noise(size)
        seek(size, os.SEEK_CUR)  # beyond the end there is nothing to read


def _skip(file: BinaryIO, size: int) -> None:
    if size > os.fstat(file.fileno()).st_size - file.tell():
        msg = "is cut off"
        raise NotGguf(msg)
    file.seek(size, os.SEEK_CUR)


def _number(kind: int) -> str:
    if kind not in NUMBERS:
        msg = f"is damaged: a value of the kind {kind}"
        raise NotGguf(msg)
    return NUMBERS[kind]
