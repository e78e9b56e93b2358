"""The servers of bench/gateway.py as processes on 127.0.0.1, each ended with its block; and what they hold in memory."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load import Target
from bench.measure import ROOT, engine_environment, seconds
from shipyard.engine.types import home

START_SECONDS = 60.0
"""LiteLLM's first start compiles its modules."""
POLL_SECONDS = 0.002
LOCK = ROOT / "bench/peers/litellm.txt"
MODELS = """
[upstream.double]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
[upstream.spare]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
[model.bench]
upstream = "double"
fallbacks = ["spare"]
[model.spare]
upstream = "spare"
name = "bench"
"""
LITELLM = """
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
general_settings: {{master_key: "{key}"}}
"""
HARDENED = (
    *("--network", "host", "--init", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"),
    *("--ipc", "private", "--pids-limit", "256", "--memory", "512m", "--memory-swap", "512m", "--cpus", "2"),
    *("--tmpfs", "/tmp:rw,noexec,nosuid,nodev,size=64m,mode=1777", "--log-opt", "max-size=10m"),
)
"""As compose/ has it, but on the host's network: a published port would add address translation to every packet."""


class Failed(Exception):
    """A server that did not start; the text holds what it said."""


@dataclass(frozen=True)
class Server:
    """A running server: where to ask, which process serves, and how many seconds it took from start to ready."""

    target: Target
    pid: int
    start_seconds: float

    def resident(self) -> float:
        """Resident memory in MB (of 1,000,000 bytes)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024 / 1e6

    def processor_seconds(self) -> float:
        """Seconds on a processor so far, in user mode and in the kernel; by ticks of 10 ms."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def upstream(folder: Path) -> Iterator[Target]:
    """The double that answers for every model."""
    port = free_port()
    with process([sys.executable, str(ROOT / "bench/upstream.py"), str(port)], port, "/", folder / "upstream.log"):
        yield Target(port)


@contextlib.contextmanager
def ours(double: int, folder: Path) -> Iterator[Server]:
    """The gateway from the source tree: keys, metrics, request logs and routing on, no cache."""
    key, port = _configure(double, folder), free_port()
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "src"),
        "LLM_CALL_KEYS_FILE": str(folder / "keys"),
        "LLM_CALL_MODELS": str(folder / "models.toml"),
    }
    command = [sys.executable, "-m", "llm_call.api", "--port", str(port)]
    with process(command, port, "/health/ready", folder / "ours.log", env) as (pid, took):
        yield Server(Target(port, key=key), pid, took)


@contextlib.contextmanager
def ours_in_image(double: int, folder: Path) -> Iterator[Server]:
    """The gateway in its production image, hardened as in compose/; the clock runs from `docker start`."""
    key, port, env = _configure(double, folder), free_port(), engine_environment()
    image = f"llm-call-api:{(ROOT / 'VERSION').read_text().strip()}"
    name = f"bench-gateway-{secrets.token_hex(4)}"
    given = ("--env", "LLM_CALL_KEYS_FILE=/bench/keys", "--env", "LLM_CALL_MODELS=/bench/models.toml")
    mount = ("--mount", f"type=bind,source={folder},target=/bench,readonly")
    command = ("python3", "-m", "llm_call.api", "--port", str(port))
    seconds(["docker", "create", "--name", name, *HARDENED, *given, *mount, image, *command], env=env)
    try:
        begin = time.perf_counter()
        seconds(["docker", "start", name], env=env)
        init = int(docker(env, "inspect", "--format", "{{.State.Pid}}", name))
        _wait(port, "/health/ready", lambda: not Path(f"/proc/{init}").exists(), lambda: docker(env, "logs", name))
        took = time.perf_counter() - begin
        child = Path(f"/proc/{init}/task/{init}/children").read_text().split()
        yield Server(Target(port, key=key), int(child[0]), took)
    finally:
        subprocess.run(["docker", "rm", "--force", name], env=env, capture_output=True, check=False)


@contextlib.contextmanager
def bare(double: int, folder: Path) -> Iterator[Server]:
    """Twenty lines of ASGI over a pooled client, on the same server and parser as ours."""
    port = free_port()
    flags = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    command = [sys.executable, "-m", "uvicorn", "passthrough:app", "--port", str(port), *flags]
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "bench/peers"),
        "UPSTREAM": f"http://127.0.0.1:{double}/v1",
    }
    with process(command, port, "/", folder / "bare.log", env) as (pid, took):
        yield Server(Target(port), pid, took)


@contextlib.contextmanager
def litellm(double: int, folder: Path) -> Iterator[Server]:
    """LiteLLM's proxy with a master key and its request log; one worker, nothing fetched from anywhere."""
    program, port, key = install_litellm(), free_port(), f"sk-{secrets.token_hex(16)}"
    config = folder / "litellm.yaml"
    config.write_text(LITELLM.format(port=double, key=key))
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with process(command, port, "/health/readiness", folder / "litellm.log", env) as (pid, took):
        yield Server(Target(port, key=key), pid, took)


def install_litellm() -> Path:
    """Return the program, after installing the pinned version into an environment of its own where it is missing."""
    place = home() / "bench-litellm"
    program, stamp = place / "bin/litellm", place / LOCK.name
    if not (program.exists() and stamp.exists() and stamp.read_text() == LOCK.read_text()):
        print(f"installing {LOCK.name} into {place}: about 600 MB, some minutes", flush=True)
        seconds([sys.executable, "-m", "venv", "--clear", str(place)])
        seconds([str(place / "bin/python"), "-m", "pip", "install", "-q", "-r", str(LOCK)])
        stamp.write_text(LOCK.read_text())
    return program


@contextlib.contextmanager
def process(
    command: Sequence[str], port: int, ready: str, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[tuple[int, float]]:
    """Run a server until the block ends; yields its process id and the seconds until `ready` (a path) answered 200."""
    with log.open("wb") as output:
        begin = time.perf_counter()
        # A session of its own: Ctrl-C is for the benchmark, which then ends everything that the command started.
        started = subprocess.Popen(
            command, env=env, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent, start_new_session=True
        )
    try:
        _wait(port, ready, lambda: started.poll() is not None, lambda: log.read_text(errors="replace"))
        yield started.pid, time.perf_counter() - begin
    finally:
        _end(started)


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def docker(env: Mapping[str, str], *words: str) -> str:
    """What a docker command printed, on either stream."""
    done = subprocess.run(["docker", *words], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"docker {' '.join(words)}: {done.stderr}"
        raise Failed(msg)
    return done.stdout + done.stderr


def _configure(double: int, folder: Path) -> str:
    """Write the gateway's two files, readable for the image's user; return a key that it lets in."""
    key = f"sk-{secrets.token_hex(16)}"
    (folder / "keys").write_text(f"bench:{hashlib.sha256(key.encode()).hexdigest()}\n")
    (folder / "models.toml").write_text(MODELS.format(port=double))
    folder.chmod(0o755)
    return key


def _wait(port: int, path: str, ended: Callable[[], bool], said: Callable[[], str]) -> None:
    """Ask until the answer is 200. Raises Failed when the server ended or never got ready."""
    end = time.monotonic() + START_SECONDS
    while (answer := _ask(port, path)) != "200":
        if ended() or time.monotonic() > end:
            msg = f"the server never answered 200 at {path}, but last {answer}; it said:\n{said()[-2000:]}"
            raise Failed(msg)
        time.sleep(POLL_SECONDS)


def _ask(port: int, path: str) -> str:
    """The answer's status, with its text unless it is 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return f"{answer.status}" if answer.status == 200 else f"{answer.status} {answer.read()!r}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()


def _end(started: subprocess.Popen[bytes]) -> None:
    """End a server and whatever it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(5)
