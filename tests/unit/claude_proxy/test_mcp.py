from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from claude_proxy import mcp
from serving.settings import Env, SettingsError

TOML = """
[docs]
command = "/usr/bin/python3"
args = ["-m", "docs"]
env = { WORD = "one" }
ports = [5432]

[search]
type = "http"
url = "https://search.example/mcp"
"""


def read(path: Path) -> dict[str, mcp.Server]:
    env = Env({"MCP": str(path)})
    found = mcp.read(env, "MCP")
    env.finish()
    return found


def test_both_kinds_in_toml(tmp_path: Path) -> None:
    (tmp_path / "mcp.toml").write_text(TOML)
    found = read(tmp_path / "mcp.toml")
    config = {"type": "stdio", "command": "/usr/bin/python3", "args": ["-m", "docs"], "env": {"WORD": "one"}}
    assert found["docs"] == mcp.Server(config, ("tcp://localhost:5432",))
    assert found["search"].urls == ("https://search.example/mcp",)
    only = {"search": found["search"]}
    expected = {"search": {"type": "http", "url": "https://search.example/mcp"}}
    assert json.loads(mcp.document(only)) == {"mcpServers": expected}


def test_json_too(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text('{"docs": {"command": "/bin/docs"}}')
    assert read(tmp_path / "mcp.json")["docs"].config == {"type": "stdio", "command": "/bin/docs"}


@pytest.mark.parametrize(
    ("name", "entry", "told"),
    [
        ("a b", {"command": "/bin/x"}, "a name has"),
        ("x", [], "has to be an object"),
        ("x", {"type": "sse", "url": "http://x"}, 'type "sse" is none of'),
        ("x", {}, "command has to be the absolute path"),
        ("x", {"command": "docs"}, "command has to be the absolute path"),
        ("x", {"command": "/bin/x", "arg": []}, 'perhaps you meant "args"'),
        ("x", {"command": "/bin/x", "args": "-v"}, "args has to be"),
        ("x", {"command": "/bin/x", "env": {"A": 1}}, "env has to be"),
        ("x", {"command": "/bin/x", "ports": [0]}, "ports has to be"),
        ("x", {"type": "http"}, "url has to begin"),
        ("x", {"type": "http", "url": "http://x", "command": "/bin/x"}, '"command" is no field of a http server'),
    ],
)
def test_a_fault_is_told(name: str, entry: Any, told: str) -> None:
    (fault,) = mcp.check(name, entry)
    assert told in fault


def test_every_fault_of_a_file_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text('{"one": {}, "two": {"type": "http"}, "good": {"command": "/bin/x"}}')
    with pytest.raises(SettingsError) as caught:
        read(path)
    assert [fault.partition(" has")[0] for fault in caught.value.faults] == [
        f"MCP: {path}: one: command",
        f"MCP: {path}: two: url",
    ]


@pytest.mark.parametrize("text", ["[", "[]", "7"])
def test_a_file_that_is_no_list_of_servers(tmp_path: Path, text: str) -> None:
    (tmp_path / "mcp.json").write_text(text)
    with pytest.raises(SettingsError, match="MCP: "):
        read(tmp_path / "mcp.json")
