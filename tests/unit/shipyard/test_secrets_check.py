"""Every fault of secrets/ is named, all of them at once; nothing of a secret is shown; what is in order is not criticised."""

from __future__ import annotations

import json
import os
import secrets as random
from collections.abc import Callable
from pathlib import Path

import pytest

from shipyard import acl, secret_text, secrets, secrets_access, secrets_check
from shipyard.errors import ConfigError
from shipyard.models import Project
from shipyard.run import Completed

MODELS = """\
[upstream.claude-proxy]
kind = "claude-proxy"
api_key_env = "CLAUDE_PROXY_KEY"
[upstream.openai]
kind = "openai"
api_key_env = "OPENAI_API_KEY"
[upstream.mistral]
kind = "openai"
api_key_env = "MISTRAL_API_KEY"
[upstream.ollama]
kind = "openai"
[model."max/opus"]
upstream = "claude-proxy"
[model."openai/*"]
upstream = "openai"
[model."mistral/*"]
upstream = "mistral"
[model.auto]
candidates = ["max/opus"]
"""
KEY = "sk-proj-" + random.token_urlsafe(32)


@pytest.fixture(autouse=True)
def git(monkeypatch: pytest.MonkeyPatch) -> dict[str, Completed]:
    """What git says, by its subcommand; at first that nothing is tracked and everything ignored."""
    said = {"ls-files": Completed(0, "", ""), "check-ignore": Completed(0, "", "")}
    monkeypatch.setattr(secrets_access, "run", lambda argv, **_: said[argv[1]])
    return said


@pytest.fixture(autouse=True)
def owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not root: what root could have given to a group is looked at in a test of its own."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(secrets_access, "_trusted", lambda _: {0, os.getuid()})


@pytest.fixture
def folder(project: Project) -> Path:
    secrets.init(project)
    (project.root / "config").mkdir()
    (project.root / "config/models.toml").write_text(MODELS)
    return secrets.folder(project)


def write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(text.encode())
    path.chmod(0o444)


def faults(project: Project) -> list[str]:
    return [str(each) for each in secrets_check.check(project).faults]


def places(project: Project) -> list[str]:
    return [each.place for each in secrets_check.check(project).faults]


def test_what_init_makes_is_in_order(project: Project, folder: Path) -> None:
    report = secrets_check.check(project)
    assert report.faults == () and report.rotating == ()
    assert report.not_given == (
        "secrets/api/deepseek_api_key: nothing asks for it",
        "secrets/api/google_api_key: nothing asks for it",
        "secrets/api/mistral_api_key: not given, so mistral/* cannot be used",
        "secrets/api/openai_api_key: not given, so openai/* cannot be used",
        "secrets/api/perplexity_api_key: nothing asks for it",
        "secrets/egress/anthropic_api_key: not given, so max/opus cannot be used",
    )


def test_what_is_given_is_not_named(project: Project, folder: Path) -> None:
    for name in ("api/openai_api_key", "api/mistral_api_key"):
        write(folder / name, KEY + "\n")
    report = secrets_check.check(project)
    assert report.faults == ()
    assert not any("openai" in each or "mistral" in each for each in report.not_given)


def test_there_may_be_nothing_at_all(project: Project) -> None:
    assert faults(project) == ["secrets/: does not exist; `invoke secrets.init` makes it"]


@pytest.mark.parametrize("name", ["client_key", "api/redis_password", "redis/users.conf", "egress/anthropic_api_key"])
def test_a_missing_file_is_named(project: Project, folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert faults(project) == [f"secrets/{name}: is missing; `invoke secrets.init` puts it right"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("changeme-changeme-changeme\n", "looks like a placeholder"),
        ("your-openai-key-here\n", "looks like a placeholder"),
        ("sk-...\n", "looks like a placeholder"),
        ("sk-xxxxxxxxxxxxxxxxxxxxxxxx\n", "looks like a placeholder"),
        ("TODO\n", "looks like a placeholder"),
        ("<openai-key>\n", "looks like a placeholder"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaa\n", "looks like a placeholder"),
        (f"{KEY[:10]}\n", "is too short for a key: 10 characters"),
        (f"{KEY}\r\n", "has line ends of Windows"),
        (f"{KEY}\n{KEY}\n", "holds several lines"),
        (f"{KEY}\n\n", "has blanks or empty lines around the key"),
        (f" {KEY} \n", "has blanks or empty lines around the key"),
        (f'"{KEY}"\n', "has quotes around the key"),
        (f"OPENAI_API_KEY={KEY}\n", "is written as NAME=VALUE"),
        (f"Bearer {KEY}\n", 'begins with "Bearer"'),
        (f"{KEY[:20]} {KEY[20:]}\n", "holds blanks or characters that no key has"),
        (f"\ufeff{KEY}\n", "begins with a byte order mark"),
        (f"sk-ant-api03-{KEY}\n", "holds a key of Anthropic"),
        (f"llmc-{KEY}\n", "holds a key of this gateway"),
    ],
)
def test_a_text_that_is_no_key_is_named_and_not_shown(project: Project, folder: Path, text: str, said: str) -> None:
    write(folder / "api/openai_api_key", text)
    found = faults(project)
    assert len(found) == 1 and found[0].startswith(f"secrets/api/openai_api_key: {said}"), found
    assert KEY[8:] not in found[0]


def test_no_random_key_looks_like_a_placeholder() -> None:
    keys = [random.token_urlsafe(size) for size in (12, 24, 32, 96) for _ in range(2000)]
    keys += [random.token_hex(16) for _ in range(2000)]
    assert [key for key in keys if list(secret_text.problems(f"{key}\n", 16))] == []


def test_what_is_not_text_is_named(project: Project, folder: Path) -> None:
    (folder / "api/openai_api_key").unlink()
    (folder / "api/openai_api_key").write_bytes(b"\xff\xfe\x00")
    assert faults(project) == ["secrets/api/openai_api_key: is not text; write it anew, in UTF-8"]


@pytest.mark.parametrize("name", ["client_key", "api/api_keys", "api/redis_password", "redis/users.conf", "../.env"])
def test_what_is_not_text_is_named_wherever_it_is(project: Project, folder: Path, name: str) -> None:
    mode = (folder / name).stat().st_mode if (folder / name).exists() else 0o644
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(b"A_KEY=\xff\xfe\n")
    (folder / name).chmod(mode)
    place = name.removeprefix("../") if name.startswith("../") else f"secrets/{name}"
    settings = [".env: is not text in UTF-8 (invalid start byte); save it as that"]
    assert faults(project) == (settings if place == ".env" else [f"{place}: is not text; write it anew, in UTF-8"])


def test_a_folder_that_is_a_link_is_named(project: Project, folder: Path, tmp_path: Path) -> None:
    (folder / "egress").rename(tmp_path / "elsewhere")
    (folder / "egress").symlink_to(tmp_path / "elsewhere")
    assert faults(project) == [
        "secrets/egress: is a link or a file, not a folder; remove it, and put the folder itself there"
    ]


def test_what_is_said_about_a_key_that_does_not_fit_costs_no_other_client_its_own(
    project: Project, folder: Path
) -> None:
    line = f"alice:{'1' * 64} rpm=5"
    write(folder / "api/api_keys", f"{(folder / 'api/api_keys').read_text()}{line}\n")
    write(folder / "client_key", f"llmc-{KEY}\n")
    (folder / "client_key").chmod(0o400)
    (found,) = faults(project)
    assert found.endswith(
        "; remove this file alone; `invoke secrets.init` makes a new key, the earlier one ends, and others' stay"
    )
    (folder / "client_key").unlink()
    secrets.init(project)
    assert line in (folder / "api/api_keys").read_text() and faults(project) == []


def test_a_client_of_the_name_that_a_rotation_gives_is_named(project: Project, folder: Path) -> None:
    path = folder / "api/api_keys"
    good = path.read_text()
    write(path, f"{good}client-old:{'1' * 64} {secrets.MARK}\n")
    report = secrets_check.check(project)
    assert report.faults == () and len(report.rotating) == 1
    write(path, f"{good}client-old:{'1' * 64}\n")
    report = secrets_check.check(project)
    assert report.rotating == ()
    assert [str(each) for each in report.faults] == [
        'secrets/api/api_keys:2: the name "client-old" is kept for what a rotation is about to end; '
        "give that client another name, or remove the line"
    ]


@pytest.mark.parametrize("name", ["client_key", "api/claude_proxy_key"])
@pytest.mark.parametrize(("text", "said"), [("", "is empty"), ("llmc-" + KEY, "is not the key of")])
def test_a_key_that_its_reader_does_not_know_is_named(
    project: Project, folder: Path, name: str, text: str, said: str
) -> None:
    mode = (folder / name).stat().st_mode
    write(folder / name, text)
    (folder / name).chmod(mode)
    found = faults(project)
    assert len(found) == 1 and found[0].startswith(f"secrets/{name}: {said}"), found


def test_a_line_of_keys_is_looked_at(project: Project, folder: Path) -> None:
    path = folder / "api/api_keys"
    good = path.read_text()
    more = f"# people\nalice:{'1' * 64} rpm=5 models=max/* # on leave\n\n"
    write(path, good + more)
    assert faults(project) == []
    write(path, f"{good}{more}bob:123\nalice:{'2' * 64}\neve:{acl.digest('changeme')}\nmallory:{acl.digest('')}\n")
    assert [each.partition("; ")[0] for each in faults(project)] == [
        'secrets/api/api_keys:5: not of the form "name:sha256"',
        'secrets/api/api_keys:6: the name "alice" is used twice',
        'secrets/api/api_keys:7: the key of "eve" is one that everybody guesses',
        'secrets/api/api_keys:8: the key of "mallory" is one that everybody guesses',
    ]


def test_a_password_that_redis_does_not_know_is_named(project: Project, folder: Path) -> None:
    write(folder / "api/redis_password", random.token_urlsafe(32) + "\n")
    (found,) = faults(project)
    assert found.startswith("secrets/redis/users.conf: does not know the password in secrets/api/redis_password; ")


@pytest.mark.parametrize("text", ["", "{}", "{", "[]", '{"redis://exporter@redis:6379": 1}'])
def test_a_document_without_a_password_is_named(project: Project, folder: Path, text: str) -> None:
    write(folder / "redis-exporter/redis_passwords.json", text)
    assert faults(project) == [
        "secrets/redis-exporter/redis_passwords.json: holds no password for exporter; `invoke secrets.init` puts it right"
    ]


@pytest.mark.parametrize("change", [("-@all", "+@all"), ("user default off", "user default on nopass ~* +@all")])
def test_users_that_may_more_than_they_should_are_named(
    project: Project, folder: Path, change: tuple[str, str]
) -> None:
    path = folder / "redis/users.conf"
    write(path, path.read_text().replace(*change))
    assert faults(project) == [
        "secrets/redis/users.conf: does not say what this version lets each user do; `invoke secrets.init` puts it right"
    ]


def test_who_may_read_and_write_is_looked_at(project: Project, folder: Path) -> None:
    (folder / "client_key").chmod(0o440)
    (folder / "api/api_keys").chmod(0o666)
    (folder / "egress").chmod(0o777)
    (folder / "api/openai_api_key").chmod(0o400)
    assert faults(project) == [
        "secrets/egress/: others than its owner may write to it; chmod go-w secrets/egress/",
        "secrets/api/api_keys: others than its owner may write to it; chmod go-w secrets/api/api_keys",
        "secrets/api/openai_api_key: the service (group 10001) cannot read it; `invoke secrets.init` puts it right",
        "secrets/client_key: others than its owner may read it; chmod 400 secrets/client_key",
    ]


def test_root_could_have_given_them_to_a_group(project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = faults(project)
    assert "secrets/api/: is open to everyone on this machine; `invoke secrets.init` puts it right" in found
    assert "secrets/api/api_keys: everyone on this machine may read it; `invoke secrets.init` puts it right" in found
    assert len(found) == len(secrets.READERS) + 11


def test_somebody_else_s_file_is_named(project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_access, "_trusted", lambda _: {-1})
    assert any("client_key: belongs to user" in each for each in faults(project))


def test_a_link_is_named(project: Project, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(KEY + "\n")
    (folder / "api/openai_api_key").unlink()
    (folder / "api/openai_api_key").symlink_to(tmp_path / "elsewhere")
    assert places(project) == ["secrets/api/openai_api_key"]
    assert "leads nowhere inside the container" in faults(project)[0]


def test_what_no_service_reads_is_named_with_what_was_meant(project: Project, folder: Path) -> None:
    for name in (
        "api/open_ai_api_key",
        "api/openai_api_key~",
        "egress/.anthropic_api_key.new",
        "redis/own.conf",
        "notes",
    ):
        write(folder / name, KEY)
    (folder / "apis").mkdir()
    found = faults(project)
    assert [each.partition(";")[0] for each in found] == [
        "secrets/api/open_ai_api_key: no service reads it",
        "secrets/api/openai_api_key~: no service reads it",
        "secrets/apis/: no service reads it",
        "secrets/egress/.anthropic_api_key.new: was left by a command that was interrupted",
        "secrets/notes: no service reads it",
    ]
    assert 'perhaps you meant "api/openai_api_key"' in found[0] and 'perhaps you meant "api"' in found[2]


def test_a_secret_in_git_is_named(project: Project, folder: Path, git: dict[str, Completed]) -> None:
    git["ls-files"] = Completed(0, "secrets/client_key\0", "")
    git["check-ignore"] = Completed(1, "", "")
    assert faults(project) == [
        "secrets/client_key: is tracked by git; git rm --cached secrets/client_key, and make the secret anew: it is in the history",
        ".gitignore: does not leave out secrets/; add the line secrets/",
    ]
    git["ls-files"] = Completed(128, "", "fatal: not a git repository")
    assert faults(project) == []


def test_a_secret_among_settings_is_named(project: Project, folder: Path) -> None:
    (project.root / ".env").write_text(f"LLM_CALL_API_PORT=1\nOPENAI_API_KEY={KEY}\nGOOGLE_API_KEY=\n")
    assert faults(project) == [".env: OPENAI_API_KEY: is a secret among settings; put it into its file below secrets/"]


def test_every_fault_comes_at_once_and_ends_the_command(
    project: Project, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "redis/users.conf").unlink()
    write(folder / "api/openai_api_key", "changeme\n")
    report = secrets_check.check(project)
    with pytest.raises(ConfigError) as raised:
        secrets_check.show(report, json=True)
    assert raised.value.exit_code == 3 and len(raised.value.faults) == 2
    document = json.loads(capsys.readouterr().out)
    assert [each["place"] for each in document["faults"]] == places(project)
    assert set(document) == {"faults", "not_given", "rotating"}


def test_nothing_wrong_is_said_too(project: Project, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets_check.show(secrets_check.check(project), json=False)
    said = capsys.readouterr().err
    assert "nothing is wrong with secrets/" in said and "openai/* cannot be used" in said


def test_a_closed_folder_is_no_traceback(project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Callable[[Path], bytes] = Path.read_bytes

    def closed(path: Path) -> bytes:
        if path.name == "client_key":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", closed)
    assert faults(project) == [
        "secrets/client_key: cannot be looked at: Permission denied; run this as its owner or as root"
    ]


@pytest.mark.parametrize("name", ["api/redis_password", "client_key", "api/openai_api_key"])
def test_a_folder_in_the_place_of_a_file_is_told_once(project: Project, folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    (folder / name / "inside").write_text("")
    said = f"secrets/{name}: is a folder, not a file; move it away; `invoke secrets.init` makes what it can"
    assert faults(project) == [said]


def test_a_file_in_the_place_of_a_service_s_folder_is_told_once(project: Project, folder: Path) -> None:
    for path in sorted((folder / "egress").iterdir()):
        path.unlink()
    (folder / "egress").rmdir()
    (folder / "egress").write_text("")
    assert faults(project) == [
        "secrets/egress: is a link or a file, not a folder; remove it, and put the folder itself there"
    ]


def test_a_file_in_the_place_of_all_secrets_is_told(project: Project) -> None:
    secrets.folder(project).write_text("")
    said = "secrets: is a file, not a folder; move it away; `invoke secrets.init` makes the folder"
    assert faults(project) == [said]
    with pytest.raises(ConfigError, match="secrets: is a file, not a folder"):
        secrets.init(project)


def test_settings_that_are_a_folder_are_told(project: Project, folder: Path) -> None:
    (project.root / ".env").mkdir()
    assert faults(project) == [".env: is a folder, not a file; move it away; a start writes the file"]
