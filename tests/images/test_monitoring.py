"""Prometheus, the Redis exporter and the consoles at work, beside a real API and a real Redis with users."""

from __future__ import annotations

import html
import http.client
import json
import re
import secrets
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import docker
import shipyard
from shipyard import acl
from shipyard.models import Project
from tests.support.images import await_health, running
from tests.support.service import wait_until
from tests.support.stack import ROOT

Images = dict[tuple[str, str], str]
MODELS = """
[upstream.double]
kind = "openai"
base_url = "http://upstream:9200/v1"
[model."d/one"]
upstream = "double"
price = { input = 3.0, output = 15.0 }
"""


class Watched:
    """The containers, the key of the API and what Prometheus answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = f"llmc-{secrets.token_hex(16)}"
        self.password = secrets.token_hex(16)
        self.prometheus: Any = None
        self.exporter: Any = None
        self.redis: Any = None
        self.api: Any = None

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o444)

    def write_users(self) -> None:
        """Write the users that `invoke secrets.init` makes."""
        digests = {acl.API: [], acl.EXPORTER: [acl.digest(self.password)]}
        self.write("redis/users.conf", acl.users_conf(digests))

    def write_password(self, password: str) -> None:
        path = self.folder / "exporter/redis_passwords.json"
        path.unlink(missing_ok=True)
        self.write("exporter/redis_passwords.json", acl.password_file(acl.EXPORTER, password))

    def volume(self, name: str, target: str) -> dict[str, dict[str, str]]:
        return {str(self.folder / name): {"bind": target, "mode": "ro"}}

    def query(self, expression: str) -> list[float]:
        """Return the values of an instant query."""
        path = "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        status, _, body = ask(self.prometheus, 9090, "GET", path)
        document = json.loads(body)
        assert (status, document["status"]) == (200, "success"), f"{expression}: {document}"
        return [float(each["value"][1]) for each in document["data"]["result"]]

    def page(self, path: str) -> str:
        status, _, body = ask(self.prometheus, 9090, "GET", path)
        assert status == 200, f"{path}: {body.decode()}"
        return body.decode()


def ask(
    container: Any, port: int, method: str, path: str, body: str = "", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Ask a container's published port: status, headers with lower-case names, body."""
    container.reload()
    published = int(container.ports[f"{port}/tcp"][0]["HostPort"])
    connection = http.client.HTTPConnection("127.0.0.1", published, timeout=20)
    try:
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def images(project: Project, engine: Any) -> Images:
    wanted = {"prod": ("api", "redis", "prometheus", "redis-exporter"), "debug": ("prometheus", "redis-exporter")}
    requests = [shipyard.images.Request(images=names, target=target) for target, names in wanted.items()]
    results = [result for request in requests for result in shipyard.images.build(project, engine, request)]
    return {(result.name, result.target): result.reference for result in results}


@pytest.fixture(scope="module")
def watched(client: docker.DockerClient, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    stack = Watched(tmp_path_factory.mktemp("watched"))
    for folder in (stack.folder, *stack.folder.parents[:2]):
        folder.chmod(0o755)
    stack.write("api/models.toml", MODELS)
    stack.write("api/keys", f"test:{acl.digest(stack.key)}\n")
    stack.write_users()
    stack.write_password(stack.password)
    with ExitStack() as end:
        network = client.networks.create(f"watched-{secrets.token_hex(4)}")
        end.callback(network.remove)

        def start(name: str, *aliases: str, **options: Any) -> Any:
            joined = {network.name: client.api.create_endpoint_config(aliases=list(aliases))}
            given = {"network": network.name, "networking_config": joined, **options}
            return end.enter_context(running(client, images[name, "prod"], **given))

        doubles = {str(ROOT / "tests/support"): {"bind": "/doubles", "mode": "ro"}}
        command = ["python3", "/doubles/openai_upstream.py", "--host", "0.0.0.0", "--port", "9200"]
        start("api", "upstream", command=command, volumes=doubles)
        data = {"/data": "rw,noexec,nosuid,nodev,size=64m,uid=10002,gid=10002,mode=0700"}
        stack.redis = start("redis", "redis", volumes=stack.volume("redis", "/etc/redis/conf.d"), tmpfs=data)
        # Its second name stands in for the balancer, whose own tests are elsewhere.
        stack.api = start(
            "api",
            "api-instance",
            "balancer",
            environment={"LLM_CALL_KEYS_FILE": "/run/given/keys", "LLM_CALL_MODELS": "/run/given/models.toml"},
            volumes=stack.volume("api", "/run/given"),
            ports={"8001/tcp": ("127.0.0.1", None)},
        )
        secret = stack.volume("exporter", "/run/secrets")
        ports = {"9121/tcp": ("127.0.0.1", None)}
        stack.exporter = start("redis-exporter", "redis-exporter", volumes=secret, ports=ports, mem_limit="64m")
        data = {"/prometheus": "rw,noexec,nosuid,nodev,size=64m,uid=10006,gid=10006,mode=0700"}
        config = {str(ROOT / "config/monitoring"): {"bind": "/etc/prometheus", "mode": "ro"}}
        ports = {"9090/tcp": ("127.0.0.1", None)}
        stack.prometheus = start("prometheus", "prometheus", volumes=config, ports=ports, mem_limit="512m", tmpfs=data)
        for container in (stack.redis, stack.api, stack.exporter, stack.prometheus):
            await_health(container)
        wait_until(lambda: stack.query("sum(up)") == [4.0], "every target is up", 40)
        yield stack


def test_every_target_is_found_and_asked(watched: Watched) -> None:
    for job in ("llm-call-api", "entrance", "redis", "prometheus"):
        assert watched.query(f'count(up{{job="{job}"}} == 1)') == [1.0]
    assert watched.query("redis_up") == [1.0]
    assert watched.query('count({job="entrance",__name__=~"llm_call.*"})') == []


def test_every_metric_that_a_rule_or_console_names_exists(watched: Watched) -> None:
    """Catches a renamed metric, which would silence its alert for ever. Those that appear with an event are left out."""
    send(watched)
    folder = ROOT / "config/monitoring"
    text = "".join((folder / name).read_text() for name in ("rules.yml", "consoles/index.html"))
    named = set(re.findall(r"\b(?:llm_call|redis|process|prometheus)_[a-z_]+\b(?!:)", text))
    later = {
        "llm_call_reloads_total",  # after the first reload
        "redis_errors_total",  # after the first error
    }
    wait_until(lambda: watched.query("sum(llm_call_cost_usd_total)"), "the request is counted", 20)
    assert {name for name in named - later if not watched.query(f"count({name})")} == set()


def send(watched: Watched) -> None:
    body = json.dumps({"model": "d/one", "messages": [{"role": "user", "content": "hi"}], "temperature": 0})
    status, _, answer = ask(
        watched.api, 8001, "POST", "/v1/chat/completions", body, authorization=f"Bearer {watched.key}"
    )
    assert status == 200, answer


def test_the_overview_shows_what_is(watched: Watched) -> None:
    send(watched)
    row = re.compile(r'<th scope="row">d/one</th>\s*<td>[1-9]')

    def asked() -> str | None:
        send(watched)  # a figure needs two samples that differ
        found = watched.page("/consoles/index.html?range=15m")
        return found if row.search(found) else None

    page = wait_until(asked, "the model's row", 40)
    lamps = re.findall(r'class="lamp (\w+)".*?<b>([^<]+)</b>', page, re.DOTALL)
    assert ("up", "entrance") in lamps
    assert ("up", "API") in lamps
    assert ("up", "redis") in lamps
    assert 'aria-current="true">15m<' in page


def test_every_query_of_a_chart_is_one_that_prometheus_understands(watched: Watched) -> None:
    found = re.findall(r'data-queries="([^"]+)"', watched.page("/consoles/index.html"))
    queries = [line.split("=", 1)[1] for each in found for line in html.unescape(each).replace("\\n", "\n").split("\n")]
    assert len(queries) >= 12
    for query in queries:
        watched.query(query.replace("$rate", "60s"))


@pytest.mark.parametrize("given", ["1y", "1h])) or vector(1", "<script>"])
def test_a_range_that_is_none_changes_nothing(watched: Watched, given: str) -> None:
    page = watched.page("/consoles/index.html?" + urllib.parse.urlencode({"range": given}))
    assert 'aria-current="true">1h<' in page
    assert html.escape(given) not in page
    assert given not in page


def test_consoles_load_nothing_from_elsewhere(watched: Watched) -> None:
    pages = {path: watched.page(path) for path in ("/consoles/index.html", "/consoles/alerts.html")}
    files = {
        re.sub(r"^\.\.", "", each) for page in pages.values() for each in re.findall(r'(?:src|href)="([^"]+)"', page)
    }
    loaded = {path: watched.page(path) for path in sorted(files) if path.startswith("/")}
    assert {"/user/console.css", "/user/console.js"} <= set(loaded)
    ours = "".join([*pages.values(), *(text for path, text in loaded.items() if path.startswith("/user/"))])
    assert set(re.findall(r"https?://[^\s\"')]+", ours)) <= {"http://www.w3.org/2000/svg"}


def test_the_pages_to_query_with_are_there(watched: Watched) -> None:
    page = watched.page("/classic/graph")
    files = re.findall(r'(?:src|href)="(/classic/static/[^"]+)"', page)
    assert len(files) > 10
    assert {path: ask(watched.prometheus, 9090, "GET", path)[0] for path in files} == dict.fromkeys(files, 200)


def test_nobody_can_change_prometheus_by_http(watched: Watched) -> None:
    for method, path in (
        ("POST", "/-/reload"),
        ("POST", "/-/quit"),
        ("POST", "/api/v1/admin/tsdb/delete_series?match[]=up"),
        ("POST", "/api/v1/write"),
    ):
        assert ask(watched.prometheus, 9090, method, path)[0] >= 400, path
    watched.prometheus.reload()
    assert watched.prometheus.status == "running"


def test_a_page_of_another_origin_cannot_read(watched: Watched) -> None:
    _, headers, _ = ask(watched.prometheus, 9090, "GET", "/api/v1/query?query=up", origin="http://elsewhere.example")
    assert "access-control-allow-origin" not in headers


def test_the_exporter_has_all_rights_that_it_needs(watched: Watched) -> None:
    assert watched.query("redis_exporter_last_scrape_error") == [0.0]
    levels = {json.loads(line)["level"] for line in watched.exporter.logs().decode().splitlines()}
    assert levels <= {"info"}, watched.exporter.logs().decode()


def test_the_password_is_nowhere_but_in_its_file(watched: Watched) -> None:
    watched.exporter.reload()
    told = [watched.exporter.logs().decode(), json.dumps(watched.exporter.attrs), json.dumps(watched.exporter.top())]
    told += [ask(watched.exporter, 9121, "GET", path)[2].decode() for path in ("/", "/metrics")]
    assert watched.password not in "".join(told)


def test_the_password_goes_to_no_other_address(watched: Watched) -> None:
    """Whoever reaches the exporter may name a target; a name of theirs for the same Redis gets no password."""
    _, _, body = ask(watched.exporter, 9121, "GET", "/scrape?target=redis://exporter@redis:6379/1")
    assert b"redis_up 0" in body


def test_a_changed_password_counts_after_a_reload(watched: Watched) -> None:
    changed = secrets.token_hex(16)
    metrics = lambda: ask(watched.exporter, 9121, "GET", "/metrics")[2]  # noqa: E731
    watched.write_password(changed)
    assert ask(watched.exporter, 9121, "POST", "/-/reload")[0] == 200
    assert b"redis_up 0" in metrics()  # and the exporter itself still answers
    watched.write_password(watched.password)
    assert ask(watched.exporter, 9121, "POST", "/-/reload")[0] == 200
    assert b"redis_up 1" in metrics()


def test_prometheus_keeps_its_data_and_stops_at_once(client: docker.DockerClient, images: Images) -> None:
    """With the configuration of the image: it starts without any mount but its volume, which is its own user's."""
    volume = client.volumes.create()
    options: dict[str, Any] = {
        "volumes": {volume.name: {"bind": "/prometheus", "mode": "rw"}},
        "ports": {"9090/tcp": ("127.0.0.1", None)},
    }
    only = Watched(Path())
    try:
        with running(client, images["prometheus", "prod"], **options) as only.prometheus:
            await_health(only.prometheus)
            wait_until(lambda: only.query('up{job="prometheus"}') == [1.0], "it asks itself", 20)
            (began,) = only.query('process_start_time_seconds{job="prometheus"}')
            only.prometheus.stop(timeout=8)  # the engine kills after 8 s, which would end it with 137
            only.prometheus.reload()
            assert only.prometheus.attrs["State"]["ExitCode"] == 0
        with running(client, images["prometheus", "prod"], **options) as only.prometheus:
            await_health(only.prometheus)
            assert began in only.query('min_over_time(process_start_time_seconds{job="prometheus"}[10m])')
    finally:
        volume.remove(force=True)


@pytest.mark.parametrize(("name", "user"), [("prometheus", "10006"), ("redis-exporter", "10007")])
def test_debug_adds_a_shell(client: docker.DockerClient, images: Images, name: str, user: str) -> None:
    command = {"entrypoint": ["/bin/sh", "-c"], "command": ["sleep 60"]}
    with running(client, images[name, "debug"], **command) as container:
        wait_until(lambda: container.reload() or container.status == "running", "the shell")
        status, output = container.exec_run(["sh", "-c", "id -u"])
        assert (status, output.decode().strip()) == (0, user)
