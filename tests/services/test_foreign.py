"""Upstreams of the kind "litellm": the real library in an environment of its own, as an operator would install it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipyard.engine.types import home
from tests.services.test_api import start
from tests.support.service import READY, ROOT, Service, chat, double, running

LOCK = ROOT / "requirements/litellm.txt"
MODELS = """
[upstream.lite]
kind = "litellm"
base_url = "http://127.0.0.1:{port}/v1"
api_key_env = "LITE_KEY"
timeout = 30
[model.lite]
upstream = "lite"
name = "openai/gpt-x"
retries = 0
[model.embed]
upstream = "lite"
name = "openai/text-embedding-x"
"""


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of an environment that holds the gateway's packages and litellm, made once per lock."""
    place = home() / f"litellm-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    if not place.exists():
        draft = place.with_name(f"{place.name}.{os.getpid()}")
        uv = [sys.executable, "-m", "uv"]
        try:
            subprocess.run(
                [*uv, "venv", "--quiet", "--python", sys.executable, "--relocatable", str(draft)], check=True
            )
            target = ["--python", str(draft / "bin/python"), "--require-hashes", "--requirement", str(LOCK)]
            subprocess.run([*uv, "pip", "install", "--quiet", *target], check=True)
            draft.rename(place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return str(place / "bin/python")


@pytest.fixture(scope="module")
def api(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    path = tmp_path_factory.mktemp("foreign") / "models.toml"
    with double() as upstream:
        path.write_text(MODELS.format(port=upstream.port))
        env = {"LLM_CALL_MODELS": str(path), "LITE_KEY": "the-providers-key"}
        with running(["-m", "llm_call.api", "--port", "0"], READY, env, python=python) as service:
            yield service


def test_plain_and_streamed(api: Service) -> None:
    status, answer, headers = api.post("/v1/chat/completions", chat("lite", "hello"))
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "echo: hello")
    assert headers["x-llm-call-upstream"] == "lite"
    status, stream, headers = api.post("/v1/chat/completions", chat("lite", "hello", stream=True))
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    assert stream.endswith(b"data: [DONE]\n\n")
    assert b"chat.completion.chunk" in stream


def test_embeddings(api: Service) -> None:
    status, answer, _ = api.post("/v1/embeddings", {"model": "embed", "input": ["a", "bcd"]})
    assert (status, [each["embedding"] for each in answer["data"]]) == (200, [[1.0], [3.0]])


def test_its_errors_take_our_shape(api: Service) -> None:
    for wish, status in (({"status": 429, "message": "slow down"}, 429), ({"status": 401}, 401), ({"cut": 0}, 500)):
        got, answer, _ = api.post("/v1/chat/completions", chat("lite", x_double=wish))
        assert (got, "message" in answer["error"]) == (status, True)
    assert "the-providers-key" not in api.output
    assert "Traceback" not in api.output


def test_without_the_library_the_models_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(MODELS.format(port=1))
    code, lines = start("--port", "0", LLM_CALL_MODELS=str(path))
    assert code == 78
    assert lines == [
        f"llm-call-api: {path}: upstream.lite.kind: needs the package litellm, which is not installed: "
        "pip install -r requirements/litellm.txt"
    ]
