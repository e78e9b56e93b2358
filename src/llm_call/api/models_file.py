"""Reads and validates `models.toml`: every fault at once, each with its place and the nearest valid name."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from llm_call.api import foreign
from llm_call.api.catalog import Catalog, Kind, Price, Route, Target, UnknownModel, Upstream
from llm_call.api.local import table as local
from llm_call.api.tables import Tables, perhaps
from serving.settings import Env, SettingsError, reason, without_password

KINDS = ("openai", "claude-proxy", "litellm", "llama")
UPSTREAM_KEYS = ("kind", "base_url", "api_key_env", "timeout", "breaker_failures", "breaker_seconds")
LLAMA_KEYS = ("kind", "timeout", "breaker_failures", "breaker_seconds")
"""Of an upstream of local models: they are reached at sockets of our own."""
DIRECT_KEYS = ("upstream", "name", "fallbacks", "timeout", "retries", "price")
LOCAL_KEYS = (*(each for each in DIRECT_KEYS if each != "name"), *local.KEYS)
ALIAS_KEYS = ("candidates",)
TIMEOUT_SECONDS = 300.0
"""Default silence allowed of an upstream: a slow model may think for minutes before its first byte."""
RETRIES = 2
"""Default number of further attempts at one upstream, as OpenAI's own clients have it."""
URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class _Model:
    """A table of the file: answered by `target` itself, or by others that it names."""

    target: Target | None
    others: list[str]


def load(path: str, env: Env) -> Catalog:
    """Return the catalog of the file at `path`; secrets and base URLs may come from `env`. Raises SettingsError."""
    try:
        document = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read: {reason(error)}; LLM_CALL_MODELS names the file of models"
        raise SettingsError([msg]) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        msg = f"{path}: not TOML: {error}"
        raise SettingsError([msg]) from error
    reader = Reader(path, env)
    catalog = reader.read(document)
    if reader.faults:
        raise SettingsError(reader.faults)
    return catalog


class Reader(Tables):
    """Turns the parsed document into a Catalog, noting faults on the way."""

    def __init__(self, path: str, env: Env) -> None:
        super().__init__(path)
        self._env = env
        self._local: dict[str, Upstream] = {}

    def read(self, document: dict[str, Any]) -> Catalog:
        """Return the catalog; it is of use only if `faults` stays empty."""
        self.known(document, ("upstream", "model"))
        raw_upstreams = self.table(document, "upstream")
        raw_models = self.table(document, "model")
        if not raw_models:
            self.fault("model", 'no model at all; add a table such as [model."max/opus"]')
        upstreams = {name: self._upstream(name, self.table(raw_upstreams, name, "upstream.")) for name in raw_upstreams}
        models = {name: self._model(name, self.table(raw_models, name, "model."), upstreams) for name in raw_models}
        direct = Catalog(upstreams, {name: Route(name, (each.target,)) for name, each in models.items() if each.target})
        routes = {name: self._route(name, model, models, direct) for name, model in models.items()}
        apart = {name: each for name, each in upstreams.items() if each.kind != "llama"}
        return Catalog({**apart, **self._local}, {name: route for name, route in routes.items() if route.targets})

    def _upstream(self, name: str, raw: dict[str, Any]) -> Upstream:
        place = f"upstream.{name}"
        if not NAME.fullmatch(name):
            self.fault(place, "a name consists of a-z, 0-9 and -")
        ours = raw.get("kind") == "llama"
        self.known(raw, LLAMA_KEYS if ours else UPSTREAM_KEYS, f"{place}.")
        kind = self.text(raw, place, "kind")
        if kind and kind not in KINDS:
            self.fault(f"{place}.kind", f'"{kind}" is no kind{perhaps(kind, KINDS)}')
        if kind == "litellm" and (lack := foreign.lack()):
            self.fault(f"{place}.kind", lack)
        variable = self.text(raw, place, "api_key_env", required=False)
        if variable and not VARIABLE.fullmatch(variable):
            self.fault(
                f"{place}.api_key_env", "is the name of a variable, such as OPENAI_API_KEY, never the key itself"
            )
            variable = None
        return Upstream(
            name=name,
            kind=cast(Kind, kind),
            base_url="" if ours else self._base_url(name, raw, place, required=kind != "litellm"),
            timeout=self.number(raw, place, "timeout", TIMEOUT_SECONDS),
            api_key_env=variable,
            api_key=self._env.secret(variable) if variable else None,
            breaker_failures=self.whole(raw, place, "breaker_failures", Upstream.breaker_failures, least=1, most=1000),
            breaker_seconds=self.number(raw, place, "breaker_seconds", Upstream.breaker_seconds, most=3600),
        )

    def _base_url(self, name: str, raw: dict[str, Any], place: str, *, required: bool) -> str:
        variable = f"UPSTREAM_{name.upper().replace('-', '_')}_BASE_URL"
        configured = self.text(raw, place, "base_url", required=required) or ""
        override = self._env.text(variable)
        for url, where in ((configured, f"{self.path}: {place}.base_url"), (override, variable)):
            if url and not URL.fullmatch(url):
                self.faults.append(f'{where}: "{without_password(url)}" is not of the form http://HOST:PORT/v1')
        return (override or configured).rstrip("/")

    def _model(self, name: str, raw: dict[str, Any], upstreams: dict[str, Upstream]) -> _Model:
        place = f'model."{name}"'
        if not name or "*" in name[:-1]:
            self.fault(place, "a * stands at the end of the name only, and a name is not empty")
        if "candidates" in raw:
            self.known(raw, ALIAS_KEYS, f"{place}.")
            return _Model(None, self.texts(raw, place, "candidates"))
        self.known(raw, (*_keys(upstreams, raw.get("upstream")), *ALIAS_KEYS), f"{place}.")
        others = self.texts(raw, place, "fallbacks")
        upstream = self.text(raw, place, "upstream")
        given = self.text(raw, place, "name", required=False)
        if given and "*" in given and not name.endswith("*"):
            self.fault(f"{place}.name", "holds a *, but the model's own name does not")
        if upstream not in upstreams:
            if upstream:
                self.fault(f"{place}.upstream", f'there is no upstream "{upstream}"{perhaps(upstream, upstreams)}')
            return _Model(None, [])
        chosen = upstreams[upstream]
        if chosen.kind == "llama":
            chosen = self._served_here(name, raw, place, chosen)
        target = Target(
            model=name,
            upstream=chosen,
            upstream_name=given or ("*" if name.endswith("*") else name),
            timeout=self.number(raw, place, "timeout", chosen.timeout),
            retries=self.whole(raw, place, "retries", RETRIES, least=0, most=10),
            price=self._price(raw, place),
        )
        return _Model(target, others)

    def _served_here(self, name: str, raw: dict[str, Any], place: str, upstream: Upstream) -> Upstream:
        """Return the upstream that a local model is by itself: its server fails and recovers alone."""
        if not name.startswith(f"{upstream.name}/") or name.endswith(("*", "/")):
            self.fault(place, f'is answered by "{upstream.name}", so its name is {upstream.name}/NAME, without a *')
        own = replace(upstream, name=name, recipe=local.recipe(self, raw, place))
        self._local[name] = own
        return own

    def _price(self, raw: dict[str, Any], place: str) -> Price | None:
        if "price" not in raw:
            return None
        table, where = self.table(raw, "price", f"{place}."), f"{place}.price"
        self.known(table, ("input", "output"), f"{where}.")
        # 0 is a price too: that of a model of one's own.
        input, output = (self.number(table, where, key, 0.0, least=-1e-9, most=1e6) for key in ("input", "output"))
        return Price(max(input, 0.0), max(output, 0.0))

    def _route(self, name: str, model: _Model, models: dict[str, _Model], direct: Catalog) -> Route:
        """Follow the names of others, one step deep: a fallback's own fallbacks do not count, so there are no circles."""
        targets = [model.target] if model.target else []
        key = "fallbacks" if model.target else "candidates"
        for other in model.others:
            place = f'model."{name}".{key}'
            if other in models and not models[other].target:
                self.fault(place, f'"{other}" has candidates itself; name them instead')
                continue
            try:
                found = direct.routes[other] if other in direct.routes else direct.find(other)
            except UnknownModel:
                self.fault(place, f'there is no model "{other}"{perhaps(other, direct.routes)}')
                continue
            if other.endswith("*") and not name.endswith("*"):
                self.fault(place, f'"{other}" holds a *, but the model\'s own name does not')
            if any(other == each.model for each in targets):
                self.fault(place, f'"{other}" is named twice')
            targets.append(replace(found.targets[0], model=other))
        return Route(name, tuple(targets), learned=not model.target and len(targets) > 1)


def _keys(upstreams: dict[str, Upstream], name: Any) -> tuple[str, ...]:
    """Return the keys of a model that is answered by this upstream, if there is one."""
    upstream = upstreams.get(name) if isinstance(name, str) else None
    if upstream is None:
        return (*DIRECT_KEYS, *local.KEYS)
    return LOCAL_KEYS if upstream.kind == "llama" else DIRECT_KEYS
