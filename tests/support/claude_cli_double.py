"""A double of the Claude CLI for tests of the proxy: it misbehaves as the first word of the prompt says.

Needs the standard library alone. `install` writes it as a program; every process that comes of it carries the program's
path on its command line, so that a test can find them all.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def install(path: Path, secret: str = "") -> Path:
    """Write the double as an executable for the interpreter of the tests."""
    python = getattr(sys, "_base_executable", sys.executable)
    text = Path(__file__).read_text("utf-8").replace("SECRET = " + '""', f"SECRET = {secret!r}")
    path.write_text(f"#!{python} -IS\n{text}")
    path.chmod(0o755)
    return path


SECRET = ""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
# Twice forked, in a session of its own: no longer a child of the CLI, and in none of its groups.
ESCAPE = f"import os, sys\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n{DEAF}"


def tell(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def event(**fields: Any) -> None:
    tell({"type": "stream_event", "event": fields})


def begin(text: str) -> None:
    event(type="message_start", message={"model": "fake-1", "usage": {"input_tokens": 3}})
    event(type="content_block_delta", delta={"type": "text_delta", "text": text})


def answer(text: str) -> None:
    begin(text)
    finish(text)


def finish(text: str) -> None:
    tell({"type": "assistant", "message": {"role": "assistant", "content": [{"type": "text", "text": text}]}})
    event(type="message_delta", delta={"stop_reason": "end_turn"})
    result = {"type": "result", "subtype": "success", "is_error": False, "result": text, "total_cost_usd": 0.25}
    tell({**result, "usage": {"output_tokens": 2}})


def child(code: str) -> None:
    subprocess.Popen([sys.executable, "-IS", "-c", code, __file__], start_new_session=False)


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else ""


def describe() -> dict[str, Any]:
    """Everything that the CLI was given, but for its input."""
    files = {name: Path(option(name)).read_text() for name in ("--resume", "--mcp-config") if option(name)}
    system = Path(option("--system-prompt-file"))
    return {
        "env": dict(os.environ),
        "argv": sys.argv[1:],
        "cwd": str(Path.cwd()),
        "mode": oct(Path("..").stat().st_mode & 0o777),
        "group": os.getpgid(0) == os.getpid(),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "system": system.read_text(),
        "files": files,
        "controls": controls,
    }


def attempt(what: str, target: str) -> str:
    """Try one thing; return `done`, with what was read, or the name of the error."""
    try:
        if what == "read":
            return "done: " + Path(target).read_bytes().decode("utf-8", "replace")[:200]
        if what == "list":
            return "done: " + " ".join(sorted(each.name for each in Path(target).iterdir()))[:2000]
        if what == "write":
            Path(target).write_text("written")
        elif what == "link":
            return "done: " + str(Path(target).readlink())
        elif what == "kill":
            os.kill(int(target), 0)
        elif what == "connect":
            socket.create_connection(("127.0.0.1", int(target)), 2).close()
        elif what == "bind":
            socket.create_server(("127.0.0.1", int(target))).close()
        elif what == "abstract":
            socket.socket(socket.AF_UNIX).connect("\0" + target)
        elif what == "run":
            return "done: " + subprocess.run(target.split(), capture_output=True, text=True, check=True).stdout[:200]
    except Exception as error:
        return type(error).__name__
    return "done"


ENDLESS = {
    "line": lambda: "x" * 100_000,
    "lines": lambda: "\n" * 100_000,
    "text": lambda: json.dumps(PIECE) + "\n",
    "wide": lambda: json.dumps({**PIECE, "event": {**PIECE["event"], "delta": WIDE}}) + "\n",
    "begins": lambda: 1000 * (json.dumps({"type": "stream_event", "event": {"type": "message_start"}}) + "\n"),
    "turns": lambda: (
        json.dumps({"type": "user", "message": {"content": [{"type": "text", "text": "x" * 9999}]}}) + "\n"
    ),
    "values": lambda: '{"type":"user","message":{"content":[' + "{}," * 2_000_000 + "{}]}}\n",
    "deep": lambda: "[" * 4_000_000 + "\n",
    "words": lambda: json.dumps({"type": "assistant", "error": "x" * 4_000_000}) + "\n",
}
PIECE: dict[str, Any] = {
    "type": "stream_event",
    "event": {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 5000}},
}
WIDE = {"type": "text_delta", "text": "\U0001f600" + "x" * 3_000_000}


def endless(kind: str) -> None:
    """Write without end, as a tool can that has the CLI's output; `stderr` and `bytes` are other ways to."""
    stream = sys.stderr if kind == "stderr" else sys.stdout
    if kind == "bytes":
        while True:
            os.write(1, b"x")
    while True:
        stream.write("x" * 100_000 if kind == "stderr" else ENDLESS[kind]())
        stream.flush()


def act(mode: str, rest: str) -> None:
    if mode == "flood":
        sys.stderr.write("x" * 4_000_000)
        answer("after the flood")
    elif mode == "crash":
        sys.stdout.write("no JSON at all\n")
        sys.exit(f"the key is {SECRET}")
    elif mode == "describe":
        answer(json.dumps(describe()))
    elif mode == "stay":
        begin(json.dumps(describe()))
        time.sleep(600)
    elif mode == "attempt":
        answer(json.dumps([attempt(*each) for each in json.loads(rest)]))
    elif mode == "restart":
        begin("one ")
        begin("two ")
        answer("three")
    elif mode == "orphan":
        child(ESCAPE)
        time.sleep(0.3)  # until the middle processes are gone
        answer("I am not alone")
    elif mode in ("hang", "stubborn", "escape"):
        if mode == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child(DEAF)
        if mode == "escape":
            child(ESCAPE)
        begin("and then ")
        time.sleep(600)
    elif mode == "endless":
        endless(rest)
    elif mode == "slow":
        begin("soon ")
        time.sleep(float(rest))
        event(type="content_block_delta", delta={"type": "text_delta", "text": "enough"})
        finish("soon enough")
    else:
        answer("you said " + mode)


if __name__ == "__main__":
    if "--version" in sys.argv:
        sys.stdout.write("0.0.1 (a double)\n")
        sys.exit()
    controls: list[Any] = []
    for line in sys.stdin:
        given = json.loads(line)
        if given["type"] == "user":
            texts = [block["text"] for block in given["message"]["content"] if block["type"] == "text"]
            mode, _, rest = (texts[-1] if texts else "nothing").partition(" ")
            act(mode, rest)
            break
        controls.append(given["request"])
