"""`MODEL_SERVER=local-llm`: our own model server in Ollama's place, in production and on the CPU, with a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.phases import paths
from tests.support import tiny_model
from tests.support.stack import Checkout, checkout

#: What llama-server reads of a model that only embeds; the tests' own one has no say in it.
PRESETS = "[tiny-embed]\nmodel = /models/tiny.gguf\nembeddings = true\npooling = mean\n"


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
        lines = (found.root / ".env").read_text().splitlines(keepends=True)  # where other tests have a double
        (found.root / ".env").write_text("".join(line for line in lines if "UPSTREAM_OLLAMA" not in line))
        found.configure(MODEL_SERVER="local-llm")
        found.configure(OLLAMA_CPUS="2", OLLAMA_MEMORY="1g", LOCAL_LLM_PRESETS="models.ini")
        yield found


@pytest.fixture(scope="module")
def prod(stack: Checkout) -> Checkout:
    stack.invoke("prod")
    return stack


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
    assert found["Config"]["Image"] == f"llm-call-local-llm:{version}"
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


def test_down_leaves_nothing(prod: Checkout) -> None:
    prod.invoke("down")
    paths.nothing_left(prod)
