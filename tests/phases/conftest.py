"""Stacks from copies of the tree, one after the other: both cores and one engine are shared."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support import llama
from tests.support.stack import Checkout, checkout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """With a local model beside the doubles."""
    folder = tmp_path_factory.mktemp("phase")
    with checkout(folder) as found:
        document = found.root / "llama.json"
        document.write_text(json.dumps(llama.double(folder)))
        found.extra.append(document)
        yield found
