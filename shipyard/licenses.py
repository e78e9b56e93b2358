"""What package metadata says of licences, as SPDX identifiers where it says so clearly. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from email.message import Message
from functools import lru_cache
from typing import Any

#: What stands for a licence that nothing tells (SPDX 2.3, "NOASSERTION").
UNKNOWN = "NOASSERTION"

#: Short names of Debian's copyright format 1.0, section 7.1, that SPDX calls otherwise.
_DEBIAN = {"expat": "MIT", "apache-2": "Apache-2.0", "bsl-1": "BSL-1.0", "mpl-2": "MPL-2.0"}
#: The GNU licences: Debian writes GPL-2+ where SPDX writes GPL-2.0-or-later.
_GNU = re.compile(r"(A?GPL|LGPL|GFDL)-(\d)(\.\d)?(\.0)?(\+?)", re.IGNORECASE)
#: Licence texts that Debian keeps once for all packages; files that are not in the format above refer to them.
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z]+(?:-\d+(?:\.\d+)*)?)")
#: Well-known beginnings of licence texts in such files. "style": nobody compared the rest of the text.
_TEXTS = (
    ("python software foundation license version 2", "PSF-2.0"),
    ("redistribution and use in source and binary forms", "BSD-style"),
    ("permission is hereby granted, free of charge", "MIT-style"),
    ("permission to use, copy, modify", "HPND-style"),
)
#: Licences that such files call by their names; they count where there is nothing better.
_NAMED = (("gnu lesser general public license", "LGPL"), ("gnu general public license", "GPL"))
#: Trove classifiers (the package index's list "License ::") that name exactly one licence.
_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
#: What people write into the old field License for exactly one licence.
_SPOKEN = {"apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0", "mit license": "MIT"}
#: Characters of a licence's name; the field License may hold a whole text.
_LONGEST = 64


@lru_cache(maxsize=512)
def debian(text: str) -> tuple[str, ...]:
    """The licences of a ``copyright`` file, sorted: of all its files where it is machine-readable, else those it points at."""
    import logging

    from debian.copyright import Copyright, MachineReadableFormatError, NotMachineReadableError

    logging.getLogger("debian.copyright").setLevel(logging.ERROR)  # it remarks on old addresses of its format
    try:
        found = Copyright(text.splitlines(keepends=True), strict=False)
        stated: list[Any] = [found.header.license, *(each.license for each in found.all_files_paragraphs())]
    except (NotMachineReadableError, MachineReadableFormatError, ValueError):
        return _free(text)
    names = {" ".join(each.synopsis.split()) for each in stated if each and each.synopsis}
    return tuple(sorted({spdx(name) for name in names})) or _free(text)


def _free(text: str) -> tuple[str, ...]:
    plain = " ".join(text.lower().split())
    known = {name for phrase, name in _TEXTS if phrase in plain} | set(_COMMON.findall(text))
    return tuple(sorted(known or {name for phrase, name in _NAMED if phrase in plain}))


def spdx(name: str) -> str:
    """A short name of Debian's as SPDX writes it; names that are not one licence of a known meaning stay as they are."""
    if gnu := _GNU.fullmatch(name):
        family, major, minor, _, later = gnu.groups()
        return f"{family.upper()}-{major}{minor or '.0'}-{'or-later' if later else 'only'}"
    return _DEBIAN.get(name.lower(), name)


def python(metadata: Message, is_spdx: Callable[[str], bool]) -> tuple[str, ...]:
    """The licences of a distribution: License-Expression (PEP 639), else classifiers, else a short field License.

    ``is_spdx`` tells an identifier or an expression in the field License from prose; that comes before classifiers.
    """
    if expression := metadata.get("License-Expression"):
        return (str(expression).strip(),)
    field = " ".join(str(metadata.get("License") or "").split())
    if field and is_spdx(field):
        return (field,)
    classifiers = [str(each) for each in metadata.get_all("Classifier") or () if str(each).startswith("License ::")]
    names = [each.rpartition("::")[2].strip() for each in classifiers]
    if names := [each for each in names if each != "OSI Approved"]:
        return tuple(sorted({_CLASSIFIERS.get(each, each) for each in names}))
    stated = field and field.upper() != "UNKNOWN" and len(field) <= _LONGEST
    return (_SPOKEN.get(field.lower(), field),) if stated else ()
