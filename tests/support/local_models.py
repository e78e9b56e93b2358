"""The gateway with local models: real llama-servers as its children, and programs that misbehave in a chosen way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import tiny_model
from tests.support.service import READY, Service, chat, running, wait_until

UPSTREAM = '[upstream.local]\nkind = "llama"\n'


def model(name: str, file: str = "tiny.gguf", **more: Any) -> str:
    """The tables of one local model; tests' own models have no chat template and need few threads."""
    values = {"upstream": "local", "file": file, "template": "chatml", "threads": 1, "context": 1024, **more}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([f'[model."local/{name}"]', *lines, ""])


class Gateway:
    """A running gateway, its models file and its models folder."""

    def __init__(self, service: Service, models: Path, folder: Path) -> None:
        self.service = service
        self.models = models
        self.folder = folder

    def ask(self, name: str = "tiny", **more: Any) -> tuple[int, Any, Any]:
        return self.service.post("/v1/chat/completions", chat(f"local/{name}", **{"max_tokens": 4, **more}))

    def stream(self, name: str = "tiny", **more: Any) -> Any:
        """Open an endless stream: the caller closes it."""
        body = json.dumps(chat(f"local/{name}", stream=True, ignore_eos=True, max_tokens=60_000, **more)).encode()
        return self.service.open("POST", "/v1/chat/completions", body, {"content-type": "application/json"})

    def processes(self, name: str = "") -> list[int]:
        """Process ids of the llama-servers below the gateway, all or those of one model."""
        return [pid for pid, argv in servers(self.service.process.pid) if not name or f"local/{name}" in argv]

    def only(self, name: str = "tiny") -> int:
        """The process id of a model's only llama-server."""
        (pid,) = self.processes(name)
        return pid

    def kill(self, name: str = "tiny", number: int = signal.SIGKILL) -> int:
        pid = self.only(name)
        os.kill(pid, number)
        return pid

    def metric(self, line: str) -> float:
        """The value of the series that is written so, such as `llm_call_x{a="b"}`; 0 where there is none."""
        text = self.service.get("/metrics")[1].decode()
        return next((float(each.split()[-1]) for each in text.splitlines() if each.startswith(f"{line} ")), 0.0)

    def state(self, name: str = "tiny") -> float:
        return self.metric(f'llm_call_local_model_state{{model="local/{name}"}}')

    def logged(self, text: str) -> list[dict[str, Any]]:
        """The log lines whose message holds this text."""
        lines = [json.loads(line) for line in self.service.output.splitlines() if line.startswith("{")]
        return [line for line in lines if text in line["message"]]

    def reload(self, models: str) -> None:
        before = len(self.logged("models reloaded"))
        self.models.write_text(UPSTREAM + models)
        self.service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(self.logged("models reloaded")) > before, "the models are read again")


@contextlib.contextmanager
def gateway(folder: Path, program: Path, models: str, *more: str, **env: str) -> Iterator[Gateway]:
    """Run the gateway with these tables of models."""
    weights = folder / "models"
    weights.mkdir(exist_ok=True)
    if not (weights / "tiny.gguf").exists():
        tiny_model.write(weights / "tiny.gguf")
    settings = folder / "models.toml"
    settings.write_text(UPSTREAM + models)
    full = {
        "LLM_CALL_MODELS": str(settings),
        "LLM_CALL_MODELS_FOLDER": str(weights),
        "LLM_CALL_LLAMA_SERVER": str(program),
        "LLM_CALL_LOCAL_WATCH_SECONDS": "2",
        "TMPDIR": str(folder),
        **env,
    }
    command = ["-m", "llm_call.api", "--host", "127.0.0.1", "--port", "0", *more]
    with running(command, READY, full) as service:
        yield Gateway(service, settings, weights)


def servers(pid: int) -> Iterator[tuple[int, list[str]]]:
    """Each llama-server below a process, with its command line."""
    for child in _children(pid):
        with contextlib.suppress(OSError):
            argv = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            if "--alias" in argv:
                yield child, argv
        yield from servers(child)


def lives(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def script(place: Path, body: str) -> Path:
    """Make a program that misbehaves as `body`, Python with `sys`, says."""
    place.write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n")
    place.chmod(0o755)
    return place


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
