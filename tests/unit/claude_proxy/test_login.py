from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from claude_proxy.login import Login, folder_fault
from claude_proxy.settings import Credential, Settings
from serving.settings import Secret

NOW = 1_800_000_000.0


def write(folder: Path, **login: Any) -> Path:
    (folder / ".credentials.json").write_text(json.dumps({"claudeAiOauth": {"accessToken": "t", **login}}))
    return folder


def test_a_login_that_lasts_or_can_be_refreshed_is_good(tmp_path: Path) -> None:
    assert folder_fault(write(tmp_path, expiresAt=(NOW + 60) * 1000), NOW) == ""
    assert folder_fault(write(tmp_path, expiresAt=(NOW - 60) * 1000, refreshToken="r"), NOW) == ""
    assert folder_fault(write(tmp_path), NOW) == ""


def test_one_that_expired_says_when(tmp_path: Path) -> None:
    fault = folder_fault(write(tmp_path, expiresAt=(NOW - 60) * 1000), NOW)
    assert "expired at 2027-01-15T07:59:00+00:00" in fault
    assert "/login" in fault


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"claudeAiOauth": 7}', '{"claudeAiOauth": {"accessToken": ""}}'])
def test_a_file_without_a_login(tmp_path: Path, content: str) -> None:
    (tmp_path / ".credentials.json").write_text(content)
    assert "holds no login" in folder_fault(tmp_path, NOW)


def test_a_missing_file_says_what_to_run(tmp_path: Path) -> None:
    assert "no such file or directory; run `claude`" in folder_fault(tmp_path, NOW)


def usable(settings: Settings) -> None:
    asyncio.run(Login(settings).usable())


def test_a_key_is_enough_and_nothing_is_not() -> None:
    usable(Settings(credential=Credential("ANTHROPIC_API_KEY", Secret("sk"))))
    with pytest.raises(RuntimeError, match="no credential for the CLI"):
        usable(Settings())
    with pytest.raises(RuntimeError, match="no login in"):
        usable(Settings(login=Path("/nonexistent")))
