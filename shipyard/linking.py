"""Whether every library that the programs of an image need is in it, where the loader looks, and none of CUDA's twice.

Source of the order: ld.so(8). Pure functions over paths (without a slash in front) and what ELF files say of themselves.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping

from shipyard.elf import Elf

#: The driver's own libraries: the host's, which the engine mounts together with a GPU.
DRIVER = re.compile(r"libcuda\.so\.1|libnvidia-[\w-]+\.so\.\d+")
#: Libraries of CUDA's toolkit by their names, shared or static.
_CUDA = re.compile(
    r"(lib(?:cudart|cublas|cublasLt|cudnn\w*?|cufft\w*?|cupti|curand|cusolver\w*?|cusparse\w*?|nccl|npp\w*?|nvblas|nvjpeg"
    r"|nvJitLink|nvrtc|nvvm))(?:_static)?\.(?:so|a)\b"
)
#: Where Debian's loader looks in the end.
_TRIPLETS = {"linux/amd64": "x86_64-linux-gnu", "linux/arm64": "aarch64-linux-gnu"}
#: Debian's merged folders: what is below the left one is below the right one.
_MERGED = {"lib": "usr/lib", "lib64": "usr/lib64", "bin": "usr/bin", "sbin": "usr/sbin"}


def missing(files: Mapping[str, Elf], names: Iterable[str]) -> list[str]:
    """``PATH needs NAME`` for each library that the loader would not find. ``names`` are all paths of the image, links too.

    A library that says nothing of where to look is looked after as the programs in its folder say: they load it.
    """
    there = {_merged(name) for name in names}
    programs: dict[str, list[str]] = {}
    for path, found in files.items():
        if found.interpreter and not found.soname:
            programs.setdefault(posixpath.dirname(_merged(path)), []).extend(_folders(path, found))
    lines = []
    for path, found in sorted(files.items()):
        folders = _folders(path, found) or programs.get(posixpath.dirname(_merged(path)), [])
        folders = [*folders, f"usr/lib/{_TRIPLETS.get(found.machine, '')}", "usr/lib", "usr/lib64"]
        wanted = [name for name in found.needed if not DRIVER.fullmatch(name)]
        lines += [
            f"{path} needs {name}" for name in wanted if there.isdisjoint(f"{folder}/{name}" for folder in folders)
        ]
        if found.interpreter and _merged(found.interpreter.lstrip("/")) not in there:
            lines.append(f"{path} needs {found.interpreter}")
    return lines


def _folders(path: str, found: Elf) -> list[str]:
    origin = posixpath.dirname(_merged(path))
    named = (each.replace("$ORIGIN", f"/{origin}").replace("${ORIGIN}", f"/{origin}") for each in found.paths)
    return [_merged(posixpath.normpath(each).lstrip("/")) for each in named]


def _merged(path: str) -> str:
    top, slash, rest = path.partition("/")
    return _MERGED.get(top, top) + slash + rest


def twice(files: Iterable[str]) -> list[str]:
    """The paths of CUDA libraries that are there more than once, in any version; links do not count, so leave them out."""
    found: dict[str, list[str]] = {}
    for path in files:
        if match := _CUDA.match(posixpath.basename(path)):
            found.setdefault(match[1], []).append(path)
    return sorted(path for paths in found.values() if len(paths) > 1 for path in paths)
