"""What one tenant asked a local model is not to be found out by another: neither by its usage nor by its speed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.local.conftest import Start
from tests.support.local_models import Gateway, model
from tests.support.service import chat

PROMPT = "one two three four five six seven " * 6


def cached(api: Gateway, key: str, **more: Any) -> int:
    """Ask as `key`; return how many tokens of the prompt the model had read before."""
    question = chat("local/tiny", PROMPT, max_tokens=2, **more)
    status, body, _ = api.service.post("/v1/chat/completions", question, authorization=f"Bearer {key}")
    assert status == 200
    return int(body["usage"]["prompt_tokens_details"]["cached_tokens"])


@pytest.mark.parametrize("shared", [False, True])
def test_a_prompt_that_was_read_for_one_is_read_again_for_another(start: Start, tmp_path: Path, shared: bool) -> None:
    lines = {"a": "", "b": "", "c": " tenant=x", "d": " tenant=x"}
    text = "".join(f"{name}:{hashlib.sha256(name.encode()).hexdigest()}{more}\n" for name, more in lines.items())
    (tmp_path / "keys").write_text(text)
    env = {"LLM_CALL_KEYS_FILE": str(tmp_path / "keys"), "LLM_CALL_CACHE_SHARED": str(shared).lower()}
    with start(model("tiny"), **env) as api:
        assert (cached(api, "c"), cached(api, "d") > 100) == (0, True)
        found = [cached(api, "a"), cached(api, "b", cache_prompt=True), cached(api, "c"), cached(api, "a")]
    assert [each > 100 for each in found] == [shared] * 4
