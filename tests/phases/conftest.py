"""Stacks from copies of the tree, one after the other: both cores and one engine are shared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.stack import Checkout, checkout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    with checkout(tmp_path_factory.mktemp("phase")) as found:
        yield found
