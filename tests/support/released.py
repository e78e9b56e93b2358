"""A release as it might be, for the proofs of its page: six images of real sizes, two platforms, four hundred components."""

from __future__ import annotations

import hashlib

from shipyard.artifacts import Attachment, Component, Layer, Platform, Published, Release, StepTime

REGISTRY = "127.0.0.1:5000"
PLATFORMS = ("linux/amd64", "linux/arm64")
#: 23 November 2026, 22:01 UTC.
CREATED = 1795471260
#: What a person could put into any name; none of it may become markup.
HOSTILE = "<script>document.title='owned'</script>\"'&<img src=x onerror=alert(1)>"
#: Compressed bytes of the layers, by image.
SIZES = {
    "api": (21_400_000, 9_800_000, 74_000),
    "claude-proxy": (29_300_000, 6_100_000, 78_900_000, 51_000),
    "redis": (9_900_000, 1_310_000),
    "egress": (9_800_000, 2_150),
    "balancer": (9_750_000, 4_020),
    "prometheus": (38_600_000,),
    "redis-exporter": (7_900_000,),
}
_STEPS = {
    "preflight": ("everything that could stand in the way", 0.84),
    "bump": ("VERSION and changelog", 0.31),
    "build": ("all images for all platforms in one request", 11.2),
    "test": ("the very bytes, image by image", 74.6),
    "sbom": ("components of every image and platform", 3.9),
    "repro": ("a second build, compared by digest", 38.4),
    "push": ("by digest, without a tag", 2.2),
    "sign": ("every digest", 1.9),
    "attest": ("components and provenance", 2.6),
    "verify": ("as a stranger would", 1.4),
    "promote": ("tags, the last thing to move", 0.02),
}
_LICENCES = ("MIT", "Apache-2.0", "BSD-3-Clause", "GPL-2.0-or-later", "LGPL-2.1-or-later", "MIT AND Python-2.0")
_MADE = ("COPY /rootfs / # buildkit", "COPY /layer / # buildkit", "COPY /claude /usr/local/bin/claude # buildkit")


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def platform(image: str, name: str, sizes: tuple[int, ...]) -> Platform:
    # The foreign platform's layers are a little smaller, as they are in truth.
    scaled = [size if name == PLATFORMS[0] else size * 93 // 100 for size in sizes]
    layers = [Layer(digest(f"{image} {name} {number}"), size, _MADE[number % 3]) for number, size in enumerate(scaled)]
    return Platform(name, digest(f"{image} {name}"), sum(scaled) + 7_312, tuple(layers))


def published(
    name: str, version: str = "1.2.3", sizes: tuple[int, ...] | None = None, target: str = "prod"
) -> Published:
    parts = tuple(platform(f"{name} {version}", each, sizes or SIZES[name]) for each in PLATFORMS)
    index, signer = digest(f"{name} {version}"), digest("key")
    subjects = [index, *(part.digest for part in parts)]
    return Published(
        name=name,
        target=target,
        repository=f"{REGISTRY}/llm-call-{name}",
        digest=index,
        tags=(version, version.rpartition(".")[0], version.partition(".")[0], "latest"),
        platforms=parts,
        signatures=tuple(Attachment("signature", each, signer) for each in subjects),
        attestations=(
            *(Attachment("cyclonedx", part.digest, signer) for part in parts),
            Attachment("slsaprovenance1", index, signer),
        ),
    )


def components(count: int = 400) -> tuple[Component, ...]:
    keys = [f"{name}-prod" for name in SIZES]
    rows = [
        Component(
            name=f"lib{digest(str(number))[7:15]}",
            version=f"{number % 13}.{number % 7}.{number}-1",
            kind=("deb", "pypi", "npm")[number % 19 % 3],
            licences=(_LICENCES[number % 17 % len(_LICENCES)],) if number % 23 else (),
            images=tuple(keys[: 1 + number % 3]),
        )
        for number in range(count)
    ]
    return tuple(sorted(rows, key=lambda row: row.name))


def release(version: str = "1.2.3", *, hostile: bool = False, verified: bool = True) -> Release:
    images = [published(name, version) for name in SIZES]
    rows, notes = components(), ["The images for linux/arm64 were not run: no qemu-user on this machine."]
    begun, steps = float(CREATED), []
    for name, (title, seconds) in _STEPS.items():
        steps.append(StepTime(name, title, "done", begun, seconds))
        begun += seconds
    if hostile:
        layer = Layer(digest("hostile"), 30_000_000, HOSTILE)
        part = Platform(PLATFORMS[0], digest("hostile part"), layer.size, (layer,))
        seal = Attachment(HOSTILE, part.digest, HOSTILE)
        images.append(Published(HOSTILE, HOSTILE, "host/x", digest("h"), (HOSTILE,), (part,), (seal,), (seal,)))
        steps.append(StepTime(HOSTILE, HOSTILE, "failed", begun, 1.0))
        rows = (*rows, Component(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,), (HOSTILE,)))
        notes.append(HOSTILE)
    return Release(
        version=version,
        commit=hashlib.sha1(version.encode(), usedforsecurity=False).hexdigest(),
        created=CREATED,
        verified=verified,
        public_key="-----BEGIN PUBLIC KEY-----\n" + "A" * 64 + "\n" + "B" * 40 + "\n-----END PUBLIC KEY-----\n",
        images=tuple(images),
        steps=tuple(steps),
        components=rows,
        notes=tuple(notes),
    )
