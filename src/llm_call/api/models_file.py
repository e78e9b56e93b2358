"""Reads and validates `models.toml`: every fault at once, each with its place and the nearest valid name."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from llm_call.api.catalog import Catalog, Kind, Model, Upstream
from serving.settings import Env, SettingsError, reason

KINDS = ("openai", "claude-proxy")
UPSTREAM_KEYS = ("kind", "base_url", "api_key_env", "timeout")
MODEL_KEYS = ("upstream", "name")
TIMEOUT_SECONDS = 300.0
"""Default silence allowed of an upstream: a slow model may think for minutes before its first byte."""
URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def load(path: str, env: Env) -> Catalog:
    """Return the catalog of the file at `path`; secrets and base URLs may come from `env`. Raises SettingsError."""
    try:
        document = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read: {reason(error)}; LLM_CALL_MODELS names the file of models"
        raise SettingsError([msg]) from error
    except tomllib.TOMLDecodeError as error:
        msg = f"{path}: not TOML: {error}"
        raise SettingsError([msg]) from error
    reader = Reader(path, env)
    catalog = reader.read(document)
    if reader.faults:
        raise SettingsError(reader.faults)
    return catalog


class Reader:
    """Turns the parsed document into a Catalog, noting faults on the way."""

    def __init__(self, path: str, env: Env) -> None:
        self._path = path
        self._env = env
        self.faults: list[str] = []

    def read(self, document: dict[str, Any]) -> Catalog:
        """Return the catalog; it is of use only if `faults` stays empty."""
        self._known_keys(document, ("upstream", "model"), "")
        raw_upstreams = self._table(document, "upstream", "")
        raw_models = self._table(document, "model", "")
        if not raw_models:
            self._fault("model", 'no model at all; add a table such as [model."max/opus"]')
        upstreams = {
            name: self._upstream(name, self._table(raw_upstreams, name, "upstream.")) for name in raw_upstreams
        }
        models = {}
        for name in raw_models:
            model = self._model(name, self._table(raw_models, name, "model."), upstreams)
            if model:
                models[name] = model
        return Catalog(upstreams, models)

    def _upstream(self, name: str, raw: dict[str, Any]) -> Upstream:
        place = f"upstream.{name}"
        if not NAME.fullmatch(name):
            self._fault(place, "a name consists of a-z, 0-9 and -")
        self._known_keys(raw, UPSTREAM_KEYS, f"{place}.")
        kind = self._text(raw, place, "kind")
        if kind and kind not in KINDS:
            self._fault(f"{place}.kind", f'"{kind}" is no kind{_perhaps(kind, KINDS)}')
        variable = self._text(raw, place, "api_key_env", required=False)
        if variable and not VARIABLE.fullmatch(variable):
            self._fault(
                f"{place}.api_key_env", "is the name of a variable, such as OPENAI_API_KEY, never the key itself"
            )
            variable = None
        return Upstream(
            name=name,
            kind=cast(Kind, kind),
            base_url=self._base_url(name, raw, place),
            timeout=self._timeout(raw, place),
            api_key_env=variable,
            api_key=self._env.secret(variable) if variable else None,
        )

    def _base_url(self, name: str, raw: dict[str, Any], place: str) -> str:
        variable = f"UPSTREAM_{name.upper().replace('-', '_')}_BASE_URL"
        configured = self._text(raw, place, "base_url") or ""
        override = self._env.text(variable)
        url = override or configured
        if url and not URL.fullmatch(url):
            where = variable if override else f"{self._path}: {place}.base_url"
            self.faults.append(f'{where}: "{url}" is not of the form http://HOST:PORT/v1')
        return url.rstrip("/")

    def _timeout(self, raw: dict[str, Any], place: str) -> float:
        value = raw.get("timeout", TIMEOUT_SECONDS)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86400:
            self._fault(f"{place}.timeout", "is a number of seconds above 0, at most 86400")
            return TIMEOUT_SECONDS
        return float(value)

    def _model(self, name: str, raw: dict[str, Any], upstreams: dict[str, Upstream]) -> Model | None:
        place = f'model."{name}"'
        self._known_keys(raw, MODEL_KEYS, f"{place}.")
        wild = name.endswith("*")
        if not name or "*" in name[:-1]:
            self._fault(place, "a * stands at the end of the name only, and a name is not empty")
        upstream = self._text(raw, place, "upstream")
        given = self._text(raw, place, "name", required=False)
        upstream_name = given or ("*" if wild else name)
        if given and "*" in given and not wild:
            self._fault(f"{place}.name", "holds a *, but the model's own name does not")
        if upstream and upstream not in upstreams:
            self._fault(f"{place}.upstream", f'there is no upstream "{upstream}"{_perhaps(upstream, upstreams)}')
        return Model(name, upstreams[upstream], upstream_name) if upstream in upstreams else None

    def _text(self, raw: dict[str, Any], place: str, key: str, *, required: bool = True) -> str | None:
        value = raw.get(key)
        if isinstance(value, str) and value:
            return value
        if value is not None:
            self._fault(f"{place}.{key}", "is a text that is not empty")
        elif required and not self._misspelt(raw, key):
            self._fault(f"{place}.{key}", "is missing")
        return None

    def _misspelt(self, raw: dict[str, Any], key: str) -> bool:
        # `bse_url` is one fault, not an unknown key and a missing one.
        return bool(difflib.get_close_matches(key, set(raw) - {*UPSTREAM_KEYS, *MODEL_KEYS}, n=1))

    def _table(self, raw: dict[str, Any], key: str, prefix: str) -> dict[str, Any]:
        value = raw.get(key, {})
        if isinstance(value, dict):
            return value
        self._fault(f"{prefix}{key}", "is a table")
        return {}

    def _known_keys(self, raw: dict[str, Any], known: tuple[str, ...], prefix: str) -> None:
        for key in raw:
            if key not in known:
                self._fault(f"{prefix}{key}", f"unknown key{_perhaps(key, known)}")

    def _fault(self, place: str, message: str) -> None:
        self.faults.append(f"{self._path}: {place}: {message}")


def _perhaps(given: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(given, names, n=1)
    return f'; perhaps you meant "{near[0]}"' if near else f"; there is {', '.join(names) or 'none'}"
