"""The one way in: what `invoke` offers. The verbs themselves are in verbs/."""

from __future__ import annotations

from invoke import Collection

from verbs import engine, images, stack

namespace = Collection(
    images.build,
    images.why,
    images.size,
    images.base,
    stack.dev,
    stack.prod,
    stack.status,
    stack.logs,
    stack.down,
    stack.config,
    Collection("engine", engine.engine_up, engine.engine_down, engine.engine_status, engine.engine_env),
)
