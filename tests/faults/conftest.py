"""Stacks that something is done to, and the clients that watch: one after the other, for cores and engine are shared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.stack import Checkout, checkout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    with checkout(tmp_path_factory.mktemp("faults")) as found:
        yield found
