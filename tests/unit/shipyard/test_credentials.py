"""Logins: where they are looked for, what is made of them, and that nothing shows them."""

import base64
import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from shipyard import credentials, logins
from shipyard.errors import AccessDenied, CommandFailed
from shipyard.logins import Challenge, Login, Secret
from shipyard.run import Completed

HOST = "registry.example:5000"


@pytest.fixture
def secret() -> str:
    return secrets.token_urlsafe(16)


def config(folder: Path, document: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(document))
    return folder


def auth(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def test_a_secret_shows_itself_only_when_asked(secret: str) -> None:
    login = Login("here", "me", Secret(secret), Secret(secret + "2"), Secret(secret + "3"))
    assert secret not in f"{login} {login!r} {login.password} {[login.password]}"
    assert login.password.reveal() == secret
    text = f"{secret} {auth('me', secret)} {login.basic()} {secret}2 {secret}3"
    assert login.redact(text) == "[REDACTED] [REDACTED] Basic [REDACTED] [REDACTED] [REDACTED]"
    assert not Secret()
    assert Secret(secret) == Secret(secret) != Secret()


def test_nobody_logged_in() -> None:
    assert credentials.find(HOST) is None


def test_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(config(tmp_path / "d", {"auths": {HOST: {"auth": auth("docker", "x")}}})))
    path = tmp_path / "password"
    path.write_text(secret + "\n")
    monkeypatch.setenv("SHIPYARD_REGISTRY_PASSWORD_FILE", str(path))
    with pytest.raises(AccessDenied, match="without SHIPYARD_REGISTRY_USERNAME"):
        credentials.find(HOST)
    monkeypatch.setenv("SHIPYARD_REGISTRY_USERNAME", "me")
    assert credentials.find(HOST) == Login("SHIPYARD_REGISTRY_PASSWORD_FILE", "me", Secret(secret))

    token = tmp_path / "token"
    token.write_text(secret[::-1])
    monkeypatch.setenv("SHIPYARD_REGISTRY_TOKEN_FILE", str(token))
    assert credentials.find(HOST) == Login("SHIPYARD_REGISTRY_TOKEN_FILE", "me", Secret(secret[::-1]))
    monkeypatch.delenv("SHIPYARD_REGISTRY_USERNAME")
    assert credentials.find(HOST) == Login("SHIPYARD_REGISTRY_TOKEN_FILE", bearer=Secret(secret[::-1]))

    # It is for the registry that releases go to, not for whatever `invoke verify` is asked about.
    monkeypatch.setenv("SHIPYARD_REGISTRY", "ghcr.io/team")
    found = credentials.find(HOST)
    assert found is not None
    assert found.user == "docker"
    assert credentials.find("ghcr.io") == Login("SHIPYARD_REGISTRY_TOKEN_FILE", bearer=Secret(secret[::-1]))


@pytest.mark.parametrize(("text", "reason"), [(None, "cannot be read: No such file"), ("\n", "is empty")])
def test_a_file_that_gives_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, reason: str
) -> None:
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("SHIPYARD_REGISTRY_TOKEN_FILE", str(path))
    with pytest.raises(AccessDenied, match=f"SHIPYARD_REGISTRY_TOKEN_FILE={path} {reason}"):
        credentials.find(HOST)


def test_what_docker_login_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    folder = config(tmp_path / "user/.docker", {"auths": {f"https://{HOST}": {"auth": auth("me", secret + ":x")}}})
    assert credentials.find(HOST) == Login(str(folder / "config.json"), "me", Secret(secret + ":x"))
    hub = {"auths": {logins.HUB: {"identitytoken": secret}}}
    monkeypatch.setenv("DOCKER_CONFIG", str(config(tmp_path / "other", hub)))
    assert credentials.find("docker.io") == Login(str(tmp_path / "other/config.json"), identity=Secret(secret))
    assert credentials.find(HOST) is None


def test_a_login_made_with_the_embedded_engine_s_client(tmp_path: Path, secret: str) -> None:
    config(tmp_path / "machine/client", {"auths": {HOST: {"auth": auth("me", secret)}}})
    found = credentials.find(HOST)
    assert found is not None
    assert found.password == Secret(secret)


@pytest.mark.parametrize("text", ["{", "\xff\xfe", '{"auths": {"registry.example:5000": {"auth": "!"}}}'])
def test_a_broken_configuration_is_named_and_not_quoted(tmp_path: Path, text: str, secret: str) -> None:
    folder = config(tmp_path / "user/.docker", {})
    (folder / "config.json").write_text(text + (f'"{secret}"' if text == "{" else ""), encoding="latin-1")
    with pytest.raises(AccessDenied, match=r"config\.json.*docker login") as refused:
        credentials.find(HOST)
    assert secret not in str(refused.value)


def test_helpers_are_asked_in_docker_s_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    asked = []

    def helper(argv: list[str], *, text: str, **_: Any) -> Completed:
        asked.append((argv[0], text))
        if argv[0] == "docker-credential-store":
            return Completed(1, "credentials not found in native keychain\n", "")
        return Completed(0, json.dumps({"Username": "<token>", "Secret": secret}), "")

    monkeypatch.setattr(credentials, "run", helper)
    document = {"auths": {HOST: {}}, "credHelpers": {HOST: "own"}, "credsStore": "store"}
    config(tmp_path / "user/.docker", document)
    assert credentials.find(HOST) == Login("docker-credential-own", identity=Secret(secret))
    assert credentials.find("ghcr.io") is None
    assert asked == [("docker-credential-own", HOST), ("docker-credential-store", "ghcr.io")]


@pytest.mark.parametrize("name", ["../../bin/sh", "", "a b", "-x"])
def test_a_helper_s_name_is_no_path(tmp_path: Path, name: str) -> None:
    config(tmp_path / "user/.docker", {"credHelpers": {HOST: name or " "}})
    with pytest.raises(AccessDenied, match="is no credential helper's name"):
        credentials.find(HOST)


def test_a_helper_that_breaks_does_not_show_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    config(tmp_path / "user/.docker", {"credsStore": "own"})
    odd = (Completed(0, f'["{secret}"]', ""), Completed(0, "[" * 100_000, ""))
    for outcome in (
        Completed(2, secret, secret),
        Completed(0, secret, ""),
        *odd,
        CommandFailed(["x"], -1, "no answer"),
    ):

        def helper(*_: Any, outcome: Any = outcome, **__: Any) -> Completed:
            if isinstance(outcome, Exception):
                raise outcome
            found: Completed = outcome
            return found

        monkeypatch.setattr(credentials, "run", helper)
        with pytest.raises(AccessDenied) as refused:
            credentials.find(HOST)
        assert secret not in str(refused.value)


@pytest.mark.parametrize("kind", ["password", "identity", "bearer"])
def test_a_private_configuration_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, secret: str
) -> None:
    login = Login("given", "me" if kind == "password" else "", **{kind: Secret(secret)})
    monkeypatch.setattr(credentials, "find", lambda _: login)
    assert credentials.docker_config(tmp_path / "c", "docker.io") == {"DOCKER_CONFIG": str(tmp_path / "c")}
    path = tmp_path / "c/config.json"
    assert path.stat().st_mode & 0o777 == 0o600
    entry = json.loads(path.read_text())["auths"][logins.HUB]
    assert logins.from_config(entry, "given") == login
    monkeypatch.setattr(credentials, "find", lambda _: None)
    credentials.docker_config(tmp_path / "c", HOST)
    assert secret not in path.read_text()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("Negotiate", None),
        ('Basic realm="x"', Challenge("basic", "x")),
        ("Basic", Challenge("basic")),
        (
            'Bearer realm="https://a/t?x=1",service="s",scope="repository:a:pull,push",error="insufficient_scope"',
            Challenge("bearer", "https://a/t?x=1", "s", "repository:a:pull,push"),
        ),
        ('Basic realm="x", Bearer realm="https://a"', Challenge("bearer", "https://a")),
    ],
)
def test_what_a_registry_asks_for(header: str, expected: Challenge | None) -> None:
    assert logins.challenge(header) == expected
