"""Where the balancer is, and what it says of its instances."""

from __future__ import annotations

from typing import Any

import pytest

from shipyard import entrance
from shipyard.errors import StackFailed


def published(**port: Any) -> dict[str, Any]:
    return {"services": {"balancer": {"ports": [{"target": 8001, "published": "8001", **port}]}}}


@pytest.mark.parametrize(
    ("address", "asked"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.7", "10.0.0.7")],
)
def test_the_place_to_ask(address: str, asked: str) -> None:
    assert entrance.place(published(host_ip=address)) == (asked, 8001)


def test_an_address_that_compose_does_not_name() -> None:
    assert entrance.place(published()) == ("127.0.0.1", 8001)


def test_too_few_instances_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, 1])
    monkeypatch.setattr(entrance, "instances", lambda where: next(answers, 1))
    monkeypatch.setattr(entrance, "PATIENCE", 0.2)
    with pytest.raises(StackFailed, match=r"knows 1 instances of the API, not 2; `invoke logs --service balancer`"):
        entrance.wait(("127.0.0.1", 8001), 2)


def test_enough_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, 0, 1, 2])
    monkeypatch.setattr(entrance, "instances", lambda where: next(answers))
    entrance.wait(("127.0.0.1", 8001), 2)
    assert next(answers, "asked to the end") == "asked to the end"


@pytest.mark.parametrize(
    ("ports", "asked"),
    [
        ("127.0.0.1:8001->8001", ("127.0.0.1", 8001)),
        ("0.0.0.0:9000->8001 :::9000->8001", ("127.0.0.1", 9000)),
        ("::1:8001->8001", ("::1", 8001)),
        ("127.0.0.1:3010->3010", None),
        ("", None),
    ],
)
def test_where_a_container_is_published(ports: str, asked: tuple[str, int] | None) -> None:
    assert entrance.bound(ports) == asked
