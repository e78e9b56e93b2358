"""Local models in production, on the CPU and with a tiny model: beside the API in Ollama's place, and in the API itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from shipyard import config, plans
from shipyard.models import LABEL_REFERENCE
from tests.phases import paths
from tests.support import caller, tiny_model
from tests.support.stack import Checkout, checkout

#: What llama-server reads of a model that only embeds; the tests' own one has no say in it.
PRESETS = "[tiny-embed]\nmodel = /models/tiny.gguf\nembeddings = true\npooling = mean\n"
#: As a user writes it who follows config/models.toml.
LOCAL = """
[upstream.local]
kind = "llama"

[model."local/tiny"]
upstream = "local"
file = "tiny.gguf"
template = "chatml"
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout with the settings of a user who has model files and no hub."""
    with checkout(tmp_path_factory.mktemp("local-llm")) as found:
        models = found.root / "models"
        models.mkdir()
        tiny_model.write(models / "tiny.gguf")
        (models / "models.ini").write_text(PRESETS)
        for path in (models, *models.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o444)
        file = found.root / "config/models.toml"
        file.write_text(file.read_text() + LOCAL)
        lines = (found.root / ".env").read_text().splitlines(keepends=True)  # where other tests have a double
        (found.root / ".env").write_text("".join(line for line in lines if "UPSTREAM_OLLAMA" not in line))
        found.configure(MODEL_SERVER="local-llm")
        found.configure(OLLAMA_CPUS="2", OLLAMA_MEMORY="1g", LOCAL_LLM_PRESETS="models.ini")
        yield found


@pytest.fixture(scope="module")
def prod(stack: Checkout) -> Checkout:
    stack.invoke("prod")
    return stack


def effective(copy: Checkout, overlay: str, settings: dict[str, str]) -> dict[str, str]:
    """What an overlay comes to with further settings, by place."""
    earlier = (copy.root / ".env").read_text()
    try:
        copy.configure(**settings)
        return dict(copy.json("config", "--overlay", overlay))
    finally:
        (copy.root / ".env").write_text(earlier)


def inspected(copy: Checkout, service: str) -> dict[str, object]:
    (found,) = json.loads(copy.docker("inspect", copy.container(service)))
    return dict(found)


def test_a_chat_reaches_it_through_the_balancer(prod: Checkout) -> None:
    paths.through_a_local_model(prod)


def test_so_does_a_stream(prod: Checkout) -> None:
    question = paths.chat("ollama/tiny", "hi", max_tokens=8, stream=True)
    with prod.request("POST", "/v1/chat/completions", question) as response:
        assert response.status == 200
        assert response.getheader("x-llm-call-upstream") == "ollama"
        found = [event for _, event in paths.events(response)]
    assert found[-1] == "[DONE]"
    deltas = [event["choices"][0]["delta"].get("content") for event in found[:-1] if event["choices"]]
    assert len([text for text in deltas if text]) >= 2


def test_so_do_embeddings_of_a_model_that_has_them(prod: Checkout) -> None:
    question = {"model": "ollama/tiny-embed", "input": ["one", "another"]}
    status, body, headers = prod.ask("POST", "/v1/embeddings", question)
    assert (status, headers.get("x-llm-call-upstream")) == (200, "ollama"), body
    assert [len(each["embedding"]) for each in body["data"]] == [tiny_model.WIDTH] * 2


def test_a_model_without_a_file_is_no_fault_of_the_gateway(prod: Checkout) -> None:
    status, body, _ = prod.ask("POST", "/v1/chat/completions", paths.chat("ollama/none", "hi"))
    assert 400 <= status < 500
    assert "none" in body["error"]["message"]


def test_it_is_ours_and_hardened(prod: Checkout) -> None:
    found = inspected(prod, "ollama")
    version = (prod.root / "VERSION").read_text().strip()
    assert found["Config"]["Labels"][LABEL_REFERENCE] == f"llm-call-local-llm:{version}"
    assert found["Config"]["User"] == "10008:10008"
    assert found["State"]["Health"]["Status"] == "healthy"
    host = found["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (1 << 30, 1 << 30, 2_000_000_000)
    assert host["DeviceRequests"] is None
    mounts = [(each["Source"], each["Destination"], each["RW"]) for each in found["Mounts"] if each["Type"] == "bind"]
    assert mounts == [(str(prod.root / "models"), "/models", False)]
    assert set(found["NetworkSettings"]["Networks"]) == {f"{prod.project}_outbound"}
    assert paths.published(prod) == {"balancer"}


def test_in_phase_1_the_api_on_the_host_reaches_the_same_container(prod: Checkout) -> None:
    before = prod.container("ollama")
    prod.invoke("host", "--api")
    try:
        paths.through_a_local_model(prod)
        assert prod.container("ollama") == before
    finally:
        prod.invoke("prod")
    paths.through_a_local_model(prod)
    assert prod.container("ollama") == before


@pytest.mark.parametrize(
    ("settings", "words", "told"),
    [
        (
            {"MODEL_SERVER": "local-lm"},
            ("prod",),
            '.env: MODEL_SERVER: "local-lm" is no model server; perhaps you meant "local-llm"',
        ),
        (
            {"OLLAMA_CPUS": "4096"},
            ("prod",),
            "services.ollama.cpus: 4096 are more than the engine has; write OLLAMA_CPUS=",
        ),
        (
            {"MODELS_FOLDER": "/nowhere/at/all"},
            ("prod",),
            ".env: MODELS_FOLDER: /nowhere/at/all is no folder of this machine",
        ),
        ({"MODELS_FOLDER": "/"}, ("prod",), ".env: MODELS_FOLDER: / is a folder of the system"),
        ({"MODELS_FOLDER": "/srv/$models"}, ("hybrid",), ".env: MODELS_FOLDER: Compose makes another name of it"),
        ({"LOCAL_LLM_PRESETS": "nope.ini"}, ("prod",), ".env: LOCAL_LLM_PRESETS: there is no file nope.ini in"),
        ({"LOCAL_LLM_CONTEXT": "-1"}, ("prod",), '.env: LOCAL_LLM_CONTEXT: "-1" is no number that can be'),
        ({"OLLAMA_MEMORY": "much"}, ("prod",), '.env: OLLAMA_MEMORY: "much" is no size of memory'),
        ({"OLLAMA_MEMORY": "9999t"}, ("prod",), "are more than the engine's machine has; write OLLAMA_MEMORY="),
        ({"LLM_CALL_API_CPUS": "nan"}, ("hybrid",), '.env: LLM_CALL_API_CPUS: "nan" is no number of processors'),
        ({"LLM_CALL_API_PORT": "70000"}, ("prod",), '.env: LLM_CALL_API_PORT: "70000" is not a port'),
        ({"REDIS_PORT": "7011", "OLLAMA_PORT": "7011"}, ("hybrid",), ".env: REDIS_PORT, OLLAMA_PORT: are both 7011"),
        ({"OTHER": "'it"}, ("prod",), "the quote before the value of OTHER does not end"),
        ({}, ("config", "--overlay", "prod+gpu"), "--gpu: nothing of this stack would use a GPU"),
    ],
)
def test_what_is_wrong_is_told_before_anything_stops(
    prod: Checkout, settings: dict[str, str], words: tuple[str, ...], told: str
) -> None:
    earlier = (prod.root / ".env").read_text()
    try:
        prod.configure(**settings)
        assert told in prod.invoke(*words, status=3).stderr
    finally:
        (prod.root / ".env").write_text(earlier)
    paths.through_a_local_model(prod)


def test_unless_told_it_has_four_processors_or_all_that_there_are(prod: Checkout) -> None:
    there = int(prod.docker("info", "--format", "{{.NCPU}}"))
    found = effective(prod, "prod", {"OLLAMA_CPUS": ""})
    assert float(found["services.ollama.cpus"]) == min(4, there)
    assert int(found["services.ollama.environment.LLAMA_ARG_THREADS"]) == min(4, there)


@pytest.mark.parametrize("link", [True, False])
def test_a_models_folder_that_is_none_leaves_the_model_server_alone(prod: Checkout, link: bool) -> None:
    models, kept = prod.root / "models", prod.root / "kept"
    models.rename(kept)
    try:
        if link:
            models.symlink_to("models")
        else:
            models.touch()
        assert f"{models}: is " in prod.invoke("prod", status=3).stderr
    finally:
        models.unlink()
        kept.rename(models)
    paths.through_a_local_model(prod)


def test_an_api_that_is_killed_for_its_memory_is_said_to_be(prod: Checkout) -> None:
    tight = prod.root / "tight.yaml"
    tight.write_text(
        "services: { llm-call-api: { mem_limit: 24m, memswap_limit: 24m } }\n"
    )  # .env may not say so little
    prod.extra.append(tight)
    try:
        told = prod.invoke("prod", status=10).stderr
    finally:
        prod.extra.remove(tight)
    assert "killed for its memory; raise LLM_CALL_API_MEMORY in .env" in told
    paths.through_a_local_model(prod)


@pytest.fixture(scope="module")
def with_models(prod: Checkout) -> Checkout:
    """The same stack, moved to the API that serves models itself, under clients that never stop."""
    prod.configure(LLM_CALL_API_VARIANT="local", LLM_CALL_API_MEMORY="1g")
    with caller.calling(prod, caller.models, caller.chat, caller.stream) as record:
        prod.invoke("prod")
    assert record.failures == []
    return prod


def test_the_api_serves_models_itself(with_models: Checkout) -> None:
    question = paths.chat("local/tiny", "hi", max_tokens=8)
    status, body, headers = with_models.ask("POST", "/v1/chat/completions", question)
    assert (status, headers.get("x-llm-call-upstream", "").partition("/")[0]) == (200, "local"), body
    assert body["usage"]["completion_tokens"] > 0
    with with_models.request("POST", "/v1/chat/completions", {**question, "stream": True}) as response:
        assert [event for _, event in paths.events(response)][-1] == "[DONE]"
    paths.through_a_local_model(with_models)
    paths.healthy(with_models)


def test_that_api_is_the_variant_with_the_models_and_more_memory(with_models: Checkout) -> None:
    found = inspected(with_models, "llm-call-api")
    version = (with_models.root / "VERSION").read_text().strip()
    assert found["Config"]["Labels"][LABEL_REFERENCE] == f"llm-call-api:{version}-local"
    host = found["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (1 << 30, 1 << 30, 1024)
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["DeviceRequests"]) == (True, ["ALL"], None)
    mounts = {each["Destination"]: each for each in found["Mounts"]}
    assert (mounts["/models"]["Source"], mounts["/models"]["RW"]) == (str(with_models.root / "models"), False)


def test_other_phases_say_that_it_does_not_count_there(with_models: Checkout) -> None:
    assert "LLM_CALL_API_VARIANT=local counts in production only" in with_models.invoke("hybrid").stderr
    status, body, _ = with_models.ask("POST", "/v1/chat/completions", paths.chat("local/tiny", "hi"))
    assert (status, body["error"]["code"]) == (503, "local_models_missing")
    with_models.invoke("prod")
    assert with_models.ask("POST", "/v1/chat/completions", paths.chat("local/tiny", "hi", max_tokens=2))[0] == 200


API, PROXY = "LLM_CALL_API_VARIANT", "CLAUDE_PROXY_VARIANT"
RUNNERS = {f"claude-runner-{number}" for number in range(1, 9)}


@pytest.mark.parametrize(
    ("overlay", "settings", "gpus"),
    [
        ("prod", {API: "cuda", PROXY: "cuda", "MODEL_SERVER": "ollama"}, set()),
        ("prod+gpu", {"MODEL_SERVER": ""}, {"ollama"}),
        ("prod+gpu", {"MODEL_SERVER": "ollama", API: "cuda"}, {"ollama", "llm-call-api"}),
        ("prod+gpu", {API: "cuda"}, {"llm-call-api"}),
        ("prod+gpu", {PROXY: "cuda"}, RUNNERS),
        ("hybrid+gpu", {PROXY: "cuda"}, RUNNERS),
        ("host+gpu", {"MODEL_SERVER": "ollama"}, {"ollama"}),
        ("dev+gpu+granger", {"MODEL_SERVER": ""}, {"ollama"}),
    ],
)
def test_a_gpu_is_for_those_who_use_one(
    with_models: Checkout, overlay: str, settings: dict[str, str], gpus: set[str]
) -> None:
    found = effective(with_models, overlay, settings)
    place = re.compile(r"services\.([a-z0-9-]+)\.deploy\.resources\.reservations\.devices")
    assert {match[1] for match in map(place.match, found) if match} == gpus
    for service in gpus & {"llm-call-api", *RUNNERS}:
        assert found[f"services.{service}.image"].endswith("-cuda")


@pytest.mark.parametrize(
    ("overlay", "settings", "images"),
    [
        ("prod", {}, {"api-local", "local-llm-prod", "claude-proxy-prod"}),
        ("prod", {"LLM_CALL_API_VARIANT": ""}, {"api-prod", "local-llm-prod", "claude-proxy-prod"}),
        ("prod", {"MODEL_SERVER": ""}, {"api-local", "claude-proxy-prod"}),
        ("prod", {"MODEL_SERVER": "ollama"}, {"api-local", "claude-proxy-prod"}),
        ("prod+gpu", {"MODEL_SERVER": "ollama"}, {"api-local", "claude-proxy-prod"}),
        ("hybrid", {}, {"api-debug", "local-llm-prod", "claude-proxy-prod"}),
        ("prod", {API: "cuda", PROXY: "cuda"}, {"api-cuda", "claude-proxy-cuda", "local-llm-prod"}),
        ("host", {PROXY: "cuda"}, {"claude-proxy-cuda", "local-llm-prod"}),
        ("dev", {PROXY: "cuda"}, {"api-dev", "claude-proxy-dev", "local-llm-prod"}),
        ("dev", {}, {"api-dev", "local-llm-prod", "claude-proxy-dev"}),
    ],
)
def test_a_selection_needs_these_images(
    with_models: Checkout, overlay: str, settings: dict[str, str], images: set[str]
) -> None:
    """Of the three that can differ."""
    found = effective(with_models, overlay, settings)
    references = [text for place, text in found.items() if place.endswith(".image")]
    needed = {f"{image.name}-{target}" for image, target in plans.named(config.load(with_models.root), references)}
    assert {each for each in needed if each.startswith(("api-", "claude-proxy-", "local-llm-"))} == images
    ollama = found.get("services.ollama.image", "")
    assert ollama.startswith("ollama/ollama:") == (settings.get("MODEL_SERVER") == "ollama")


def test_without_its_setting_it_goes_and_the_api_stays(with_models: Checkout) -> None:
    api = with_models.container("llm-call-api")
    with_models.configure(MODEL_SERVER="")
    said = with_models.invoke("prod").stderr
    assert with_models.containers("ollama", stopped=True) == []
    assert with_models.container("llm-call-api") == api, said


def test_down_leaves_nothing(prod: Checkout) -> None:
    prod.invoke("down")
    paths.nothing_left(prod)
