"""Debian testing's headless Chromium, driven by the DevTools protocol over a pipe: no port, no network, no other library.

It is unpacked once per machine, beside the engine's programs, and runs by its own C library, so the host's version does
not matter. Every request that a page makes is written down.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support import debian_programs

PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
#: Folder of libraries and loader, by architecture.
PLACES = {
    "x86_64": ("usr/lib/x86_64-linux-gnu", "usr/lib64/ld-linux-x86-64.so.2"),
    "aarch64": ("usr/lib/aarch64-linux-gnu", "usr/lib/ld-linux-aarch64.so.1"),
}
#: Seconds within which every command is answered, on a machine that is busy with other proofs.
ANSWER_SECONDS = 30.0

_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>
"""


def unpacked() -> Path:
    """The folder with Chromium."""
    return debian_programs.unpacked("chromium", PACKAGES, _finish)


def _finish(root: Path) -> None:
    shutil.rmtree(root / "var")  # apt's lists and archives
    # Chromium looks for its data beside /proc/self/exe, which is the loader.
    loader = (root / PLACES[platform.machine()][1]).resolve()
    shutil.copy(loader, root / "usr/lib/chromium/loader")


def _start_script(folder: Path) -> Path:
    """What starts Chromium, and what it starts its own processes with: by its own C library, with its own fonts."""
    root, (libraries, _) = unpacked(), PLACES[platform.machine()]
    path = ":".join(str(root / each) for each in (libraries, f"{libraries}/pulseaudio", "usr/lib/chromium"))
    (folder / "fonts.conf").write_text(_FONTS.format(fonts=root / "usr/share/fonts", cache=folder / "fonts"))
    program, script = root / "usr/lib/chromium", folder / "chromium"
    script.write_text(
        "#!/bin/sh\n"
        f'export FONTCONFIG_FILE="{folder}/fonts.conf"\n'
        f'exec "{program}/loader" --library-path "{path}" "{program}/chromium-headless-shell" "$@"\n'
    )
    script.chmod(0o755)
    return script


class Page:
    """One tab. ``errors`` are what its console and its network log complain about, ``requests`` every address it asked for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.loaded = False

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the DevTools protocol and return its result."""
        return self._browser.ask(method, parameters, self._session)

    def see(self, method: str, event: dict[str, Any]) -> None:
        """Take notice of one event."""
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.errors.append(event["entry"]["text"])

    def open(self, address: str) -> None:
        """Go to an address and wait until everything is loaded."""
        self.loaded = False
        answer = self.ask("Page.navigate", url=address)
        assert "errorText" not in answer, answer
        self._browser.wait(lambda: self.loaded, f"{address} loaded")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def shape(self, width: int, height: int = 900, *, dark: bool = False, media: str = "") -> None:
        """The window in CSS pixels, the colour scheme, and the medium (``print``)."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.ask("Emulation.setEmulatedMedia", media=media, features=scheme)

    def press(self, key: str, code: int = 0) -> None:
        """One key by its DOM name (``Tab``, ``Enter``); ``code`` is its virtual key code."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            more = text if kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        answer = self.ask("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        return base64.b64decode(answer["data"])


class Browser:
    """A running Chromium and the two pipes to it: zero-terminated JSON each way."""

    def __init__(self, writer: int, reader: int) -> None:
        self._writer, self._reader = writer, reader
        self._rest, self._number = b"", 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}

    def ask(self, method: str, parameters: dict[str, Any], session: str = "") -> dict[str, Any]:
        """Send a command and return its result; AssertionError with the protocol's own words when it is refused."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        data = memoryview(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while data:
            data = data[os.write(self._writer, data) :]
        self.wait(lambda: number in self._answers, f"the answer to {method}")
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer["error"])
        return dict(answer["result"])

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Read what the browser says until the condition holds."""
        end = time.monotonic() + ANSWER_SECONDS
        while not condition():
            ready, _, _ = select.select([self._reader], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"waited {ANSWER_SECONDS:g} s in vain for: {what}"
            data = os.read(self._reader, 1 << 20)
            assert data, f"Chromium ended while we waited for: {what}"
            *messages, self._rest = (self._rest + data).split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
        elif page := self._pages.get(message.get("sessionId", "")):
            page.see(message["method"], message["params"])

    @contextlib.contextmanager
    def page(self) -> Iterator[Page]:
        """A new tab of its own profile, closed when the block ends."""
        context = self.ask("Target.createBrowserContext", {})["browserContextId"]
        target = self.ask("Target.createTarget", {"url": "about:blank", "browserContextId": context})["targetId"]
        session = self.ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            page.ask(f"{domain}.enable")
        yield page
        self.ask("Target.disposeBrowserContext", {"browserContextId": context})


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium until the block ends. It is told that no host exists, should a page ask for one."""
    with tempfile.TemporaryDirectory(prefix="chromium-") as name:
        folder = Path(name)
        script = _start_script(folder)
        commands, answers = os.pipe(), os.pipe()
        options = (
            "--remote-debugging-pipe",
            "--no-sandbox",  # the only page is ours, and root may not have one
            "--no-zygote",
            f"--browser-subprocess-path={script}",
            f"--user-data-dir={folder / 'profile'}",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
        )
        # The protocol's pipes are descriptors 3 and 4, so a shell puts ours there.
        line = f'exec "{script}" "$@" 3<&{commands[0]} 4>&{answers[1]}'
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", line, "chromium", *options],
                pass_fds=(commands[0], answers[1]),
                env={"PATH": os.defpath, "HOME": name, "TMPDIR": name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        os.close(commands[0])
        os.close(answers[1])
        try:
            yield Browser(commands[1], answers[0])
        finally:
            os.close(commands[1])  # which ends it
            os.close(answers[0])
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
