"""Where Debian packages can be unpacked, and why not elsewhere."""

from __future__ import annotations

import os
import platform
import shutil

import pytest

from shipyard.engine import packages
from shipyard.engine.types import home
from shipyard.errors import EngineMissing


@pytest.fixture(autouse=True)
def debian(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which everything is as it should be."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def test_nothing_is_in_the_way() -> None:
    assert packages.obstacle() == ""


def test_every_obstacle_has_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    assert packages.obstacle() == "the C library is older than 2.34"
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))  # musl does not tell
    assert packages.obstacle() == "the C library is older than 2.34"
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "dpkg-deb" else name)
    assert packages.obstacle() == "this is not a Debian-family system (no apt-get and dpkg-deb)"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert packages.obstacle() == "you are not root"
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert packages.obstacle() == "riscv64 is neither x86_64 nor aarch64"
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert packages.obstacle() == "this is Darwin, not Linux"


def test_an_obstacle_ends_the_unpacking_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EngineMissing) as raised:
        packages.ensure()
    assert str(raised.value) == "Docker's programs cannot be unpacked here: you are not root"
    assert not home().exists()


def test_what_is_unpacked_already_is_only_looked_up() -> None:
    packages.folder().mkdir(parents=True)
    assert packages.ensure() == packages.folder() / "bin"


def test_another_list_is_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [packages.folder()]
    for name, value in (("SUITE", "sid"), ("PACKAGES", ("tini",))):
        with monkeypatch.context() as changed:
            changed.setattr(packages, name, value)
            folders.append(packages.folder())
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    folders.append(packages.folder())
    assert len(set(folders)) == 4
    assert {folder.parent for folder in folders} == {home()}
