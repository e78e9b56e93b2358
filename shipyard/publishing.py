"""Brings an image into a registry by its digest, and moves tags to it once it may be public."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain

from shipyard import oci, signals
from shipyard.artifacts import Artifact
from shipyard.errors import BuildFailed, RegistryFailed, VerificationFailed
from shipyard.layouts import Layout
from shipyard.registry import Registry

#: Uploads at a time: what docker itself does by default (``max-concurrent-uploads`` is 5) less one.
_WORKERS = 4


@dataclass(frozen=True)
class Pushed:
    """What a push did: blobs and ``bytes`` that went over the wire, and blobs that were there already."""

    sent: int
    bytes: int
    skipped: int


@dataclass(frozen=True)
class Moved:
    """A tag that was written: the digest that it named ``before`` (None when it was new) and names now."""

    tag: str
    before: str | None
    after: str


def push(registry: Registry, artifact: Artifact, mount: Sequence[str] = ()) -> Pushed:
    """Bring an image there by digest alone: blobs of all platforms, then manifests, then the index. No tag is written.

    ``mount`` names repositories of the registry that may hold some of the blobs already. After a failure the registry's
    client is of no more use: its other uploads were ended. Raises BuildFailed when the layout is not what was tested: its
    index names another digest, or a file holds other bytes than its digest says, which is looked at while it is sent.
    """
    layout, repository = Layout(artifact.layout), _repository(registry, artifact)
    if layout.digest != artifact.digest:
        msg = (
            f"{artifact.layout} holds {layout.digest}, not {artifact.digest} that was tested; something changed it since. "
            "Nothing of it was pushed; remove the folder and run the same command again"
        )
        raise BuildFailed(msg)
    blobs = {each.digest: each for each in chain.from_iterable(layout.blobs(one.digest) for one in layout.manifests)}

    def send(blob: oci.Descriptor) -> int:
        return registry.push_blob(repository, blob.digest, layout.blob(blob.digest), mount)

    # The largest first: the others fill the time that it takes.
    sent = _in_parallel(registry, send, sorted(blobs.values(), key=lambda blob: -blob.size))
    for each in dict.fromkeys([*(manifest.digest for manifest in layout.manifests), layout.digest]):
        raw = layout.raw(each)
        if registry.head(repository, each) is None:
            registry.push_manifest(repository, each, raw, oci.media_type(oci.parse(raw)))
    over = [count for count in sent if count]
    return Pushed(len(over), sum(over), len(sent) - len(over))


def present(registry: Registry, artifact: Artifact) -> bool:
    """Whether the index and the manifest of every platform are there: a registry takes none before its blobs."""
    repository = _repository(registry, artifact)
    digests = dict.fromkeys([artifact.digest, *(part.digest for part in artifact.parts)])
    return all(registry.head(repository, each) == each for each in digests)


def tags_of(registry: Registry, artifact: Artifact, tags: Iterable[str]) -> dict[str, str | None]:
    """What each of these tags of the artifact's repository names now; None where there is no such tag."""
    repository = _repository(registry, artifact)
    return {tag: registry.head(repository, tag) for tag in tags}


def move(registry: Registry, artifact: Artifact, tags: Iterable[str]) -> list[Moved]:
    """Let these tags name the artifact, in this order; what names it already is not written.

    The bytes come from the registry, so that a release can be moved to whose layout is gone. Raises RegistryFailed when
    the artifact is not there, or when a tag names something else right after it was written.
    """
    repository, moved = _repository(registry, artifact), []
    for tag, before in tags_of(registry, artifact, tags).items():
        if before == artifact.digest:
            continue
        found = registry.manifest(repository, artifact.digest)
        if found is None:
            msg = f"{artifact.reference} is not in the registry, so {tag} cannot name it; run `invoke push`"
            raise RegistryFailed(msg)
        with signals.whole():  # one tag is one unit: no signal leaves it open whether the tag was moved
            registry.push_manifest(repository, tag, found[0], found[1])
            if (now := registry.head(repository, tag)) != artifact.digest:
                where = f"{artifact.repository}:{tag}"
                msg = f"{where} names {now} right after it was moved to {artifact.digest}; who else writes there?"
                raise RegistryFailed(msg)
            moved.append(Moved(tag, before, artifact.digest))
    return moved


def unclaimed(registry: Registry, artifact: Artifact) -> None:
    """Raises VerificationFailed when the artifact's own tag names other bytes: it is never moved."""
    found = tags_of(registry, artifact, [artifact.tag])[artifact.tag]
    if found not in (None, artifact.digest):
        msg = (
            f"{artifact.tagged} names {found}, and {artifact.digest} was built of this commit; "
            "the version's own tag is not moved: choose a new version with --bump"
        )
        raise VerificationFailed(msg)


def claim(registry: Registry, artifact: Artifact) -> list[Moved]:
    """Let the artifact's own tag name it. Raises VerificationFailed when it names other bytes."""
    unclaimed(registry, artifact)
    return move(registry, artifact, [artifact.tag])


def _repository(registry: Registry, artifact: Artifact) -> str:
    """The repository without its registry, which is the one that we talk to."""
    found = oci.parse_reference(artifact.repository)
    if found.registry != registry.host:
        msg = f"{artifact.repository} does not belong to the registry {registry.host}"
        raise RegistryFailed(msg)
    return found.repository


def _in_parallel(
    registry: Registry, send: Callable[[oci.Descriptor], int], blobs: Sequence[oci.Descriptor]
) -> list[int]:
    """Each blob once; the first failure, and Ctrl-C, ends the others."""
    pool = ThreadPoolExecutor(_WORKERS, "push")
    try:
        futures = [pool.submit(send, each) for each in blobs]
        for each in wait(futures, return_when=FIRST_EXCEPTION).done:
            each.result()
        return [each.result() for each in futures]
    except BaseException:
        registry.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
