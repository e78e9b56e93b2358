"""Secrets: made once, never changed, as files whose modes let in exactly those who need them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from shipyard import secrets
from shipyard.models import Project
from shipyard.secrets import Made

EVERY = (
    "api/api_keys",
    "client_key",
    "claude-proxy/claude_proxy_keys",
    "api/claude_proxy_key",
    *secrets.PROVIDED,
)
SHARED = tuple(name for name in EVERY if name != "client_key")
GROUPS = {"api": 10001, "claude-proxy": 10001, "egress": 10003}
FOLDERS = {name: (0, group) for name, group in GROUPS.items()}
OWNERS = {name: (0, GROUPS[name.partition("/")[0]]) for name in SHARED} | FOLDERS


@pytest.fixture(autouse=True)
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Who was given each file: a test need not be root, nor may it give files away if it is."""
    given: dict[str, tuple[int, int]] = {}

    def chown(path: Path, user: int, group: int) -> None:
        given[str(path).partition("/secrets/")[2]] = (user, group)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", chown)
    return given


def modes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): f"{path.stat().st_mode & 0o777:o}" for path in folder.rglob("*")}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_everything_is_made_at_first(project: Project) -> None:
    made = secrets.init(project)
    folder = project.root / "secrets"
    key = (folder / "client_key").read_text()
    assert made == Made(EVERY, key.strip())
    assert secrets.folder(project) == folder
    assert sorted(modes(folder)) == sorted((*EVERY, *GROUPS))
    assert {(folder / name).read_text() for name in secrets.PROVIDED} == {""}
    assert folder.stat().st_mode & 0o777 == 0o755


def test_keys_are_long_random_and_kept_as_digests_of_themselves(project: Project) -> None:
    secrets.init(project)
    folder = project.root / "secrets"
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


def test_a_second_time_changes_nothing(project: Project) -> None:
    secrets.init(project)
    folder = project.root / "secrets"
    before = contents(folder)
    assert secrets.init(project) == Made((), None)
    assert contents(folder) == before


def test_what_the_user_filled_in_stays(project: Project) -> None:
    secrets.init(project)
    path = project.root / "secrets/api/openai_api_key"
    path.chmod(0o600)
    path.write_text("sk-of-the-user\n")
    secrets.init(project)
    assert path.read_text() == "sk-of-the-user\n"


@pytest.mark.parametrize("lost", ["client_key", "api/api_keys"])
def test_half_a_pair_is_made_anew_as_a_whole(project: Project, lost: str) -> None:
    earlier = secrets.init(project).client_key
    folder = project.root / "secrets"
    other = (folder / "api/claude_proxy_key").read_text()
    (folder / lost).unlink()
    made = secrets.init(project)
    assert made.created == ("api/api_keys", "client_key")
    assert made.client_key and made.client_key != earlier
    assert (folder / "client_key").read_text() == made.client_key + "\n"
    assert (folder / "api/api_keys").read_text() == f"client:{hashlib.sha256(made.client_key.encode()).hexdigest()}\n"
    assert (folder / "api/claude_proxy_key").read_text() == other


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=["umask 022", "umask 077"])
def test_root_gives_services_their_files_by_group(
    project: Project, owners: dict[str, tuple[int, int]], umask: int
) -> None:
    earlier = os.umask(umask)
    try:
        secrets.init(project)
    finally:
        os.umask(earlier)
    assert modes(project.root / "secrets") == {
        "client_key": "400",
        **dict.fromkeys(SHARED, "440"),
        **dict.fromkeys(GROUPS, "750"),
    }
    assert owners == OWNERS


def test_root_lets_services_read_what_an_editor_left(project: Project, owners: dict[str, tuple[int, int]]) -> None:
    secrets.init(project)
    path = project.root / "secrets/egress/anthropic_api_key"
    path.chmod(0o600)
    owners.clear()
    secrets.init(project)
    assert path.stat().st_mode & 0o777 == 0o440
    assert owners["egress/anthropic_api_key"] == (0, 10003)


def test_others_leave_what_exists_closed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    secrets.init(project)
    path = project.root / "secrets/egress/anthropic_api_key"
    path.chmod(0o400)
    secrets.init(project)
    assert path.stat().st_mode & 0o777 == 0o400


def test_others_can_only_open_them_to_all(
    project: Project, owners: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    secrets.init(project)
    assert modes(project.root / "secrets") == {
        "client_key": "400",
        **dict.fromkeys(SHARED, "444"),
        **dict.fromkeys(GROUPS, "755"),
    }
    assert owners == {}


def test_files_of_the_earlier_layout_move_in(project: Project) -> None:
    folder = project.root / "secrets"
    folder.mkdir()
    earlier = {"client_key": "llmc-1\n", "api_keys": "client:00\n", "anthropic_api_key": "sk-mine\n"}
    for name, text in earlier.items():
        (folder / name).write_text(text)
    made = secrets.init(project)
    assert made.client_key is None
    assert (folder / "api/api_keys").read_text() == "client:00\n"
    assert (folder / "egress/anthropic_api_key").read_text() == "sk-mine\n"
    assert not (folder / "api_keys").exists()
