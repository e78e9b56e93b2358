"""`--monitoring`: Prometheus sees every instance and Redis, in every phase, and its pages can be opened."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.phases import paths
from tests.support import caller
from tests.support.service import wait_until
from tests.support.stack import Checkout

JOBS = {"llm-call-api", "entrance", "redis", "prometheus"}


def page(copy: Checkout, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", copy.ports["PROMETHEUS_PORT"], timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def query(copy: Checkout, expression: str) -> list[Any]:
    status, text = page(copy, f"/api/v1/query?query={quote(expression)}")
    assert status == 200, text
    found: list[Any] = json.loads(text)["data"]["result"]
    return found


def up(copy: Checkout) -> dict[str, list[str]]:
    """By job, whether each of its targets answered the last scrape."""
    found: dict[str, list[str]] = {}
    for each in query(copy, "up"):
        found.setdefault(each["metric"]["job"], []).append(each["value"][1])
    return found


@pytest.fixture(scope="module")
def monitored(production: Checkout) -> Iterator[Checkout]:
    production.invoke("prod", "--monitoring", "--scale", "llm-call-api=2")
    yield production


def test_everything_is_seen(monitored: Checkout) -> None:
    expected = {job: ["1"] for job in JOBS} | {"llm-call-api": ["1", "1"]}
    wait_until(lambda: up(monitored) == expected, f"every target: {up(monitored)}", 40)
    assert query(monitored, "redis_up")[0]["value"][1] == "1"
    assert query(monitored, 'llm_call_dependency_up{dependency="redis"} == 1')
    assert query(monitored, "llm_call_disk_free_bytes > 0")


def test_requests_are_counted(monitored: Checkout) -> None:
    paths.through_an_upstream(monitored)
    counted = 'sum(llm_call_requests_total{upstream="openai"})'
    wait_until(lambda: float((query(monitored, counted) or [{"value": [0, "0"]}])[0]["value"][1]) > 0, "the count", 40)


@pytest.mark.parametrize("path", ["/consoles/index.html", "/consoles/alerts.html", "/classic/graph"])
def test_a_browser_can_open_it(monitored: Checkout, path: str) -> None:
    status, text = page(monitored, path)
    assert status == 200
    assert "<html" in text.lower()
    assert "error calling" not in text  # a template that fails says so in the page


def test_rules_are_loaded_and_nothing_fires(monitored: Checkout) -> None:
    status, text = page(monitored, "/api/v1/rules")
    assert status == 200
    rules = [rule for group in json.loads(text)["data"]["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    alerts = [rule for rule in rules if rule["type"] == "alerting"]
    assert len(alerts) > 10
    assert [rule["name"] for rule in alerts if rule["state"] == "firing"] == []


def test_only_the_api_and_the_pages_are_published(monitored: Checkout) -> None:
    assert paths.published(monitored) == {"balancer", "prometheus"}
    (found,) = [each["ports"] for each in monitored.json("status")["services"] if each["service"] == "prometheus"]
    assert all(port.startswith("127.0.0.1:") for port in found.split())


@pytest.mark.parametrize("service", ["prometheus", "redis-exporter"])
def test_watchers_run_hardened(monitored: Checkout, service: str) -> None:
    (found,) = json.loads(monitored.docker("inspect", monitored.container(service)))
    host = found["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Init"]) == (True, ["ALL"], True)
    assert min(host["PidsLimit"], host["Memory"], host["NanoCpus"]) > 0
    assert found["Config"]["User"] == {"prometheus": "10006:10006", "redis-exporter": "10007:10007"}[service]


def test_it_comes_and_goes_without_a_failed_request_and_sees_an_api_on_the_host(monitored: Checkout) -> None:
    with caller.calling(monitored, caller.models, caller.chat, caller.stream) as record:
        monitored.invoke("host", "--api", "--monitoring")
        wait_until(lambda: up(monitored).get("llm-call-api") == ["1"], "the API on the host", 40)
        monitored.invoke("prod")
    assert record.failures == []
    assert not [each for each in monitored.json("status")["services"] if each["service"] == "prometheus"]
