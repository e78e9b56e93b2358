"""Stacks from copies of the tree, one after the other: both cores and one engine are shared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import llama
from tests.support.stack import Checkout, checkout


@contextmanager
def with_a_model(folder: Path) -> Iterator[Checkout]:
    """A checkout with a local model beside the doubles."""
    with checkout(folder) as found:
        document = found.root / "llama.json"
        document.write_text(json.dumps(llama.double(folder)))
        found.extra.append(document)
        yield found


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    with with_a_model(tmp_path_factory.mktemp("phase")) as found:
        yield found


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """The one stack of all modules that look at production from different sides."""
    with with_a_model(tmp_path_factory.mktemp("production")) as found:
        yield found
