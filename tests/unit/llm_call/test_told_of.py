from __future__ import annotations

from llm_call.api import upstreams
from serving.keys_file import Key


def test_the_claude_proxy_hears_what_a_clients_key_may_have() -> None:
    key = Key("hub", options={"tools": ("Read", "Bash"), "calls": ("20",)})
    assert upstreams._told_of(key) == {
        "x-llm-call-client": "hub",
        "x-llm-call-scope": key.scope.hex(),
        "x-llm-call-tools": "Read,Bash",
        "x-llm-call-mcp": "",
        "x-llm-call-calls": "20",
    }
