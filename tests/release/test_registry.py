"""The registry's client and publishing against Debian's docker-registry, and against everything that goes wrong there."""

from __future__ import annotations

import base64
import json
import logging
import secrets
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from shipyard import oci, publishing
from shipyard.artifacts import Artifact
from shipyard.errors import AccessDenied, BuildFailed, RegistryFailed
from shipyard.layouts import Layout
from shipyard.registry import Registry
from tests.support import own_engine, registries
from tests.support.registry_proxy import Fault, Proxy, proxy, tls, token_service, tunnel
from tests.support.service import wait_until

#: Bytes that gzip cannot make smaller, for pushes that take a moment.
LARGE = 64_000_000


@pytest.fixture
def image(tmp_path: Path, registry: registries.Served) -> Artifact:
    return registries.artifact(tmp_path / "tiny", registry.address)


@pytest.fixture
def faulty(registry: registries.Served) -> Iterator[Proxy]:
    with proxy(registry.address) as found:
        yield found


def pushed(address: str, image: Artifact, **options: Any) -> publishing.Pushed:
    return publishing.push(Registry(address, **options), image)


def test_what_is_pushed_is_what_is_read(registry: registries.Served, image: Artifact) -> None:
    client, layout = Registry(registry.address), Layout(image.layout)
    assert not publishing.present(client, image)
    done = publishing.push(client, image)

    blobs = {each.digest: each.size for part in layout.parts() for each in layout.blobs(part)}
    assert (done.sent, done.bytes, done.skipped) == (len(blobs), sum(blobs.values()), 0)
    assert publishing.present(client, image)
    assert client.tags("tiny") == ()
    assert client.manifest("tiny", image.digest) == (layout.raw(image.digest), oci.INDEX, image.digest)
    for part in layout.parts():
        assert client.head("tiny", part.digest) == part.digest
        config = layout.blobs(part)[0].digest
        assert client.blob("tiny", config) == layout.raw(config)
    assert all(client.has_blob("tiny", each) for each in blobs)
    assert all(line["http.request.useragent"] == "shipyard" for line in log_lines(registry))


def log_lines(registry: registries.Served) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in registry.log.read_text().splitlines() if "response completed" in line]
    return [line for line in lines if line["http.request.uri"] != "/"]


def test_a_second_push_writes_nothing_and_a_third_only_what_is_new(
    registry: registries.Served, image: Artifact, tmp_path: Path
) -> None:
    pushed(registry.address, image)
    before = registry.writes()
    assert before
    again = pushed(registry.address, image)
    assert (again.sent, again.bytes) == (0, 0)
    assert again.skipped == 5  # two configs, two layers of their own, one that both share
    assert registry.writes() == before

    changed = registries.artifact(tmp_path / "changed", registry.address, text=b"one line more")
    done = pushed(registry.address, changed)
    assert (done.sent, done.skipped) == (4, 1)  # the layer that both platforms share


def test_a_layer_of_a_sibling_is_mounted_and_not_sent(
    registry: registries.Served, image: Artifact, tmp_path: Path
) -> None:
    pushed(registry.address, image)
    sibling = registries.artifact(tmp_path / "sibling", registry.address, name="other")
    done = publishing.push(Registry(registry.address), sibling, mount=("nobody", "tiny"))
    assert (done.sent, done.skipped) == (0, 5)
    assert publishing.present(Registry(registry.address), sibling)


def test_what_is_not_there_is_none(registry: registries.Served) -> None:
    client, nothing = Registry(registry.address), oci.digest(b"nothing")
    assert client.ping() is not None
    assert client.head("none", "1.0.0") is None
    assert client.head("none", nothing) is None
    assert client.manifest("none", "latest") is None
    assert client.blob("none", nothing) is None
    assert not client.has_blob("none", nothing)
    assert client.tags("none") == ()


def test_tags_move_only_where_they_differ(registry: registries.Served, image: Artifact, tmp_path: Path) -> None:
    client, tags = Registry(registry.address), ("1.2.3", "1.2", "latest")
    publishing.push(client, image)
    moved = publishing.move(client, image, tags)
    assert [(each.tag, each.before, each.after) for each in moved] == [(each, None, image.digest) for each in tags]
    assert publishing.tags_of(client, image, tags) == dict.fromkeys(tags, image.digest)
    assert client.tags("tiny") == ("1.2", "1.2.3", "latest")

    newer = registries.artifact(tmp_path / "newer", registry.address, version="1.3.0", text=b"newer")
    publishing.push(client, newer)
    client.push_manifest("tiny", "1.3.0", *client.manifest("tiny", newer.digest)[:2])  # type: ignore[index]
    before = len(registry.writes())
    moved = publishing.move(client, newer, ("1.3.0", "1.3", "latest"))
    assert [(each.tag, each.before) for each in moved] == [("1.3", None), ("latest", image.digest)]
    assert len(registry.writes()) == before + 2
    assert publishing.move(client, newer, ("1.3.0", "1.3", "latest")) == []
    assert client.manifest("tiny", "latest") == client.manifest("tiny", newer.digest)


def test_a_tag_is_not_moved_to_what_is_not_there(registry: registries.Served, image: Artifact) -> None:
    with pytest.raises(RegistryFailed, match="is not in the registry, so latest cannot name it"):
        publishing.move(Registry(registry.address), image, ("latest",))


def test_other_bytes_than_were_tested_are_not_pushed(
    registry: registries.Served, image: Artifact, tmp_path: Path
) -> None:
    registries.layout(image.layout, text=b"built again")
    with pytest.raises(BuildFailed, match="that was tested; something changed it since"):
        pushed(registry.address, image)
    assert registry.writes() == []


@pytest.mark.parametrize("change", ["bytes", "shorter", "longer"])
def test_a_file_that_changed_after_the_tests_is_not_pushed(
    registry: registries.Served, image: Artifact, change: str
) -> None:
    layout = Layout(image.layout)
    blob = layout.blob(layout.blobs(image.parts[0])[-1].digest)
    data = blob.read_bytes()
    blob.write_bytes({"bytes": data[:-1] + b"?", "shorter": data[:-1], "longer": data + b"?"}[change])
    with pytest.raises(BuildFailed, match="something changed it since it was built and tested"):
        pushed(registry.address, image)
    client = Registry(registry.address)
    assert client.head("tiny", image.digest) is None
    assert not client.has_blob("tiny", layout.blobs(image.parts[0])[-1].digest)
    blob.write_bytes(data)
    pushed(registry.address, image)
    assert client.head("tiny", image.digest) == image.digest


def test_a_manifest_that_was_tampered_with_is_refused(registry: registries.Served, image: Artifact) -> None:
    client, part = Registry(registry.address), image.parts[0]
    publishing.push(client, image)
    stored = registry.blob(part.digest)
    stored.write_bytes(stored.read_bytes().replace(b'"schemaVersion": 2', b'"schemaVersion":  2'))
    with pytest.raises(RegistryFailed, match=f"the bytes of {part.digest} are sha256:"):
        client.manifest("tiny", part.digest)
    config = Layout(image.layout).blobs(image.parts[1])[0].digest
    stored = registry.blob(config)
    stored.write_bytes(stored.read_bytes().replace(b"linux", b"linuX"))
    with pytest.raises(RegistryFailed, match=f"the bytes of {config} are sha256:"):
        client.blob("tiny", config)


# Logins.


def test_a_password_is_asked_for_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user, password = "releaser", secrets.token_urlsafe(16)
    with registries.running(tmp_path / "r", registries.htpasswd(tmp_path, user, password)) as served:
        image = registries.artifact(tmp_path / "tiny", served.address)
        with pytest.raises(AccessDenied, match=r"without a login .*docker login"):
            Registry(served.address).ping()
        wrong = secrets.token_urlsafe(16)
        registries.login(monkeypatch, tmp_path, user, wrong)
        with pytest.raises(AccessDenied, match="SHIPYARD_REGISTRY_PASSWORD_FILE") as refused:
            pushed(served.address, image)
        assert wrong not in str(refused.value)
        registries.login(monkeypatch, tmp_path, user, password)
        Registry(served.address).writable("tiny")
        assert pushed(served.address, image).sent == 5

        for name in ("USERNAME", "PASSWORD_FILE"):
            monkeypatch.delenv(f"SHIPYARD_REGISTRY_{name}")
        folder = registries.docker_login(tmp_path / "docker", served.address, user, password)
        monkeypatch.setenv("DOCKER_CONFIG", str(folder))
        assert publishing.present(Registry(served.address), image)


def test_a_read_only_registry_is_named_as_such(tmp_path: Path) -> None:
    with registries.running(tmp_path / "r", registries.READ_ONLY) as served:
        image = registries.artifact(tmp_path / "tiny", served.address)
        client = Registry(served.address)
        assert client.ping() is not None
        with pytest.raises(AccessDenied, match="read-only"):
            client.writable("tiny")
        with pytest.raises(AccessDenied, match="read-only"):
            publishing.push(client, image)


def test_a_token_service_is_asked_for_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password = secrets.token_urlsafe(16)
    with (
        token_service(tmp_path, "releaser", password) as service,
        registries.running(tmp_path / "r", service.settings) as served,
    ):
        image = registries.artifact(tmp_path / "tiny", served.address)
        registries.login(monkeypatch, tmp_path, "releaser", password)
        client = Registry(served.address)
        client.ping()
        assert publishing.push(client, image).sent == 5
        publishing.move(client, image, ("latest",))
        assert client.head("tiny", "latest") == image.digest
        kinds = {" ".join(scopes) for scopes in service.asked}
        assert kinds == {"", "repository:tiny:pull", "repository:tiny:pull,push"}

        # A token file alone is sent as it is.
        token = tmp_path / "token"
        token.write_text(service.token(["repository:tiny:pull"]))
        monkeypatch.delenv("SHIPYARD_REGISTRY_USERNAME")
        monkeypatch.setenv("SHIPYARD_REGISTRY_TOKEN_FILE", str(token))
        asked = len(service.asked)
        other = Registry(served.address)
        assert other.head("tiny", "latest") == image.digest
        with pytest.raises(AccessDenied, match="SHIPYARD_REGISTRY_TOKEN_FILE") as refused:
            other.writable("tiny")
        assert token.read_text() not in str(refused.value)
        assert len(service.asked) == asked


def test_a_token_that_expired_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password = secrets.token_urlsafe(16)
    with (
        token_service(tmp_path, "releaser", password) as service,
        registries.running(tmp_path / "r", service.settings) as served,
    ):
        registries.login(monkeypatch, tmp_path, "releaser", password)
        client = Registry(served.address)
        assert client.tags("tiny") == ()
        # As if it had been given a while ago; the registry allows clocks to differ by a minute.
        service.seconds = -120
        client._client._tokens["repository:tiny:pull"] = service.token(["repository:tiny:pull"])
        service.seconds = 60
        given = len(service.given)
        assert client.tags("tiny") == ()
        assert len(service.given) == given + 1


def test_a_wrong_password_at_a_token_service_is_not_repeated_by_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        token_service(tmp_path, "releaser", secrets.token_urlsafe(16)) as service,
        registries.running(tmp_path / "r", service.settings) as served,
    ):
        wrong = secrets.token_urlsafe(16)
        registries.login(monkeypatch, tmp_path, "releaser", wrong)
        with pytest.raises(AccessDenied) as refused:
            Registry(served.address).ping()
        # The service tells in its error what it was sent.
        assert "no: Basic [REDACTED]" in str(refused.value)
        assert wrong not in str(refused.value)


# What goes wrong on the way.


@pytest.mark.parametrize(
    "fault",
    [
        Fault("HEAD", "/blobs/", "status", 2, 429, {"Retry-After": "1"}),
        Fault("POST", "/blobs/uploads/", "status", 3, 503),
        Fault("PUT", "/blobs/uploads/", "status", 2, 500),
        Fault("PUT", "/manifests/", "status", 2, 502),
        Fault("PUT", "/blobs/uploads/", "cut-request", 2),
        Fault("PUT", "/manifests/", "cut-request", 2),
        Fault("HEAD", "/manifests/", "digest", 1),
        Fault("PUT", "/manifests/", "digest", 1),
        Fault("PUT", "/blobs/uploads/", "lost-upload", 2, 404),
    ],
    ids=lambda fault: f"{fault.method} {fault.text} {fault.kind} {fault.status}",
)
def test_a_push_survives_what_passes(fault: Fault, registry: registries.Served, faulty: Proxy, tmp_path: Path) -> None:
    image = registries.artifact(tmp_path / "tiny", faulty.address, text=secrets.token_bytes(100_000))
    publishing.push(Registry(faulty.address), registries.artifact(tmp_path / "warm", faulty.address, text=b"before"))
    faulty.faults.append(fault)
    done = pushed(faulty.address, image)
    assert fault.times == 0
    assert (done.sent, done.skipped) == (4, 1) or fault.kind == "digest"
    assert publishing.present(Registry(registry.address), here(image, registry))


def here(image: Artifact, registry: registries.Served) -> Artifact:
    """The same artifact as the registry itself sees it, without the proxy."""
    repository = f"{registry.address}/{image.name}"
    return Artifact(image.name, image.target, repository, image.tag, image.digest, image.layout, image.parts)


@pytest.mark.parametrize("kind", ["cut-answer", "digest"])
def test_a_read_survives_what_passes(kind: str, registry: registries.Served, faulty: Proxy, image: Artifact) -> None:
    pushed(registry.address, image)
    faulty.faults.append(Fault("GET", "/manifests/", kind, 2))
    found = Registry(faulty.address).manifest("tiny", image.digest)
    assert found is not None
    assert found[2] == image.digest
    assert faulty.faults[0].times == 0


def test_patience_ends(faulty: Proxy) -> None:
    client = Registry(faulty.address, patience=1)
    faulty.faults.append(Fault("GET", "/v2/", "status", 1000, 503))
    with pytest.raises(RegistryFailed, match="status 503 NO not now"):
        client.ping()
    assert len(faulty.seen) > 1
    faulty.faults[:] = [Fault("GET", "/v2/", "status", 1, 429, {"Retry-After": "3600"})]
    with pytest.raises(RegistryFailed, match="asks to wait 3600 s"):
        client.tags("tiny")


def test_a_registry_that_is_not_there_is_named() -> None:
    (closed,) = registries.free_ports(1)
    with pytest.raises(RegistryFailed, match=f"127.0.0.1:{closed}: .*Connection refused.*is the registry up"):
        Registry(f"127.0.0.1:{closed}", patience=0.1).ping()


def test_a_registry_killed_in_the_middle_of_a_push_and_restarted(registry: registries.Served, tmp_path: Path) -> None:
    image = registries.artifact(
        tmp_path / "tiny", registry.address, text=secrets.token_bytes(LARGE), platforms=("linux/amd64",)
    )
    uploads = registry.storage / "docker/registry/v2/repositories/tiny/_uploads"

    def arriving() -> bool:
        """Whether a megabyte of the large layer is there; other uploads come and go meanwhile."""
        with suppress(FileNotFoundError):
            return any(path.stat().st_size > 1_000_000 for path in uploads.glob("*/data"))
        return False

    def kill() -> None:
        wait_until(arriving, "the first megabyte of a layer")
        registry.restart()

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        done = pushed(registry.address, image)
        killed.result()
    assert done.bytes > LARGE
    assert len([each for each in registry.requests() if each[0] == "POST"]) > 3, "it was killed too late"
    assert publishing.present(Registry(registry.address), image)


def test_pushes_of_the_same_image_at_once(registry: registries.Served, tmp_path: Path) -> None:
    image = registries.artifact(tmp_path / "tiny", registry.address, text=secrets.token_bytes(1_000_000))
    start = threading.Barrier(4)

    def push(_: int) -> publishing.Pushed:
        start.wait()
        return pushed(registry.address, image)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(push, range(4)))
    assert all(each.sent + each.skipped == 5 for each in done)
    assert publishing.present(Registry(registry.address), image)


def test_the_first_failure_ends_the_other_uploads(registry: registries.Served, faulty: Proxy, tmp_path: Path) -> None:
    image = registries.artifact(tmp_path / "tiny", faulty.address, text=secrets.token_bytes(100_000))
    faulty.faults.append(Fault("POST", "/blobs/uploads/", "status", 1, 403))
    with pytest.raises(AccessDenied, match="status 403"):
        pushed(faulty.address, image)
    assert not [path for method, path, _ in faulty.seen if method == "PUT" and "/manifests/" in path]


def test_a_login_goes_to_nobody_else(
    registry: registries.Served, faulty: Proxy, image: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry may send a reader to where it keeps its blobs; what is not HTTPS and not this machine is refused."""
    pushed(registry.address, image)
    registries.login(monkeypatch, tmp_path, "releaser", secrets.token_urlsafe(16))
    path = f"/v2/tiny/manifests/{image.digest}"
    challenge = {"WWW-Authenticate": 'Basic realm="tests"'}
    with proxy(registry.address) as store:
        redirect = {"Location": f"http://{store.address}{path}"}
        faulty.faults += [
            Fault("GET", path, "status", 1, 401, challenge),
            Fault("GET", path, "status", 1, 307, redirect),
        ]
        client = Registry(faulty.address)
        assert client.manifest("tiny", image.digest) is not None
        assert [bool(headers.get("Authorization")) for _, _, headers in faulty.seen] == [False, True]
        assert [(method, "Authorization" in headers) for method, _, headers in store.seen] == [("GET", False)]

    faulty.faults[:] = [Fault("GET", path, "status", 1, 307, {"Location": "http://192.0.2.1/blob"})]
    with pytest.raises(RegistryFailed, match=r"sends us to http://192.0.2.1, which is not HTTPS"):
        client.manifest("tiny", image.digest)
    realm = {"WWW-Authenticate": 'Bearer realm="http://192.0.2.1/token",service="x"'}
    faulty.faults[:] = [Fault("GET", path, "status", 1, 401, realm)]
    with pytest.raises(AccessDenied, match=r"token service without TLS \(192.0.2.1\)"):
        client.manifest("tiny", image.digest)
    faulty.faults[:] = [Fault("GET", path, "status", 9, 302, {"Location": path})]
    with pytest.raises(RegistryFailed, match="redirects without end"):
        client.manifest("tiny", image.digest)


def test_any_other_registry_is_spoken_to_by_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = registries.free_ports(1)
    address = f"127.0.0.2:{port}"
    with registries.running(tmp_path / "r", tls(tmp_path, address)) as served:
        image = registries.artifact(tmp_path / "tiny", served.address)
        with pytest.raises(RegistryFailed, match=r"no TLS that can be trusted .*SSL_CERT_FILE"):
            Registry(served.address).ping()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.pem"))
        assert pushed(served.address, image).sent == 5
        assert publishing.present(Registry(served.address), image)


def test_a_proxy_leads_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = registries.free_ports(1)
    settings = tls(tmp_path, address := f"10.9.9.9:{port}")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.pem"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    with own_engine.apart(), ExitStack() as running:
        # No loopback address, for which no proxy is asked.
        subprocess.run(["ip", "address", "add", "10.9.9.9/32", "dev", "lo"], check=True)
        served = running.enter_context(registries.running(tmp_path / "r", settings))
        between = running.enter_context(tunnel())
        monkeypatch.setenv("HTTPS_PROXY", f"http://somebody:p%40ss@{between.address}")
        image = registries.artifact(tmp_path / "tiny", address)
        assert pushed(address, image).sent == 5
        assert set(between.asked) == {(address, "Basic " + base64.b64encode(b"somebody:p@ss").decode())}
        before = len(between.asked)
        monkeypatch.setenv("NO_PROXY", "example.org,10.9.0.0/16")
        assert publishing.present(Registry(served.address), image)
        assert len(between.asked) == before
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("HTTPS_PROXY", f"somebody:p%40ss@127.0.0.1:{registries.free_ports(1)[0]}")
        with pytest.raises(RegistryFailed, match="no answer from") as failed:
            Registry(address, patience=0.1).ping()
        assert "p%40ss" not in str(failed.value)


def test_a_list_without_an_end_is_told(registry: registries.Served, tmp_path: Path) -> None:
    image = registries.artifact(tmp_path / "tiny", registry.address)
    pushed(registry.address, image)
    path = "/v2/tiny/tags/list?n=1000"
    with proxy(registry.address) as between:
        circle = Fault("GET", "tags/list", "status", times=9, status=200, headers={"link": f'<{path}>; rel="next"'})
        between.faults = [circle]
        with pytest.raises(RegistryFailed, match="its list of tags of tiny has no end: 2 pages"):
            Registry(between.address).tags("tiny")
        assert len([each for each in between.seen if "tags/list" in each[1]]) == 2


def test_a_web_page_is_no_registry(registry: registries.Served) -> None:
    with proxy(registry.address) as between:
        between.faults = [Fault("GET", "/v2/", "status", times=9, status=200, headers={"content-type": "text/html"})]
        with pytest.raises(RegistryFailed, match="answers /v2/ with a web page"):
            Registry(between.address).ping()


def test_an_endless_answer_is_not_read(registry: registries.Served, tmp_path: Path) -> None:
    image = registries.artifact(tmp_path / "tiny", registry.address, text=secrets.token_bytes(100_000))
    client = Registry(registry.address)
    publishing.push(client, image)
    layer = max((each for part in Layout(image.layout).parts() for each in part.layers), key=len)
    with pytest.raises(RegistryFailed, match="more than 65536 bytes"):
        large = registries.artifact(
            image.layout.with_name("large"), registry.address, text=secrets.token_bytes(100_000)
        )
        publishing.push(client, large)
        client.blob("tiny", large.parts[0].layers[-1], limit=1000)
    assert client.blob("tiny", layer) is not None


def test_no_log_and_no_error_has_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The most talkative settings, every kind of failure: neither the password nor a token shows up anywhere."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SHIPYARD_TRACE", "1")
    password = secrets.token_urlsafe(16)
    with (
        token_service(tmp_path, "releaser", password) as service,
        registries.running(tmp_path / "r", service.settings) as served,
        proxy(served.address) as faulty,
    ):
        registries.login(monkeypatch, tmp_path, "releaser", password)
        image = registries.artifact(tmp_path / "tiny", faulty.address)
        pushed(faulty.address, image)
        client = Registry(faulty.address, patience=0.3)
        said = [repr(vars(client)), repr(vars(client._client)["_login"])]
        for fault in (
            Fault("HEAD", "/", "status", 9, 503),
            Fault("HEAD", "/", "status", 9, 418),
            Fault("HEAD", "/", "cut-request", 9),
            Fault("HEAD", "/", "status", 9, 403),
            Fault("HEAD", "/", "digest", 9),
        ):
            faulty.faults[:] = [fault]
            with pytest.raises((RegistryFailed, AccessDenied)) as failed:
                client.head("tiny", image.digest)
            said.append(str(failed.value) + repr(failed.value))
        text = "\n".join([*said, caplog.text, *capfd.readouterr(), served.log.read_text()])
        assert service.given
        assert [each for each in (password, *service.given) if each in text] == []


def test_a_stranger_pulls_what_was_pushed(registry: registries.Served, image: Artifact) -> None:
    """curl stands for any other client: the tag, the platforms and a layer, by nothing but the specification."""
    client = Registry(registry.address)
    publishing.push(client, image)
    publishing.move(client, image, ("1.2.3",))
    index = json.loads(curl(f"{registry.address}/v2/tiny/manifests/1.2.3", oci.INDEX))
    assert [oci.platform(each["platform"]) for each in index["manifests"]] == list(registries.PLATFORMS)
    manifest = json.loads(curl(f"{registry.address}/v2/tiny/manifests/{index['manifests'][1]['digest']}", oci.MANIFEST))
    layer = manifest["layers"][-1]["digest"]
    assert oci.digest(curl(f"{registry.address}/v2/tiny/blobs/{layer}", "*/*")) == layer


def curl(url: str, accept: str) -> bytes:
    argv = ["curl", "--silent", "--fail", "--noproxy", "*", "--header", f"Accept: {accept}", f"http://{url}"]
    return subprocess.run(argv, check=True, capture_output=True, timeout=30).stdout
