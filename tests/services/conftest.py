"""The Claude proxy as most of its tests want it: in front of the double of the CLI. Others define their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.claude_cli_double import install
from tests.support.claude_proxy_process import SECRET, Proxy, Start, running


@pytest.fixture
def cli(tmp_path: Path) -> Path:
    return install(tmp_path / "fake-claude", SECRET)


@pytest.fixture
def start(tmp_path: Path, cli: Path) -> Start:
    def begin(**settings: str) -> AbstractContextManager[Proxy]:
        return running(tmp_path, {"CLAUDE_PROXY_CLI": str(cli), "ANTHROPIC_API_KEY": SECRET, **settings})

    return begin


@pytest.fixture
def proxy(start: Start) -> Iterator[Proxy]:
    with start() as proxy:
        yield proxy
