"""Cross-origin requests of browsers: off, unless the operator names the origins that may ask."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from serving.asgi import App
from serving.settings import Env

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
PREFLIGHT_SECONDS = 600
"""How long a browser may remember what it was allowed: ten minutes, so that a change of the setting counts soon."""


def read(env: Env, prefix: str) -> tuple[str, ...]:
    """Return the origins of `<prefix>_CORS_ORIGINS` (a comma list, or `*` for all); none when it is not set."""
    name = f"{prefix}_CORS_ORIGINS"
    words = [each.strip() for each in env.text(name).split(",") if each.strip()]
    if words == ["*"]:
        return ("*",)
    origins = []
    for word in words:
        origin, fault = _origin(word)
        origins.append(origin)
        if fault:
            env.fault(name, f'"{word}" {fault}')
    return tuple(dict.fromkeys(origins))


def wrap(app: App, origins: tuple[str, ...]) -> App:
    """Return `app` itself without origins, else `app` behind the answers that browsers ask for.

    It belongs outside of the Guard: a browser asks first, and without a key. Cookies and the like are never allowed.
    """
    if not origins:
        return app
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=("*",),
        max_age=PREFLIGHT_SECONDS,
    )


def _origin(word: str) -> tuple[str, str]:
    """Return the origin as browsers write it, and what is wrong with it."""
    origin = word.lower()
    if origin == "*":
        return origin, "stands for all origins; leave the others out"
    if not ORIGIN.fullmatch(origin):
        return origin, "is not of the form scheme://host or scheme://host:port; for example https://chat.example"
    try:
        parts = urlsplit(origin)
        _ = parts.port
    except ValueError:
        return origin, "has a wrong host or port; the highest port is 65535"
    return origin.removesuffix(DEFAULT_PORTS.get(parts.scheme, "/")), ""
