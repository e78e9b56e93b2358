"""What the proxy is told by its environment; read once at start, every fault reported at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from claude_proxy import capacity, mcp, sandbox
from claude_proxy.bounds import Bounds
from serving import cors, event_stream
from serving.settings import Env, Secret, without_password

PASSED_ON = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")
"""Settings that the CLI gets unchanged: where the certificates of a TLS-intercepting network lie."""
PLACEHOLDER = "held-by-the-egress-gateway"
"""What stands for a key where the egress gateway adds it; each CLI gets a token of its own in its place."""
KEYS = ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN")
SOURCE = "CLAUDE_PROXY_CREDENTIAL"
LOGIN = "CLAUDE_PROXY_LOGIN_FOLDER"
RUNNERS, UIDS, MOST_RUNNERS = "CLAUDE_PROXY_RUNNERS", "CLAUDE_PROXY_RUNNER_UIDS", 256
LEAST_PIDS, LEAST_DISK = 32, 32 << 20
"""The least bounds of a request: what a CLI needs by itself, its folder with a long conversation in it."""


@dataclass(frozen=True)
class Credential:
    """What the CLI shows to the Messages API: the name of its variable, and the value."""

    variable: str
    value: Secret


@dataclass(frozen=True)
class Limits:
    """How many sessions a key may have, after how many seconds of silence one is forgotten, and its bytes."""

    count: int = 100
    seconds: float = 86_400.0
    size: int = 32 * 1024 * 1024


@dataclass(frozen=True)
class Gate:
    """Where the gate listens, at which address CLIs find it (empty: this machine's own), and what a request may have.

    `calls` and `tokens` (input and output) are for a request with tools whose key says nothing else.
    """

    host: str = "127.0.0.1"
    port: int = 0
    url: str = ""
    calls: int = 200
    tokens: int = 20_000_000


@dataclass(frozen=True)
class Settings:
    """The proxy's configuration. Durations are in seconds, sizes in bytes."""

    cli: str = "claude"
    workspace: Path = Path("/workspace")
    runners: Path | None = None
    runner_uids: range = range(10101, 10110)
    keys_file: str = ""
    origins: tuple[str, ...] = ()
    base_url: str = ""
    credential: Credential | None = None
    egress: bool = False
    gate: Gate = field(default_factory=Gate)
    login: Path | None = None
    passed_on: dict[str, str] = field(default_factory=dict)
    sandbox: str = "best-effort"
    readable: tuple[str, ...] = ()
    gpu: bool = False
    servers: dict[str, mcp.Server] = field(default_factory=dict)
    deadline: float = 600.0
    max_processes: int = 4
    queue: int = 8
    queue_seconds: float = 10.0
    prestart: int = 1
    prestart_seconds: float = 600.0
    bounds: Bounds = field(default_factory=Bounds)
    sessions: Limits = field(default_factory=Limits)
    retries: int = 2
    max_body: int = 32 * 1024 * 1024
    keep_alive: float = event_stream.SECONDS


def read(env: Env, memory: int | None = None) -> Settings:
    """Read the settings; `memory` is what the CLIs may use (default: asked of the kernel).

    Raises SettingsError with every fault.
    """
    base_url = env.text("ANTHROPIC_BASE_URL")
    if base_url and not base_url.startswith(("http://", "https://")):
        env.fault(
            "ANTHROPIC_BASE_URL", f'"{without_password(base_url)}" is no URL; for example https://api.anthropic.com'
        )
    egress = _egress(env, base_url)
    memory = capacity.memory() if memory is None else memory
    settings = Settings(
        cli=env.text("CLAUDE_PROXY_CLI", Settings.cli),
        workspace=_absolute(env, "CLAUDE_PROXY_WORKSPACE") or Settings.workspace,
        runners=_absolute(env, RUNNERS),
        runner_uids=_uids(env),
        keys_file=env.text("CLAUDE_PROXY_KEYS_FILE"),
        origins=cors.read(env, "CLAUDE_PROXY"),
        base_url=base_url,
        credential=Credential(KEYS[0], Secret(PLACEHOLDER)) if egress else _credential(env),
        egress=egress,
        gate=_gate(env),
        login=_login(env, egress),
        passed_on={name: env.text(name) for name in PASSED_ON if env.text(name)},
        sandbox=_sandbox(env),
        readable=_readable(env),
        gpu=env.flag("CLAUDE_PROXY_GPU", Settings.gpu),
        servers=mcp.read(env, "CLAUDE_PROXY_MCP_FILE"),
        deadline=env.seconds("CLAUDE_PROXY_DEADLINE", Settings.deadline, minimum=0.1),
        max_processes=env.integer("CLAUDE_PROXY_MAX_PROCESSES", capacity.processes(memory), minimum=1, maximum=256),
        queue=env.integer("CLAUDE_PROXY_QUEUE", Settings.queue, minimum=0, maximum=10_000),
        queue_seconds=env.seconds("CLAUDE_PROXY_QUEUE_SECONDS", Settings.queue_seconds),
        prestart=env.integer("CLAUDE_PROXY_PRESTART", Settings.prestart, minimum=0, maximum=16),
        prestart_seconds=env.seconds("CLAUDE_PROXY_PRESTART_SECONDS", Settings.prestart_seconds, minimum=1.0),
        bounds=_bounds(env, memory),
        sessions=_sessions(env),
        retries=env.integer("CLAUDE_PROXY_RETRIES", Settings.retries, minimum=0, maximum=10),
        max_body=env.integer("CLAUDE_PROXY_MAX_BODY", Settings.max_body, minimum=1024),
        keep_alive=event_stream.seconds(env, "CLAUDE_PROXY"),
    )
    env.finish()
    return settings


def _absolute(env: Env, name: str) -> Path | None:
    text = env.text(name)
    if text and not text.startswith("/"):
        env.fault(name, f'"{text}" is not an absolute path; for example {Settings.workspace}')
    return Path(text) if text else None


def _uids(env: Env) -> range:
    text = env.text(UIDS, f"{Settings.runner_uids[0]}-{Settings.runner_uids[-1]}")
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < int(first) + MOST_RUNNERS):
        env.fault(UIDS, f'"{text}" is no range of at most {MOST_RUNNERS} uids above 0; for example 10101-10109')
        return Settings.runner_uids
    return range(int(first), int(last) + 1)


def _sandbox(env: Env) -> str:
    mode = env.text("CLAUDE_PROXY_SANDBOX", Settings.sandbox)
    if mode not in sandbox.MODES:
        env.fault("CLAUDE_PROXY_SANDBOX", f'"{mode}" is none of {", ".join(sandbox.MODES)}')
    return mode


def _readable(env: Env) -> tuple[str, ...]:
    paths = tuple(path for path in env.text("CLAUDE_PROXY_READABLE").split(os.pathsep) if path)
    for path in paths:
        if not path.startswith("/") or not Path(path).exists():
            env.fault("CLAUDE_PROXY_READABLE", f'"{path}" is no existing absolute path; separate several by ":"')
    return paths


def _bounds(env: Env, memory: int) -> Bounds:
    # A runner has a memory of its own, and says how much.
    usual = Bounds.memory if env.text(RUNNERS) else min(Bounds.memory, max(2 * capacity.CLI_BYTES, memory // 2))
    return Bounds(
        env.integer("CLAUDE_PROXY_REQUEST_PIDS", Bounds.pids, minimum=LEAST_PIDS, maximum=100_000),
        env.integer("CLAUDE_PROXY_REQUEST_MEMORY_BYTES", usual, minimum=capacity.CLI_BYTES),
        env.integer("CLAUDE_PROXY_REQUEST_DISK_BYTES", Bounds.disk, minimum=LEAST_DISK),
    )


def _sessions(env: Env) -> Limits:
    return Limits(
        env.integer("CLAUDE_PROXY_SESSIONS_PER_KEY", Limits.count, minimum=1, maximum=100_000),
        env.seconds("CLAUDE_PROXY_SESSION_SECONDS", Limits.seconds, minimum=1.0),
        env.integer("CLAUDE_PROXY_SESSION_BYTES", Limits.size, minimum=1024),
    )


def _egress(env: Env, base_url: str) -> bool:
    """Whether a gateway adds the credential, so that none is here."""
    source = env.text(SOURCE)
    if source not in ("", "egress"):
        env.fault(SOURCE, f'"{source}" is not known; set it to egress, or leave it empty and give a key')
    if source != "egress":
        return False
    if not base_url:
        env.fault("ANTHROPIC_BASE_URL", f"{SOURCE}=egress needs the gateway's address; for example http://egress:8080")
    for name in KEYS:
        if env.text(name) or env.text(f"{name}_FILE"):
            env.fault(name, f"{SOURCE}=egress keeps every credential out of this service; remove it here")
    return True


def _gate(env: Env) -> Gate:
    url = env.text("CLAUDE_PROXY_GATE_URL").rstrip("/")
    if url and not url.startswith("http://"):
        env.fault(
            "CLAUDE_PROXY_GATE_URL", f'"{without_password(url)}" is no http URL; for example http://claude-proxy:3011'
        )
    return Gate(
        env.text("CLAUDE_PROXY_GATE_HOST", Gate.host),
        env.integer("CLAUDE_PROXY_GATE_PORT", Gate.port, minimum=0, maximum=65535),
        url,
        env.integer("CLAUDE_PROXY_REQUEST_CALLS", Gate.calls, minimum=1),
        env.integer("CLAUDE_PROXY_REQUEST_TOKENS", Gate.tokens, minimum=1),
    )


def _login(env: Env, egress: bool) -> Path | None:
    folder = _absolute(env, LOGIN)
    if folder and env.text(RUNNERS):
        env.fault(LOGIN, f"is set beside {RUNNERS}; a login is for a proxy without runners")
    if folder and (egress or any(env.text(name) or env.text(f"{name}_FILE") for name in KEYS)):
        env.fault(LOGIN, f"is set beside {SOURCE}, {KEYS[0]} or {KEYS[1]}; keep the one that the CLI is to use")
    return folder


def _credential(env: Env) -> Credential | None:
    found = [Credential(name, value) for name in KEYS if (value := env.secret(name)) is not None]
    if len(found) > 1:
        env.fault(f"{KEYS[0]}, {KEYS[1]}", "both are set; keep the one that the CLI is to use")
    return found[0] if found else None
