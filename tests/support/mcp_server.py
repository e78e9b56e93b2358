"""A small MCP server over stdio, for tests: one tool, `lookup`, that answers with its argument and a word of its own.

Needs the standard library alone. Its word comes from the variable WORD, so that a test sees the environment arrive.
"""

import json
import os
import sys
from typing import Any

TOOL = {
    "name": "lookup",
    "description": "Looks a word up",
    "inputSchema": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    method = request["method"]
    if method == "initialize":
        version = request["params"]["protocolVersion"]
        about = {"name": "docs", "version": "1"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        word = request["params"]["arguments"]["word"]
        return {"content": [{"type": "text", "text": f"{word} means {os.environ['WORD']}"}]}
    return {}


for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answer(asked)}) + "\n")
        sys.stdout.flush()
