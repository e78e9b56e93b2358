"""Signing with real cosign into a real registry: nothing twice, nothing outside this machine, clear refusals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import shipyard
from shipyard import signing, signing_keys
from shipyard.artifacts import Artifact
from shipyard.commands import cosign
from shipyard.errors import AccessDenied, RegistryFailed, SigningFailed
from shipyard.models import Project
from shipyard.registry import Registry
from tests.support import garbled, registries, registry_proxy, signed
from tests.support.registries import Served
from tests.support.registry_proxy import Fault
from tests.support.service import ROOT, wait_until


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout with a key: making one takes cosign a second of scrypt."""
    checkout = signed.project(tmp_path_factory.mktemp("keys"))
    signing_keys.init(checkout)
    return checkout


@pytest.fixture
def checkout(keys: Project, tmp_path: Path) -> Project:
    """A checkout of the test's own with that key."""
    found = signed.project(tmp_path / "checkout")
    (found.root / "secrets/signing").mkdir(parents=True)
    for name in ("secrets/signing/cosign.key", "secrets/signing/password", "cosign.pub"):
        (found.root / name).write_bytes((keys.root / name).read_bytes())
        (found.root / name).chmod(0o600)
    return found


@pytest.fixture
def pushed(registry: Served, tmp_path: Path) -> Artifact:
    made = signed.artifact(tmp_path / "layouts", registry.address)
    shipyard.publishing.push(Registry(registry.address), made)
    return made


def signatures(registry: Served, digest: str) -> int:
    found = shipyard.attachments.find(Registry(registry.address), "tiny", digest)
    return sum(each.statement is not None and each.statement.kind == cosign.SIGNATURE for each in found)


def counts(registry: Served, made: Artifact) -> list[int]:
    return [signatures(registry, digest) for digest in signing.subjects(made)]


# --- what is signed --------------------------------------------------------------------------------------------------


def test_signing_twice_is_signing_once(registry: Served, pushed: Artifact, checkout: Project) -> None:
    client = Registry(registry.address)
    assert not signing.signed(checkout, client, pushed)
    assert signing.sign(checkout, client, pushed) == (pushed.digest, *(part.digest for part in pushed.parts))
    assert signing.signed(checkout, client, pushed)
    before = len(registry.writes())
    assert signing.sign(checkout, client, pushed) == ()
    assert len(registry.writes()) == before
    assert counts(registry, pushed) == [1, 1, 1]


def test_an_attestation_is_attached_once_to_its_own_digest(
    registry: Served, pushed: Artifact, checkout: Project
) -> None:
    client, platform = Registry(registry.address), pushed.parts[1].digest
    assert signed.attest(checkout, client, pushed, "cyclonedx", signed.sbom(platform), platform)
    before = len(registry.writes())
    assert not signed.attest(checkout, client, pushed, "cyclonedx", signed.sbom(platform), platform)
    assert len(registry.writes()) == before
    asked = (("cyclonedx", platform), ("cyclonedx", pushed.parts[0].digest), ("slsaprovenance1", ""))
    assert [signing.attested(checkout, client, pushed, *each) for each in asked] == [True, False, False]
    (found,) = shipyard.attachments.find(client, "tiny", platform)
    assert found.statement and found.statement.predicate == signed.sbom(platform)


def test_a_registry_with_the_referrers_api(registry: Served, checkout: Project, tmp_path: Path) -> None:
    """Attachments are asked for there, on every page; nothing is signed twice, and no tag of the fallback is written."""
    with registry_proxy.proxy(registry.address) as before:
        before.referrers = True
        client = Registry(before.address)
        made = signed.artifact(tmp_path / "layouts", before.address)
        shipyard.publishing.push(client, made)
        assert shipyard.attachments.find(client, "tiny", made.digest) == ()
        assert len(signing.sign(checkout, client, made)) == 3
        assert signed.attest(checkout, client, made, "slsaprovenance1", signed.provenance())
        assert signing.signed(checkout, client, made)
        assert signing.attested(checkout, client, made, "slsaprovenance1", "")
        assert len(shipyard.attachments.find(client, "tiny", made.digest)) == 2
        assert signing.sign(checkout, client, made) == ()
        assert not signed.attest(checkout, client, made, "slsaprovenance1", signed.provenance())
    assert Registry(registry.address).tags("tiny") == ()


def test_cosign_alone_agrees(registry: Served, pushed: Artifact, checkout: Project) -> None:
    """With the public key and the command that a stranger types; and for another key it refuses, as we do."""
    client = Registry(registry.address)
    signing.sign(checkout, client, pushed)
    signed.attest(checkout, client, pushed, "slsaprovenance1", signed.provenance())
    program, key = signing_keys.program(), checkout.root / "cosign.pub"
    references = [f"{pushed.repository}@{digest}" for digest in signing.subjects(pushed)]
    signing_keys.call(checkout, cosign.verify(program, key, references), password="")
    argv = cosign.verify_attestation(program, key, "slsaprovenance1", [pushed.reference])
    assert '"payloadType":"application/vnd.in-toto+json"' in signing_keys.call(checkout, argv, password="").stdout
    stranger = signed.project(checkout.root / "stranger")
    signing_keys.init(stranger)
    other = replace(stranger, root=stranger.root)
    assert not signing.signed(other, client, pushed)
    with pytest.raises(SigningFailed, match="cosign verify"):
        signing.authenticated(other, registry.address, cosign.verify(program, other.root / "cosign.pub", references))
    # A second owner's signature stands beside the first.
    signing.sign(other, client, pushed)
    assert signing.signed(other, client, pushed)
    assert signing.signed(checkout, client, pushed)
    assert counts(registry, pushed) == [2, 2, 2]


def test_what_older_verifiers_see(registry: Served, pushed: Artifact, checkout: Project) -> None:
    """Bundles that refer to the image are all there is: who looks for signatures where cosign 2 puts them finds none."""
    client, program, key = Registry(registry.address), signing_keys.program(), checkout.root / "cosign.pub"
    signing.sign(checkout, client, pushed)
    argv = cosign.verify(program, key, [pushed.reference])
    for more, reason in (
        ([], ""),
        (["--new-bundle-format=true"], ""),
        (["--new-bundle-format=false"], "no signatures found"),
    ):
        try:
            signing.authenticated(checkout, registry.address, [*argv[:2], *more, *argv[2:]])
            assert not reason
        except SigningFailed as failed:
            assert reason, str(failed)
            assert reason in str(failed)
    legacy = f"{shipyard.attachments.tag(pushed.digest)}.sig"
    assert client.head("tiny", legacy) is None
    attached = [
        client.manifest("tiny", each.digest) for each in shipyard.attachments.find(client, "tiny", pushed.digest)
    ]
    (manifest,) = [json.loads(each[0]) for each in attached if each]
    assert (
        manifest["artifactType"]
        == manifest["layers"][0]["mediaType"]
        == "application/vnd.dev.sigstore.bundle.v0.3+json"
    )
    assert manifest["subject"]["digest"] == pushed.digest


def test_an_image_without_an_index(registry: Served, checkout: Project, tmp_path: Path) -> None:
    made = signed.artifact(tmp_path, registry.address, platforms=("linux/amd64",), single=True)
    client = Registry(registry.address)
    shipyard.publishing.push(client, made)
    assert signing.sign(checkout, client, made) == (made.digest,)


def test_no_request_leaves_the_machine(
    registry: Served, pushed: Artifact, checkout: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is not for 127.0.0.1 goes by a proxy, which is ours and counts; without our options it is asked."""
    with proxied(monkeypatch) as asked:
        client, program = Registry(registry.address), signing_keys.program()
        signing.sign(checkout, client, pushed)
        signed.attest(checkout, client, pushed, "slsaprovenance1", signed.provenance())
        public = checkout.root / "cosign.pub"
        signing.authenticated(checkout, registry.address, cosign.verify(program, public, [pushed.reference]))
        assert asked == []
        argv = cosign.sign(program, signing_keys.private(checkout), [pushed.reference])
        bold = [each for each in argv if each not in ("--tlog-upload=false", "--use-signing-config=false")]
        with pytest.raises((SigningFailed, RegistryFailed)):
            signing.authenticated(checkout, registry.address, bold, sign=True)
        assert asked != []


class proxied:
    """An HTTP proxy that takes note of who comes, and hangs up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._asked: list[str] = []
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{self._socket.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)

    def __enter__(self) -> list[str]:
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self._asked

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self._asked.append(connection.recv(200).decode(errors="replace"))


# --- what breaks in between ------------------------------------------------------------------------------------------

_VERB = """
import sys
from pathlib import Path
import shipyard
from shipyard.artifacts import Artifact
from shipyard.layouts import Layout
folder, checkout, repository = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
found = Layout(folder)
made = Artifact("tiny", "prod", repository, "1.2.3", found.digest, folder, found.parts())
client = shipyard.registry.Registry(repository.partition("/")[0])
print(len(shipyard.signing.sign(shipyard.config.load(checkout), client, made)))
"""


def verb(checkout: Project, made: Artifact) -> subprocess.Popen[str]:
    """Signing as a process of its own, which can be killed."""
    argv = [sys.executable, "-c", _VERB, str(made.layout), str(checkout.root), made.repository]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, cwd=ROOT, env=dict(os.environ), **pipes)  # type: ignore[call-overload,no-any-return]


def tagged(registry: Served) -> list[str]:
    """Each signature that became visible."""
    return [path for method, path, _ in registry.writes() if method == "PUT" and "/manifests/sha256-" in path]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_killed_between_signatures_it_goes_on(
    registry: Served, pushed: Artifact, checkout: Project, after: int
) -> None:
    process = verb(checkout, pushed)
    wait_until(lambda: len(tagged(registry)) >= after, "the first signatures", 30)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    client = Registry(registry.address)
    signing.sign(checkout, client, pushed)
    assert signing.signed(checkout, client, pushed)
    assert counts(registry, pushed) == [1, 1, 1]


def test_the_registry_restarted_in_the_middle(registry: Served, pushed: Artifact, checkout: Project) -> None:
    process = verb(checkout, pushed)
    wait_until(lambda: tagged(registry), "the first signature", 30)
    registry.restart()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert counts(registry, pushed) == [1, 1, 1]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "PAUSES", (0.01, 0.01, 0.01))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("status", "path"), [(429, "/manifests/sha256-"), (503, "/blobs/uploads"), (500, "/manifests")]
)
def test_a_registry_that_is_busy_is_asked_again(
    registry: Served, pushed: Artifact, checkout: Project, status: int, path: str
) -> None:
    with registry_proxy.proxy(registry.address) as before:
        before.faults += [Fault(method, path, "status", 1, status, {"Retry-After": "0"}) for method in ("PUT", "POST")]
        behind = replace(pushed, repository=f"{before.address}/tiny")
        signing.sign(checkout, Registry(before.address), behind)
    assert counts(registry, pushed) == [1, 1, 1]


@pytest.mark.usefixtures("impatient")
def test_a_registry_that_stays_broken_is_its_own_error(registry: Served, pushed: Artifact, checkout: Project) -> None:
    with registry_proxy.proxy(registry.address) as before:
        before.faults.append(Fault("PUT", "/manifests", "status", 1000, 429))
        behind = replace(pushed, repository=f"{before.address}/tiny")
        with pytest.raises(RegistryFailed, match=f"{before.address} broke off while cosign was to sign"):
            signing.sign(checkout, Registry(before.address), behind)
    assert not signing.signed(checkout, Registry(registry.address), pushed)


def test_what_was_never_pushed(registry: Served, checkout: Project, tmp_path: Path) -> None:
    made = signed.artifact(tmp_path, registry.address)
    with pytest.raises(SigningFailed, match=f"the image is not in {registry.address}; `invoke push`"):
        signing.sign(checkout, Registry(registry.address), made)


def test_a_read_only_registry(registry: Served, pushed: Artifact, checkout: Project) -> None:
    registry.configure(registries.READ_ONLY)
    registry.restart()
    with pytest.raises(AccessDenied, match="does not let cosign sign"):
        signing.sign(checkout, Registry(registry.address), pushed)


def test_logins(tmp_path: Path, checkout: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosign gets the login that our own client has, from wherever; no password shows in an error, none stays behind."""
    settings = registries.htpasswd(tmp_path / "htpasswd", "somebody", "correct-horse")
    with registries.running(tmp_path / "closed", settings) as served:
        made = signed.artifact(tmp_path / "layouts", served.address)
        registries.login(monkeypatch, tmp_path, "somebody", "correct-horse")
        client = Registry(served.address)
        shipyard.publishing.push(client, made)
        assert len(signing.sign(checkout, client, made)) == 3
        registries.login(monkeypatch, tmp_path, "somebody", "battery-staple")
        argv = cosign.sign(signing_keys.program(), signing_keys.private(checkout), [made.reference])
        with pytest.raises(AccessDenied) as refused:
            signing.authenticated(checkout, served.address, argv, sign=True)
        assert "battery-staple" not in str(refused.value)
    assert list((checkout.state / "cosign").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "referrers"), [("noise", False), ("no-headers", False), ("half-head", True), ("digest", True)]
)
def test_a_garbled_answer_is_asked_for_again(
    registry: Served, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, referrers: bool
) -> None:
    """One in each place, all in one signing and attesting; every kind: tests/long/test_garbled_answers.py."""
    monkeypatch.setattr(signing, "PAUSES", (0.01,) * 10)  # cosign meets one at a time
    garbled.sign(registry.address, checkout, tmp_path / "layouts", kind, referrers=referrers)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["no-http", "no-headers"])
def test_answers_that_stay_garbled_are_the_registrys_error(
    registry: Served, pushed: Artifact, checkout: Project, kind: str
) -> None:
    with registry_proxy.proxy(registry.address) as before:
        client = Registry(before.address)
        before.faults.append(Fault("POST", "/uploads", kind, 1000))
        before.faults.append(Fault("PATCH", "/uploads", kind, 1000))
        before.faults.append(Fault("PUT", "/manifests", kind, 1000))
        with pytest.raises(RegistryFailed):
            signing.sign(checkout, client, replace(pushed, repository=f"{before.address}/tiny"))


# --- keys ------------------------------------------------------------------------------------------------------------


def test_init_makes_a_pair_once(tmp_path: Path) -> None:
    checkout = signed.project(tmp_path)
    made = signing_keys.init(checkout).created
    assert made == ("secrets/signing/password", "secrets/signing/cosign.key", "cosign.pub")
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in (*made, "secrets/signing")}
    assert modes == dict(zip((*made, "secrets/signing"), (0o600, 0o600, 0o644, 0o700), strict=True))
    assert signing_keys.faults(checkout) == ()
    before = {name: (tmp_path / name).read_bytes() for name in made}
    assert signing_keys.init(checkout).created == ()
    # Killed before the public half was written, it is made from the private one.
    (tmp_path / "cosign.pub").unlink()
    assert signing_keys.init(checkout).created == ("cosign.pub",)
    assert {name: (tmp_path / name).read_bytes() for name in made} == before
    # Somebody else's clone has the public half alone.
    (tmp_path / "secrets/signing/cosign.key").unlink()
    with pytest.raises(SigningFailed, match="its private half is not"):
        signing_keys.init(checkout)


def test_a_key_in_a_variable(
    registry: Served, pushed: Artifact, checkout: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pipeline has it: nothing below secrets/."""
    place = checkout.root / "secrets/signing"
    monkeypatch.setenv("COSIGN_PRIVATE_KEY", (place / "cosign.key").read_text())
    monkeypatch.setenv("COSIGN_PASSWORD", (place / "password").read_text().strip())
    monkeypatch.setenv("SHIPYARD_SIGNING_KEY", "env://COSIGN_PRIVATE_KEY")
    for path in place.iterdir():
        path.unlink()
    assert signing_keys.faults(checkout) == ()
    assert len(signing.sign(checkout, Registry(registry.address), pushed)) == 3


def test_a_wrong_password(
    registry: Served, pushed: Artifact, checkout: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "not-this-one")
    (fault,) = signing_keys.faults(checkout)
    assert "its password is wrong; set COSIGN_PASSWORD" in str(fault)
    with pytest.raises(SigningFailed, match="password is wrong") as failed:
        signing.sign(checkout, Registry(registry.address), pushed)
    assert "not-this-one" not in str(failed.value)
    assert counts(registry, pushed) == [0, 0, 0]


def test_another_s_public_key(checkout: Project, tmp_path: Path) -> None:
    other = signed.project(tmp_path / "other")
    signing_keys.init(other)
    (checkout.root / "cosign.pub").write_bytes((other.root / "cosign.pub").read_bytes())
    (fault,) = signing_keys.faults(checkout)
    assert "is not the public half of the signing key" in str(fault)


def test_a_key_that_is_none(checkout: Project) -> None:
    (checkout.root / "secrets/signing/cosign.key").write_text("no key\n")
    (checkout.root / "cosign.pub").write_text("no key either\n")
    first, second = signing_keys.faults(checkout)
    assert "invalid pem block" in str(first)
    assert "cosign.pub is no public key of cosign's" in str(second)
