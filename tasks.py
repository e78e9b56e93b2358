"""The one way in: what `invoke` offers. The verbs themselves are in verbs/."""

from __future__ import annotations

from shipyard import signals

signals.own()  # before anything else is imported

from invoke import Collection  # noqa: E402

from verbs import doctor, engine, images, locks, registry, release, sbom, secrets, signing, stack  # noqa: E402

namespace = Collection(
    doctor.doctor,
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
    locks.lock,
    locks.repro,
    sbom.sbom,
    release.release,
    release.preflight,
    release.bump,
    release.test,
    release.push,
    signing.sign,
    signing.verify,
    release.promote,
    Collection("secrets", secrets.secrets_init, secrets.secrets_check, secrets.secrets_rotate),
    Collection("signing", signing.signing_init),
    Collection("registry", registry.registry_up, registry.registry_down, registry.registry_status),
    Collection("engine", engine.engine_up, engine.engine_down, engine.engine_status, engine.engine_env),
)
