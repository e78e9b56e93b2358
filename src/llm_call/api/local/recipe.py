"""How one local model is served: what `models.toml` says of it, and the command line that comes of that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm_call.api.local import templates

ALL_LAYERS = 999
"""More than any model has. Not the word "all": only newer versions of llama-server know it."""
HTTP_THREADS = 64
"""Threads of llama-server that talk to us: one for each request that we send, and some for its health check."""
AT_ONCE = HTTP_THREADS - 4
"""How many requests a process is given at once; with all threads taken its health check would not be answered."""
CACHE_MIB = 1024
"""The most that old prompts may take of the memory; left alone, llama-server keeps up to 8 GiB of them."""


@dataclass(frozen=True)
class Recipe:
    """`file` is a path below the models folder. `context` in tokens, for each of `parallel` requests at once.

    None for `threads`: as many as there are processors; for `gpu_layers`: all; for `memory`, in bytes: no ceiling.
    `idle_seconds` 0: it is never unloaded for want of requests.
    """

    file: str
    context: int = 4096
    parallel: int = 1
    threads: int | None = None
    gpu_layers: int | None = None
    embeddings: bool = False
    pooling: str = ""
    template: str = ""
    memory: int | None = None
    idle_seconds: float = 600.0
    start_seconds: float = 120.0


def arguments(recipe: Recipe, name: str, file: Path, socket: Path, threads: int) -> list[str]:
    """Return llama-server's options. Its key comes by standard input: an argument would show in `ps`."""
    layers = ALL_LAYERS if recipe.gpu_layers is None else recipe.gpu_layers
    options = ["--model", str(file), "--alias", name, "--host", str(socket), "--api-key-file", "/dev/stdin"]
    options += ["--ctx-size", str(recipe.context * recipe.parallel), "--parallel", str(recipe.parallel)]
    options += ["--threads", str(recipe.threads or threads), "--threads-http", str(HTTP_THREADS)]
    # No page for browsers, no look at other requests' prompts, nothing from the network.
    options += ["--gpu-layers", str(layers), "--no-webui", "--no-slots", "--offline", *templates.flags(recipe.template)]
    if recipe.embeddings:
        # A text to embed has to fit into one batch.
        options += ["--embeddings", "--batch-size", str(recipe.context), "--ubatch-size", str(recipe.context)]
    if recipe.pooling:
        options += ["--pooling", recipe.pooling]
    return options


def cache_mib(recipe: Recipe, needed: int) -> int:
    """Return how much memory old prompts may take, in MiB: a quarter of what is left below the ceiling."""
    if recipe.memory is None:
        return CACHE_MIB
    return min(CACHE_MIB, max(0, recipe.memory - needed) // 4 // (1 << 20))
