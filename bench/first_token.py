"""Time to the first piece of text through the proxy: with a CLI started ahead, and without, by turns in one run.

CLAUDE_CLI names the CLI's binary (default: `claude` on PATH); the provider is the tests' double. It says which part of
the time without one is whose, too: start of the process, start of the CLI in it, and the request itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from bench.measure import show
from claude_proxy import command
from claude_proxy.cleanup import Cleanups
from claude_proxy.conversation import Ask
from claude_proxy.events import Event, Reader, Text
from claude_proxy.folders import SYSTEM as SYSTEM_FILE
from claude_proxy.folders import fill
from claude_proxy.landlock import abi
from claude_proxy.launch import Launcher
from claude_proxy.process import Command, OnLine, Processes
from claude_proxy.sandbox import reach
from claude_proxy.settings import Credential, Settings
from claude_proxy.workspace import Workspace, remove
from serving.settings import Secret
from tests.support.claude_proxy_process import Proxy, messages_api, running, wait_until

RUNS = 20
SYSTEM = {"role": "system", "content": "Be brief."}


def first_text(proxy: Proxy) -> float:
    """Seconds from the request to the first piece of its answer."""
    begin = time.perf_counter()
    stream = proxy.open_stream("", messages=[SYSTEM, {"role": "user", "content": "[[gap=0]] hello"}])
    for event in stream.events():
        if event["choices"] and event["choices"][0]["delta"].get("content"):
            break
    took = time.perf_counter() - begin
    stream.close()
    wait_until(lambda: proxy.metric("claude_proxy_cli_running ") == 0, 10, "the CLI does not end")
    return took


async def parts(cli: str, base_url: str, workspace: Path) -> list[tuple[float, float, float]]:
    """Seconds for the start of the process, for the CLI to be up, and for its request; several runs."""
    settings = Settings(cli=cli, base_url=base_url, credential=Credential("ANTHROPIC_API_KEY", Secret("sk-any")))
    place, processes, found = Workspace(workspace), Processes(Cleanups(), Launcher(), abi()), []
    ask = Ask("sonnet", "Be brief.", [], [{"type": "text", "text": "[[gap=0]] hello"}])
    for _ in range(RUNS):
        folder = place.reserve()
        fill(folder, {SYSTEM_FILE: ask.system.encode()})
        within = reach(cli, folder.root, (), (), [base_url])
        line, env = command.argv(cli, ask, folder, settings), command.environment(ask, folder, settings)
        marks = [time.perf_counter()]
        process = await processes.start(Command(line, env, folder.work, reach=within))
        marks.append(time.perf_counter())
        await processes.converse(process, command.prompt(ask), _marking(marks))
        found.append((marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]))
        remove(folder)
    await processes.close()
    place.close()
    return found


def _marking(marks: list[float]) -> OnLine:
    reader = Reader("sonnet")

    async def on_line(line: bytes) -> bool:
        if b'"subtype":"init"' in line:
            marks.append(time.perf_counter())
        event: Event | None = reader.feed(line)
        if isinstance(event, Text) and len(marks) == 3:
            marks.append(time.perf_counter())
        return isinstance(event, Text)

    return on_line


def split(times: Sequence[tuple[float, float, float]]) -> str:
    """The medians of the parts, in milliseconds."""
    names = ("start of the process", "start of the CLI", "request")
    middles = [statistics.median(each) * 1000 for each in zip(*times, strict=True)]
    return ", ".join(f"{name} {middle:.0f} ms" for name, middle in zip(names, middles, strict=True))


def main() -> None:
    """Print both medians, their ratio, and the parts."""
    cli = os.environ.get("CLAUDE_CLI") or shutil.which("claude")
    if not cli:
        sys.exit("no Claude CLI: name its binary by CLAUDE_CLI, or put `claude` on PATH")
    with tempfile.TemporaryDirectory() as name, messages_api() as port:
        base_url = f"http://127.0.0.1:{port}"
        given = {"CLAUDE_PROXY_CLI": cli, "ANTHROPIC_BASE_URL": base_url, "ANTHROPIC_API_KEY": "sk-any"}
        folders = [Path(name) / each for each in ("ahead", "cold", "parts")]
        for folder in folders:
            folder.mkdir()
        with (
            running(folders[0], {**given, "CLAUDE_PROXY_PRESTART": "1"}) as ahead,
            running(folders[1], {**given, "CLAUDE_PROXY_PRESTART": "0"}) as cold,
        ):
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(RUNS):
                # The next one has to be up, as it is after a second of silence; its start must disturb neither.
                wait_until(lambda: ahead.metric("claude_proxy_cli_ahead ") == 1, 10, "no CLI waits")
                time.sleep(1.5)
                times[1].append(first_text(cold))
                times[0].append(first_text(ahead))
        show("first text, started ahead", times[0], "started for the request", times[1])
        print("of a start for the request:", split(asyncio.run(parts(cli, base_url, folders[2]))))


if __name__ == "__main__":
    main()
