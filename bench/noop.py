"""A build in which nothing changed, against `docker buildx bake` over the same images, targets and tags.

.venv/bin/python -m bench.noop [RUNS]
"""

from __future__ import annotations

import sys

import shipyard
from bench.measure import INVOKE, ROOT, engine_environment, paired, seconds, show
from shipyard.commands import bake


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    build = [*INVOKE, "build", "--target", "prod"]
    seconds(build)  # everything is up to date from here on
    env = {**engine_environment(), "BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "BUILDX_BAKE_ENTITLEMENTS_FS": "0"}
    project, engine = shipyard.config.load(ROOT), shipyard.engine.find()
    jobs = shipyard.images.plan(project, engine, shipyard.images.Request())
    base = shipyard.bases.ensure(engine, project.base)
    bundle = shipyard.host.ca_bundle()
    document = bake.document(project, jobs, base, revision="bench", epoch=0, secrets={"ca": bundle} if bundle else {})
    document = document.replace('-candidate"', '-bench"')
    peer = [engine.docker, "buildx", "bake", "--file", "-", "--progress", "quiet"]
    seconds(peer, env=env, text=document)
    ours, theirs = paired(runs, build, peer, env=env, text=document)
    show("invoke build --target prod, nothing changed", ours, "docker buildx bake, nothing changed", theirs)
    direct = [str(ROOT / ".venv/bin/invoke"), "build", "--target", "prod"]
    launcher, plain = paired(runs, build, direct)
    show("through ./scripts/invoke", launcher, "through .venv/bin/invoke", plain)


if __name__ == "__main__":
    main()
