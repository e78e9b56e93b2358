"""Every kind of failure has an exit code of its own, which scripts may rely on."""

import errno
import os

import pytest

from shipyard import errors
from shipyard.errors import CommandFailed, ConfigError, ShipyardError
from shipyard.models import Fault


def test_exit_codes() -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ShipyardError)]
    codes = {each.__name__: each.exit_code for each in classes}
    assert codes == {
        "ShipyardError": 1,
        "ConfigError": 3,
        "UnknownName": 4,
        "EngineMissing": 5,
        "EngineFailed": 6,
        "BuildFailed": 7,
        "OverBudget": 8,
        "PortInUse": 9,
        "StackFailed": 10,
        "DiskFull": 11,
        "BaseUnavailable": 12,
        "CommandFailed": 13,
        "NoGpu": 14,
        "RegistryFailed": 15,
        "AccessDenied": 16,
        "SigningFailed": 17,
        "VerificationFailed": 18,
        "ReleaseRefused": 19,
        "ReleaseBusy": 20,
        "NotReproducible": 21,
        "LockStale": 22,
        "NotWritable": 23,
        "Unhealthy": 24,
        "ToolMissing": 25,
    }
    assert len(set(codes.values())) == len(codes), "two errors share an exit code"
    assert 2 not in codes.values(), "Invoke itself uses 2 for a wrong command line"
    assert all(each.__doc__ for each in classes)


def test_every_error_states_its_code_itself() -> None:
    assert [each.__name__ for each in ShipyardError.__subclasses__() if "exit_code" not in vars(each)] == []


def test_what_this_machine_lacks_is_told_by_the_doctor() -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ShipyardError)]
    assert {each.__name__ for each in classes if each.see == errors.DOCTOR} == {
        "EngineMissing",
        "EngineFailed",
        "BaseUnavailable",
        "NoGpu",
        "ToolMissing",
    }
    assert {each.see for each in classes} == {"", errors.DOCTOR}


def test_a_config_error_holds_every_fault() -> None:
    faults = [Fault("VERSION", "is odd"), Fault("docker/images.toml", "is missing", "write it")]
    failed = ConfigError(faults)
    assert failed.faults == tuple(faults)
    assert str(failed) == "VERSION: is odd\ndocker/images.toml: is missing; write it"


def test_a_failed_command_shows_the_end_of_what_it_said() -> None:
    said = "".join(f"line {number}\n" for number in range(20))
    failed = CommandFailed(["docker", "pull", "x"], 4, said)
    assert (failed.argv, failed.status, failed.stderr) == (("docker", "pull", "x"), 4, said)
    tail = "\n".join(f"line {number}" for number in range(5, 20))
    assert str(failed) == f"docker ended with status 4:\n{tail}"
    assert str(CommandFailed(["docker"], 4, "\n")) == "docker ended with status 4"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, errors.DiskFull),
        (errno.EDQUOT, errors.DiskFull),
        (errno.EROFS, errors.NotWritable),
        (errno.EACCES, errors.NotWritable),
    ],
)
def test_what_the_system_refuses_is_explained(number: int, expected: type[ShipyardError]) -> None:
    found = errors.of_the_disk(OSError(number, os.strerror(number), "/some/file"))
    assert type(found) is expected
    assert "/some/file" in str(found)
    assert "run this again" in str(found)


def test_other_errors_of_the_system_are_faults_of_ours() -> None:
    assert errors.of_the_disk(OSError(errno.EBADF, "Bad file descriptor")) is None
    assert errors.of_the_disk(PermissionError(errno.EPERM, "Operation not permitted")) is None  # of no file
