"""Every alert fires when it should and is silent next to that: Debian's promtool plays histories to the rules."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import docker
import shipyard
from shipyard.models import Project
from tests.support.stack import ROOT

RULES = ROOT / "config/monitoring/rules.yml"
#: As Prometheus reads them; promtool takes them in an order of its own.
GROUPS = re.findall(r"^  - name: (\w+)", RULES.read_text(), re.MULTILINE)
A, B = 'instance="a"', 'instance="b"'
API = 'up{job="llm-call-api",%s}'
STARTED = 'process_start_time_seconds{job="llm-call-api",%s}'
ANSWERS = 'llm_call_http_requests_total{path="/v1/chat/completions",status="%s",instance="a"}'
FIRST_BYTE = 'llm_call_first_byte_seconds_%s{model="m",upstream="u"%s}'
OVERHEAD = "llm_call_overhead_seconds_bucket{le=%s}"
ATTEMPTS = 'llm_call_attempts_total{upstream="u",outcome="%s"}'
CACHE = 'llm_call_cache_total{result="%s"}'
RELOADS = 'llm_call_reloads_total{outcome="failed",instance="a"}'
REJECTED = 'redis_commands_rejected_calls_total{cmd="%s"}'
FREE, SIZE = 'llm_call_disk_free_bytes{path="/app/cache"}', 'llm_call_disk_size_bytes{path="/app/cache"}'
GIB = 1 << 30


def held(value: float, minutes: int = 150) -> str:
    """One value for so long, a sample a minute (promtool's notation)."""
    return f"{value}x{minutes}"


def grows(by: float, minutes: int = 150, start: float = 0) -> str:
    """So much more each minute."""
    return f"{start}+{by}x{minutes}"


#: A stack in which all is well: two instances, 120 requests a minute, half of the lookups hit.
WELL = {
    API % A: held(1),
    API % B: held(1),
    STARTED % A: held(1000),
    STARTED % B: held(1000),
    'up{job="entrance",instance="balancer:8001"}': held(1),
    'up{job="redis",instance="redis-exporter:9121"}': held(1),
    ANSWERS % 200: grows(120),
    ANSWERS % 500: held(0),
    FIRST_BYTE % ("count", ""): grows(60),
    FIRST_BYTE % ("bucket", ',le="30"'): grows(60),
    FIRST_BYTE % ("bucket", ',le="60"'): grows(60),
    FIRST_BYTE % ("bucket", ',le="+Inf"'): grows(60),
    OVERHEAD % '"0.1"': grows(120),
    OVERHEAD % '"1.0"': grows(120),
    OVERHEAD % '"+Inf"': grows(120),
    ATTEMPTS % "ok": grows(60),
    ATTEMPTS % "failed": held(0),
    'llm_call_breaker_state{upstream="u"}': held(0),
    'llm_call_dependency_up{dependency="redis",instance="a"}': held(1),
    'llm_call_dependency_up{dependency="redis",instance="b"}': held(1),
    CACHE % "hit": grows(20),
    CACHE % "miss": grows(20),
    CACHE % "off": grows(80),
    "redis_up": held(1),
    "redis_memory_used_bytes": held(100),
    "redis_memory_max_bytes": held(256),
    "redis_evicted_keys_total": held(0),
    'redis_errors_total{err="OOM"}': held(0),
    'redis_errors_total{err="NOPERM"}': grows(12),
    "redis_aof_last_write_status": held(1),
    "redis_rdb_last_bgsave_status": held(1),
    "redis_acl_access_denied_auth_total": held(0),
    REJECTED % "slowlog|get": grows(12),
    REJECTED % "set": held(0),
    FREE: held(50 * GIB),
    SIZE: held(100 * GIB),
    "prometheus_config_last_reload_successful": held(1),
    "prometheus_rule_evaluation_failures_total": held(0),
}


@dataclass(frozen=True)
class Case:
    """A history (what differs from WELL; None: no such series) and which alerts fire at a minute of it, exactly."""

    name: str
    at: int
    fires: set[str]
    differs: dict[str, str | None] = field(default_factory=dict)


CASES = [
    Case("all is well", 70, set()),
    Case("a stack that has just started", 3, set()),
    # instances
    Case(
        "no instance is known",
        62,
        {"ApiGone", "ApiInstanceLost"},
        {API % A: f"{held(1, 59)} stale", API % B: f"{held(1, 59)} stale"},
    ),
    Case("the instances are away for a moment", 64, set(), {API % A: "1x59 0 1x60", API % B: "1x60 0 1x60"}),
    Case("a hung instance", 61, {"ApiInstanceDown"}, {API % A: "1x59 0x30"}),
    Case("a hung instance that stays", 66, {"ApiInstanceDown", "ApiInstanceLost"}, {API % A: "1x59 0x30"}),
    Case("an instance that ended", 66, {"ApiInstanceLost"}, {API % A: "1x59 stale"}),
    Case("a move, old and new side by side for ten minutes", 75, set(), {API % 'instance="c"': "_x50 1x10 stale"}),
    Case("two instances more on purpose", 100, set(), {API % 'instance="c"': "_x50 1x200"}),
    Case("a crash loop at one address", 61, {"ApiRestarts"}, {STARTED % A: "1+60x80"}),
    Case(
        "a crash loop at changing addresses",
        66,
        {"ApiRestarts"},
        {API % f'instance="c{each}"': f"_x{56 + each} 1 stale" for each in range(6)},
    ),
    Case("each instance started anew once", 61, set(), {STARTED % A: "1x55 2x60", STARTED % B: "1x57 2x60"}),
    Case("the balancer is away", 61, {"EntranceDown"}, {'up{job="entrance",instance="balancer:8001"}': "1x59 0x60"}),
    Case("the balancer missed one question", 62, set(), {'up{job="entrance",instance="balancer:8001"}': "1x59 0 1x60"}),
    # requests
    Case("most requests fail", 63, {"MostRequestsFail"}, {ANSWERS % 500: "0x58 0+300x60"}),
    Case("many requests fail", 70, {"ManyRequestsFail"}, {ANSWERS % 500: "0x58 0+10x60"}),
    Case("a short burst of failures", 70, set(), {ANSWERS % 500: "0x58 0+60x2 120x60"}),
    Case("few requests fail", 70, set(), {ANSWERS % 500: grows(5)}),
    Case("the only request of the minute fails", 70, set(), {ANSWERS % 200: held(7), ANSWERS % 500: grows(1)}),
    Case("answers begin late", 70, {"SlowFirstByte"}, {FIRST_BYTE % ("bucket", ',le="30"'): grows(50)}),
    Case("some answers begin late", 70, set(), {FIRST_BYTE % ("bucket", ',le="30"'): grows(58)}),
    Case(
        "a few late answers of a model that is rarely asked",
        70,
        set(),
        {
            FIRST_BYTE % ("count", ""): grows(1),
            FIRST_BYTE % ("bucket", ',le="30"'): held(0),
            FIRST_BYTE % ("bucket", ',le="60"'): grows(1),
            FIRST_BYTE % ("bucket", ',le="+Inf"'): grows(1),
        },
    ),
    Case("the gateway is slow", 70, {"GatewaySlow"}, {OVERHEAD % '"0.1"': grows(110)}),
    Case("the gateway is slow now and then", 70, set(), {OVERHEAD % '"0.1"': grows(119.5)}),
    Case("an upstream fails", 70, {"UpstreamFails"}, {ATTEMPTS % "failed": grows(80)}),
    Case("an upstream fails sometimes", 70, set(), {ATTEMPTS % "failed": grows(40)}),
    Case("an upstream that is hardly asked", 70, set(), {ATTEMPTS % "ok": None, ATTEMPTS % "failed": grows(0.5)}),
    Case("a breaker opens", 63, {"BreakerOpen"}, {'llm_call_breaker_state{upstream="u"}': "0x59 2x60"}),
    Case("a breaker on trial", 63, set(), {'llm_call_breaker_state{upstream="u"}': "0x59 2 1x60"}),
    Case(
        "one instance misses its dependency",
        63,
        {"DependencyDown"},
        {'llm_call_dependency_up{dependency="redis",instance="a"}': "1x59 0x60"},
    ),
    Case(
        "a dependency is away for a moment",
        63,
        set(),
        {'llm_call_dependency_up{dependency="redis",instance="a"}': "1x59 0 1x60"},
    ),
    Case("the first faulty models file", 61, {"ModelsNotReloaded"}, {RELOADS: "_x59 1x60"}),
    Case("another faulty models file", 61, {"ModelsNotReloaded"}, {RELOADS: "1x59 2x60"}),
    Case("a faulty models file of yesterday", 70, set(), {RELOADS: held(1)}),
    # cache
    Case("redis is away", 61, {"RedisDown"}, {"redis_up": "1x59 0x60"}),
    Case("redis restarts", 62, set(), {"redis_up": "1x59 0 1x60"}),
    Case(
        "the exporter is away",
        62,
        {"RedisUnwatched"},
        {'up{job="redis",instance="redis-exporter:9121"}': "1x59 0x60", "redis_up": "1x59 stale"},
    ),
    Case("the exporter restarts", 62, set(), {'up{job="redis",instance="redis-exporter:9121"}': "1x59 0 1x60"}),
    Case(
        "the cache is not used any more",
        80,
        {"CacheUnused"},
        {CACHE % "hit": "0+20x59 1180x60", CACHE % "miss": "0+20x59 1180x60", CACHE % "off": "0+80x59 4720+120x60"},
    ),
    Case(
        "nobody asks at night",
        80,
        set(),
        {
            ANSWERS % 200: "0+120x59 7080x60",
            CACHE % "hit": "0+20x59 1180x60",
            CACHE % "miss": "0+20x59 1180x60",
            CACHE % "off": "0+80x59 4720x60",
        },
    ),
    Case("the cache was never used", 70, set(), {CACHE % "hit": None, CACHE % "miss": None}),
    Case(
        "hits collapse",
        130,
        {"CacheHitsCollapsed"},
        {CACHE % "hit": "0+20x99 2000+1x60", CACHE % "miss": "0+20x99 2000+39x60"},
    ),
    Case(
        "hits become fewer",
        130,
        set(),
        {CACHE % "hit": "0+20x99 2000+10x60", CACHE % "miss": "0+20x99 2000+30x60"},
    ),
    Case("hits were always few", 70, set(), {CACHE % "hit": "0+1x150"}),
    Case("redis is nearly full", 70, {"RedisMemoryHigh"}, {"redis_memory_used_bytes": held(240)}),
    Case("redis is well filled", 70, set(), {"redis_memory_used_bytes": held(225)}),
    Case("redis without a bound", 70, set(), {"redis_memory_max_bytes": held(0)}),
    Case("redis evicts", 70, {"RedisEvicts"}, {"redis_evicted_keys_total": grows(90)}),
    Case("redis evicts a little", 70, set(), {"redis_evicted_keys_total": grows(30)}),
    Case("redis refuses writes", 61, {"RedisRefusesWrites"}, {'redis_errors_total{err="OOM"}': "0x59 5x60"}),
    Case("redis cannot append", 62, {"RedisNotSaved"}, {"redis_aof_last_write_status": "1x59 0x60"}),
    Case("redis cannot save", 62, {"RedisNotSaved"}, {"redis_rdb_last_bgsave_status": "1x59 0x60"}),
    Case("one save failed", 62, set(), {"redis_rdb_last_bgsave_status": "1x59 0 1x60"}),
    Case("a wrong password", 62, {"RedisAccessDenied"}, {"redis_acl_access_denied_auth_total": "0x59 1x60"}),
    Case("a forbidden command", 62, {"RedisAccessDenied"}, {REJECTED % "flushall": "_x59 1x60"}),
    Case("a forbidden command of yesterday", 70, set(), {REJECTED % "flushall": held(1)}),
    # disk
    Case("a disk is nearly full", 70, {"DiskAlmostFull"}, {FREE: held(9 * GIB)}),
    Case("a disk is well filled", 70, set(), {FREE: held(11 * GIB)}),
    Case(
        "a disk fills within the day",
        100,
        {"DiskFullSoon"},
        {FREE: f"{45 * GIB}-{GIB // 20}x150"},
    ),
    Case("a disk fills slowly", 100, set(), {FREE: f"{45 * GIB}-{GIB // 100}x150"}),
    # prometheus itself
    Case(
        "a refused configuration", 61, {"MonitoringBroken"}, {"prometheus_config_last_reload_successful": "1x59 0x60"}
    ),
    Case(
        "a rule that cannot be evaluated",
        61,
        {"MonitoringBroken"},
        {"prometheus_rule_evaluation_failures_total": "0x59 3x60"},
    ),
]


@pytest.fixture(scope="module")
def image(project: Project, engine: Any) -> str:
    """The debug image, which has promtool."""
    (result,) = shipyard.images.build(project, engine, shipyard.images.Request(images=("prometheus",), target="debug"))
    return result.reference


def played(case: Case) -> dict[str, Any]:
    """Return the case as promtool reads it."""
    series = {name: values for name, values in {**WELL, **case.differs}.items() if values}
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    return {
        "name": case.name,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"{firing} > bool 0",
                "eval_time": f"{case.at}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(case.fires)],
            }
        ],
    }


def promtool(client: docker.DockerClient, image: str, folder: Path, *words: str) -> str:
    """Run promtool of the debug image over the rules of the working tree and the files in a folder."""
    volumes = {
        str(RULES.parent): {"bind": "/etc/prometheus", "mode": "ro"},
        str(folder): {"bind": "/cases", "mode": "ro"},
    }
    container = client.containers.run(image, ["promtool", *words], detach=True, volumes=volumes, network_mode="none")
    try:
        status = container.wait(timeout=120)["StatusCode"]
        told = str(container.logs().decode())
    finally:
        container.remove(force=True)
    assert status == 0, told
    return told


def test_rules_and_configuration_are_valid(client: docker.DockerClient, image: str, tmp_path: Path) -> None:
    assert "SUCCESS" in promtool(client, image, tmp_path, "check", "config", "/etc/prometheus/prometheus.yml")


def test_each_alert_fires_in_its_case_and_in_no_other(client: docker.DockerClient, image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    document = {
        "rule_files": ["/etc/prometheus/rules.yml"],
        "evaluation_interval": "1m",
        "group_eval_order": GROUPS,  # any other one would delay what an alert says of a recorded rule by a minute
        "tests": [played(case) for case in CASES],
    }
    path = tmp_path / "cases.json"  # what is JSON is YAML, too
    path.write_text(json.dumps(document))
    path.chmod(0o444)
    promtool(client, image, tmp_path, "test", "rules", "/cases/cases.json")


def test_every_alert_has_a_case_and_a_paragraph() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert {name for case in CASES for name in case.fires} == alerts
    paragraphs = set(re.findall(r"^### (\w+)", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE))
    assert paragraphs == alerts
