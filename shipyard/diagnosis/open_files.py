"""How many files an engine may have open: docker-proxy takes several for each connection, and containers ask for their own."""

from __future__ import annotations

from shipyard.diagnosis.finding import Finding, fail, ok, skip, warn

#: What is asked for: what Docker's own systemd unit gave its daemon for years.
WANTED = 1048576
#: What a container of compose/hardened.yaml has; an engine that may have fewer cannot start it.
CONTAINER = 16384
#: Files of docker-proxy for one connection: two sockets, and two pipes that the kernel moves data through (io.Copy of Go).
EACH = 6
#: Connections that the balancer takes at a time: maxconn of docker/balancer/haproxy.cfg.
CONNECTIONS = 12000
_RAISE = "raise the hard limit of open files where the engine is started (ulimit -Hn), then restart it"
_NO_PROXY = 'set {"userland-proxy": false} in its daemon.json, or LimitNOFILE=1048576 in its unit, then restart it'


def least(*, proxy: bool) -> int:
    """What an engine needs for the stack, with docker-proxy or without."""
    return EACH * CONNECTIONS if proxy else CONTAINER


def judge(limit: int | None, forwards: str, kind: str) -> Finding:
    """Whether the engine may have as many files open as the stack needs: one that runs out ends the published port."""
    if not limit:
        return skip(
            "what forwards this engine's ports cannot be seen from here" if kind == "host" else "not known here"
        )
    proxy = forwards == "docker-proxy"
    needed = least(proxy=proxy)
    seen = f"{limit}, ports forwarded by {'docker-proxy' if proxy else 'the kernel'}"
    if limit >= needed:
        return ok(seen)
    if not proxy:
        return fail(f"{seen}; a container of the stack asks for {needed}", _RAISE)
    many = f"{limit // EACH} of the {CONNECTIONS} connections that the balancer takes"
    mend = ("invoke engine.down", "invoke engine.up") if kind == "embedded" else (_NO_PROXY,)
    return warn(f"{seen}, which ends the port when it has none left: enough for {many}", *mend)
