"""Reads what `models.toml` says of a local model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from llm_call.api.local import templates
from llm_call.api.local.recipe import ALL_LAYERS, Recipe
from llm_call.api.tables import Tables, perhaps

KEYS = (
    *("file", "context", "parallel", "threads", "gpu_layers", "embeddings", "pooling", "template", "memory"),
    *("idle_seconds", "start_seconds"),
)
POOLINGS = ("mean", "cls", "last")
"""Those of llama-server that make one embedding of a text, as OpenAI's wire has it: "none" makes one of each token."""
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(MB|GB)")
UNITS = {"MB": 10**6, "GB": 10**9}
LARGEST_CONTEXT = 1 << 24
LONGEST_IDLE = 30 * 86400


def recipe(tables: Tables, raw: Mapping[str, Any], place: str) -> Recipe:
    """Return how the model of the table `raw` is served; faults are noted in `tables`."""

    def whole(key: str, default: int, least: int, most: int) -> int:
        return tables.whole(raw, place, key, default, least=least, most=most)

    pooling = tables.text(raw, place, "pooling", required=False) or ""
    if pooling and pooling not in POOLINGS:
        tables.fault(f"{place}.pooling", f'"{pooling}" makes no embedding{perhaps(pooling, POOLINGS)}')
    elif pooling and raw.get("embeddings") is not True:
        tables.fault(f"{place}.pooling", "is for models with embeddings = true")
    template = tables.text(raw, place, "template", required=False) or ""
    if template and template not in templates.NAMES:
        hint = perhaps(template, templates.NAMES)
        tables.fault(f"{place}.template", f'"{template}" is none of llama-server\'s own{hint}')
    return Recipe(
        file=_file(tables, raw, place),
        context=whole("context", Recipe.context, 16, LARGEST_CONTEXT),
        parallel=whole("parallel", Recipe.parallel, 1, 32),
        threads=whole("threads", 1, 1, 1024) if "threads" in raw else None,
        gpu_layers=_layers(tables, raw, place),
        embeddings=tables.flag(raw, place, "embeddings", default=False),
        pooling=pooling,
        template=template,
        memory=_memory(tables, raw, place),
        idle_seconds=_idle(tables, raw, place),
        start_seconds=tables.number(raw, place, "start_seconds", Recipe.start_seconds, most=3600),
    )


def _file(tables: Tables, raw: Mapping[str, Any], place: str) -> str:
    given = tables.text(raw, place, "file") or ""
    path = PurePosixPath(given)
    if path.is_absolute() or ".." in path.parts or "\0" in given:
        tables.fault(f"{place}.file", f'"{given}" leaves the models folder; name a file below it, such as "tiny.gguf"')
    return given


def _layers(tables: Tables, raw: Mapping[str, Any], place: str) -> int | None:
    value = raw.get("gpu_layers", "all")
    if value == "all":
        return None
    if type(value) is not int or not 0 <= value < ALL_LAYERS:
        tables.fault(f"{place}.gpu_layers", f'is "all", or a whole number from 0 to {ALL_LAYERS - 1}')
        return None
    return value


def _idle(tables: Tables, raw: Mapping[str, Any], place: str) -> float:
    value = raw.get("idle_seconds", Recipe.idle_seconds)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST_IDLE:
        tables.fault(f"{place}.idle_seconds", f"is a number of seconds from 0 to {LONGEST_IDLE}")
        return Recipe.idle_seconds
    return float(value)


def _memory(tables: Tables, raw: Mapping[str, Any], place: str) -> int | None:
    if "memory" not in raw:
        return None
    match = SIZE.fullmatch(raw["memory"]) if isinstance(raw["memory"], str) else None
    if not match:
        tables.fault(f"{place}.memory", 'is a size such as "800MB" or "6.5GB"')
        return None
    return int(float(match[1]) * UNITS[match[2]])
