"""What a person asks for becomes a selection, or every name that is unknown is told at once."""

from __future__ import annotations

import pytest

from shipyard import overlays
from shipyard.engine import Engine, api
from shipyard.errors import UnknownName
from shipyard.models import Selection


def test_an_overlay_with_add_ons_and_a_scale() -> None:
    assert overlays.select("prod") == Selection("prod")
    found = overlays.select("prod", ["monitoring", "granger"], ["llm-call-api=3"])
    assert found == Selection("prod", ("granger", "monitoring"), 3)
    assert str(found) == "prod+granger+monitoring"
    assert overlays.select("prod+monitoring+granger") == Selection("prod", ("granger", "monitoring"))


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (("prd", (), ()), 'overlay "prd": there is no compose/prd.yaml; perhaps you meant "prod"'),
        (("prod+grangr", (), ()), 'add-on "grangr": there is none of that name; perhaps you meant "granger"'),
        (("prod", (), ("redis=2",)), "--scale redis=2: only llm-call-api can have several instances"),
        (("prod", (), ("llm-call-api=0",)), '"0" is not a number from 1 to 16'),
        (("prod", (), ("llm-call-api=17",)), '"17" is not a number from 1 to 16'),
        (("prod", (), ("llm-call-api",)), '"" is not a number from 1 to 16'),
        (("host", (), ("llm-call-api=2",)), "in phase 1 llm-call-api is one process of the host"),
    ],
)
def test_what_is_unknown_is_named(asked: tuple[str, tuple[str, ...], tuple[str, ...]], problem: str) -> None:
    with pytest.raises(UnknownName) as refused:
        overlays.select(*asked)
    assert problem in str(refused.value)


def test_everything_unknown_is_named_at_once() -> None:
    with pytest.raises(UnknownName) as refused:
        overlays.select("prd+x", ["gpus"], ["redis=2"])
    assert len(str(refused.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (1, ["services.ollama.cpus: 4 are more than the engine has; write OLLAMA_CPUS=1 into .env", "services.redis.cpus: 2.5 "]),
        (3, ["services.ollama.cpus: 4 are more than the engine has; write OLLAMA_CPUS=3 into .env"]),
        (4, []),
        (0, []),  # it does not say
    ],
)  # fmt: skip
def test_more_processors_than_there_are(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, there: int, told: list[str]
) -> None:
    monkeypatch.setattr(api, "get", lambda host, path: {"NCPU": there})
    config = {"services": {"redis": {"cpus": 2.5}, "ollama": {"cpus": 4}, "egress": {"cpus": "1"}, "other": {}}}
    found = [str(fault) for fault in overlays.beyond(engine, config, {})]
    assert [fault[: len(start)] for fault, start in zip(found, told, strict=True)] == told
