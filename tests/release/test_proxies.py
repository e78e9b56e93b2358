"""The toolkit, cosign and docker go the same way to a registry: each is asked for the same place, and a proxy says who came.

All of it in a network namespace with nothing but loopback: a direct connection fails at once.
"""

from __future__ import annotations

import base64
import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from shipyard import proxies
from shipyard.engine import packages
from shipyard.errors import ConfigError, RegistryFailed
from shipyard.registry import Registry
from tests.support.own_engine import apart

OTHER = "b.example,10.9.0.0/16"
#: NO_PROXY, and a registry that it may be about.
EXCEPTIONS = (
    *(
        ("", "a.example"),
        ("*", "a.example"),
        ("a.example", "a.example"),
        ("a.example", "b.a.example"),
        ("a.example", "xa.example"),
    ),
    *(
        (".a.example", "a.example"),
        (".a.example", "b.a.example"),
        ("*.a.example", "a.example"),
        ("*.a.example", "b.a.example"),
    ),
    *(("a.example:443", "a.example"), ("a.example:8443", "a.example"), ("a.example:8443", "a.example:8443")),
    *(
        ("A.EXAMPLE", "a.example"),
        (" a.example ,x", "a.example"),
        ("x a.example", "a.example"),
        ("a.example.", "a.example"),
    ),
    *(
        ("https://a.example", "a.example"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3:443", "10.1.2.3"),
        ("10.1.2.3:80", "10.1.2.3"),
    ),
    *(("10.0.0.0/8", "10.1.2.3"), ("10.0.0.0/8", "11.1.2.3"), ("10.1.*", "10.1.2.3"), ("10.1.2.3/8", "10.1.2.3:8443")),
    *(
        ("2001:db8::/32", "[2001:db8::5]:443"),
        ("[2001:db8::5]", "[2001:db8::5]:443"),
        ("2001:db8::5", "[2001:db8::5]:443"),
    ),
    *(
        ("[2001:db8::5]:443", "[2001:db8::5]:443"),
        ("2001:db9::/32", "[2001:db8::5]:443"),
        (OTHER, "127.9.9.9:9"),
        (OTHER, "10.9.1.1"),
    ),
)


class Proxy(socketserver.ThreadingTCPServer):
    """Refuses every CONNECT; ``asked`` has the login of each, by which a test knows its client again, and the place."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Refusing)
        self.asked: set[tuple[str, str]] = set()

    def url(self, login: str, form: str = "http://{login}:x@127.0.0.1:{port}") -> str:
        return form.format(login=login, port=self.server_address[1])


class _Refusing(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        method, place, _ = self.rfile.readline().decode().split(" ", 2)
        lines = iter(lambda: self.rfile.readline().strip().decode(), "")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        login = (
            base64.b64decode(headers.get("proxy-authorization", "Basic ").split(" ", 1)[-1]).decode().partition(":")[0]
        )
        assert isinstance(self.server, Proxy)
        self.server.asked.add((login, f"{method} {place}"))
        self.wfile.write(b"HTTP/1.1 403 no\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with apart(), serving(Proxy()) as found:
        yield found


@contextmanager
def serving(server: Proxy) -> Iterator[Proxy]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def environment(**variables: str) -> dict[str, str]:
    """Nothing of the caller's that decides about proxies."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept.pop("REQUEST_METHOD", None)
    return {**kept, **variables}


def cosign(place: str, variables: dict[str, str], folder: Path) -> None:
    argv = [packages.binaries() / "cosign", "tree", f"{place}/name:1"]
    env = {**environment(**variables), "HOME": str(folder), "DOCKER_CONFIG": str(folder)}
    subprocess.run(argv, env=env, check=False, capture_output=True, timeout=60)


def ours(place: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        for name in os.environ:
            if name.lower().endswith("_proxy"):
                patched.delenv(name)
        for name, value in variables.items():
            patched.setenv(name, value)
        with pytest.raises(RegistryFailed):
            Registry(place, patience=0.0).ping()


def test_no_proxy(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages.ensure()
    cases = [({"NO_PROXY": each}, place) for each, place in EXCEPTIONS]
    cases += [({"no_proxy": each}, place) for each, place in EXCEPTIONS[2:4]]
    cases.append(({"NO_PROXY": "a.example", "no_proxy": "b.example"}, "b.example"))

    def told(number: int, who: str) -> None:
        variables, place = cases[number]
        named = {**variables, "HTTPS_PROXY": proxy.url(f"{who}-{number}")}
        if who == "cosign":
            cosign(place, named, tmp_path)
        else:
            ours(place, named, monkeypatch)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: told(number, "cosign"), range(len(cases))))
    for number in range(len(cases)):
        told(number, "ours")
    came = {
        who: {login.partition("-")[2] for login, _ in proxy.asked if login.startswith(who)}
        for who in ("cosign", "ours")
    }
    assert [cases[int(number)] for number in came["cosign"] ^ came["ours"]] == []
    assert 10 < len(came["ours"]) < len(cases) - 10, "both ways are taken"
    places = {login.partition("-")[2]: place for login, place in proxy.asked if login.startswith("cosign")}
    assert places == {login.partition("-")[2]: place for login, place in proxy.asked if login.startswith("ours")}


@pytest.mark.parametrize(
    ("variables", "who"),
    [
        ({"HTTPS_PROXY": "upper", "https_proxy": "lower"}, "upper"),
        ({"https_proxy": "lower"}, "lower"),
        ({"HTTPS_PROXY": "", "https_proxy": "lower"}, "lower"),
        ({"HTTPS_PROXY": "upper", "REQUEST_METHOD": "GET"}, "upper"),
        ({"ALL_PROXY": "all", "all_proxy": "all", "HTTP_PROXY": "plain", "http_proxy": "plain"}, ""),
        ({"HTTPS_PROXY": "{login}:x@127.0.0.1:{port}"}, "bare"),
    ],
)
def test_which_variable_counts(
    proxy: Proxy, variables: dict[str, str], who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {
        name: proxy.url("bare", value)
        if "{" in value
        else proxy.url(value)
        if value and name != "REQUEST_METHOD"
        else value
        for name, value in variables.items()
    }
    for ask in (lambda: cosign("a.example", named, tmp_path), lambda: ours("a.example", named, monkeypatch)):
        proxy.asked.clear()
        ask()
        assert proxy.asked == ({(who, "CONNECT a.example:443")} if who else set())


def test_docker_goes_the_same_way(proxy: Proxy, tmp_path: Path) -> None:
    """By HTTP, as to an engine at tcp://: there HTTP_PROXY counts, and what looks like a client's header does not."""
    docker = packages.binaries() / "docker"
    for more in (
        {},
        {"NO_PROXY": "10.0.0.0/8"},
        {"NO_PROXY": "[2001:db8::5]:2375"},
        {"NO_PROXY": "x", "no_proxy": "a.example"},
    ):
        for place in ("a.example:2375", "10.1.2.3:2375", "[2001:db8::5]:2375", "127.0.0.1:9"):
            named = {**more, "HTTP_PROXY": proxy.url("upper"), "http_proxy": proxy.url("lower")}
            proxy.asked.clear()
            argv = [docker, "--host", f"tcp://{place}", "version"]
            env = {**environment(**named), "DOCKER_CONFIG": str(tmp_path)}
            subprocess.run(argv, env=env, check=False, capture_output=True, timeout=60)
            came = {login for login, _ in proxy.asked}
            assert came == ({"upper"} if proxies.find(f"http://{place}/", named) == proxy.url("upper") else set()), (
                more,
                place,
            )


class _Socks(socketserver.StreamRequestHandler):
    """A SOCKS5 proxy (RFC 1928) that says which host it is to reach, and that it may not."""

    def handle(self) -> None:
        count = self.rfile.read(2)[1]
        login = ""
        if 2 in self.rfile.read(count):
            self.wfile.write(b"\x05\x02")
            login = self.rfile.read(self.rfile.read(2)[1]).decode()
            self.rfile.read(self.rfile.read(1)[0])
            self.wfile.write(b"\x01\x00")
        else:
            self.wfile.write(b"\x05\x00")
        kind = self.rfile.read(4)[3]
        size = {1: 4, 4: 16}.get(kind) or self.rfile.read(1)[0]
        address = self.rfile.read(size)
        host = (
            address.decode() if kind == 3 else socket.inet_ntop({1: socket.AF_INET, 4: socket.AF_INET6}[kind], address)
        )
        assert isinstance(self.server, Proxy)
        self.server.asked.add((login, f"{host} {int.from_bytes(self.rfile.read(2), 'big')}"))
        self.wfile.write(b"\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00")


@pytest.mark.parametrize("place", ["a.example", "10.1.2.3:8443", "[2001:db8::5]:443"])
@pytest.mark.parametrize("form", ["socks5://{login}:x@127.0.0.1:{port}", "socks5h://127.0.0.1:{port}"])
def test_a_socks_proxy(proxy: Proxy, place: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.RequestHandlerClass = _Socks
    host, _, port = place.rpartition(":") if ":" in place else (place, "", "443")
    variables = {"HTTPS_PROXY": proxy.url("somebody", form)}
    for ask in (lambda: cosign(place, variables, tmp_path), lambda: ours(place, variables, monkeypatch)):
        proxy.asked.clear()
        ask()
        assert proxy.asked == {("somebody" if "login" in form else "", f"{host.strip('[]')} {port}")}


def test_no_kind_of_proxy(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url("x", "ftp://{login}:x@127.0.0.1:{port}"))
    with pytest.raises(ConfigError, match="HTTPS_PROXY: ftp:// is no kind of proxy"):
        Registry("a.example", patience=0.0).ping()
    assert proxy.asked == set()
