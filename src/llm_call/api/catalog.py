"""Which model is answered by which upstream under which name; the value that `models.toml` becomes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serving.settings import Secret

LONGEST = 100
"""Characters of an unknown name that are compared and shown; a longer one is no misspelling."""

Kind = Literal["openai", "claude-proxy"]


@dataclass(frozen=True)
class Upstream:
    """A server that speaks the OpenAI wire. `timeout` is in seconds without a byte from it."""

    name: str
    kind: Kind
    base_url: str
    timeout: float
    api_key_env: str | None
    api_key: Secret | None

    @property
    def lacks_key(self) -> bool:
        """Whether it needs a key that nobody configured. A Claude proxy on loopback may need none."""
        return self.kind == "openai" and self.api_key_env is not None and self.api_key is None


@dataclass(frozen=True)
class Model:
    """A name that clients use, perhaps ending in `*`, and what its upstream calls it."""

    name: str
    upstream: Upstream
    upstream_name: str


class UnknownModel(LookupError):
    """No such model; `nearest` is the most similar known name, if any is similar."""

    def __init__(self, name: str, nearest: str | None) -> None:
        super().__init__(name)
        self.nearest = nearest


class Catalog:
    """All models and upstreams of the gateway."""

    def __init__(self, upstreams: Mapping[str, Upstream], models: Mapping[str, Model]) -> None:
        self.upstreams = dict(upstreams)
        self.models = dict(models)
        self._exact = {name: model for name, model in models.items() if not name.endswith("*")}
        wild = [model for name, model in models.items() if name.endswith("*")]
        self._wild = sorted(wild, key=lambda model: len(model.name), reverse=True)

    def find(self, name: str) -> tuple[Upstream, str]:
        """Return the upstream of a model and the model's name there. Raises UnknownModel."""
        exact = self._exact.get(name)
        if exact:
            return exact.upstream, exact.upstream_name
        for model in self._wild:
            prefix = model.name[:-1]
            if name.startswith(prefix) and len(name) > len(prefix):
                return model.upstream, model.upstream_name.replace("*", name[len(prefix) :])
        near = difflib.get_close_matches(name[:LONGEST], self.models, n=1, cutoff=0.4)
        raise UnknownModel(name, near[0] if near else None)

    def without(self, kind: Kind) -> Catalog:
        """Return the catalog as if no upstream of that kind were configured."""
        upstreams = {name: each for name, each in self.upstreams.items() if each.kind != kind}
        models = {name: each for name, each in self.models.items() if each.upstream.kind != kind}
        return Catalog(upstreams, models)
