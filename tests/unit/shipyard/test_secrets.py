"""Secrets: made once, never changed, as files whose modes let in exactly those who need them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from shipyard import acl, secrets
from shipyard.errors import ConfigError
from shipyard.models import Project
from shipyard.secrets import Made

EVERY = (
    "api/api_keys",
    "client_key",
    "claude-proxy/claude_proxy_keys",
    "api/claude_proxy_key",
    "api/redis_password",
    "redis-exporter/redis_passwords.json",
    "redis/users.conf",
    *secrets.PROVIDED,
)
SHARED = tuple(name for name in EVERY if name != "client_key")
GROUPS = {"api": 10001, "claude-proxy": 10004, "egress": 10003, "redis": 10002, "redis-exporter": 10007}
FOLDERS = {name: (0, group) for name, group in GROUPS.items()}
OWNERS = {name: (0, GROUPS[name.partition("/")[0]]) for name in SHARED} | FOLDERS


@pytest.fixture(autouse=True)
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Who was given each file: a test need not be root, nor may it give files away if it is."""
    given: dict[str, tuple[int, int]] = {}

    def chown(path: Path, user: int, group: int) -> None:
        name = str(path).partition("/secrets/")[2]
        folder, _, file = name.rpartition("/")
        # A file is given away before it gets its name, so that nobody meets one that is closed.
        given[f"{folder}/{file[1:].removesuffix('.new')}" if file.endswith(".new") else name] = (user, group)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", chown)
    return given


@pytest.fixture
def folder(project: Project) -> Path:
    return project.root / "secrets"


def modes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): f"{path.stat().st_mode & 0o777:o}" for path in folder.rglob("*")}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def passwords(folder: Path) -> dict[str, str]:
    return {user: acl.password(user, (folder / name).read_text()) for user, name in secrets.PASSWORDS.items()}


def users(folder: Path) -> dict[str, tuple[str, ...]]:
    return acl.digests((folder / "redis/users.conf").read_text())


def test_everything_is_made_at_first(project: Project, folder: Path) -> None:
    made = secrets.init(project)
    key = (folder / "client_key").read_text()
    assert made == Made(EVERY, key.strip())
    assert secrets.folder(project) == folder
    assert sorted(modes(folder)) == sorted((*EVERY, *GROUPS))
    assert {(folder / name).read_text() for name in secrets.PROVIDED} == {""}
    assert folder.stat().st_mode & 0o777 == 0o755


def test_keys_are_long_random_and_kept_as_digests_of_themselves(project: Project, folder: Path) -> None:
    secrets.init(project)
    pairs = {
        "client_key": ("api/api_keys", "client"),
        "api/claude_proxy_key": ("claude-proxy/claude_proxy_keys", "llm-call-api"),
    }
    keys = {plain: (folder / plain).read_text() for plain in pairs}
    for plain, (hashed, owner) in pairs.items():
        key = keys[plain].removesuffix("\n")
        assert key.startswith("llmc-") and len(key) == 48
        assert (folder / hashed).read_text() == f"{owner}:{hashlib.sha256(key.encode()).hexdigest()}\n"
    assert len(set(keys.values())) == 2


def test_each_user_of_redis_has_a_password_and_redis_its_digest(project: Project, folder: Path) -> None:
    secrets.init(project)
    found = passwords(folder)
    assert len(set(found.values())) == 2 and {len(each) for each in found.values()} == {43}
    assert (folder / "api/redis_password").read_text() == found["llm-call-api"] + "\n"
    document = json.loads((folder / "redis-exporter/redis_passwords.json").read_text())
    assert document == {"redis://exporter@redis:6379": found["exporter"]}
    text = (folder / "redis/users.conf").read_text()
    assert users(folder) == {user: (hashlib.sha256(each.encode()).hexdigest(),) for user, each in found.items()}
    assert not any(each in text for each in found.values())
    assert "user default off" in text.splitlines()


def test_a_second_time_changes_nothing(project: Project, folder: Path) -> None:
    secrets.init(project)
    before = contents(folder)
    assert secrets.init(project) == Made((), None)
    assert contents(folder) == before


def test_what_the_user_filled_in_stays(project: Project, folder: Path) -> None:
    secrets.init(project)
    path = folder / "api/openai_api_key"
    path.chmod(0o600)
    path.write_text("sk-of-the-user\n")
    secrets.init(project)
    assert path.read_text() == "sk-of-the-user\n"


@pytest.mark.parametrize("lost", ["client_key", "api/api_keys"])
def test_half_a_pair_is_made_anew_as_a_whole(project: Project, folder: Path, lost: str) -> None:
    earlier = secrets.init(project).client_key
    other = (folder / "api/claude_proxy_key").read_text()
    (folder / lost).unlink()
    made = secrets.init(project)
    assert made.created == ("api/api_keys", "client_key")
    assert made.client_key and made.client_key != earlier
    assert (folder / "client_key").read_text() == made.client_key + "\n"
    assert (folder / "api/api_keys").read_text() == f"client:{hashlib.sha256(made.client_key.encode()).hexdigest()}\n"
    assert (folder / "api/claude_proxy_key").read_text() == other


@pytest.mark.parametrize("pair", [secrets.CLIENT, secrets.CLAUDE_PROXY], ids=lambda pair: pair.name)
def test_a_lost_key_costs_no_other_client_its_own(project: Project, folder: Path, pair: secrets.Pair) -> None:
    secrets.init(project)
    digest, others = "a" * 64, f"# people\nalice:{'1' * 64} rpm=5 # on leave\n\n{pair.name}s:{'2' * 64}\n"
    earlier = f"{pair.name}-old:{'3' * 64} {secrets.MARK}\n{pair.name}:{digest} rpm=9 models=max/*\n"
    secrets.put(folder, pair.digests, others + earlier + f"bob:{'4' * 64}\n")
    (folder / pair.plain).unlink()
    assert secrets.init(project).created == (pair.digests, pair.plain)
    new = acl.digest((folder / pair.plain).read_text().strip())
    wanted = f"{others}{pair.name}:{new} rpm=9 models=max/*\nbob:{'4' * 64}\n"
    assert (folder / pair.digests).read_text() == wanted


def test_a_name_without_a_line_gets_one_behind_the_others() -> None:
    text = f"alice:{'1' * 64}\n"
    assert secrets.renewed("client", text, "2" * 64) == f"{text}client:{'2' * 64}\n"
    twice = f"client:123 rpm=1\n{text}client:{'3' * 64}\n"
    assert secrets.renewed("client", twice, "2" * 64) == f"client:{'2' * 64} rpm=1\n{text}"


@pytest.mark.parametrize("lost", ["client_key", "api/api_keys"])
@pytest.mark.parametrize("number", [0, 1])
def test_an_interrupted_pair_is_made_the_next_time(
    project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch, lost: str, number: int
) -> None:
    """At no moment are both files there with a key and a digest that do not belong together: nobody would mend that."""
    secrets.init(project)
    (folder / lost).unlink()
    left = iter(range(number))

    def interrupted(place: Path, name: str, text: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        put(place, name, text)

    put = secrets.put
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(secrets, "put", interrupted)
        secrets.init(project)
    key = secrets.init(project).client_key
    assert key and (folder / "api/api_keys").read_text() == f"client:{acl.digest(key)}\n"


@pytest.mark.parametrize("name", secrets.READERS)
def test_a_folder_that_is_a_link_is_refused_before_anything_is_written(
    project: Project, folder: Path, tmp_path: Path, owners: dict[str, tuple[int, int]], name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.mkdir()
    (folder / name).symlink_to(elsewhere)
    wanted = f"^secrets/{name}: is a link or a file, not a folder; remove it, and put the folder itself there$"
    for _ in ("leads to a folder", "leads nowhere"):
        with pytest.raises(ConfigError, match=wanted):
            secrets.init(project)
        assert list(folder.iterdir()) == [folder / name] and owners == {}
        if elsewhere.is_dir():
            assert list(elsewhere.iterdir()) == [] and elsewhere.stat().st_mode & 0o777 == 0o700
            elsewhere.rmdir()


@pytest.mark.parametrize(
    "name", ["api/api_keys", "api/redis_password", "redis-exporter/redis_passwords.json", "redis/users.conf"]
)
def test_bytes_that_are_no_text_are_named(project: Project, folder: Path, name: str) -> None:
    secrets.init(project)
    (folder / "client_key").unlink()
    (folder / name).chmod(0o600)
    (folder / name).write_bytes(b"\xff\xfe\n")
    with pytest.raises(ConfigError, match=f"^secrets/{name}: is not text; write it anew, in UTF-8$") as refused:
        secrets.init(project)
    assert refused.value.exit_code == 3
    assert (folder / name).read_bytes() == b"\xff\xfe\n"


def test_a_redis_that_runs_has_to_read_its_users_again(
    project: Project, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At first none runs, and nothing is said."""
    said = "a Redis that runs has to read secrets/redis/users.conf anew: `invoke prod` restarts it"
    for _ in ("the first time", "a second one"):
        secrets.init(project)
        assert said not in capsys.readouterr().err
    secrets.put(folder, "api/redis_password", "")
    assert secrets.init(project).created == ("api/redis_password", "redis/users.conf")
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "", "\n"], ids=["missing", "emptied", "blank"])
@pytest.mark.parametrize("user", acl.USERS)
def test_a_password_that_is_not_there_is_made_anew(project: Project, folder: Path, user: str, text: str | None) -> None:
    """An empty one must never become the password of a user."""
    secrets.init(project)
    before, name = users(folder), secrets.PASSWORDS[user]
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    made = secrets.init(project)
    assert made.created == (name, "redis/users.conf")
    after = users(folder)
    assert after[user] == (acl.digest(passwords(folder)[user]),) != before[user]
    assert [name for name in acl.USERS if after[name] == before[name]] == [name for name in acl.USERS if name != user]


def test_users_follow_the_passwords_and_what_this_version_allows(project: Project, folder: Path) -> None:
    secrets.init(project)
    path = folder / "redis/users.conf"
    wanted = path.read_text()
    for text in ("", "user default on nopass ~* +@all\n", wanted.replace("+get ", ""), wanted.replace(" on ", " off ")):
        path.chmod(0o600)
        path.write_text(text)
        assert secrets.init(project).created == ("redis/users.conf",)
        assert path.read_text() == wanted


def test_an_earlier_password_stays_good_as_long_as_the_rotation_goes_on(project: Project, folder: Path) -> None:
    secrets.init(project)
    both = {user: (digest, "0" * 64) for user, (digest,) in users(folder).items()}
    secrets.put(folder, "redis/users.conf", acl.users_conf(both))
    assert secrets.init(project).created == ()
    assert users(folder) == both


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=["umask 022", "umask 077"])
def test_root_gives_services_their_files_by_group(
    project: Project, folder: Path, owners: dict[str, tuple[int, int]], umask: int
) -> None:
    earlier = os.umask(umask)
    try:
        secrets.init(project)
    finally:
        os.umask(earlier)
    assert modes(folder) == {"client_key": "400", **dict.fromkeys(SHARED, "440"), **dict.fromkeys(GROUPS, "750")}
    assert owners == OWNERS


def test_root_lets_services_read_what_an_editor_left(
    project: Project, folder: Path, owners: dict[str, tuple[int, int]]
) -> None:
    secrets.init(project)
    path = folder / "egress/anthropic_api_key"
    path.chmod(0o600)
    owners.clear()
    secrets.init(project)
    assert path.stat().st_mode & 0o777 == 0o440
    assert owners["egress/anthropic_api_key"] == (0, 10003)


def test_root_gives_away_nothing_that_a_link_leads_to(project: Project, folder: Path, tmp_path: Path) -> None:
    secrets.init(project)
    precious = tmp_path / "precious"
    precious.touch(0o600)
    (folder / "api/openai_api_key").unlink()
    (folder / "api/openai_api_key").symlink_to(precious)
    secrets.init(project)
    assert precious.stat().st_mode & 0o777 == 0o600


def test_others_leave_what_exists_closed(project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    secrets.init(project)
    path = folder / "egress/anthropic_api_key"
    path.chmod(0o400)
    secrets.init(project)
    assert path.stat().st_mode & 0o777 == 0o400


def test_others_can_only_open_them_to_all(
    project: Project, folder: Path, owners: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    secrets.init(project)
    assert modes(folder) == {"client_key": "400", **dict.fromkeys(SHARED, "444"), **dict.fromkeys(GROUPS, "755")}
    assert owners == {}


def test_who_may_not_change_them_is_told_so(project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets.init(project)

    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(ConfigError, match=r"^secrets/api: Operation not permitted; run this as the owner"):
        secrets.init(project)


def test_who_may_not_look_at_them_is_told_so(project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_symlink", refuse)
    with pytest.raises(ConfigError, match=r"^secrets/api: Permission denied; run this as the owner"):
        secrets.init(project)


def test_a_file_gets_its_name_when_its_reader_may_read_it(
    project: Project, folder: Path, owners: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a service that looks in between would find it closed, and not look again."""
    secrets.init(project)
    owners.clear()
    seen = []
    rename = Path.replace

    def watched(path: Path, target: Path) -> Path:
        if target.name == "api_keys":
            seen.append((f"{path.stat().st_mode & 0o777:o}", owners.get("api/api_keys"), path.read_text()))
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    secrets.put(folder, "api/api_keys", "client:1\n")
    assert seen == [("440", (0, 10001), "client:1\n")]


def test_files_of_the_earlier_layout_move_in(project: Project, folder: Path) -> None:
    folder.mkdir()
    earlier = {"client_key": "llmc-1\n", "api_keys": "client:00\n", "anthropic_api_key": "sk-mine\n"}
    for name, text in earlier.items():
        (folder / name).write_text(text)
    made = secrets.init(project)
    assert made.client_key is None
    assert (folder / "api/api_keys").read_text() == "client:00\n"
    assert (folder / "egress/anthropic_api_key").read_text() == "sk-mine\n"
    assert not (folder / "api_keys").exists()
