"""A whole release through a proxy that garbles answers of its registry in every step."""

from __future__ import annotations

from pathlib import Path

from shipyard import attachments, publishing, signing
from shipyard.errors import ShipyardError
from shipyard.models import Project
from shipyard.registry import Registry
from tests.support import pairs, registries, registry_proxy, signed
from tests.support.clones import Clone
from tests.support.registry_proxy import Fault

#: What a release, and cosign for it, ask of a registry.
ASKED = (
    *(("GET", "/v2/$"), ("GET", "/tags/list"), ("GET", "/manifests/"), ("HEAD", "/manifests/"), ("GET", "/blobs/")),
    *(("HEAD", "/blobs/"), ("POST", "/uploads"), ("PATCH", "/uploads"), ("PUT", "/uploads"), ("PUT", "/manifests/")),
)


def release(root: Path, kind: str) -> list[str]:
    """Release a clone through such a proxy; what is not as it must be."""
    with registries.running(root / "registry") as registry, registry_proxy.proxy(registry.address) as before:
        clone = Clone(root / "clone", before.address)
        # Each place several times, seldom enough that what is tried again may get through.
        before.faults += [Fault(method, path, kind, times=4, every=11) for method, path in ASKED]
        try:
            clone.here(skip_repro="not the point here")
        except ShipyardError as failed:
            return [f"exit code {failed.exit_code}: {failed}"]
        met = {f"{each.method} {each.text}" for each in before.faults if each.times < 4}
        before.faults.clear()
        public = clone.public()
        return [
            *(f"nothing was garbled of {each}" for each in ("HEAD /manifests/", "GET /manifests/") if each not in met),
            *(
                f"{path}:1.2.3 is not {layout.digest}"
                for path, layout in pairs.layouts(clone).items()
                if public.get(f"{path}:1.2.3") != layout.digest
            ),
            *(f"{count} times {each}" for each, count in clone.attached().items() if count != 1),
        ]


def sign(address: str, checkout: Project, folder: Path, kind: str, *, referrers: bool) -> None:
    """Sign and attest an image through such a proxy, each place garbled once; with ``referrers`` it has the Referrers API."""
    with registry_proxy.proxy(address) as before:
        before.referrers = referrers
        made = registries.artifact(folder, before.address, platforms=("linux/amd64",), single=True)
        publishing.push(Registry(before.address), made)
        before.faults += [Fault(*each, kind) for each in (*ASKED[2:], ("GET", "/referrers/"))]
        client = Registry(before.address)
        signing.sign(checkout, client, made)
        signed.attest(checkout, client, made, "slsaprovenance1", signed.provenance())
        met = {f"{each.method} {each.text}" for each in before.faults if not each.times}
        assert {"HEAD /manifests/", "POST /uploads", "PUT /manifests/"} <= met
        before.faults.clear()
        assert signing.signed(checkout, client, made)
        assert signing.attested(checkout, client, made, "slsaprovenance1")
        assert len(attachments.find(client, "tiny", made.digest)) == 2, "nothing was signed twice"
