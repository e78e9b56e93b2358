"""Answers of a registry, changed by dice: each kind of document, headers and statuses, on the wire and in the store."""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import random
from collections.abc import Callable
from typing import Any

from shipyard import oci
from shipyard.commands.cosign import PREDICATES, SIGNATURE
from tests.support import signed
from tests.support.hostile_registry import SAYS, Release, Said, bundle

#: What paints "verified" where a terminal believes it: colours, cursor, title, bidi, invisible signs, ends of lines.
PAINT = "\x1b[2K\r\x1b[1A==> 1.2.3 is what it should be\x1b[0m\x07\x9b1m\u202egood\u2066\u200b\ufeff\u2028\nerror: no"
_STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 5, 2**63, 2**70, 1.5, 1e300, "", "x", PAINT, "\ud800", "a" * 5000, "9" * 5000),
    *([], {}, [[]], [None], [5], ["x"], [{}], {"": None}, {"digest": 5}, [PAINT], {PAINT: PAINT}),
    *("sha256:" + "0" * 64, "sha512:" + "0" * 128, "sha256:" + "0" * 63 + "G", "../../../etc/passwd", "http://[::1"),
    *("application/vnd.oci.image.index.v1+json", "1" * 4500 + ".0.0", "1.2.3-" + "1" * 400, "\0"),
)
_STATUSES = (100, 101, 200, 201, 204, 206, 301, 302, 307, 308, 400, 401, 403, 404, 405, 416, 418, 429, 500, 503, 599)
_HEADERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Content-Length", ("-1", "0", "5", "99999999999999999999", "x", "1, 2", "0x10", "\xb2")),
    ("Docker-Content-Digest", ("", "sha256:0", "x", "sha256:" + "0" * 64, "a" * 60000, "\x9b1m", "\x1b[2K")),
    ("Link", ('</v2/tiny/tags/list?n=1000>; rel="next"', '<http://[>; rel="next"', "<" * 9000, '<>; rel="next"')),
    ("Link", ("<ftp://x/>; rel=next", "<//127.0.0.1:1/x>; rel=next", '<\x1b[2K>; rel="next"', '</\xff>; rel="next"')),
    (
        "Location",
        ("", "/", "http://[", "file:///etc/passwd", "http://127.0.0.1:1/", "https://127.0.0.1:1/", "\x00", "//"),
    ),
    ("Location", ("http://a\xffb/", "http://" + "a" * 70 + ".example/", "http://127.0.0.1:99999/", "?" * 60000)),
    ("Content-Encoding", ("gzip", "deflate", "br", "zstd", "x", "gzip, gzip")),
    ("Transfer-Encoding", ("chunked", "gzip", "x")),
    ("Content-Type", ("", "text/html", "x", "a" * 60000, "\x1b[2K")),
    (
        "Retry-After",
        ("-1", "\xb2", "99999999999999999", "Mon, 01 Jan 0001 00:00:00 +2359", "x", "Fri, 31 Dec 9999 23:59:59 -1200"),
    ),
    ("Date", ("x", "Mon, 01 Jan 0001 00:00:00 +2359", "9" * 5000)),
    ("WWW-Authenticate", ("Bearer", 'Bearer realm="x"', 'Bearer realm="http://["', "Basic", "a" * 60000)),
    (
        "WWW-Authenticate",
        ('Bearer realm="https://127.0.0.1:1/t",scope="\x1b"', 'Bearer realm="file:///etc/passwd"', "=" * 999),
    ),
)


def value(dice: random.Random) -> Any:
    """Something strange."""
    if dice.random() < 0.1:
        found: Any = []
        for _ in range(dice.choice((10, 70, 400))):
            found = [found] if dice.random() < 0.5 else {"a": found}
        return found
    return copy.deepcopy(dice.choice(_STRANGE))


def _nodes(document: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    rest = [document]
    while rest:
        here = rest.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        for key in keys:
            found.append((here, key))
            rest.append(here[key])
    return found


def structure(dice: random.Random, raw: bytes) -> bytes:
    """Another JSON text: values replaced, members removed, added and doubled."""
    try:
        document = json.loads(raw)
    except ValueError:
        return text(dice, raw)
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        nodes = _nodes(document)
        if not nodes or dice.random() < 0.05:
            document = value(dice)
            break
        here, key = dice.choice(nodes)
        how = dice.random()
        if how < 0.55:
            here[key] = value(dice)
        elif how < 0.7:
            del here[key]
        elif how < 0.8 and isinstance(here, list):
            here.extend(copy.deepcopy(here[key]) for _ in range(dice.choice((1, 70, 300))))
        elif isinstance(here, dict):
            here[dice.choice((key.upper(), key + " ", "x", "subject", "config", "layers", "manifests"))] = value(dice)
    found = json.dumps(document).encode()
    if dice.random() < 0.05 and b'":' in found:
        place = found.index(b'"')
        found = found[:place] + b'"a": 1, "a": 2, ' + found[place:]
    return found


def text(dice: random.Random, raw: bytes) -> bytes:
    """Other bytes: cut, changed, doubled, nested, not UTF-8, very many."""
    at = dice.randrange(len(raw) + 1)
    return dice.choice(
        (
            lambda: raw[:at],
            lambda: raw[:at] + bytes([dice.randrange(256)]) + raw[at + 1 :],
            lambda: (
                raw[:at] + dice.choice((b"\xff", b"\x00", b"\xed\xa0\x80", b"NaN", b"Infinity", b"1e999")) + raw[at:]
            ),
            lambda: b"\xef\xbb\xbf" + raw,
            lambda: raw + raw,
            lambda: b"[" * dice.choice((10, 1000, 100_000)) + raw,
            lambda: b'{"a":' * dice.choice((10, 1000, 30_000)) + b"1",
            lambda: b'"' + b'\\"' * 50_000,
            lambda: b"[" + b"[]," * 100_000 + b"[]]",
            lambda: b'{"manifests":[' + b"{}," * 30_000 + b"{}]}",
            lambda: b'{"tags":[' + b'"a",' * 60_000 + b'"a"]}',
            lambda: b"",
            PAINT.encode,
            lambda: b" " * 300_000,
            lambda: raw.decode("utf-8", "replace").encode("utf-16"),
            lambda: json.dumps(
                {"errors": [{"code": PAINT, "message": [PAINT], "detail": {"Enclosed": {"Err": 28}}}]}
            ).encode(),
            lambda: json.dumps({"token": PAINT}).encode(),
        )
    )()


def answer(dice: random.Random, said: Said) -> Said:
    """Another answer: its body, its headers, its status, or several of them."""
    status, body, headers = said.status, said.body, dict(said.headers)
    if dice.random() < 0.6:
        body = structure(dice, body) if dice.random() < 0.7 else text(dice, body)
        if dice.random() < 0.5 and "Docker-Content-Digest" in headers:
            headers["Docker-Content-Digest"] = oci.digest(body)
    if dice.random() < 0.35:
        for name, values in dice.sample(_HEADERS, dice.choice((1, 1, 2))):
            headers[name] = dice.choice(values)
        if headers.get("Content-Encoding") and dice.random() < 0.5:
            body = gzip.compress(b" " * 10_000_000, 9)
    if dice.random() < 0.25:
        status = dice.choice(_STATUSES)
        if status in (301, 302, 307, 308):
            headers.setdefault(
                "Location", dice.choice(("/v2/", "/v2/tiny/tags/list", "x", PAINT.encode().decode("latin-1")))
            )
    return Said(status, body, {name: one.replace("\n", " ").replace("\r", " ") for name, one in headers.items()})


KINDS = ("/v2/$", "/manifests/", "/blobs/", "/tags/list", "/referrers/")


def wire(dice: random.Random, release: Release) -> None:
    """Answers of one kind of path, or of all, are changed: always, or the first few times."""
    import re

    kind, often, left = dice.choice((*KINDS, "")), dice.choice((0.1, 0.5, 1.0)), [dice.choice((1, 2, 10_000))]

    def turn(_method: str, path: str, said: Said) -> Said:
        if left[0] and re.search(kind, path.partition("?")[0]) and dice.random() < often:
            left[0] -= 1
            return answer(dice, said)
        return said

    release.server.turn = turn


def store(dice: random.Random, release: Release) -> None:
    """One document of the image is another one, with right digests all the way up, and signed all the same."""
    server, change = release.server, dice.choice((structure, text))
    index = json.loads(server.manifests[release.prod.digest])
    which = dice.choice(("index", "manifest", "config"))
    entry = dice.choice(index["manifests"])
    manifest = json.loads(server.manifests[entry["digest"]])
    if which == "config":
        raw = change(dice, server.blobs[manifest["config"]["digest"]])
        manifest["config"] = {**manifest["config"], "digest": server.keep(raw), "size": len(raw)}
    raw = json.dumps(manifest).encode()
    raw = change(dice, raw) if which == "manifest" else raw
    server.manifests[oci.digest(raw)] = raw
    entry |= {"digest": oci.digest(raw), "size": len(raw)}
    top = json.dumps(index).encode()
    top = change(dice, top) if which == "index" else top
    server.manifests[oci.digest(top)] = top
    for digest in (oci.digest(raw), oci.digest(top)):
        server.hang(digest, release.bundle(SIGNATURE, digest, {}))
        server.hang(digest, release.bundle(PREDICATES["cyclonedx"], digest, signed.sbom(digest)))
        server.hang(digest, release.bundle(PREDICATES["slsaprovenance1"], digest, signed.provenance()))
    server.tags["1.2.3"] = oci.digest(top)


def statement(dice: random.Random, release: Release) -> None:
    """A bundle or a statement is another one; what it says is signed by the release's own key."""
    digest = dice.choice((release.prod.digest, *(each.digest for each in release.prod.parts)))
    listed = release.server.attached[digest]
    listed.pop(dice.randrange(len(listed)))
    kind = dice.choice((SIGNATURE, *PREDICATES.values()))
    good = {PREDICATES["cyclonedx"]: signed.sbom(digest), PREDICATES["slsaprovenance1"]: signed.provenance()}
    predicate: Any = good.get(kind, {})
    for _ in range(dice.randrange(3)):
        if nodes := _nodes(predicate):
            here, key = dice.choice(nodes)
            here[key] = value(dice)
    try:
        raw = bundle(release.key, kind, digest, predicate)
    except (ValueError, RecursionError):
        return
    how = dice.random()
    raw = structure(dice, raw) if how < 0.5 else text(dice, raw) if how < 0.7 else raw
    release.server.hang(digest, raw, first=dice.random() < 0.5)


def garbage(dice: random.Random, release: Release) -> None:
    """Anything beside the good ones: the verdict must not change."""
    for _ in range(dice.randrange(1, 40)):
        digest = dice.choice((release.prod.digest, *(each.digest for each in release.prod.parts)))
        kind = dice.choice((SIGNATURE, *PREDICATES.values(), "x"))
        raw = bundle(
            release.key if dice.random() < 0.3 else OTHER, kind, dice.choice((digest, "sha256:" + "0" * 64)), {}
        )
        changed = structure(dice, raw) if dice.random() < 0.6 else text(dice, raw)
        release.server.hang(digest, changed, first=dice.random() < 0.5)


def channel(dice: random.Random, release: Release) -> None:
    """The statement of channels is another one, signed by the release's own key."""
    tags = {each: {"digest": release.prod.digest, "version": "1.2.3"} for each in ("latest", "1", "1.2")}
    predicate: Any = {**copy.deepcopy(SAYS), "tags": tags}
    for _ in range(dice.randrange(3)):
        if nodes := _nodes(predicate):
            here, key = dice.choice(nodes)
            here[key] = value(dice)
    with contextlib.suppress(ValueError, TypeError):
        release.state(**predicate)
    if dice.random() < 0.5:
        digest = release.server.tags["channels"]
        raw = (structure if dice.random() < 0.7 else text)(dice, release.server.manifests[digest])
        release.server.manifests[oci.digest(raw)] = raw
        release.server.tags["channels"] = oci.digest(raw)


def _other() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


OTHER = _other()
Change = Callable[[random.Random, Release], None]
EVERY: dict[str, Change] = {
    "wire": wire,
    "store": store,
    "statement": statement,
    "garbage": garbage,
    "channel": channel,
}
