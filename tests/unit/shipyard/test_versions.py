"""Order, bump and tags of versions: what the specification says, and what a moving tag may do."""

from __future__ import annotations

import itertools

import pytest

from shipyard import versions
from shipyard.errors import ReleaseRefused, UnknownName
from shipyard.versions import Version

#: Section 11 of Semantic Versioning, its own example, with more around it.
ORDERED = (
    "0.1.0",
    "0.9.12",
    "0.10.0",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "2.0.0-0.3.7",
    "2.0.0",
)


def test_the_order_is_that_of_the_specification() -> None:
    for earlier, later in itertools.combinations(ORDERED, 2):
        assert Version(earlier) < Version(later), (earlier, later)
        assert not Version(later) <= Version(earlier), (earlier, later)
    assert [str(each) for each in sorted(map(Version, reversed(ORDERED)))] == list(ORDERED)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.2",
        "1.2.3.4",
        "01.2.3",
        "1.2.3-",
        "1.2.3-01",
        "1.2.3+build",
        "v1.2.3",
        "1.2.3\n",
        "1.2.3-a..b",
        "\u0661.2.3",
    ],
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ReleaseRefused, match="is not a semantic version"):
        Version(text)
    assert versions.problem(text)


@pytest.mark.parametrize(
    ("current", "wanted", "expected"),
    [
        ("1.2.3", "major", "2.0.0"),
        ("1.2.3", "minor", "1.3.0"),
        ("1.2.3", "patch", "1.2.4"),
        ("1.2.4-rc.1", "patch", "1.2.4"),
        ("1.3.0-rc.1", "patch", "1.3.0"),
        ("1.3.0-rc.1", "minor", "1.3.0"),
        ("1.3.1-rc.1", "minor", "1.4.0"),
        ("2.0.0-rc.1", "major", "2.0.0"),
        ("2.1.0-rc.1", "major", "3.0.0"),
        ("1.2.3", "1.2.3", "1.2.3"),
        ("1.2.3", "1.3.0-rc.1", "1.3.0-rc.1"),
        ("1.3.0-rc.1", "1.3.0-rc.2", "1.3.0-rc.2"),
    ],
)
def test_the_next_version(current: str, wanted: str, expected: str) -> None:
    assert versions.bump(current, wanted) == expected


@pytest.mark.parametrize(
    ("current", "wanted"), [("1.2.3", "1.2.2"), ("1.2.3", "1.2.3-rc.1"), ("1.3.0-rc.2", "1.3.0-rc.1")]
)
def test_a_release_never_goes_back(current: str, wanted: str) -> None:
    with pytest.raises(ReleaseRefused, match=f"^{wanted} is older than VERSION, which is {current}"):
        versions.bump(current, wanted)


def test_other_words_are_named() -> None:
    with pytest.raises(UnknownName, match='perhaps you meant "minor"'):
        versions.bump("1.2.3", "minro")
    with pytest.raises(ReleaseRefused, match="semantic version"):
        versions.bump("1.2.3", "1.3")


@pytest.mark.parametrize("suffix", ["dev", "debug", "local", "cuda"])
def test_a_pre_release_that_reads_like_a_target_s_tag_is_refused(suffix: str) -> None:
    for text in (f"1.2.3-{suffix}", f"1.2.3-rc.1-{suffix}"):
        assert f"would take the tag of the target {suffix}" in versions.problem(text)
        with pytest.raises(ReleaseRefused):
            versions.bump("1.0.0", text)
    assert versions.problem(f"1.2.3-{suffix}.1") == ""


def test_a_tag_has_room_for_the_version_and_its_target() -> None:
    assert versions.problem("1.0.0-" + "a" * 116) == ""
    assert "too long" in versions.problem("1.0.0-" + "a" * 117)


@pytest.mark.parametrize(
    ("version", "existing", "expected"),
    [
        ("1.2.3", [], ["1.2.3", "1.2", "1", "latest"]),
        ("1.2.3", ["1.2.3", "1.2", "1", "latest"], ["1.2.3", "1.2", "1", "latest"]),  # once more
        ("1.2.4", ["1.2.3", "1.2", "1", "latest"], ["1.2.4", "1.2", "1", "latest"]),
        ("1.2.4", ["1.2.3", "1.3.0"], ["1.2.4", "1.2"]),  # newest of its minor only
        ("1.2.4", ["1.2.5", "1.3.0"], ["1.2.4"]),
        ("1.9.0", ["1.8.0", "2.0.0"], ["1.9.0", "1.9", "1"]),
        ("1.2.4", ["1.3.0-rc.1", "2.0.0-alpha"], ["1.2.4", "1.2", "1", "latest"]),  # pre-releases do not count
        ("1.2.4-rc.1", [], ["1.2.4-rc.1"]),
        ("1.2.4", ["9.9.9-cuda", "sha256-" + "a" * 64, "nightly", "9.9"], ["1.2.4", "1.2", "1", "latest"]),
        ("0.10.0", ["0.9.0"], ["0.10.0", "0.10", "0", "latest"]),
    ],
)
def test_an_older_release_moves_nothing_back(version: str, existing: list[str], expected: list[str]) -> None:
    assert versions.moving(version, "prod", existing) == expected


def test_each_target_moves_its_own_tags() -> None:
    assert versions.moving("1.2.3", "cuda", ["1.3.0", "1.2.2-cuda", "1.3.0-local"]) == [
        "1.2.3-cuda",
        "1.2-cuda",
        "1-cuda",
        "latest-cuda",
    ]
    assert versions.moving("1.2.3", "cuda", ["1.3.0-cuda"]) == ["1.2.3-cuda", "1.2-cuda"]
    assert [str(each) for each in versions.of(["1.3.0-cuda", "1.2.0-rc.1-cuda", "1.0.0", "x"], "cuda")] == [
        "1.2.0-rc.1",
        "1.3.0",
    ]


def test_a_pre_release_has_no_alias() -> None:
    assert versions.aliases("1.2.3-rc.1", "prod") == []
    assert versions.aliases("1.2.3", "local") == ["1.2-local", "1-local", "latest-local"]
