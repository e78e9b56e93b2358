"""What becomes of the checks' findings: what depends on what, what is printed, what is mended."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from shipyard import diagnosis, doctor, dotenv, secrets
from shipyard.diagnosis.finding import Finding, fail, ok, skip, warn
from shipyard.doctor import mending
from shipyard.doctor import secrets as of_secrets
from shipyard.doctor import settings as of_settings
from shipyard.doctor.checks import CHECKS, Check, examine
from shipyard.doctor.patient import Patient
from shipyard.engine import Engine, Status
from shipyard.errors import EngineFailed, Unhealthy
from shipyard.models import Project


@pytest.fixture
def patient(project: Project, engine: Engine) -> Patient:
    return Patient(project.root, project, (), Status("host", engine.host, "28.5.2", ""), engine)


def check(name: str, finding: Finding, *needs: str) -> Check:
    return Check(name, lambda _: finding, needs)


def test_every_check_needs_only_what_stands_above_it() -> None:
    names = [each.name for each in CHECKS]
    assert len(set(names)) == len(names)
    assert [each.name for number, each in enumerate(CHECKS) if not set(each.needs) <= set(names[:number])] == []


def test_what_depends_on_a_fault_is_skipped_and_everything_else_looked_at(patient: Patient) -> None:
    found = examine(
        patient,
        (
            check("engine", fail("none answers")),
            check("base", ok("there"), "engine"),
            check("disk", ok("much")),
            check("device", skip("no GPU here")),
            check("driver", ok("there"), "device"),
            check("toolkit", ok("there"), "driver"),
            check("odd", warn("odd")),
            check("even", ok("even"), "odd"),
        ),
    )
    assert [(name, each.state, each.seen) for name, each in found.items()] == [
        ("engine", "fail", "none answers"),
        ("base", "skip", "needs engine"),
        ("disk", "ok", "much"),
        ("device", "skip", "no GPU here"),
        ("driver", "skip", "no GPU here"),
        ("toolkit", "skip", "no GPU here"),
        ("odd", "warn", "odd"),
        ("even", "ok", "even"),
    ]


@pytest.mark.parametrize("problem", [EngineFailed("it went away"), PermissionError(13, "Permission denied", "/x")])
def test_what_cannot_be_looked_at_is_a_fault_of_that_check_alone(patient: Patient, problem: Exception) -> None:
    def broken(_: Patient) -> Finding:
        raise problem

    found = examine(patient, (Check("engine", broken), check("disk", ok("much"))))
    assert (found["engine"].state, found["disk"].state) == ("fail", "ok")
    assert str(problem) in found["engine"].seen


def test_what_several_checks_ask_for_is_looked_at_once(patient: Patient) -> None:
    looks = []

    def look() -> str:
        looks.append("looked")
        return "seen"

    assert [patient.once("x", look), patient.once("x", look), patient.once("y", look)] == ["seen"] * 3
    assert looks == ["looked", "looked"]


def report(*, mended: tuple[str, ...] = (), **findings: Finding) -> doctor.Report:
    return doctor.Report(findings, mended, 0.5)


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.show(report(engine=ok("there"), base=warn("none yet", "invoke base"), gpu=skip("none")), json=False)
    said = capsys.readouterr()
    assert said.out == "ok    engine  there\nwarn  base    none yet\n              -> invoke base\nskip  gpu     none\n"
    assert said.err == "==> nothing fails: 1 ok, 1 warn, 1 skip (0.5 s)\n"


def test_one_document_and_the_error_of_what_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unhealthy) as raised:
        doctor.show(report(engine=fail("none", "invoke engine.up", fix="engine"), disk=ok("much")), json=True)
    assert str(raised.value) == "1 fail: engine (1 ok, 0 warn, 0 skip); `invoke doctor --fix` mends some of it"
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "healthy": False,
        "seconds": 0.5,
        "mended": [],
        "checks": [
            {"name": "engine", "state": "fail", "seen": "none", "mend": ["invoke engine.up"], "fixable": True},
            {"name": "disk", "state": "ok", "seen": "much", "mend": [], "fixable": False},
        ],
    }


def test_what_is_mended_comes_in_order_and_one_failure_does_not_keep_the_rest(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(_: Patient, name: str) -> list[str]:
        if name == "engine":
            raise EngineFailed("it does not start")
        return [f"did {name}"]

    monkeypatch.setattr(mending, "_mend", one)
    assert mending.mend(patient, ["secrets", "engine", "tools", "unknown"]) == ["did tools", "did secrets"]
    assert capsys.readouterr().err == "==> did tools\nwarning: engine: it does not start\n==> did secrets\n"


def test_every_fix_that_a_finding_may_name_exists() -> None:
    sources = [path.read_text() for path in Path(diagnosis.__file__).parent.glob("*.py")]
    named = {name for source in sources for name in re.findall(r'fix ?= ?"(\w+)"', source)}
    assert named == set(mending.FIXES)


def test_mending_secrets_only_takes_rights_away_and_makes_what_is_missing(project: Project) -> None:
    made = list(of_secrets.mend(project))
    assert made[0].startswith("made secrets/: api/api_keys")
    assert secrets.folder(project).joinpath("client_key").read_text().strip() not in "".join(made)
    assert list(of_secrets.mend(project)) == []
    place = secrets.folder(project)
    signing = place / "signing"
    signing.mkdir(mode=0o700)
    (signing / "cosign.key").write_text("key")
    (signing / "cosign.key").chmod(0o644)
    (place / "client_key").chmod(0o644)
    (place / "api/notes").write_text("somebody's own")
    (place / "api/notes").chmod(0o666)
    (place / "egress/link").symlink_to("/etc/hostname")
    before = (place / "api/api_keys").read_bytes()
    list(of_secrets.mend(project))
    modes = {name: (place / name).stat().st_mode & 0o777 for name in ("signing/cosign.key", "client_key", "api/notes")}
    assert modes["signing/cosign.key"] == 0o600
    assert modes["client_key"] == 0o600
    assert modes["api/notes"] & 0o022 == 0
    assert (place / "api/api_keys").read_bytes() == before
    assert (place / "egress/link").is_symlink()


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        ("", []),
        ("REDIS_PORT=7000\nMODEL_SERVER=local-llm\n", []),
        ("MODEL_SERVER=bogus\n", ['.env: MODEL_SERVER: "bogus" is no model server']),
        ("A=1\nREDIS_PORT='7000\nB=2\n", [".env: line 2: the quote before the value of REDIS_PORT does not end"]),
        (
            "GPU_DRIVER=amd\nGPU_DEVICE=\nMODELS_FOLDER=models\nMODEL_SERVER=ollama\n",
            ['.env: GPU_DRIVER: "amd" is no device driver for GPUs', ".env: GPU_DEVICE: is empty"],
        ),
        ("REQUIRE_GPU=true\n", [".env: REQUIRE_GPU: the API would have no GPU, and end at once"]),
        ("HOST_LLM_CALL_LLAMA_SERVER=/nope\n", [".env: HOST_LLM_CALL_LLAMA_SERVER: /nope does not exist"]),
    ],
)
def test_settings_are_judged_as_a_start_does(patient: Patient, lines: str, seen: list[str]) -> None:
    (patient.root / ".env").write_text(lines)
    found = of_settings.settings(replace(patient, settings=dotenv.parse(lines)))
    assert found.state == ("fail" if seen else "ok")
    assert not seen or found.seen.split("; ") == seen
    assert bool(found.mend) == bool(seen)
    assert (patient.root / ".env").read_text() == lines


def test_a_folder_in_the_place_of_settings_is_told(patient: Patient) -> None:
    assert of_settings.settings(patient).seen == "no .env yet; the first start writes it"
    (patient.root / ".env").mkdir()
    found = of_settings.settings(patient)
    assert (found.state, found.seen) == ("fail", ".env: is a folder, not a file")
    assert found.mend == ("move it away; a start writes the file",)
