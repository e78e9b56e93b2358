"""The gateway's settings, read once at the start from environment variables."""

from __future__ import annotations

from dataclasses import dataclass

from llm_call.api import models_file
from llm_call.api.catalog import Catalog
from serving import cors
from serving.auth import Keyring
from serving.keys_file import EVERY
from serving.settings import Env, Secret, SettingsError, without_password

OPTIONS = (*EVERY, "tools", "mcp")
"""What a key's line may say; the last two are told to the Claude proxy, which knows the names."""
BODY_BYTES = 20 * 1024 * 1024
"""Largest request: a few large images in base64; OpenAI's own limit for them."""
CACHE_TTL_SECONDS = 3600
CACHE_ENTRY_BYTES = 1024 * 1024
"""Largest answer that is kept; how much Redis keeps in all is its own `maxmemory`."""


@dataclass(frozen=True)
class Settings:
    """`cache_ttl` in seconds, 0 for no cache; `body_limit`, `cache_entry` in bytes; `redis_url` empty when there is no Redis."""

    catalog: Catalog
    keyring: Keyring
    redis_url: str = ""
    redis_password: Secret | None = None
    cache_ttl: int = CACHE_TTL_SECONDS
    cache_entry: int = CACHE_ENTRY_BYTES
    body_limit: int = BODY_BYTES
    rl_routing: bool = False
    cors_origins: tuple[str, ...] = ()


def read(host: str, env: Env | None = None) -> Settings:
    """Return the settings of a service that listens at `host`. Raises SettingsError with every fault."""
    env = env or Env()
    faults: list[str] = []
    catalog = Catalog({}, {})
    keyring = Keyring(None, {})
    try:
        catalog = models(env)
    except SettingsError as error:
        faults += error.faults
    try:
        keyring = Keyring.for_host(env.text("LLM_CALL_KEYS_FILE"), host, setting="LLM_CALL_KEYS_FILE", options=OPTIONS)
    except SettingsError as error:
        faults += error.faults
    settings = Settings(
        catalog=catalog,
        keyring=keyring,
        redis_url=_redis_url(env),
        redis_password=env.secret("REDIS_PASSWORD"),
        cache_ttl=env.integer("LLM_CALL_CACHE_TTL", CACHE_TTL_SECONDS, minimum=0),
        cache_entry=env.integer("LLM_CALL_CACHE_ENTRY_BYTES", CACHE_ENTRY_BYTES, minimum=0),
        body_limit=env.integer("LLM_CALL_MAX_BODY_BYTES", BODY_BYTES, minimum=1024),
        rl_routing=env.flag("ENABLE_RL_ROUTING", False),
        cors_origins=cors.read(env, "LLM_CALL"),
    )
    for fault in faults:
        env.fault(*fault.split(": ", 1))
    env.finish()
    return settings


def models(env: Env) -> Catalog:
    """Return the models that are configured now; also called by a reload. Raises SettingsError."""
    catalog = models_file.load(env.text("LLM_CALL_MODELS", "config/models.toml"), env)
    return catalog if env.flag("ENABLE_CLAUDE_PROXY", True) else catalog.without("claude-proxy")


def _redis_url(env: Env) -> str:
    url = env.text("REDIS_URL")
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        env.fault("REDIS_URL", f'"{without_password(url)}" is not of the form redis://HOST:6379/0')
    return url
