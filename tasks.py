"""The one way in: what `invoke` offers. The verbs themselves are in verbs/."""

from __future__ import annotations

from invoke import Collection

from verbs import engine, images, secrets, stack

namespace = Collection(
    images.build,
    images.why,
    images.size,
    images.base,
    stack.dev,
    stack.host,
    stack.hybrid,
    stack.prod,
    stack.status,
    stack.logs,
    stack.down,
    stack.config,
    Collection("secrets", secrets.secrets_init, secrets.secrets_check, secrets.secrets_rotate),
    Collection("engine", engine.engine_up, engine.engine_down, engine.engine_status, engine.engine_env),
)
