"""What the proxy is told by its environment; read once at start, every fault reported at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from serving.settings import Env, Secret

PASSED_ON = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")
"""Settings that the CLI gets unchanged: where the certificates of a TLS-intercepting network lie."""


@dataclass(frozen=True)
class Credential:
    """What the CLI shows to the Messages API: the name of its variable, and the value."""

    variable: str
    value: Secret


@dataclass(frozen=True)
class Settings:
    """The proxy's configuration. Durations are in seconds, sizes in bytes."""

    cli: str = "claude"
    workspace: Path = Path("/workspace")
    keys_file: str = ""
    base_url: str = ""
    credential: Credential | None = None
    passed_on: dict[str, str] = field(default_factory=dict)
    deadline: float = 600.0
    max_processes: int = 4
    queue: int = 8
    queue_seconds: float = 10.0
    retries: int = 2
    max_body: int = 32 * 1024 * 1024


def read(env: Env) -> Settings:
    """Read the settings; raises SettingsError with every fault."""
    base_url = env.text("ANTHROPIC_BASE_URL")
    if base_url and not base_url.startswith(("http://", "https://")):
        env.fault("ANTHROPIC_BASE_URL", f'"{base_url}" is no URL; for example https://api.anthropic.com')
    settings = Settings(
        cli=env.text("CLAUDE_PROXY_CLI", Settings.cli),
        workspace=_workspace(env),
        keys_file=env.text("CLAUDE_PROXY_KEYS_FILE"),
        base_url=base_url,
        credential=_credential(env),
        passed_on={name: env.text(name) for name in PASSED_ON if env.text(name)},
        deadline=env.seconds("CLAUDE_PROXY_DEADLINE", Settings.deadline, minimum=0.1),
        max_processes=env.integer("CLAUDE_PROXY_MAX_PROCESSES", Settings.max_processes, minimum=1, maximum=256),
        queue=env.integer("CLAUDE_PROXY_QUEUE", Settings.queue, minimum=0, maximum=10_000),
        queue_seconds=env.seconds("CLAUDE_PROXY_QUEUE_SECONDS", Settings.queue_seconds),
        retries=env.integer("CLAUDE_PROXY_RETRIES", Settings.retries, minimum=0, maximum=10),
        max_body=env.integer("CLAUDE_PROXY_MAX_BODY", Settings.max_body, minimum=1024),
    )
    env.finish()
    return settings


def _workspace(env: Env) -> Path:
    path = Path(env.text("CLAUDE_PROXY_WORKSPACE", str(Settings.workspace)))
    if not path.is_absolute():
        env.fault("CLAUDE_PROXY_WORKSPACE", f'"{path}" is not an absolute path; for example /workspace')
    return path


def _credential(env: Env) -> Credential | None:
    names = ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN")
    found = [Credential(name, value) for name in names if (value := env.secret(name)) is not None]
    if len(found) > 1:
        env.fault(f"{names[0]}, {names[1]}", "both are set; keep the one that the CLI is to use")
    return found[0] if found else None
