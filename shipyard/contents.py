"""What is installed in an image: its package databases, read from the layers of an OCI layout without unpacking them."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from shipyard import machine
from shipyard.artifacts import Part
from shipyard.errors import BuildFailed
from shipyard.layouts import Layout

#: Changes with what is remembered of a layer.
_FORMAT = "2"
_STATUS = "var/lib/dpkg/status"
#: Packages of other suites than the image's own, each set in a file (the place that distroless images use).
_ASIDE = re.compile(r"var/lib/dpkg/status\.d/[^/]+")
_RELEASE = "usr/lib/os-release"
_COPYRIGHT = re.compile(r"usr/share/doc/([^/]+)/copyright")
#: Distributions of Debian's own packages are below usr/lib and count as those.
_METADATA = re.compile(r"(?!usr/lib/).*?[^/]+\.dist-info/METADATA")
#: Where files live that no package manager knows.
_LOCAL = re.compile(r"usr/local/bin/[^/]+")
#: Bytes that a file must have to be read into memory: no package database comes near.
_LONGEST = 16 * 1024 * 1024
_CHUNK = 256 * 1024
#: Marks of a layer that hide what lower ones have (image-spec 1.1, "Whiteouts").
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass
class Contents:
    """An image's package databases by path; ``local`` is the SHA-256 of each file in usr/local/bin."""

    files: dict[str, str] = field(default_factory=dict)
    local: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """Debian's list of installed packages; empty when the image has none."""
        return self.files.get(_STATUS, "")

    @property
    def aside(self) -> list[str]:
        """Lists of Debian packages that are not of the image's own suite, and depend on one another only."""
        return [text for path, text in sorted(self.files.items()) if _ASIDE.fullmatch(path)]

    @property
    def release(self) -> str:
        """Which Debian it is: the text of os-release."""
        return self.files.get(_RELEASE, "")

    @property
    def metadata(self) -> dict[str, str]:
        """The METADATA of each Python distribution by path."""
        return {path: text for path, text in sorted(self.files.items()) if _METADATA.fullmatch(path)}

    def copyright(self, package: str) -> tuple[str, str]:
        """Path and text of a Debian package's copyright file; both empty when the package brings none."""
        path = f"usr/share/doc/{package}/copyright"
        return (path, self.files[path]) if path in self.files else ("", "")


@dataclass
class _Layer(Contents):
    """One layer. ``taken`` are all paths that are no folder, or that are hidden; of folders in ``opaque`` all is hidden."""

    taken: list[str] = field(default_factory=list)
    opaque: list[str] = field(default_factory=list)

    def over(self, below: Contents) -> Contents:
        """What an image has with this layer on top of it."""
        taken, opaque = set(self.taken), set(self.opaque)

        def stays(path: str) -> bool:
            above = [path]
            while above[-1]:
                above.append(posixpath.dirname(above[-1]))
            return taken.isdisjoint(above) and opaque.isdisjoint(above[1:])

        files = {path: text for path, text in below.files.items() if stays(path)}
        local = {path: text for path, text in below.local.items() if stays(path)}
        return Contents(files | self.files, local | self.local)


def read(layout: Layout, part: Part, kept: Path | None = None) -> Contents:
    """The package databases of one platform's image, lowest layer first. Raises BuildFailed where a layer is damaged.

    ``kept`` is a folder that remembers what is in each layer by its digest: most of them are those of the last release.
    """
    found = Contents()
    for layer in layout.blobs(part)[1:]:
        place = kept / f"{_FORMAT}-{layer.digest.partition(':')[2]}.json" if kept else None
        found = (_remembered(place) or _read(layout.blob(layer.digest), place)).over(found)
    return found


def _remembered(place: Path | None) -> _Layer | None:
    try:
        return _Layer(**json.loads(place.read_bytes())) if place else None
    except (OSError, ValueError, TypeError):  # never read before, or damaged: the layer itself is there
        return None


def _read(blob: Path, place: Path | None) -> _Layer:
    found = _Layer()
    with _opened(blob) as archive:
        for member in archive:
            _take(archive, member, found)
    if place:
        machine.replace(place, json.dumps(asdict(found)))
    return found


class _Unzipped:
    """What a gzip file holds, in pieces so large that threads which read layers side by side do not wait for each other.

    The standard library's reader takes 8 KiB at a time, and asks for the interpreter's lock after each.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._rest = raw, b""
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end. Raises EOFError when the file is cut off."""
        while True:
            if self._stream.eof:  # a gzip file may have several members
                self._rest = self._stream.unused_data or self._raw.read(_CHUNK)
                if not self._rest:
                    return b""
                self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
            data = self._rest or self._raw.read(_CHUNK)
            if not data:
                msg = "it ends in the middle"
                raise EOFError(msg)
            plain = self._stream.decompress(data, size)
            self._rest = self._stream.unconsumed_tail
            if plain:
                return plain


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """A layer as a stream of files, gzipped or not."""
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            if magic == b"\x28\xb5\x2f\xfd":
                msg = f"{path} is a layer in zstd, which is not read here; release builds write gzip"
                raise BuildFailed(msg)
            plain: Any = _Unzipped(raw) if magic[:2] == b"\x1f\x8b" else raw
            with tarfile.open(fileobj=plain, mode="r|", bufsize=_CHUNK) as archive:
                yield archive
    except (OSError, EOFError, zlib.error, tarfile.TarError) as problem:
        msg = f"{path} is no whole layer ({problem}); remove the folder of its layout and build again"
        raise BuildFailed(msg) from problem


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, layer: _Layer) -> None:
    """One entry of a layer: what it hides of lower layers, and what it tells."""
    path = posixpath.normpath("/" + member.name).lstrip("/")
    folder, name = posixpath.split(path)
    if name == _OPAQUE:
        layer.opaque.append(folder)
    elif name.startswith(_WHITEOUT):
        layer.taken.append(posixpath.join(folder, name.removeprefix(_WHITEOUT)))
    elif not member.isdir():
        layer.taken.append(path)
        if member.islnk():
            _link(path, posixpath.normpath("/" + member.linkname).lstrip("/"), layer)
        elif member.isreg():
            _file(archive, member, path, layer)


def _link(path: str, target: str, layer: _Layer) -> None:
    """A second name of a file that this layer had before."""
    for known in (layer.files, layer.local):
        if target in known and _wanted(path):
            known[path] = known[target]


def _wanted(path: str) -> bool:
    named = path in (_STATUS, _RELEASE)
    return named or any(each.fullmatch(path) for each in (_ASIDE, _COPYRIGHT, _METADATA, _LOCAL))


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, layer: _Layer) -> None:
    if not _wanted(path):
        return
    data = archive.extractfile(member)
    if data is None:
        return
    if _LOCAL.fullmatch(path):
        layer.local[path] = hashlib.file_digest(data, "sha256").hexdigest()  # type: ignore[arg-type]
    elif member.size <= _LONGEST:
        layer.files[path] = data.read().decode("utf-8", "replace")
    else:
        msg = f"{path} of a layer has {member.size} bytes, which no package database has"
        raise BuildFailed(msg)
