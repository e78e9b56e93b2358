"""Debian testing's llama-server with the tests' own tiny model: real text from a model, on both wires, without a network.

It is unpacked once per machine, beside the engine's programs, and runs by its own C library: the host's version does not
matter, and a container needs nothing but the folder.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import debian_programs, tiny_model
from tests.support.service import START_SECONDS, Service, wait_until
from tests.support.stack import free_ports

PACKAGES = ("llama.cpp-tools",)
#: Folder of libraries, loader, and the backend that every processor of the architecture can run.
PLACES = {
    "x86_64": ("usr/lib/x86_64-linux-gnu", "usr/lib64/ld-linux-x86-64.so.2", "libggml-cpu-x64.so"),
    "aarch64": ("usr/lib/aarch64-linux-gnu", "usr/lib/ld-linux-aarch64.so.1", "libggml-cpu-armv8.0_1.so"),
}
#: Where the compose double listens, inside its container.
PORT = 9300


def unpacked() -> Path:
    """The folder with llama-server."""
    return debian_programs.unpacked("llama", PACKAGES)


def command(root: Path, model: Path, host: str, port: int, *more: str) -> list[str]:
    """The command line, with llama-server below ``root``."""
    libraries, loader, _ = PLACES[platform.machine()]
    path = f"{root / libraries}:{root / libraries}/llama"
    line = [str(root / loader), "--library-path", path, str(root / "usr/bin/llama-server"), "--model", str(model)]
    line += ["--alias", "tiny", "--ctx-size", str(tiny_model.CONTEXT), "--threads", "1", "--parallel", "1"]
    return [*line, "--host", host, "--port", str(port), "--chat-template", "chatml", *more]


def environment(root: Path) -> dict[str, str]:
    """ggml looks for its backends beside the program, which here is the loader; so it is told."""
    libraries, _, backend = PLACES[platform.machine()]
    (found,) = (unpacked() / libraries / "ggml").glob(f"*/{backend}")
    return {"GGML_BACKEND_PATH": str(root / found.relative_to(unpacked()))}


def program(folder: Path) -> Path:
    """Make `llama-server` in ``folder``: a program that can be started by its path alone, as in an image."""
    root = unpacked()
    libraries, loader, _ = PLACES[platform.machine()]
    variables = "".join(f"export {name}={value}\n" for name, value in environment(root).items())
    path = f"{root / libraries}:{root / libraries}/llama"
    made = folder / "llama-server"
    made.write_text(
        f'#!/bin/sh\n{variables}exec {root / loader} --library-path {path} {root}/usr/bin/llama-server "$@"\n'
    )
    made.chmod(0o755)
    return made


@contextlib.contextmanager
def llama(folder: Path, *more: str) -> Iterator[Service]:
    """Run llama-server on a free port of 127.0.0.1 until the block ends; ``more`` are options of its own."""
    root, model, log = unpacked(), folder / "tiny.gguf", folder / "llama-server.log"
    tiny_model.write(model)
    (port,) = free_ports(1)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(root, model, "127.0.0.1", port, *more),
            env={"PATH": os.defpath, **environment(root)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    service = Service(process, log)
    service.port = port
    try:
        wait_until(lambda: service.find(r"listening on http"), "llama-server", START_SECONDS)
        yield service
    finally:
        service.stop()


def double(folder: Path) -> dict[str, Any]:
    """A Compose file with the service ``llama-server`` on the network ``outbound``; the model is written into ``folder``."""
    model, root = folder / "tiny.gguf", Path("/llama")
    tiny_model.write(model)
    model.chmod(0o444)
    mounts = {str(unpacked()): str(root), str(model): "/model.gguf"}
    probe = ["CMD", "python3", "-m", "serving.probe", f"http://127.0.0.1:{PORT}/health"]
    service = {
        "image": "llm-call-api:${LLM_CALL_VERSION:-unset}",
        "init": True,
        "read_only": True,
        "tmpfs": ["/tmp:size=64m"],
        "command": command(root, Path("/model.gguf"), "0.0.0.0", PORT),
        "environment": environment(root),
        "volumes": [{"type": "bind", "source": a, "target": b, "read_only": True} for a, b in mounts.items()],
        "networks": ["outbound"],
        "ports": [f"127.0.0.1:${{LLAMA_DOUBLE_PORT}}:{PORT}"],  # for an API on the host
        "healthcheck": {"test": probe, "interval": "60s", "start_period": "60s", "start_interval": "300ms"},
    }
    return {"services": {"llama-server": service}}
