"""Debian's real llama-server, and the gateway in front of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support import llama
from tests.support.local_models import Gateway, gateway

Start = Callable[..., AbstractContextManager[Gateway]]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama.program(tmp_path_factory.mktemp("program"))


@pytest.fixture
def start(tmp_path: Path, program: Path) -> Start:
    def begin(models: str, *more: str, program: Path = program, **env: str) -> AbstractContextManager[Gateway]:
        return gateway(tmp_path, program, models, *more, **env)

    return begin
