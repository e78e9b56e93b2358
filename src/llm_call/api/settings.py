"""The gateway's settings, read once at the start from environment variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llm_call.api import models_file, redis_login
from llm_call.api.catalog import Catalog
from llm_call.api.local import options
from llm_call.api.local.options import Options
from llm_call.api.redis_login import Login
from serving import cors, event_stream
from serving.auth import Keyring
from serving.keys_file import EVERY, NUMBERS
from serving.settings import Env, SettingsError, without_password

OPTIONS = (*EVERY, "tenant", "tools", "mcp", *NUMBERS)
"""What a key's line may say; all but the first three are told to the Claude proxy, which knows the names."""
BODY_BYTES = 20 * 1024 * 1024
"""Largest request: a few large images in base64; OpenAI's own limit for them."""
CACHE_TTL_SECONDS = 3600
CACHE_FOLDER = "/app/cache"
"""The image's folder for what is kept; elsewhere there is none unless it is named."""
CACHE_ENTRY_BYTES = 1024 * 1024
"""Largest answer that is kept; how much Redis keeps in all is its own `maxmemory`."""


@dataclass(frozen=True)
class Settings:
    """`cache_ttl` and `keep_alive` in seconds, 0 for none of it; `body_limit`, `cache_entry` in bytes.

    `redis_url` and `cache_folder` are empty where there is none. `cache_shared`: tenants see one another's answers.
    """

    catalog: Catalog
    keyring: Keyring
    redis_url: str = ""
    redis_login: Login | None = None
    cache_ttl: int = CACHE_TTL_SECONDS
    cache_entry: int = CACHE_ENTRY_BYTES
    cache_folder: str = ""
    cache_shared: bool = False
    body_limit: int = BODY_BYTES
    keep_alive: float = event_stream.SECONDS
    rl_routing: bool = False
    cors_origins: tuple[str, ...] = ()
    local: Options = field(default_factory=Options)


def read(host: str, env: Env | None = None) -> Settings:
    """Return the settings of a service that listens at `host`. Raises SettingsError with every fault."""
    env = env or Env()
    faults: list[str] = []
    login = redis_login.read(env)
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
        redis_url=_redis_url(env, login),
        redis_login=login,
        cache_ttl=env.integer("LLM_CALL_CACHE_TTL", CACHE_TTL_SECONDS, minimum=0),
        cache_entry=env.integer("LLM_CALL_CACHE_ENTRY_BYTES", CACHE_ENTRY_BYTES, minimum=0),
        cache_folder=_cache_folder(env),
        cache_shared=env.flag("LLM_CALL_CACHE_SHARED", False),
        body_limit=env.integer("LLM_CALL_MAX_BODY_BYTES", BODY_BYTES, minimum=1024),
        keep_alive=event_stream.seconds(env, "LLM_CALL"),
        rl_routing=env.flag("ENABLE_RL_ROUTING", False),
        cors_origins=cors.read(env, "LLM_CALL"),
        local=options.read(env),
    )
    for fault in faults:
        env.fault(*fault.split(": ", 1))
    env.finish()
    return settings


def models_again() -> Catalog:
    """Return the models and keys that are configured now. Raises SettingsError, also for a key that cannot be read."""
    env = Env()
    catalog = models(env)
    env.finish()
    return catalog


def models(env: Env) -> Catalog:
    """Return the models that are configured. Raises SettingsError; other faults are noted in `env`."""
    catalog = models_file.load(env.text("LLM_CALL_MODELS", "config/models.toml"), env)
    return catalog if env.flag("ENABLE_CLAUDE_PROXY", True) else catalog.without("claude-proxy")


def _cache_folder(env: Env) -> str:
    given = env.text("LLM_CALL_CACHE_FOLDER")
    if given and not Path(given).is_dir():
        env.fault("LLM_CALL_CACHE_FOLDER", f'"{given}" is no folder; make it, or leave it out')
    return given or (CACHE_FOLDER if Path(CACHE_FOLDER).is_dir() else "")


def _redis_url(env: Env, login: Login | None) -> str:
    url = env.text("REDIS_URL")
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        env.fault("REDIS_URL", f'"{without_password(url)}" is not of the form redis://HOST:6379/0')
    elif login and "@" in url:
        env.fault("REDIS_URL", f"names a user or password, and so does {login.place}; leave it out of the URL")
    return url
