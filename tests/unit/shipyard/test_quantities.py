"""Settings that are numbers: what Compose, the engine or a service would refuse too late is told with what to write."""

from __future__ import annotations

from typing import Any

import pytest

from shipyard import overlays, quantities

GB = 1024**3


def told(overlay: str = "prod", **settings: str) -> list[str]:
    return [str(fault) for fault in quantities.faults(overlays.select(overlay), settings)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"LOCAL_LLM_CONTEXT": "8192", "LLM_CALL_LOCAL_MODELS_LOADED": "1", "LLM_CALL_API_CPUS": "1.5"},
        {"LOCAL_LLM_CONTEXT": "0", "LLM_CALL_LOCAL_MODELS_LOADED": "64", "OLLAMA_CPUS": ".5"},
        {"LLM_CALL_API_MEMORY": "64m", "OLLAMA_MEMORY": "16G"},
        {"LLM_CALL_API_PORT": "65535", "REDIS_PORT": "1"},
        dict.fromkeys(
            (*quantities.WHOLE, *quantities.MEMORY.values(), *quantities.PROCESSORS.values(), "LLM_CALL_API_PORT"), ""
        ),
    ],
)
def test_what_is_right(settings: dict[str, str]) -> None:
    assert told("dev+monitoring", **settings) == []


@pytest.mark.parametrize(
    ("name", "texts", "problem"),
    [
        ("LOCAL_LLM_CONTEXT", ("-1", "abc", "8k", "2e3", str(2**31)), "is no number that can be; write a number of tokens"),
        ("LLM_CALL_LOCAL_MODELS_LOADED", ("0", "-1", "abc", "1.5", "65"), "write a whole number from 1 to 64"),
        ("LLM_CALL_API_MEMORY", ("abc", "8 gigs", "-1", "8ib", "1_0m"), "is no size of memory; write for example 512m"),
        ("LLM_CALL_API_MEMORY", ("0", "8", "512", "63m", "0.05g"), "is too little for the service; write 64m at least"),
        ("OLLAMA_MEMORY", ("16GBs",), "is no size of memory"),
        ("OLLAMA_MEMORY", ("16",), "is too little for the service; write 64m at least, for example 512m or 8g"),
        ("LLM_CALL_API_CPUS", ("abc", "nan", "inf", "-1", "0", "0.001", "1e2", "²"), "is no number of processors; write"),
        ("OLLAMA_CPUS", ("four",), "is no number of processors; write"),
        ("LLM_CALL_API_PORT", ("abc", "0", "65536", "-1", "80-90", "²"), "is not a port; write a number from 1 to 65535"),
    ],
)  # fmt: skip
def test_what_is_wrong(name: str, texts: tuple[str, ...], problem: str) -> None:
    for text in texts:
        (fault,) = told(**{name: text})
        assert fault.startswith(f'.env: {name}: "{text}" ')
        assert problem in fault


def test_ports_count_where_they_are_published() -> None:
    wrong = dict.fromkeys(quantities.PORTS.values(), "x")
    assert len(told("prod", **wrong)) == 1
    assert len(told("prod+monitoring", **wrong)) == 2
    assert len(told("hybrid", **wrong)) == 5
    assert len(told("host+monitoring", **wrong)) == 6


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("1b", 1),
        ("1k", 1024),
        ("1 KB", 1024),
        ("1.5m", 3 * 2**19),
        ("1MiB", 2**20),
        ("2g", 2 * GB),
        ("1T", 1024 * GB),
        ("", None),
        ("g", None),
        ("1bb", None),
    ],
)
def test_sizes(text: str, count: int | None) -> None:
    assert quantities.size(text) == count


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        ({}, []),
        (
            {"OLLAMA_MEMORY": "16g", "LLM_CALL_API_MEMORY": "512m"},
            [
                "services.ollama.mem_limit: 16384m are more than the engine's machine has; "
                "write OLLAMA_MEMORY=8192m or less into .env"
            ],
        ),
    ],
)  # fmt: skip
def test_more_memory_than_there_is_where_somebody_asks_for_it(settings: dict[str, str], problems: list[str]) -> None:
    limits = {"ollama": {"mem_limit": str(16 * GB)}, "llm-call-api": {"mem_limit": str(GB // 2)}, "claude-proxy": {}}
    assert [str(fault) for fault in quantities.beyond({"services": limits}, settings, 4, 8 * GB)] == problems
    assert quantities.beyond({"services": limits}, settings, 4, 0) == []


def test_the_model_server_has_the_processors_that_there_are() -> None:
    assert [quantities.usual_processors(there).get("OLLAMA_CPUS") for there in (1, 2, 4, 64, 0)] == [
        "1",
        "2",
        "4",
        "4",
        None,
    ]


def published(service: str, target: int, port: object, address: str = "127.0.0.1") -> dict[str, Any]:
    return {service: {"ports": [{"target": target, "published": port, "host_ip": address}]}}


@pytest.mark.parametrize(
    ("services", "problems"),
    [
        ({**published("balancer", 8001, "8001"), **published("prometheus", 9090, "9090"), "redis": {}}, []),
        (published("balancer", 8001, "0"), ['.env: LLM_CALL_API_PORT: "0" is not a port; write a number from 1 to 65535']),
        (
            {**published("balancer", 8001, "9090"), **published("prometheus", 9090, "9090")},
            [".env: LLM_CALL_API_PORT, PROMETHEUS_PORT: are both 9090; give each a port of its own"],
        ),
        (
            {**published("balancer", 8001, "9090", "0.0.0.0"), **published("prometheus", 9090, "9090")},
            [".env: LLM_CALL_API_PORT, PROMETHEUS_PORT: are both 9090; give each a port of its own"],
        ),
        ({**published("balancer", 8001, "9090", "192.0.2.1"), **published("prometheus", 9090, "9090")}, []),
    ],
)  # fmt: skip
def test_ports_of_a_configuration(services: dict[str, Any], problems: list[str]) -> None:
    assert [str(fault) for fault in quantities.ports({"services": services})] == problems
