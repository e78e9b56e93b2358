"""serving.settings and serving.options."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from serving import options, settings
from serving.settings import Env, Secret, SettingsError


def test_values_and_defaults() -> None:
    env = Env({"A": " x ", "N": "5", "F": "Yes", "S": "0.5", "EMPTY": ""})
    assert (env.text("A"), env.text("EMPTY", "d")) == ("x", "d")
    assert (env.integer("N", 1), env.integer("EMPTY", 1)) == (5, 1)
    assert (env.flag("F", False), env.flag("EMPTY", True)) == (True, True)
    assert (env.seconds("S", 1), env.seconds("NONE", 1)) == (0.5, 1)
    env.finish()


def test_a_secret_that_may_not_be_read_under_other_user_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container of an engine with userns-remap, where 500000 of this machine is root."""

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    read, ids = Path.read_text, tmp_path / "uid_map"
    path = tmp_path / "key"
    path.write_text("x")
    monkeypatch.setattr(settings, "IDS", ids)
    said = []
    for known in ("         0          0 4294967295\n", "         0     500000      65536\n", ""):
        ids.write_text(known) if known else ids.unlink()
        env = Env({"K_FILE": str(path)})
        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_text", lambda self, *more: refuse() if self == path else read(self, *more))
            env.secret("K")
        with pytest.raises(SettingsError) as caught:
            env.finish()
        said.append(caught.value.faults[0])
    assert ["userns-remap" in each for each in said] == [False, True, False]
    assert "cannot read" in said[1]


def test_all_faults_come_at_once() -> None:
    env = Env({"N": "many", "M": "0", "F": "perhaps", "S": "nan", "K_FILE": "/nowhere/k"})
    assert env.integer("N", 7) == 7
    env.integer("M", 7, minimum=1)
    env.flag("F", True)
    env.seconds("S", 1)
    assert env.secret("K") is None
    with pytest.raises(SettingsError) as caught:
        env.finish()
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["N", "M", "F", "S", "K_FILE"]
    assert "no such file" in caught.value.faults[-1]


def test_a_secret_comes_from_its_file_first(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from file\n")
    (tmp_path / "empty").write_text("\n")
    env = Env({"A_FILE": str(tmp_path / "key"), "A": "x", "B": "y", "C_FILE": str(tmp_path / "empty")})
    found = [env.secret(name) for name in ("A", "B", "C", "D")]
    assert [each and each.reveal() for each in found] == ["from file", "y", None, None]


def test_a_secret_never_shows() -> None:
    secret = Secret("hush")
    shown = f"{secret} {secret!r} {secret:>12} {[secret]} {vars.__name__}"
    assert "hush" not in shown
    assert shown.count("[REDACTED]") == 4
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_the_command_line_wins_over_the_environment() -> None:
    env = Env({"X_HOST": "0.0.0.0", "X_PORT": "9", "LOG_LEVEL": "DEBUG", "DRAIN_SECONDS": "3"})
    chosen = options.read("m.app:create", "x", "X", 8001, ["--port", "10", "--reload", "--debugger", "5678"], env)
    assert (chosen.host, chosen.port, chosen.reload, chosen.debugger) == ("0.0.0.0", 10, True, 5678)
    assert (chosen.log_level, chosen.drain_seconds) == ("debug", 3)


def test_wrong_options_are_settings_errors() -> None:
    env = Env({"X_PORT": "99999", "LOG_LEVEL": "loud", "DRAIN_SECONDS": "-1"})
    with pytest.raises(SettingsError) as caught:
        options.read("m.app:create", "x", "X", 8001, [], env)
    assert len(caught.value.faults) == 3
