"""Time to the first piece of text through the proxy: with a CLI started ahead, and without, by turns in one run.

As root also with the CLIs in runners, processes of other users on this host, beside those in the proxy's own place.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from tests.support.runners import pooled

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
    wait_until(lambda: proxy.metric("claude_proxy_cli_running ") == 0, "the CLI does not end", 30)
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
        root, place = Path(name), Path(name, "parts")
        root.chmod(0o755)
        with _proxy(root, "ahead", given, "1") as ahead, _proxy(root, "cold", given, "0") as cold:
            times = _measured([ahead, cold])
        show("first text, started ahead", times[0], "started for the request", times[1])
        place.mkdir()
        print("of a start for the request:", split(asyncio.run(parts(cli, base_url, place))))
        for words, prestart in (("started ahead", "1"), ("started for the request", "0")):
            if os.getuid():
                print("in runners: not measured, which takes root")
                break
            with (
                _proxy(root, f"runners-{prestart}", given, prestart, runners=2) as there,
                _proxy(root, f"beside-{prestart}", given, prestart) as here,
            ):
                times = _measured([there, here])
            show(f"first text, {words}, in a runner", times[0], "beside the proxy", times[1])


@contextmanager
def _proxy(root: Path, name: str, given: dict[str, str], prestart: str, runners: int = 0) -> Iterator[Proxy]:
    folder, settings = root / name, {**given, "CLAUDE_PROXY_PRESTART": prestart}
    folder.mkdir()
    if runners:
        with pooled(folder, settings, runners) as (proxy, _):
            yield proxy
    else:
        with running(folder, settings) as proxy:
            yield proxy


def _measured(proxies: list[Proxy]) -> list[list[float]]:
    """The times of each, by turns."""
    times: list[list[float]] = [[] for _ in proxies]
    for _ in range(RUNS):
        for proxy, found in zip(proxies, times, strict=True):
            wanted = 0 if proxy.log.parent.name.endswith(("cold", "-0")) else 1
            # The next one has to be up, as it is after a second of silence; its start must disturb neither.
            _wait(proxy, wanted)
            time.sleep(1.0)
            found.append(first_text(proxy))
    return times


def _wait(proxy: Proxy, wanted: int) -> None:
    wait_until(lambda: proxy.metric("claude_proxy_cli_ahead ") == wanted, "no CLI waits", 30)


if __name__ == "__main__":
    main()
