"""SIGTERM and SIGHUP take down what tests have started, as Ctrl-C does; one that is ignored stays ignored."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
