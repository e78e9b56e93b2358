"""The .env of a checkout: three lines are the toolkit's, everything else is the user's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shipyard import dotenv
from shipyard.errors import ConfigError
from shipyard.models import Project

HEADER = "# Read by docker compose. The toolkit keeps the first three; add your own lines (ports, addresses) below.\n"


def ours(project: Project) -> str:
    return "".join(f"{name}={value}\n" for name, value in known(project).items())


def known(project: Project) -> dict[str, str]:
    names = ("COMPOSE_PROJECT_NAME", "LLM_CALL_VERSION", "CLAUDE_RUNNER_UIDS")
    return dict(zip(names, (dotenv.project_name(project.root), "1.2.3", dotenv.runner_uids(project.root)), strict=True))


def test_each_checkout_has_a_name_of_its_own(tmp_path: Path) -> None:
    one, other = dotenv.project_name(tmp_path / "one"), dotenv.project_name(tmp_path / "other")
    assert re.fullmatch("llm-call-[0-9a-f]{6}", one)
    assert one != other
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    assert dotenv.project_name(tmp_path / "link") == one


def test_a_new_file(project: Project) -> None:
    found = dotenv.write(project)
    assert (project.root / ".env").read_text() == HEADER + ours(project)
    assert found == known(project)


def test_each_checkout_has_uids_of_its_own_and_a_line_of_the_user_counts(project: Project, tmp_path: Path) -> None:
    first, other = dotenv.runner_uids(tmp_path / "one"), dotenv.runner_uids(tmp_path / "other")
    assert first != other
    assert 20_000 < int(f"{first}1") < 60_000
    (project.root / ".env").write_text("CLAUDE_RUNNER_UIDS=3000\n")
    assert dotenv.write(project)["CLAUDE_RUNNER_UIDS"] == "3000"


def test_a_file_that_is_right_is_not_touched(project: Project) -> None:
    path = project.root / ".env"
    text = ours(project) + "REDIS_PORT=7000 # mine"  # no newline at its end: still the user's text
    path.write_text(text)
    before = path.stat()
    assert dotenv.write(project)["LLM_CALL_VERSION"] == "1.2.3"
    assert path.read_text() == text
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_the_users_lines_stay_when_ours_change(project: Project) -> None:
    path = project.root / ".env"
    path.write_text(
        HEADER + "COMPOSE_PROJECT_NAME=copied-from-elsewhere\nLLM_CALL_VERSION=0.9.0\n\n# my ports\n"
        "REDIS_PORT='7000'\nEMPTY=\nexport ODD = x=y\n"
    )
    assert dotenv.write(project) == {
        **known(project),
        "REDIS_PORT": "7000",
        "EMPTY": "",
        "ODD": "x=y",
    }
    assert path.read_text() == HEADER + ours(project) + "\n# my ports\nREDIS_PORT='7000'\nEMPTY=\nexport ODD = x=y\n"


def test_only_what_is_wrong_is_replaced(project: Project) -> None:
    path = project.root / ".env"
    path.write_text(f"COMPOSE_PROJECT_NAME={dotenv.project_name(project.root)}\nREDIS_PORT=7000\n")
    dotenv.write(project)
    assert sorted(path.read_text().splitlines()) == sorted([*ours(project).splitlines(), "REDIS_PORT=7000"])


def test_no_line_of_the_user_is_lost_or_reordered(project: Project) -> None:
    path = project.root / ".env"
    lines = ["REDIS_PORT=7000", "# ----", "CLAUDE_PROXY_PORT=7001", "# ----", "OTHER=1"]
    path.write_text("\n".join(lines) + "\n")
    dotenv.write(project)
    assert [line for line in path.read_text().splitlines() if line in lines] == lines


def test_a_private_file_stays_private(project: Project) -> None:
    path = project.root / ".env"
    path.write_text("TOKEN=secret\n")
    path.chmod(0o600)
    dotenv.write(project)
    assert path.stat().st_mode & 0o777 == 0o600


def test_parse() -> None:
    assert dotenv.parse(
        "# A=1\n\nB = 2 \n  # C=3\nD=\"4\"\nE='5'\nnothing\nF=a=b\nG=x # y\nH='x # y'\nI=x#y\nJ= # y\nK=\"x y\" # z\nL='it"
    ) == {
        "B": "2",
        "D": "4",
        "E": "5",
        "F": "a=b",
        "G": "x",
        "H": "x # y",
        "I": "x#y",
        "J": "# y",
        "K": "x y",
        "L": "it",
    }


def test_a_value_in_quotes_may_have_several_lines() -> None:
    assert dotenv.parse('A=\'one\nB=2\' # c\nC="x\\"\ny"\nD=4') == {"A": "one\nB=2", "C": "x\\", "D": "4"}


@pytest.mark.parametrize(
    ("text", "line", "name"),
    [
        ("A=1\nB='it\nC=3\n", 2, "B"),
        ('B="it', 1, "B"),
        ("A=1\n\nexport B='it\nC='x'\n", 3, "B"),  # it ends where another one begins
        ("B='it\\'\n", 1, "B"),
    ],
)
def test_a_quote_that_does_not_end_is_told_with_its_line(project: Project, text: str, line: int, name: str) -> None:
    path = project.root / ".env"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        dotenv.write(project)
    assert str(refused.value) == f".env: line {line}: the quote before the value of {name} does not end; close it"
    assert path.read_text() == text


def test_quotes_that_end_are_no_fault(project: Project) -> None:
    (project.root / ".env").write_text("A='a' # it's\nB=\"b\"\nC=it's\nD='one\ntwo' # three\n# 'x\nE='a\\'b'\n")
    assert dotenv.write(project)["D"] == "one\ntwo"


def test_what_compose_fills_in(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dotenv.filled(project) == set()
    (project.root / ".env").write_text(
        'A=/srv/$a\nB="/srv/${b}"\nC=\'/srv/$c\'\nD=/srv # $d\nE="a\\tb"\nF=a\\b\nG=$g\nG=g\nH=$h\n'
    )
    monkeypatch.setenv("H", "mine")
    assert dotenv.filled(project) == {"A", "B", "E"}


def test_what_is_no_text_is_told(project: Project) -> None:
    (project.root / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(ConfigError, match=r"\.env: is not text in UTF-8"):
        dotenv.write(project)


def test_plain_compose_finds_it_beside_its_file(project: Project) -> None:
    (project.root / "compose").mkdir()
    dotenv.write(project)
    assert (project.root / "compose/.env").read_text() == (project.root / ".env").read_text()


def test_a_folder_in_its_place_is_told(project: Project) -> None:
    (project.root / ".env").mkdir()
    with pytest.raises(ConfigError, match=r"\.env: is a folder, not a file; move it away"):
        dotenv.write(project)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A='x'\nB=\"y # z\" # w\nC=it's\nD=\n", ""),
        ("A='first\nsecond=\"\nthird'\nB=1\n", ""),
        ('A="with \\" inside"\nB=1\n', ""),
        ("# A='x\nB\n", ""),
        (
            "A=1\nB='x\n",
            ".env: line 2: the quote before the value of B does not end; close it",
        ),
        ('A="x\ny"\nexport B = "x\\"\nC=1', ".env: line 3: the quote before the value of B does not end"),
    ],
)
def test_a_quote_has_to_end(project: Project, text: str, said: str) -> None:
    (project.root / ".env").write_text(text)
    found = dotenv.faults(text)
    assert [str(each)[: len(said)] for each in found] == ([said] if said else [])
    if said:
        with pytest.raises(ConfigError, match="does not end"):
            dotenv.write(project)
        assert (project.root / ".env").read_text() == text
