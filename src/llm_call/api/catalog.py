"""Which model is answered by which upstreams under which names; the value that `models.toml` becomes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from llm_call.api.local.recipe import Recipe
from serving.settings import Secret

LONGEST = 100
"""Characters of an unknown name that are compared and shown; a longer one is no misspelling."""

Kind = Literal["openai", "claude-proxy", "litellm", "llama"]


@dataclass(frozen=True, eq=False)
class Upstream:
    """A server that speaks the OpenAI wire. `timeout` is in seconds without a byte from it.

    After `breaker_failures` failures in a row it, or one model of it, is left alone for `breaker_seconds`. A local model,
    which has a server of its own, is an upstream of its own name: `recipe` says how it is served.
    """

    name: str
    kind: Kind
    base_url: str
    timeout: float
    api_key_env: str | None
    api_key: Secret | None
    breaker_failures: int = 5
    breaker_seconds: float = 10.0
    recipe: Recipe | None = None

    @property
    def lacks_key(self) -> bool:
        """Whether it needs a key that nobody configured. A Claude proxy on loopback may need none."""
        return self.kind != "claude-proxy" and self.api_key_env is not None and self.api_key is None


@dataclass(frozen=True)
class Price:
    """What an upstream charges, in US dollars for a million tokens."""

    input: float
    output: float


@dataclass(frozen=True, eq=False)
class Target:
    """One way to answer: an upstream, what it calls the model, and how patient to be with it.

    `model` is the configured name (perhaps ending in `*`): of those there are few, so it serves as a label of metrics.
    """

    model: str
    upstream: Upstream
    upstream_name: str
    timeout: float
    retries: int
    price: Price | None = None


@dataclass(frozen=True, eq=False)
class Route:
    """What one name that clients use leads to: the targets in the order in which they are tried.

    `learned`: they are equals, of which routing may choose; otherwise the later ones are fallbacks.
    """

    name: str
    targets: tuple[Target, ...]
    learned: bool = False


class UnknownModel(LookupError):
    """No such model; `nearest` is the most similar known name, if any is similar."""

    def __init__(self, name: str, nearest: str | None) -> None:
        super().__init__(name)
        self.nearest = nearest


class Catalog:
    """All models and upstreams of the gateway. A wildcard's targets hold the `*` in their names until it is found."""

    def __init__(self, upstreams: Mapping[str, Upstream], routes: Mapping[str, Route]) -> None:
        self.upstreams = dict(upstreams)
        self.routes = dict(routes)
        self._exact = {name: route for name, route in routes.items() if not name.endswith("*")}
        wild = [route for name, route in routes.items() if name.endswith("*")]
        self._wild = sorted(wild, key=lambda route: len(route.name), reverse=True)

    def find(self, name: str) -> Route:
        """Return where a model leads. Raises UnknownModel."""
        exact = self._exact.get(name)
        if exact:
            return exact
        for route in self._wild:
            prefix = route.name[:-1]
            if name.startswith(prefix) and len(name) > len(prefix):
                return _filled(route, name[len(prefix) :])
        near = difflib.get_close_matches(name[:LONGEST], self.routes, n=1, cutoff=0.4)
        raise UnknownModel(name, near[0] if near else None)

    def without(self, kind: Kind) -> Catalog:
        """Return the catalog as if no upstream of that kind were configured."""
        upstreams = {name: each for name, each in self.upstreams.items() if each.kind != kind}
        routes = {}
        for name, route in self.routes.items():
            left = tuple(target for target in route.targets if target.upstream.kind != kind)
            # A model that is answered elsewhere only as a fallback is not that model.
            if left and (route.learned or left[0] is route.targets[0]):
                routes[name] = replace(route, targets=left)
        return Catalog(upstreams, routes)

    def recipes(self) -> dict[str, Recipe]:
        """Return the local models by name."""
        return {name: each.recipe for name, each in self.upstreams.items() if each.recipe}


def _filled(route: Route, rest: str) -> Route:
    return replace(route, targets=tuple(_named(route.targets, rest)))


def _named(targets: Iterable[Target], rest: str) -> Iterable[Target]:
    for target in targets:
        if "*" in target.upstream_name:
            yield replace(target, upstream_name=target.upstream_name.replace("*", rest))
        else:
            yield target
