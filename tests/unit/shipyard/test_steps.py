"""What can be told of a release's steps without an engine, a registry or a process."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shipyard import errors, pipeline, source, world
from shipyard.artifacts import Artifact, Part
from shipyard.loading import Loaded
from shipyard.steps import preflight, test


def test_the_steps_are_those_that_are_told_of_in_their_order() -> None:
    assert [step.name for step in pipeline.STEPS] == list(world.TITLES)
    assert all(step.title for step in pipeline.STEPS)


def test_a_single_fault_keeps_its_exit_code_and_several_are_told_together() -> None:
    preflight.refuse([])
    with pytest.raises(errors.AccessDenied, match=r"^no login$"):
        preflight.refuse([errors.AccessDenied("no login")])
    with pytest.raises(errors.ReleaseRefused, match=r"^- no login\n- the tree is not clean$"):
        preflight.refuse([errors.AccessDenied("no login"), errors.ReleaseRefused("the tree is not clean")])
    with pytest.raises(errors.ReleaseRefused) as refused:
        preflight.refuse([errors.AccessDenied("no login"), errors.ToolMissing("cosign: program not found")])
    assert refused.value.see == errors.DOCTOR


def test_an_emulator_counts_when_the_kernel_has_it_enabled(tmp_path: Path) -> None:
    assert not test.emulated("linux/arm64", tmp_path)
    (tmp_path / "qemu-aarch64").write_text("disabled\ninterpreter /usr/bin/qemu-aarch64-static\n")
    assert not test.emulated("linux/arm64", tmp_path)
    (tmp_path / "qemu-aarch64").write_text("enabled\ninterpreter /usr/bin/qemu-aarch64-static\n")
    assert test.emulated("linux/arm64", tmp_path)
    assert not test.emulated("linux/amd64", tmp_path)


def test_an_image_is_tested_on_those_platforms_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without arm64, as with CUDA, beside others."""

    def artifact(target: str, *platforms: str) -> Artifact:
        parts = tuple(Part(each, f"sha256:{each}", 1, ()) for each in platforms)
        return Artifact("api", target, "localhost/api", target, f"sha256:{target}", Path(), parts)

    asked: list[tuple[str, dict[str, str]]] = []
    forgotten: list[str] = []

    def load(engine: object, each: Artifact, mark: str, native: str, platform: str = "") -> Loaded:
        return Loaded(
            each.key, f"{each.tag} {platform}".strip(), f"sha256:{each.tag} {platform}".strip(), platform or native
        )

    monkeypatch.setattr(test.images, "native", lambda engine: "linux/amd64")
    monkeypatch.setattr(test.loading, "load", load)
    monkeypatch.setattr(test.loading, "held", lambda *_: nullcontext())
    monkeypatch.setattr(test.loading, "check", lambda *_: None)
    monkeypatch.setattr(test.loading, "sweep", lambda *_: None)
    monkeypatch.setattr(test.loading, "unload", lambda engine, loaded: forgotten.extend(each.name for each in loaded))
    monkeypatch.setattr(test, "emulated", lambda platform: True)
    monkeypatch.setattr(test, "_pytest", lambda _, given, platform: asked.append((platform, given)) or "1 passed")
    artifacts = (artifact("prod", "linux/amd64", "linux/arm64"), artifact("cuda", "linux/amd64"))
    test._run(SimpleNamespace(engine=None, root=Path(), artifacts=artifacts, digests={}))
    assert asked == [
        ("linux/amd64", {"api-prod": "sha256:prod", "api-cuda": "sha256:cuda"}),
        ("linux/arm64", {"api-prod": "sha256:prod linux/arm64"}),
    ]
    assert forgotten == ["prod", "cuda", "prod linux/arm64"]


@pytest.mark.parametrize(
    ("current", "before", "subject", "bump", "expected"),
    [
        ("1.2.3", "1.2.2", "Whatever", "", "1.2.3"),
        ("1.2.3", "1.2.3", "Whatever", "minor", "1.3.0"),
        ("1.3.0", "1.2.3", "Release 1.3.0", "minor", "1.3.0"),  # the bump of an earlier run
        ("1.3.0", "1.2.3", "Release 1.3.0", "patch", "1.3.1"),
        ("1.3.0", "1.3.0", "Release 1.3.0", "minor", "1.4.0"),  # something was committed since
        ("1.3.0", "1.2.3", "VERSION by hand", "minor", "1.4.0"),
        ("1.3.0", None, "Release 1.3.0", "minor", "1.4.0"),
        ("1.3.0", "1.2.3", "Whatever", "1.3.0", "1.3.0"),
    ],
)
def test_the_same_words_mean_the_same_version(
    monkeypatch: pytest.MonkeyPatch, current: str, before: str | None, subject: str, bump: str, expected: str
) -> None:
    monkeypatch.setattr(source, "text", lambda *_: before)
    monkeypatch.setattr(source, "subject", lambda *_: subject)
    assert world._wanted(Path(), current, bump) == expected


def asked(done: dict[str, Any]) -> set[str]:
    """The steps that count as done when these say so; an exception is what asking them raises."""

    def question(name: str) -> Any:
        def done_of(_: Any) -> str:
            answer = done.get(name, "")
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        return SimpleNamespace(name=name, done=done_of)

    steps: list[Any] = [question(name) for name in world.TITLES]
    nothing: Any = None
    return set(pipeline._ask(nothing, steps))


def test_what_was_verified_counts_only_while_nothing_is_missing() -> None:
    every = dict.fromkeys(list(world.TITLES)[1:], "it is")
    assert asked(every) == set(every)
    for missing in ("push", "sign", "attest", "promote"):
        assert asked({**every, missing: ""}) == set(every) - {missing, "verify"}


def test_a_world_that_cannot_be_asked_is_left_to_the_preflight() -> None:
    every: dict[str, Any] = dict.fromkeys(list(world.TITLES)[1:], "it is")
    every["push"] = errors.RegistryFailed("no answer")
    assert asked(every) == {"bump", "build", "test", "repro", "sbom"}


class Trying:
    """A world whose registry answers, or does not; ``lines`` has what its journal is given."""

    def __init__(self, *, up: bool = True) -> None:
        self.up, self.lines, self.clients = up, list[tuple[str, str]](), 0
        self.journal = self

    def write(self, step: str, state: str, facts: object = None) -> None:
        self.lines.append((step, state))

    def reconnect(self) -> None:
        self.clients += 1

    def answers(self) -> bool:
        return self.up


def failing(times: int, error: errors.ShipyardError) -> Any:
    """A step that fails so often."""
    left = [error] * times

    def run(_: object) -> dict[str, bool]:
        if left:
            raise left.pop()
        return {"done": True}

    return world.Step("sign", lambda _: "", run)


def test_a_step_is_taken_again_where_the_registry_answers_nothing_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PAUSES", (0.0, 0.0, 0.0))
    garbled = errors.RegistryFailed("no answer that fits")
    there: Any = Trying()
    assert pipeline._persistently(there, failing(3, garbled)) == {"done": True}
    # As after a kill: a promotion has to know that an earlier one did not end well.
    assert there.lines == [("sign", "failed"), ("sign", "begun")] * 3
    assert there.clients == 3, "a client whose push failed has stopped"
    with pytest.raises(errors.RegistryFailed):
        pipeline._persistently(there, failing(4, garbled))


@pytest.mark.parametrize(
    ("up", "error"),
    [
        (False, errors.RegistryFailed("no answer within 60 s")),
        (True, errors.AccessDenied("no login")),
        (True, errors.SigningFailed("wrong password")),
        (True, errors.VerificationFailed("unsigned")),
        (True, type("Late", (errors.RegistryFailed,), {})("the deadline is over")),
    ],
)
def test_what_no_further_try_can_mend(monkeypatch: pytest.MonkeyPatch, up: bool, error: errors.ShipyardError) -> None:
    monkeypatch.setattr(pipeline, "PAUSES", (0.0, 0.0, 0.0))
    there: Any = Trying(up=up)
    with pytest.raises(type(error)):
        pipeline._persistently(there, failing(1, error))
    assert there.lines == []


def test_no_step_is_taken_again_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PATIENCE", 0.0)
    with pytest.raises(errors.RegistryFailed):
        pipeline._persistently(Trying(), failing(1, errors.RegistryFailed("no answer that fits")))  # type: ignore[arg-type]
