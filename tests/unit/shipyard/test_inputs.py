"""What a Dockerfile reads, what .dockerignore leaves out, and which changes of a checkout change the hash."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shipyard import inputs
from shipyard.errors import ConfigError

API = "docker/api/Dockerfile"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def instructions(dockerfile: str) -> list[str]:
    """With blanks squeezed: how many there are says nothing."""
    return [" ".join(each.split()) for each in inputs.instructions(dockerfile)]


# --- instructions ---


def test_continued_lines_are_joined_and_comments_left_out() -> None:
    text = "# first\n\nFROM a AS b\nRUN one \\\n    # why two\n    two\\\n  && three\n  # indented\nUSER 1\n"
    assert instructions(text) == ["FROM a AS b", "RUN one two && three", "USER 1"]


def test_an_empty_line_does_not_end_a_continued_instruction() -> None:
    # BuildKit warns (NoEmptyContinuation) and goes on; a hash that missed the file would call a stale image current.
    assert inputs.sources("FROM a\nCOPY one \\\n\n    two /app/\n", API) == ["one", "two"]


def test_blanks_after_the_backslash_still_continue_the_line() -> None:
    assert instructions("RUN one \\ \t\n two\n") == ["RUN one two"]


def test_bodies_of_heredocs_are_not_instructions() -> None:
    text = (
        "RUN --mount=type=cache,target=/c \\\n"
        "    <<'INSTALL'\n"
        "COPY not-a-source /x\n"
        "RUN --mount=type=bind,source=neither,target=/y true\n"
        "INSTALL\n"
        "COPY real /app\n"
        'RUN cat <<-"END" >/file\n'
        "\tCOPY nor-this /z\n"
        "\tEND\n"
        "COPY <<EOF /etc/made\n"
        "COPY at-all /q\n"
        "EOF\n"
        "USER 1\n"
    )
    assert instructions(text) == [
        "RUN --mount=type=cache,target=/c <<'INSTALL'",
        "COPY real /app",
        'RUN cat <<-"END" >/file',
        "COPY <<EOF /etc/made",
        "USER 1",
    ]
    assert inputs.sources(text, API) == ["real"]


def test_two_heredocs_of_one_instruction() -> None:
    text = "COPY <<ONE <<TWO /etc/\nfirst\nONE\nCOPY no /x\nTWO\nCOPY real /app\n"
    assert inputs.sources(text, API) == ["real"]


def test_shifts_and_here_strings_open_no_heredoc() -> None:
    text = "RUN echo $((1<<3))\nCOPY one /x\nRUN cat <<<word\nCOPY two /y\n"
    assert inputs.sources(text, API) == ["one", "two"]


def test_an_indented_word_does_not_close_a_plain_heredoc() -> None:
    text = "RUN <<EOF\n  EOF\nCOPY no /x\nEOF\nCOPY real /app\n"
    assert inputs.sources(text, API) == ["real"]


# --- sources ---


def test_sources_of_copies_adds_and_bind_mounts() -> None:
    text = (
        "FROM a AS one\n"
        "COPY --chown=1:1 --link ./src/ requirements/api.txt /app/\n"
        "add archive.tar /\n"
        'COPY ["with space", "/x"]\n'
        "COPY --from=two /etc/passwd /etc/passwd\n"
        "RUN --mount=type=bind,source=locks,target=/l --mount=type=cache,target=/c \\\n"
        "    --mount=type=bind,from=two,source=/made,target=/m \\\n"
        "    --mount=type=secret,id=ca,required=false --mount=src=tools,target=/t true\n"
        "COPY ./src/ /again\n"
    )
    assert inputs.sources(text, API) == ["src", "requirements/api.txt", "archive.tar", "with space", "locks", "tools"]


def test_the_whole_context() -> None:
    assert inputs.sources("COPY . /app\n", API) == ["."]
    assert inputs.sources("RUN --mount=type=bind,target=/src make\n", API) == ["."]


def test_sources_that_cannot_be_hashed_are_faults_all_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        inputs.sources("COPY $NAME/a *.txt src /app\nRUN --mount=type=bind,source=x?,target=/x true\n", API)
    hint = "name a file or folder literally, so that it can be hashed"
    assert str(raised.value) == "\n".join(
        f'docker/api/Dockerfile: source "{path}" has a variable or wildcard; {hint}'
        for path in ("$NAME/a", "*.txt", "x?")
    )


# --- .dockerignore ---


@pytest.mark.parametrize(
    ("pattern", "out", "kept"),
    [
        ("src", ["src", "src/a.py", "src/deep/b.py"], ["srcs", "other/src"]),
        ("/src/", ["src/a.py"], ["x/src/a.py"]),
        ("*.pyc", ["a.pyc"], ["x/a.pyc", "a.py"]),
        ("*/*.pyc", ["x/a.pyc"], ["a.pyc", "x/y/a.pyc"]),
        ("**/*.pyc", ["a.pyc", "x/a.pyc", "x/y/a.pyc"], ["a.py"]),
        ("**/__pycache__", ["__pycache__/a", "x/y/__pycache__/a"], ["x/__pycache__s/a"]),
        ("a?c", ["abc", "abc/d"], ["ac", "a/c", "abbc"]),
        ("log[0-3].txt", ["log2.txt"], ["log7.txt", "log[0-3].txt"]),
        ("*", ["a", "x/a"], []),
        ("src/**", ["src/a", "src/x/a"], ["src"]),
        ("a.b", ["a.b"], ["axb"]),
        ("./src", ["src/a.py"], ["x/src/a.py"]),
    ],
)
def test_one_pattern(pattern: str, out: list[str], kept: list[str]) -> None:
    assert [path for path in (*out, *kept) if inputs.ignored(path, [pattern])] == out


def test_the_last_pattern_that_matches_decides() -> None:
    patterns = ["*", "!src", "src/private", "!src/private/public.txt", "**/*.pyc"]
    paths = {
        "README.md": True,
        "src/a.py": False,
        "src/private/key": True,
        "src/private/public.txt": False,
        "src/a.pyc": True,
    }
    assert {path: inputs.ignored(path, patterns) for path in paths} == paths


def test_nothing_is_ignored_without_patterns(tmp_path: Path) -> None:
    assert inputs.ignore_patterns(tmp_path) == []
    assert not inputs.ignored("anything", [])


def test_lines_of_dockerignore_that_say_something(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("# comment\n\n  *.log  \n!keep.log\n   \n")
    assert inputs.ignore_patterns(tmp_path) == ["*.log", "!keep.log"]


# --- digests ---


def test_files_that_matter_each_with_its_hash(checkout: Path) -> None:
    assert inputs.digests(checkout, ".", API) == {
        "docker/api/Dockerfile": sha((checkout / API).read_bytes()),
        "src/app.py": sha(b"print('hello')\n"),
        "start.sh": "x" + sha(b"#!/bin/sh\n"),
    }


def test_what_dockerignore_leaves_out_does_not_matter(checkout: Path) -> None:
    (checkout / ".dockerignore").write_text("**/*.pyc\nstart.sh\n")
    (checkout / "src/app.pyc").write_bytes(b"\0")
    assert list(inputs.digests(checkout, ".", API)) == ["docker/api/Dockerfile", "src/app.py"]


def test_a_context_below_the_root(checkout: Path) -> None:
    (checkout / API).write_text("COPY app.py /\n")
    (checkout / ".dockerignore").write_text("*\n")  # belongs to another context
    assert list(inputs.digests(checkout, "src", API)) == ["docker/api/Dockerfile", "src/app.py"]


def test_touch_clone_and_umask_change_nothing(
    checkout: Path, tmp_path: Path, make_checkout: Callable[[Path], Path]
) -> None:
    before = inputs.digests(checkout, ".", API)
    for path in checkout.rglob("*"):
        os.utime(path, (1, 1))
    assert inputs.digests(checkout, ".", API) == before
    (checkout / "src/app.py").chmod(0o600)
    (checkout / "start.sh").chmod(0o700)
    assert inputs.digests(checkout, ".", API) == before
    earlier = os.umask(0o077)
    try:
        clone = make_checkout(tmp_path / "elsewhere/a clone")
    finally:
        os.umask(earlier)
    assert inputs.digests(clone, ".", API) == before
    assert inputs.digests(shutil.copytree(checkout, tmp_path / "copy"), ".", API) == before


def test_a_file_outside_the_sources_changes_nothing(checkout: Path) -> None:
    before = inputs.digests(checkout, ".", API)
    (checkout / "README.md").write_text("new words")
    (checkout / "docker/redis/Dockerfile").write_text("FROM other")
    assert inputs.digests(checkout, ".", API) == before


def test_every_change_that_matters_is_named(checkout: Path) -> None:
    (checkout / "src/gone.py").write_text("")
    (checkout / "src/link").symlink_to("app.py")
    before = inputs.digests(checkout, ".", API)
    (checkout / "src/app.py").write_text("print('changed')\n")
    (checkout / "src/gone.py").unlink()
    (checkout / "src/new.py").write_text("")
    (checkout / "src/link").unlink()
    (checkout / "src/link").symlink_to("new.py")
    (checkout / "start.sh").chmod(0o644)
    (checkout / API).write_text((checkout / API).read_text() + "USER 1\n")
    assert inputs.changes(before, inputs.digests(checkout, ".", API)) == [
        "changed docker/api/Dockerfile",
        "changed src/app.py",
        "removed src/gone.py",
        "changed src/link",
        "added src/new.py",
        "changed start.sh",
    ]


def test_a_file_that_becomes_a_link_to_itself_elsewhere_is_a_change(checkout: Path) -> None:
    file = inputs.digest(checkout / "src/app.py")
    (checkout / "src/app.py").rename(checkout / "src/real.py")
    (checkout / "src/app.py").symlink_to("real.py")
    assert inputs.digest(checkout / "src/real.py") == file
    assert inputs.digest(checkout / "src/app.py") == "l" + sha(b"real.py")


def test_a_link_to_a_folder_is_not_followed_and_a_dangling_one_counts(checkout: Path) -> None:
    (checkout / "src/folder").symlink_to("../docker")
    (checkout / "src/dangling").symlink_to("nowhere")
    assert [path for path in inputs.digests(checkout, ".", API) if path.startswith("src/")] == [
        "src/app.py",
        "src/dangling",
        "src/folder",
    ]


def test_the_target_of_a_link_that_is_copied_by_its_own_name_counts(checkout: Path) -> None:
    # COPY follows its source, so the image holds what the link points at.
    (checkout / "start.sh").rename(checkout / "real.sh")
    (checkout / "start.sh").symlink_to("real.sh")
    before = inputs.digests(checkout, ".", API)
    (checkout / "real.sh").write_text("#!/bin/sh\necho changed\n")
    assert inputs.digests(checkout, ".", API) != before


# --- the hash ---


def test_the_locks_that_a_dockerfile_takes_packages_from() -> None:
    text = """
RUN --mount=type=bind,source=docker/builder/debian.lock,target=/locks/debian.lock true
RUN --mount=type=bind,source=docker/api/debian.lock,target=/locks/debian.lock true
RUN --mount=type=bind,source=docker/local-llm/debian.lock,target=/locks/debian.lock true
RUN --mount=type=bind,source=docker/api/debian.lock,target=/locks/debian.lock true
"""
    assert inputs.locks(text) == ["docker/api/debian.lock", "docker/local-llm/debian.lock"]


def test_the_hash_depends_on_content_not_on_order() -> None:
    one = inputs.combine({"a": "1", "b": "2"}, {"version": "1", "target": "prod"})
    assert one == inputs.combine({"b": "2", "a": "1"}, {"target": "prod", "version": "1"})
    document = b'["1",{"a":"1","b":"2"},{"target":"prod","version":"1"}]'
    assert one == hashlib.sha256(document).hexdigest()


def test_the_hash_tells_every_part_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"a": "1"}
    found = {
        inputs.combine(base, {"v": "1"}),
        inputs.combine({"a": "2"}, {"v": "1"}),
        inputs.combine({"b": "1"}, {"v": "1"}),
        inputs.combine(base, {"v": "2"}),
        inputs.combine({**base, "v": "1"}, {}),
    }
    monkeypatch.setattr(inputs, "FORMAT", "2")
    found.add(inputs.combine(base, {"v": "1"}))
    assert len(found) == 6


def test_equal_files_have_no_changes() -> None:
    assert inputs.changes({"a": "1"}, {"a": "1"}) == []
