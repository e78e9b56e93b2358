"""Signals at every boundary: what is one unit ends, nothing starts afterwards, what was taken is given back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shipyard import lease, publishing, signals
from shipyard.artifacts import Artifact
from shipyard.journal import Journal

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
TAGS = ("1.2.3", "1.2", "1", "latest")
NEW, OLD = "sha256:new", "sha256:old"


@pytest.fixture(autouse=True)
def _by_default() -> Any:
    """As a person's terminal starts a verb, whatever these tests were started to ignore."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in NUMBERS}
    yield
    assert {number: signal.signal(number, handler) for number, handler in before.items()} == dict.fromkeys(
        NUMBERS, signal.default_int_handler
    ), "a verb gives back what it took"


class Registry:
    """Has four tags; ``before`` is called with the number of each request, and what it is."""

    host = "registry.invalid"

    def __init__(self, before: Callable[[int, str], None]) -> None:
        self.tags, self.count, self._before = dict.fromkeys(TAGS, OLD), 0, before

    def _ask(self, what: str) -> None:
        self._before(self.count, what)
        self.count += 1

    def head(self, _: str, reference: str) -> str | None:
        self._ask("head")
        return self.tags.get(reference, reference)

    def manifest(self, *_: str) -> tuple[bytes, str]:
        self._ask("manifest")
        return b"{}", "application/json"

    def push_manifest(self, _: str, tag: str, *__: object) -> None:
        self._ask("push")
        self.tags[tag] = NEW


def artifact() -> Artifact:
    return Artifact("one", "prod", "registry.invalid/one", "1.2.3", NEW, Path(), ())


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("moment", range(4 + 3 * len(TAGS)))
def test_a_tag_is_one_unit(number: signal.Signals, moment: int) -> None:
    """Four questions, then for each tag: the manifest, the write, and whether it names that now."""
    sent, late = list[int](), list[str]()

    def before(count: int, what: str) -> None:
        if sent:
            late.append(what)
        if count == moment:
            os.kill(os.getpid(), number)
            sent.append(count)

    registry: Any = Registry(before)
    with pytest.raises(signals.Stopped) as stopped, signals.of_a_verb():
        publishing.move(registry, artifact(), TAGS)
    assert stopped.value.exit_code == 128 + number
    during_a_write = moment >= 4 and (moment - 4) % 3 == 1
    assert late == (["head"] if during_a_write else [])
    moved = [tag for tag, digest in registry.tags.items() if digest == NEW]
    assert moved == list(TAGS[: max(0, moment - 4 + 2) // 3])


def test_one_that_was_forgotten_comes_up_before_the_next_unit() -> None:
    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    registry: Any = Registry(lambda *_: None)
    with (
        _forgotten(),
        pytest.raises(signals.Stopped),
        signals.of_a_verb(),
    ):
        Last()
        publishing.move(registry, artifact(), TAGS)
    assert set(registry.tags.values()) == {OLD}


class _forgotten:
    """What Python would print of an exception in a destructor."""

    def __enter__(self) -> None:
        import sys

        self._before = sys.unraisablehook
        sys.unraisablehook = lambda _: None

    def __exit__(self, *_: object) -> None:
        import sys

        sys.unraisablehook = self._before


@pytest.mark.parametrize("number", NUMBERS)
def test_a_lease_is_given_back(number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever in it the signal comes: at each of its writes and removals, and at the end."""
    path = tmp_path / "lease.json"
    moments = 0
    while True:
        left = [moments]

        def count(_: object = None, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == -1:
                os.kill(os.getpid(), number)

        with monkeypatch.context() as patched, pytest.raises(signals.Stopped):
            for name in ("read_text", "write_text", "replace", "unlink"):
                real = getattr(Path, name)
                patched.setattr(Path, name, _counted(real, count))
            with signals.of_a_verb():
                with lease.held(path, "a test"):
                    pass
                if left[0] >= 0:
                    os.kill(os.getpid(), number)  # no more moments: this one is the verb's last
        assert not path.exists()
        assert list(tmp_path.iterdir()) in ([], [tmp_path / "lease.lock"])
        if left[0] >= 0:
            break
        moments += 1
    assert moments >= 5


def _counted(real: Callable[..., Any], count: Callable[[], None]) -> Callable[..., Any]:
    def called(self: Path, *more: Any, **named: Any) -> Any:
        count()
        return real(self, *more, **named)

    return called


def test_a_line_of_the_journal_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, real = Journal(tmp_path / "journal.jsonl"), os.pwrite

    def hit(handle: int, data: bytes, offset: int) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", hit)
    with pytest.raises(signals.Stopped), signals.of_a_verb():
        journal.write("build", "begun")
    assert [(each.step, each.state) for each in journal.entries()] == [("build", "begun")]


def test_what_another_command_line_says() -> None:
    assert signals.again(["--search-root", "/a", "release", "--bump", "a b"]).endswith(": invoke release --bump 'a b'")
    assert signals.again(["down"]).startswith("what was done stays, and the same command goes on from here")


def test_a_signal_that_is_the_usual_end() -> None:
    with signals.of_a_verb():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except signals.Stopped:
            signals.answered()
        signals.check()
        with signals.whole():
            pass
    assert signals.exit_code() == 0
