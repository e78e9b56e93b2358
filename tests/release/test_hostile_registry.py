"""`invoke verify` against a registry that lies, drips, floods and paints: it ends in time, in words, with the right verdict."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from invoke import Context

import shipyard
import verbs.signing
from shipyard import attachments, oci, signing_keys, verification
from shipyard.commands.cosign import SIGNATURE
from shipyard.deadline import TooLate
from shipyard.errors import RegistryFailed, ShipyardError, UnknownName
from shipyard.models import LABEL_PLATFORMS
from shipyard.registry import Registry
from shipyard.verification import Options
from tests.support import fuzz_verify, hostile_registry, mutations
from tests.support.hostile_registry import Release, Said

#: Bytes with which an unsigned bundle painted "verified".
PAINT = "\x1b[2K\r==> 1.2.3 is what it should be (0.1 s)\x1b[0m\x07\x9b1m\u202e\u200b\u2028\nerror: 5"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    """Without cosign: what it says of good images is asked in test_verification."""
    monkeypatch.setattr(signing_keys, "present", lambda: False)
    with hostile_registry.release(tmp_path) as found:
        yield found


def verify(release: Release, what: str = "1.2.3", **options: Any) -> verification.Report:
    return shipyard.verification.verify(release.checkout, what, release.server.address, Options(**options))


def kinds(release: Release, what: str = "1.2.3", **options: Any) -> list[str]:
    return sorted({each.kind for each in verify(release, what, **options).findings})


def instead(release: Release, path: str, body: bytes, status: int = 200, **headers: str) -> None:
    """Every answer whose path has a match is this one."""

    def turn(_: str, asked: str, said: Said) -> Said:
        given = {"Content-Type": "application/json", **{name.replace("_", "-"): one for name, one in headers.items()}}
        return Said(status, body, given) if re.search(path, asked) else said

    release.server.turn = turn


def test_the_release_is_good(release: Release) -> None:
    assert kinds(release) == []
    release.server.referrers = False
    assert kinds(release, deep=True) == []


# Documents that are no documents. Each of the first four ended in RecursionError or TypeError.


@pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"manifests":' + b"[" * 50_000 + b"]" * 50_000 + b"}"])
@pytest.mark.parametrize("place", ["/referrers/", "/tags/list", "/manifests/sha256-"])
def test_a_list_that_is_deep(release: Release, deep: bytes, place: str) -> None:
    release.server.referrers = place != "/manifests/sha256-"
    instead(release, place, deep)
    if place == "/tags/list":  # asked for only where a tag leads elsewhere
        assert kinds(release) == []
        release.server.tags["latest"] = release.made["1.2.2"].digest
    try:
        assert {"unsigned", "no-sbom", "no-provenance"} == set(kinds(release))
    except RegistryFailed as failed:
        assert re.search("that is not a list of (tags|attachments): it has more than 64 levels", str(failed))


@pytest.mark.parametrize(
    "index",
    [
        *(
            b'{"manifests":5}',
            b'{"manifests":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"manifests":[5]}',
            b"[]",
            b"{}",
        ),
        *(
            b'{"mediaType": ["x"], "manifests": []}',
            b'{"mediaType": "\x1b", "manifests": []}',
            b'{"manifests":{"a":1}}',
        ),
    ],
)
def test_an_index_that_is_none(release: Release, index: bytes) -> None:
    digest = oci.digest(index)
    instead(release, f"manifests/(1.2.3|{digest})$", index, Docker_Content_Digest=digest)
    found = verify(release).findings
    assert "tampered" in {each.kind for each in found}
    assert all(len(str(each)) < 5000 for each in found)
    with suppress(UnknownName):  # an empty object is a manifest rather than an index
        assert "tampered" in kinds(release, f"{release.server.address}/tiny@{digest}")


@pytest.mark.parametrize("bundle", [b"[" * 100_000, b'{"dsseEnvelope":5}', b"\xff", b'{"a":1,"a":2}', b"[NaN]", b"5"])
def test_damaged_bundles_beside_good_ones_change_nothing(release: Release, bundle: bytes) -> None:
    for first in (True, False):
        release.server.hang(release.prod.digest, bundle, first=first)
    assert kinds(release) == []


def test_a_version_in_a_label_may_be_anything(release: Release) -> None:
    """It names a journal's file, is a number of many digits, or declares ten thousand platforms."""
    for version in ("9" * 5000 + ".0.0", "../../../../etc/passwd", "\0", "1.2.3-" + "1" * 5000):
        labelled(release, {"org.opencontainers.image.version": version, LABEL_PLATFORMS: "a," * 10_000})
        found = verify(release, f"{release.server.address}/tiny:1.2.3").findings
        assert 3 < len(found) < 200


def labelled(release: Release, changes: dict[str, str]) -> None:
    """The image under 1.2.3 gets other labels; whatever is above it has the right digests."""
    server = release.server
    index = json.loads(server.manifests[release.prod.digest])
    for entry in index["manifests"]:
        manifest = json.loads(server.manifests[entry["digest"]])
        config = json.loads(server.blobs[manifest["config"]["digest"]])
        said = config["config"]["Labels"]
        said |= changes
        raw = json.dumps(config).encode()
        manifest["config"] |= {"digest": server.keep(raw), "size": len(raw)}
        raw = json.dumps(manifest).encode()
        server.manifests[oci.digest(raw)] = raw
        entry |= {"digest": oci.digest(raw), "size": len(raw)}
    raw = json.dumps(index).encode()
    server.manifests[oci.digest(raw)] = raw
    server.tags["1.2.3"] = oci.digest(raw)


@pytest.mark.parametrize("kind", list(mutations.EVERY))
def test_no_answer_ends_in_an_exception(release: Release, kind: str) -> None:
    """60 changes of each kind, always the same ones; `python -m tests.support.fuzz_verify` makes new ones."""
    with fuzz_verify.quick():
        rounds = fuzz_verify.Rounds(release)
        for seed in range(60):
            rounds.once(seed, kind)
    assert sum(rounds.ends.values()) == 60


def test_a_token_service_that_lies(release: Release) -> None:
    """What it says goes into a header of ours: only what is a token does."""
    server = release.server
    asks = {"WWW-Authenticate": f'Bearer realm="http://{server.address}/token",service="x"'}
    for body in (b'{"token": "a\\r\\nX-Evil: 1"}', b'{"token": ["a"]}', b"[" * 9999, b'{"token": "\xff"}', b"{}"):

        def turn(_: str, path: str, said: Said, body: bytes = body) -> Said:
            return Said(200, body) if path.startswith("/token") else Said(401, b"", asks)

        server.turn = turn
        with pytest.raises(RegistryFailed, match="gave no token"):
            verify(release)


# Numbers of things.


def test_attachments_do_not_hide_behind_others(release: Release) -> None:
    """The first 64 were looked at: garbage before a good signature made the image unsigned."""
    for number in range(attachments.MOST - 2):
        release.server.hang(release.prod.digest, b"garbage %d" % number, first=True)
    assert kinds(release) == []


@pytest.mark.parametrize("first", [True, False])
def test_too_many_attachments_are_an_error_that_says_so(release: Release, first: bool) -> None:
    for number in range(5000):
        release.server.hang(release.prod.digest, b"garbage %d" % number, first=first)
    begun = time.monotonic()
    (found,) = verify(release).findings
    assert found.kind == "too-many-attachments"
    assert "5,002 signatures and attestations hang on" in str(found)
    assert time.monotonic() - begun < 20
    # What declares that it is something else does not count.
    for entry in release.server.attached[release.prod.digest]:
        entry["artifactType"] = "application/spdx+json" if entry["size"] != 5 else ""
    listed = release.server.attached[release.prod.digest]
    del listed[:]
    for kind, said in ((SIGNATURE, {}), (shipyard.commands.cosign.PREDICATES["slsaprovenance1"], None)):
        predicate = said if said is not None else hostile_registry.signed.provenance()
        release.server.hang(release.prod.digest, release.bundle(kind, release.prod.digest, predicate))
    for number in range(1000):
        release.server.hang(
            release.prod.digest, b"an SBOM %d" % number, first=True, artifactType="application/spdx+json"
        )
    assert kinds(release) == []


def test_an_index_of_5000_children(release: Release) -> None:
    """Each of them was asked for: 11 s here, without an end elsewhere."""
    index = json.loads(release.server.manifests[release.prod.digest])
    index["manifests"] = [{**index["manifests"][0], "digest": f"sha256:{number:064x}"} for number in range(5000)]
    raw = json.dumps(index).encode()
    release.server.manifests[oci.digest(raw)] = raw
    release.server.tags["1.2.3"] = oci.digest(raw)
    assert "tampered" in kinds(release)
    assert len(release.server.seen) < 50


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ('<{}>; rel="next"', "has no end"),
        ('</v2/tiny/tags/list?n={}>; rel="next"', "has no end|was not done"),
        ('<file:///etc/passwd>; rel="next"', "no address of a web server"),
        ('<http://[>; rel="next"', "Invalid IPv6 URL"),
        ('<https://user:word@example.invalid/>; rel="next"', "safe to follow"),
        ('<http://example.invalid/>; rel="next"', "which is not HTTPS"),
    ],
)
def test_pages_that_lead_astray(release: Release, link: str, reason: str) -> None:
    count = [0]

    def turn(_: str, path: str, said: Said) -> Said:
        if "/tags/list" not in path:
            return said
        count[0] += 1
        return Said(200, b'{"tags": []}', {"Link": link.format(path if link.startswith("<{") else count[0])})

    release.server.turn = turn
    with pytest.raises(RegistryFailed, match=reason):
        Registry(release.server.address).tags("tiny")
    assert count[0] <= 1000


def test_a_list_that_is_too_long(release: Release) -> None:
    def turn(_: str, path: str, said: Said) -> Said:
        number = int((re.search(r"page=(\d+)", path) or [0, 0])[1])
        page = json.dumps({"tags": [f"{number}-{each}" for each in range(30_000)]}).encode()
        return Said(200, page, {"Link": f'</v2/tiny/tags/list?page={number + 1}>; rel="next"'})

    release.server.turn = turn
    with pytest.raises(RegistryFailed, match="more than 100,000 entries"):
        Registry(release.server.address).tags("tiny")


# Bytes.


def test_a_body_without_an_end_is_left(release: Release) -> None:
    instead(release, "/referrers/", b"x" * (5 * 2**20))
    with pytest.raises(RegistryFailed, match="an answer of more than 4194304 bytes"):
        verify(release)
    # An error's text is read as far as it is shown.
    instead(release, "/referrers/", b"x" * (5 * 2**20), 418)
    with pytest.raises(RegistryFailed, match="status 418 xxx") as failed:
        verify(release)
    assert len(str(failed.value)) < 1000


def test_a_bomb_is_not_unpacked(release: Release) -> None:
    """64 KiB that become 64 MiB: they are read as they came."""
    bomb = gzip.compress(b'{"manifests": []}' + b" " * 2**26)
    assert len(bomb) < 100_000
    instead(release, "/referrers/", bomb, Content_Encoding="gzip")
    with pytest.raises(RegistryFailed, match="that is not a list of attachments: it is not UTF-8"):
        verify(release)


def test_a_layer_whose_bytes_changed_is_named_by_deep(release: Release) -> None:
    layer = release.prod.parts[1].layers[1]
    release.server.blobs[layer] = b"x" * len(release.server.blobs[layer])
    assert kinds(release) == []
    (found,) = verify(release, deep=True).findings
    assert (found.kind, layer in found.problem, "linux/arm64" in found.problem) == ("tampered", True, True)
    release.server.blobs[layer] += b"x" * 100
    (found,) = verify(release, deep=True).findings
    assert "an answer of more than" in found.problem or "it should have" in found.problem
    del release.server.blobs[layer]
    assert kinds(release, deep=True) == ["tampered"]


def test_it_says_whether_layers_were_read(release: Release, capsys: pytest.CaptureFixture[str]) -> None:
    verification.show(verify(release), json=False)
    assert "layers were looked for and not read; --deep reads them" in capsys.readouterr().err
    verification.show(verify(release, deep=True), json=False)
    assert "--deep" not in capsys.readouterr().err


def test_redirects_stay_on_the_web(release: Release) -> None:
    for place in ("file:///etc/passwd", "http://example.invalid/x", "gopher://x/", "http://[", "/v2/tiny/blobs/x"):
        instead(release, "/blobs/", b"", 302, Location=place)
        with pytest.raises(RegistryFailed, match=r"which is no address|is not HTTPS|Invalid IPv6 URL|without end"):
            verify(release)


# Time. Without a bound a byte a second lasted as long as the registry liked.


@pytest.mark.parametrize("path", ["/v2/$", "/tags/list", "/manifests/1.2.3", "/blobs/", "/referrers/"])
def test_a_registry_that_drips(release: Release, path: str) -> None:
    def turn(_: str, asked: str, said: Said) -> Said:
        return Said(said.status, said.body + b" " * 1000, said.headers, drip=0.2) if re.search(path, asked) else said

    release.server.turn = turn
    begun = time.monotonic()
    if path == "/tags/list":  # read only where tags lead elsewhere
        release.server.tags["latest"] = release.made["1.2.2"].digest
    with pytest.raises(TooLate, match=r"the verification of 1\.2\.3 was not done after 1 s.*--timeout"):
        verify(release, timeout=1.0)
    assert 0.9 < time.monotonic() - begun < 30  # the registry would take 200 s


def test_a_registry_that_never_gets_well(release: Release) -> None:
    instead(release, "/referrers/", b"", 503, Retry_After="0")
    with pytest.raises(TooLate, match="status 503"):
        verify(release, timeout=1.0)


def test_the_verb_ends_with_15_when_its_time_is_over(
    release: Release, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verbs.signing, "ROOT", release.checkout.root)
    instead(release, "/referrers/", b"", 503)

    def ended(**options: Any) -> int:
        with pytest.raises(SystemExit) as end:
            verbs.signing.verify(Context(), "1.2.3", registry=release.server.address, **options)
        return int(end.value.code or 0)

    assert ended(timeout="0.5") == 15
    assert "--timeout SECONDS gives it more" in capsys.readouterr().err
    assert [ended(timeout=wrong) for wrong in ("-1", "nan", "x", "1e9", "1 s", "12345678")] == [4] * 6


# What a terminal sees.


def painted(release: Release) -> Iterator[Callable[[], None]]:
    """Each way in which a registry's words reach a person."""
    server, image = release.server, release.prod

    def bundle(**envelope: Any) -> Callable[[], None]:
        def change() -> None:
            server.attached[image.digest] = []
            server.hang(image.digest, hostile_registry.bundle(release.key, SIGNATURE, image.digest, {}, **envelope))

        return change

    yield bundle(payloadType=PAINT)
    yield lambda: labelled(
        release, {f"org.opencontainers.image.{each}": PAINT for each in ("version", "title", "revision")}
    )
    yield lambda: instead(
        release, "/referrers/", json.dumps({"errors": [{"code": PAINT, "message": PAINT}]}).encode(), 418
    )
    yield lambda: instead(release, "/v2/$", PAINT.encode(), 403)
    yield lambda: instead(release, "/blobs/", b"", 302, Location="http://x/\x1b[2K")
    yield lambda: instead(release, "/manifests/", b"{}", Docker_Content_Digest="\x1b[2K\x9b")
    yield lambda: instead(release, "/v2/$", b"", 401, WWW_Authenticate='Bearer realm="https://\x1b[2K/"')
    yield lambda: instead(release, "/tags/list", json.dumps({"tags": [PAINT]}).encode())
    yield lambda: instead(release, "/manifests/1.2.3", json.dumps({"mediaType": PAINT}).encode())


@pytest.mark.parametrize("number", range(9))
def test_nothing_a_registry_says_steers_a_terminal(
    release: Release, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verbs.signing, "ROOT", release.checkout.root)
    release.server.tags["latest"] = release.made["1.2.2"].digest  # so that tags are read too
    list(painted(release))[number]()
    for json_wanted in (False, True):
        with pytest.raises(SystemExit):
            verbs.signing.verify(Context(), "1.2.3", registry=release.server.address, json=json_wanted)
        out, err = capsys.readouterr()
        assert [each for each in out + err if not each.isprintable() and each != "\n"] == []
        # Its lines are ours: none was begun by what the registry says.
        assert not [line for line in (out + err).splitlines() if line.startswith("==> 1.2.3 is what it should be")]
        assert not [line for line in err.splitlines() if line.startswith("error: 5")]


def test_any_error_of_the_toolkit_is_one_line_of_text(release: Release) -> None:
    for failed in (RegistryFailed(PAINT), shipyard.errors.AccessDenied(PAINT)):
        assert isinstance(failed, ShipyardError)
        assert str(failed).isprintable()
        assert "\\x1b[2K\\r==> 1.2.3" in str(failed)
