"""The file of a local model: where it lies, and whether its model may take so much memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

from llm_call.api.local import gguf
from llm_call.api.local.recipe import Recipe
from llm_call.api.local.refusals import Refused

PROGRAM_BYTES = 16_000_000
"""What llama-server takes at least besides: libraries, threads, buffers. Debian's 0.7.0 on amd64 has 26 MB in memory with a
model that needs 1 MB; the rest is left for leaner builds."""

WHAT_WORKS = "put the file itself there, or a relative link (ln -s --relative) to a file inside {}"
"""Why relative: the folder is mounted, so that here it has another path than where the link was made."""


def locate(folder: Path, name: str, recipe: Recipe) -> Path:
    """Return the file of the model `name`, which lies below `folder` wherever links lead. Raises Refused."""
    place = folder / recipe.file
    what = f'The file "{recipe.file}" of the model "{name}"'
    try:
        file, root = place.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        if _leads_through_a_link(folder, recipe.file):
            message = f"{what} is a link that leads to nothing here; {WHAT_WORKS.format(folder)}."
        else:
            message = f"{what} is not in {folder}; put it there."
        raise Refused(message, "local_model_missing") from error
    if not file.is_relative_to(root):
        message = f"{what} is a link out of {folder}; {WHAT_WORKS.format(folder)}."
        raise Refused(message, "local_model_outside")
    if not file.is_file():
        message = f'"{recipe.file}" of the model "{name}" is no file; name a GGUF file.'
        raise Refused(message, "local_model_missing")
    return file


def _leads_through_a_link(folder: Path, path: str) -> bool:
    """Tell whether a part of `path` below `folder` is a link."""
    place = folder
    for part in Path(path).parts:
        place /= part
        if place.is_symlink():
            return True
    return False


def needed(name: str, recipe: Recipe, file: Path) -> int:
    """Return the bytes that weights, context and llama-server itself take; a thread is the place for it.

    Raises Refused for a broken file, and for one that would embed texts but does not say how.
    """
    try:
        need = gguf.need(file)
    except (gguf.NotGguf, OSError) as error:
        told = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        message = f'The file "{recipe.file}" of the model "{name}" {told}.'
        raise Refused(message, "local_model_broken") from error
    if recipe.embeddings and not recipe.pooling and not need.pooled:
        message = (
            f'The file "{recipe.file}" of the model "{name}" does not say how it pools embeddings; '
            'set pooling = "mean" in models.toml ("cls" or "last", if the model\'s own description says so).'
        )
        raise Refused(message, "local_model_unpooled")
    return need.total(recipe.context * recipe.parallel) + PROGRAM_BYTES


def version(file: Path) -> tuple[int, int]:
    """Return what changes when a file does: its time of change, in nanoseconds, and its size; zeros for one that is gone."""
    with contextlib.suppress(OSError):
        found = file.stat()
        return found.st_mtime_ns, found.st_size
    return 0, 0


def admit(name: str, recipe: Recipe, taken: int) -> None:
    """Raise Refused if so many bytes are more than the ceiling: it would be ended as soon as it was loaded."""
    if recipe.memory and taken > recipe.memory:
        message = (
            f'The model "{name}" takes {taken / 1e6:.1f} MB at least, weights and context, and its ceiling is '
            f"{recipe.memory / 1e6:.1f} MB; raise its memory in models.toml, or lower its context."
        )
        raise Refused(message, "local_model_too_large")
