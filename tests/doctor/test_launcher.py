"""`./scripts/invoke` and `./scripts/nox`: signals from the first line on, with the exit code of a shell and how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from shipyard import processes
from tests.support import launcher as launchers
from tests.support.dispositions import by_default, ignoring
from tests.support.service import wait_until
from tests.support.stack import ROOT

#: The tasks of a checkout: a signal comes while they are looked for, or after a verb has started.
EARLY = "import os, signal\nos.kill(os.getpid(), signal.{})\n"
LATE = """\
import os, signal, sys, time
from shipyard import signals
signals.own()
from verbs import verb

@verb()
def one(_):
    {}
"""
KILL = "os.kill(os.getpid(), signal.{})"
SIGNALS = {"SIGINT": (130, "interrupted"), "SIGTERM": (143, "terminated"), "SIGHUP": (129, "hung up")}
NOTHING = "    nothing was started; run the same command again\n"
AGAIN = "    what was done stays, and the same command goes on from here: invoke one\n"


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    return launchers.launcher(tmp_path)


def run(launcher: Path, tasks: str, ignored: str = "") -> tuple[int, str]:
    (launcher.parents[1] / "tasks.py").write_text(tasks)
    argv = ignoring([launcher, "one"], ignored) if ignored else by_default([launcher, "one"])
    done = subprocess.run(argv, cwd=launcher.parent, check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_before_a_verb_has_begun(launcher: Path, number: str) -> None:
    code, word = SIGNALS[number]
    assert run(launcher, EARLY.format(number)) == (code, f"{NOTHING}error: {word}\n")


def test_in_a_folder_with_an_equals_sign(tmp_path: Path) -> None:
    """env(1) takes the first word with one for a variable."""
    launcher = launchers.launcher(tmp_path / "a=b")
    (tmp_path / "a=b/tasks.py").write_text(LATE.format(KILL.format("SIGTERM")))
    done = subprocess.run(["sh", "-c", '"$0" one', launcher], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (143, f"{AGAIN}error: terminated\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_in_a_verb(launcher: Path, number: str) -> None:
    code, word = SIGNALS[number]
    assert run(launcher, LATE.format(KILL.format(number))) == (code, f"{AGAIN}error: {word}\n")


def test_an_exception_that_python_forgets(launcher: Path) -> None:
    """One in a destructor is only printed: the verb ends with the signal's code all the same."""
    forgetful = LATE.format("class Last:\n        def __del__(self): os.kill(os.getpid(), signal.SIGTERM)\n    Last()")
    code, said = run(launcher, forgetful)
    assert (code, said.splitlines()[-1]) == (143, "error: terminated")


def test_after_a_verb(launcher: Path) -> None:
    """While Python ends."""
    late = LATE.format("import atexit; atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))")
    assert run(launcher, late) == (143, f"{AGAIN}error: terminated\n")


def test_clean_up_is_not_cut_by_another_signal(launcher: Path) -> None:
    clean = (
        f"try: {KILL.format('SIGTERM')}\n"
        f"    finally:\n        {KILL.format('SIGTERM')}; {KILL.format('SIGINT')}; print('clean', file=sys.stderr)"
    )
    assert run(launcher, LATE.format(clean)) == (143, f"clean\n{AGAIN}error: terminated\n")


@pytest.mark.parametrize(("ignored", "other"), [("INT", "SIGTERM"), ("HUP", "SIGTERM"), ("HUP", "SIGINT")])
def test_what_is_ignored_at_the_start_stays_ignored(launcher: Path, ignored: str, other: str) -> None:
    """As a shell has it for what runs in the background, and nohup for a terminal that closes."""
    mine = KILL.format(f"SIG{ignored}")
    assert run(launcher, LATE.format(mine), ignored) == (0, "")
    assert run(launcher, EARLY.format(f"SIG{ignored}") + LATE.format("pass"), ignored) == (0, "")
    child = (
        f"from shipyard.run import run; print(run(['sh', '-c', 'kill -{ignored} $$; echo on']).stdout, file=sys.stderr)"
    )
    assert run(launcher, LATE.format(child), ignored) == (0, "on\n\n")
    code, word = SIGNALS[other]
    assert run(launcher, LATE.format(f"{mine}; {KILL.format(other)}"), ignored) == (code, f"{AGAIN}error: {word}\n")


def test_in_the_background_of_a_script(launcher: Path) -> None:
    (launcher.parents[1] / "tasks.py").write_text(LATE.format("print('up', flush=True); time.sleep(60)"))
    script = f"{launcher} one & echo $!; wait $!; echo code $?"
    with subprocess.Popen(by_default(["sh", "-c", script]), stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout
        number = int(shell.stdout.readline())
        assert shell.stdout.readline() == "up\n"
        os.kill(number, signal.SIGINT)
        os.kill(number, signal.SIGTERM)  # had the first one counted, this one would be the second
        assert shell.stdout.readline() == "code 143\n"


@pytest.fixture
def bare(launcher: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A launcher that makes an environment first, which takes a minute."""
    slow = launcher.parents[1] / "slow-python"
    slow.write_text(
        f'#!/bin/sh\nif [ "$2" = venv ]; then echo $$ >"{slow}.pid"; exec sleep 60; fi\nexec {sys.executable} "$@"\n'
    )
    slow.chmod(0o755)
    (launcher.parents[1] / ".venv/.lock").unlink()
    monkeypatch.setenv("SHIPYARD_PYTHON", str(slow))
    return launcher


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("program", ["invoke", "nox"])
def test_while_the_environment_is_made(bare: Path, number: str, program: str) -> None:
    code, word = SIGNALS[number]
    place = bare.parents[1] / "slow-python.pid"
    with subprocess.Popen(by_default([bare.with_name(program), "one"]), stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: place.exists() and place.read_text().endswith("\n"), "the environment")
        process.send_signal(getattr(signal, number))
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said.splitlines(True)[1:]) == (code, [NOTHING, f"error: {word}\n"])
    assert processes.started(int(place.read_text())) is None
    assert not (bare.parents[1] / ".venv/.lock").exists()


def test_while_another_one_makes_it(bare: Path) -> None:
    other = subprocess.Popen(
        ["flock", bare.parents[1] / ".venv.lock", "-c", "echo locked; exec sleep 60"], stdout=subprocess.PIPE
    )
    assert other.stdout
    other.stdout.readline()
    with subprocess.Popen(by_default([bare, "one"]), stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: "flock" in _children(process.pid), "its wait for the lock")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    other.kill()
    with other.stdout:
        other.wait()
    assert (process.returncode, said) == (143, f"{NOTHING}error: terminated\n")


def _children(pid: int) -> list[str]:
    """The names of its children that have become another program."""
    numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = []
    for number in numbers:
        with suppress(OSError):  # it has ended meanwhile
            found.append(Path(f"/proc/{number}/comm").read_text().strip())
    return found


#: In place of nox: takes a moment to take down what it has started.
LANE = """
import pathlib, signal, sys, time
folder, lane = pathlib.Path(sys.argv[1]), sys.argv[-1]
def end(number, _):
    (folder / f"{lane}-{number}").touch()
    raise SystemExit(1)
if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
(folder / lane).touch()
time.sleep(60)
"""


def lanes(folder: Path, wrapper: list[str], *numbers: signal.Signals, one: bool = False) -> tuple[int, set[str]]:
    program = [sys.executable, "-c", LANE, str(folder)]
    words = ["--one", *program, "lane1"] if one else program
    argv = [sys.executable, str(ROOT / "scripts/lanes.py"), *words]
    with subprocess.Popen([*wrapper, *argv]) as process:
        wait_until(lambda: len(list(folder.iterdir())) == (1 if one else 3), "the lanes")
        for number in numbers:
            process.send_signal(number)
        code = process.wait(30)
    return code, {path.name.removeprefix("lane") for path in folder.iterdir()} - {"1", "2", "3"}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_every_lane(tmp_path: Path, number: str) -> None:
    code = SIGNALS[number][0]
    assert lanes(tmp_path, by_default([]), getattr(signal, number)) == (code, {"1-2", "2-2", "3-2"})


def test_a_signal_ends_a_session_that_was_named(tmp_path: Path) -> None:
    assert lanes(tmp_path, by_default([]), signal.SIGTERM, one=True) == (143, {"1-2"})


def test_lanes_in_the_background_of_a_script(tmp_path: Path) -> None:
    """Ctrl-C is not meant for them; SIGTERM is."""
    ended = lanes(tmp_path, ignoring([], "INT"), signal.SIGINT, signal.SIGTERM)
    assert ended == (143, {"1-15", "2-15", "3-15"})


def test_lanes_pass_their_exit_status_on(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv[-1]); sys.exit(3 * (sys.argv[-1] == 'lane2'))"
    argv = [sys.executable, ROOT / "scripts/lanes.py", sys.executable, "-c", code]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, sorted(done.stdout.split())) == (3, ["lane1", "lane2", "lane3"])
