"""The gateway in front of a real model: Debian's llama-server with the tests' own half megabyte of weights."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.llama import llama
from tests.support.service import READY, Service, chat, running

MODELS = """
[upstream.llama]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
[upstream.embedder]
kind = "openai"
base_url = "http://127.0.0.1:{embedder}/v1"
[model."tiny"]
upstream = "llama"
[model."embed"]
upstream = "embedder"
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folders = [tmp_path_factory.mktemp(name) for name in ("chat", "embeddings", "api")]
    with llama(folders[0]) as model, llama(folders[1], "--embeddings", "--pooling", "mean") as embedder:
        models = folders[2] / "models.toml"
        models.write_text(MODELS.format(port=model.port, embedder=embedder.port))
        command = ["-m", "llm_call.api", "--host", "127.0.0.1", "--port", "0"]
        with running(command, READY, {"LLM_CALL_MODELS": str(models)}) as service:
            yield service


def test_an_answer(api: Service) -> None:
    status, body, headers = api.post("/v1/chat/completions", chat("tiny", max_tokens=8))
    assert status == 200, body
    assert body["choices"][0]["message"]["content"]
    assert body["usage"]["completion_tokens"] == 8
    assert headers["x-llm-call-upstream"] == "llama"


def test_the_same_seed_gives_the_same_answer(api: Service) -> None:
    question = chat("tiny", max_tokens=8, seed=7, temperature=0)
    answers = {api.post("/v1/chat/completions", question)[1]["choices"][0]["message"]["content"] for _ in range(2)}
    assert len(answers) == 1


def test_a_stream(api: Service) -> None:
    body = json.dumps(chat("tiny", max_tokens=8, stream=True)).encode()
    with api.open("POST", "/v1/chat/completions", body, {"content-type": "application/json"}) as response:
        assert response.status == 200
        events = [line.removeprefix(b"data: ").strip() for line in response if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    pieces = [choice["delta"].get("content") for event in events[:-1] for choice in json.loads(event)["choices"]]
    assert "".join(piece for piece in pieces if piece)


def test_embeddings(api: Service) -> None:
    status, body, _ = api.post("/v1/embeddings", {"model": "embed", "input": ["one", "two"]})
    assert status == 200, body
    vectors = [entry["embedding"] for entry in body["data"]]
    assert [len(vector) for vector in vectors] == [64, 64]
    assert vectors[0] != vectors[1]
