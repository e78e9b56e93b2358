"""The start of a service: options, logs, socket, then serve, with hot reload when asked for."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType


def main(
    app: str,
    *,
    service: str,
    env_prefix: str,
    default_port: int,
    preload: Sequence[str] = (),
    sources: Sequence[str] = (),
    argv: Sequence[str] | None = None,
) -> int:
    """Serve `app` (`module:factory`) and return the exit code.

    `preload` names third-party modules that hot reload loads once; `sources` are the folders it watches.
    Exit codes: 0 after a drain, 1 when the address cannot be had, 78 for wrong settings.
    """
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _stop_early)
    signal.signal(signal.SIGHUP, _let_pass)
    # Imported late, so that a signal finds its handler from the first tenth of a second on.
    from serving import logs, options
    from serving.listener import BindError, listening
    from serving.settings import EX_CONFIG, SettingsError

    try:
        chosen = options.read(app, service, env_prefix, default_port, argv)
        logs.setup(chosen.log_level, sys.stderr)
        with listening(chosen.host, chosen.port, chosen.socket) as listener:
            if chosen.reload:
                from serving.reload import supervise

                return supervise(chosen, listener, preload, sources)
            # Imported late, so that a wrong setting or a taken port is reported at once.
            from serving.worker import serve

            return serve(chosen, listener, debuggable(chosen.place, chosen.debugger))
    except SettingsError as error:
        return fail(service, error.faults, EX_CONFIG)
    except BindError as error:
        return fail(service, [str(error)], 1)


def debuggable(host: str, port: int | None) -> Callable[[object], None] | None:
    """Return what lets a debugger attach at `port` as soon as requests are accepted; nothing without a port."""
    if port is None:
        return None
    from serving import debugger

    return lambda _worker: debugger.listen(host, port)


def _stop_early(_signal: int, _frame: FrameType | None) -> None:
    # Before the server handles signals itself there is nothing to finish. As process 1 of a container the
    # default reaction would be none at all. No exception: raised within orjson's import it ends in a segfault.
    os._exit(0)


def _let_pass(_signal: int, _frame: FrameType | None) -> None:
    # Whoever wants files read again finds them read at the start; the default reaction would end the process.
    return


def fail(service: str, faults: Sequence[str], code: int) -> int:
    """Write one line per fault to stderr and return `code`."""
    sys.stderr.writelines(f"{service}: {fault}\n" for fault in faults)
    return code
