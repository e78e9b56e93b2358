"""New keys in place of old ones: at every moment, and after a crash at any of them, whoever has a key in use gets in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shipyard import acl, rotation, secrets, secrets_check
from shipyard.errors import ConfigError, UnknownName
from shipyard.models import Project
from shipyard.secrets import CLAUDE_PROXY, CLIENT, PASSWORDS

KINDS = rotation.KINDS


class Crash(BaseException):
    """The end of the command at a place of the test's choice."""


class Services:
    """What running services have read: Redis at its start, the others live; and what was done to them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.said: list[str] = []
        self.redis = self.read()

    def read(self) -> dict[str, tuple[str, ...]]:
        return acl.digests((self.place / "redis/users.conf").read_text())

    def restart(self, _project: Project, _engine: object, service: str) -> None:
        self.said.append(f"restart {service}")
        if service == "redis":
            self.redis = self.read()

    def reload(self, _project: Project, _engine: object) -> None:
        self.said.append("reload llm-call-api")

    def locked_out(self) -> list[str]:
        """Who would be refused with the key that is in its file now."""
        out = [
            user
            for user, name in PASSWORDS.items()
            if acl.digest(acl.password(user, (self.place / name).read_text())) not in self.redis[user]
        ]
        for pair in (CLIENT, CLAUDE_PROXY):
            known = rotation.digests(pair.name, (self.place / pair.digests).read_text())
            if acl.digest((self.place / pair.plain).read_text().strip()) not in known:
                out.append(pair.name)
        return out


@pytest.fixture
def place(project: Project) -> Path:
    secrets.init(project)
    return secrets.folder(project)


@pytest.fixture
def services(place: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    found = Services(place)
    monkeypatch.setattr(rotation, "restart", found.restart)
    monkeypatch.setattr(rotation, "_reload_api", found.reload)
    monkeypatch.setattr(rotation.time, "sleep", lambda seconds: found.said.append(f"wait {seconds:g} s"))
    return found


@pytest.fixture(autouse=True)
def ownerless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def keys(place: Path, kind: str) -> list[str]:
    """The keys in use: what a service or a client presents."""
    if kind == "redis":
        return [acl.password(user, (place / name).read_text()) for user, name in PASSWORDS.items()]
    return [(place / rotation.PAIRS[kind].plain).read_text().strip()]


def good(services: Services, kind: str, key: str) -> bool:
    """Whether a key gets in now."""
    if kind == "redis":
        return any(acl.digest(key) in each for each in services.redis.values())
    pair = rotation.PAIRS[kind]
    return acl.digest(key) in rotation.digests(pair.name, (services.place / pair.digests).read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_key_works_until_the_rotation_is_finished(
    project: Project, place: Path, services: Services, kind: str
) -> None:
    old = keys(place, kind)
    shown = rotation.begin(project, None, kind)
    new = keys(place, kind)
    assert shown == (new[0] if kind == "client" else None)
    assert not set(old) & set(new) and all(len(each) >= 43 for each in new)
    assert all(good(services, kind, each) for each in (*old, *new))
    (note,) = secrets_check.check(project).rotating
    assert note.startswith(f"{kind}: ") and f"`invoke secrets.rotate {kind} --finish`" in note
    rotation.finish(project, None, kind)
    assert all(good(services, kind, each) for each in new)
    assert not any(good(services, kind, each) for each in old)
    assert secrets.init(project) == secrets.Made((), None)
    assert secrets_check.check(project).rotating == ()


@pytest.mark.parametrize(
    ("kind", "begun", "finished"),
    [
        ("client", ["wait 2 s"], []),
        ("claude-proxy", ["wait 2 s", "reload llm-call-api"], ["reload llm-call-api", "wait 2 s"]),
        ("redis", ["restart redis", "restart redis-exporter"], ["restart redis"]),
    ],
)
def test_services_are_told_what_they_do_not_see_themselves(
    project: Project, services: Services, kind: str, begun: list[str], finished: list[str]
) -> None:
    rotation.begin(project, None, kind)
    assert services.said == begun
    services.said.clear()
    rotation.finish(project, None, kind)
    assert services.said == finished


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int, watch: Callable[[], None]) -> None:
    """End the command before its ``number``-th write; ``watch`` looks at what is there before and after each of them."""
    put, count = secrets.put, iter(range(1000))

    def wrapped(place: Path, name: str, text: str) -> None:
        watch()
        if next(count) == number:
            raise Crash
        put(place, name, text)
        watch()

    monkeypatch.setattr(secrets, "put", wrapped)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_nobody_is_locked_out_at_any_moment_nor_by_a_crash(
    project: Project, place: Path, services: Services, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    def watch() -> None:
        assert services.locked_out() == []

    with monkeypatch.context() as patched:
        crash_at(patched, number, watch)
        try:
            rotation.begin(project, None, kind)
            rotation.finish(project, None, kind)
        except Crash:
            pass
    watch()
    services.restart(project, None, "redis")  # whatever happens next, for example a reboot
    watch()
    in_use = keys(place, kind)
    secrets.init(project)
    assert keys(place, kind) == in_use, "init gives nobody another key"
    watch()
    # And whichever of the two steps is done again, it ends as it should.
    state = rotation.state(project, kind)
    if not (state.both and state.newer):
        rotation.begin(project, None, kind)
        watch()
    rotation.finish(project, None, kind)
    watch()
    assert rotation.state(project, kind) == rotation.State(both=False, newer=True)
    if state.both and not state.newer:
        assert not good(services, kind, in_use[0]), "an interrupted rotation ends the old key as well"


@pytest.mark.parametrize("kind", KINDS)
def test_steps_out_of_turn_change_nothing(project: Project, place: Path, services: Services, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"no old one that still works; `invoke secrets.rotate {kind}`"):
        rotation.finish(project, None, kind)
    rotation.begin(project, None, kind)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=f"`invoke secrets.rotate {kind} --finish` ends the old one first"):
        rotation.begin(project, None, kind)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("kind", "name"), [("client", "client_key"), ("redis", "api/redis_password")])
def test_files_that_do_not_agree_are_left_alone(
    project: Project, place: Path, services: Services, kind: str, name: str
) -> None:
    (place / name).chmod(0o600)
    (place / name).write_text("something else\n")
    for step in (rotation.begin, rotation.finish):
        with pytest.raises(ConfigError, match=r"do not agree; `invoke secrets.check`"):
            step(project, None, kind)
    (place / name).unlink()
    with pytest.raises(ConfigError, match=r"No such file or directory; `invoke secrets.check`"):
        rotation.begin(project, None, kind)


def test_only_what_is_there_can_be_rotated(project: Project) -> None:
    for step in (rotation.begin, rotation.finish):
        with pytest.raises(UnknownName, match=r'secret "claude": .*perhaps you meant "claude-proxy"'):
            step(project, None, "claude")


def test_lines_of_others_options_and_comments_stay() -> None:
    one, two, three = ("1" * 64, "a" * 64, "3" * 64)
    text = f"# who may ask\nclients:{three} rpm=1\n  client:{two.upper()} rpm=5 models=max/* # ours\nbob:{three}\n"
    both = rotation.added("client", text, one)
    assert both.splitlines() == [
        "# who may ask",
        f"clients:{three} rpm=1",
        f"  client:{one} rpm=5 models=max/* # ours",
        f"  client-old:{two} rpm=5 models=max/* # ours {secrets.MARK}",
        f"bob:{three}",
    ]
    assert rotation.digests("client", both) == (one, two)
    assert rotation.added("client", both, three).splitlines()[2:4] == [
        f"  client:{three} rpm=5 models=max/* # ours",
        f"  client-old:{two} rpm=5 models=max/* # ours {secrets.MARK}",
    ]
    assert rotation.without_old("client", both) == text.replace(two.upper(), one)
    assert rotation.digests("client", f"client-old:{one}\n") == ()


@pytest.mark.parametrize("kind", rotation.PAIRS)
def test_a_client_that_has_the_old_key_s_name_keeps_its_own(
    project: Project, place: Path, services: Services, kind: str
) -> None:
    """It is no rotation: ``--finish`` would end that client's key, and so would a rotation that begins."""
    pair = rotation.PAIRS[kind]
    text = (place / pair.digests).read_text() + f"{pair.name}-old:{'1' * 64} rpm=5 # a client\n"
    secrets.put(place, pair.digests, text)
    reserved = f'secrets/{pair.digests}:2: the name "{pair.name}-old" is kept for '
    for step in (rotation.begin, rotation.finish):
        with pytest.raises(ConfigError) as refused:
            step(project, None, kind)
        assert str(refused.value).startswith(reserved) and "give that client another name" in str(refused.value)
        assert "--finish" not in str(refused.value)
    assert (place / pair.digests).read_text() == text
    report = secrets_check.check(project)
    assert [str(each).startswith(reserved) for each in report.faults] == [True] and report.rotating == ()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("client", "client_key"),
        ("client", "api/api_keys"),
        ("redis", "redis/users.conf"),
        ("redis", "api/redis_password"),
    ],
)
def test_bytes_that_are_no_text_are_named(
    project: Project, place: Path, services: Services, kind: str, name: str
) -> None:
    (place / name).chmod(0o600)
    (place / name).write_bytes(b"\xff\xfe\n")
    for step in (rotation.begin, rotation.finish):
        with pytest.raises(ConfigError, match=f"^secrets/{name}: is not text; write it anew, in UTF-8$"):
            step(project, None, kind)


def test_nothing_is_written_where_a_link_leads(
    project: Project, place: Path, services: Services, tmp_path: Path
) -> None:
    elsewhere = (place / "api").rename(tmp_path / "elsewhere")
    (place / "api").symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in elsewhere.iterdir()}
    for step in (rotation.begin, rotation.finish):
        with pytest.raises(ConfigError, match=r"^secrets/api: is a link or a file, not a folder; remove it"):
            step(project, None, "client")
    assert {path: path.read_bytes() for path in elsewhere.iterdir()} == before


@pytest.fixture(autouse=True)
def _git(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("shipyard.secrets_access._git", lambda _: iter(()))
    yield
