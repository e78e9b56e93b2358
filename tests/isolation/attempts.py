"""Everything that is tried from inside a runner of claude-proxy, each with the place where the very same attempt succeeds."""

from __future__ import annotations

from dataclasses import dataclass

TOOL, CONTAINER, ROOT, PEER = "tool", "container", "root", "peer"
"""From where: a tool of the real CLI; its container without the CLI's sandbox; that container's root; and a container
on the granger peers' network, where only the entrance is."""
PLAIN, USER, OPEN = "plain", "user", "open"
"""Controls: an ordinary container's root and user, and a privileged container in the host's network, which sees the
runner's processes."""

EVERYWHERE = (TOOL, CONTAINER, ROOT)
INSIDE = (TOOL, CONTAINER)
CONTROLS = (PLAIN, USER, OPEN)


@dataclass(frozen=True)
class Attempt:
    """A function of the intruder with its arguments; names in braces are facts of the stack."""

    name: str
    words: tuple[str, ...]
    control: str = PLAIN
    where: tuple[str, ...] = INSIDE


@dataclass(frozen=True)
class Outcomes:
    """What became of every attempt, by place and name, and what the stand-ins heard of all of them."""

    found: dict[str, dict[str, str]]
    heard: list[str]


def _at(name: str, *words: str, control: str = PLAIN, where: tuple[str, ...] = INSIDE) -> Attempt:
    return Attempt(name, words, control, where)


OUTSIDE = (
    _at("outside by TCP", "tcp", "{outside}", "3011", "{token}"),
    _at("outside by UDP", "udp", "{outside}", "3011", "{token}"),
    _at("outside by ICMP", "icmp", "{outside}"),
    _at("outside by name", "resolve", "{token}.outside.test"),
    _at("a name by Docker's resolver", "ask_dns", "127.0.0.11", "{token}.outside.test"),
    _at("a name by a resolver outside", "ask_dns", "{outside}", "{token}.outside.test"),
    _at("a resolver outside by TCP", "tcp", "{outside}", "53", "{token}"),
    _at("metadata", "request", "169.254.169.254", "80", "GET /latest/{token} HTTP/1.0"),
    _at("metadata at the port of the gate", "tcp", "169.254.169.254", "3011", "{token}"),
)
HOST = (
    # On the stack's own network that address is a neighbour's, egress's maybe; only the host's listener counts.
    _at("the host at the first address of the network", "request", "{first}", "3011", "GET /{token} HTTP/1.0"),
    _at("the host at the first address by UDP", "udp", "{first}", "3011", "{token}"),
    _at("the host at the gateway of an ordinary network", "tcp", "{gateway}", "3011", "{token}"),
    _at("the host at the gateway of llm-call-network", "tcp", "{edge_gateway}", "3011", "{token}"),
    _at("the host at the gateway of outbound", "tcp", "{outbound_gateway}", "3011", "{token}"),
    _at("the host at the engine's own bridge", "tcp", "{engine_bridge}", "3011", "{token}"),
    _at("the host at its address outside", "tcp", "{host_outside}", "3011", "{token}"),
    _at("the host as host.docker.internal", "tcp", "host.docker.internal", "3011", "{token}"),
)
IPV6 = (
    _at("outside by IPv6", "tcp", "{outside6}", "3011", "{token}", control=OPEN),
    _at("outside by UDP over IPv6", "udp", "{outside6}", "3011", "{token}", control=OPEN),
    _at("the host by IPv6", "tcp", "{host6}", "3011", "{token}", control=OPEN),
    _at("the host's ::1", "tcp", "::1", "3011", "{token}", control=OPEN),
    _at("the host's link-local address", "tcp", "{link_local}%{link}", "3011", "{token}", control=OPEN),
)
NEIGHBOURS = (
    _at("redis by name", "tcp", "redis", "6379", "PING"),
    _at("redis by address", "tcp", "{redis_data}", "6379", "PING"),
    _at("the model server by name", "tcp", "ollama", "3011", "{token}"),
    _at("the model server by address", "tcp", "{model}", "3011", "{token}"),
    _at("the model server at its own port", "tcp", "{model}", "11434", "{token}"),
    _at("the model server by UDP", "udp", "{model}", "3011", "{token}"),
    _at("the provider's server without egress", "tcp", "messages-api", "9100", "GET /count HTTP/1.0\r\n"),
    _at("a granger peer by name", "tcp", "granger-peer", "3011", "{token}"),
    _at("a granger peer by address", "tcp", "{peer}", "3011", "{token}"),
    _at("egress by name", "tcp", "egress", "8080", "GET /health HTTP/1.0\r\n"),
    _at("egress from the side of the API", "tcp", "{egress_agent}", "8080", "GET /health HTTP/1.0\r\n"),
    _at("the API by name", "tcp", "llm-call-api", "8001", "GET /health HTTP/1.0\r\n"),
    _at("the API from the side of claude-proxy", "tcp", "{llm-call-api_agent}", "8001", "GET /health HTTP/1.0\r\n"),
    _at("claude-proxy from the side of the API", "tcp", "{claude-proxy_agent}", "3010", "GET /health HTTP/1.0\r\n"),
    _at("claude-proxy beside its gate", "tcp", "claude-proxy", "3010", "GET /health HTTP/1.0\r\n", where=(TOOL,)),
    # The runners share one bridge, and the port of the gate is the only one that a tool may connect to.
    _at("listening for a tool of another runner", "listen", "3011", where=(TOOL,)),
    _at("egress from the side of outbound", "tcp", "{egress_outbound}", "8080", "GET /health HTTP/1.0\r\n"),
    _at("the API from the side of redis", "tcp", "{llm-call-api_data}", "8001", "GET /health HTTP/1.0\r\n"),
    _at("the API from the side of outbound", "tcp", "{llm-call-api_outbound}", "8001", "GET /health HTTP/1.0\r\n"),
    _at("the entrance from the side of its clients", "tcp", "{entrance}", "8001", "GET /health HTTP/1.0\r\n"),
)
_PLACE = "{outside}:3011"
THROUGH_THE_GATE = tuple(
    _at(f"another host through the gate by {how}", "request", "{proxy}", "{proxy_port}", *lines)
    for how, lines in {
        "CONNECT of its address": (f"CONNECT {_PLACE} HTTP/1.1", f"Host: {_PLACE}"),
        "CONNECT of its name": ("CONNECT {name}:3011 HTTP/1.1", "Host: {name}:3011"),
        "an absolute URI": (f"GET http://{_PLACE}/{{token}} HTTP/1.1", f"Host: {_PLACE}"),
        "an absolute URI of a message": (f"POST http://{_PLACE}/v1/messages HTTP/1.1", "Content-Length: 0"),
        "the Host header": ("GET /{token} HTTP/1.1", f"Host: {_PLACE}"),
        "the Host header of a message": ("POST /v1/messages HTTP/1.1", f"Host: {_PLACE}", "Content-Length: 0"),
        "an upgrade": ("GET /{token} HTTP/1.1", f"Host: {_PLACE}", "Connection: Upgrade", "Upgrade: websocket"),
    }.items()
)
FILES = (
    *(
        _at(f"writing to {folder}", "write", f"{folder.rstrip('/')}/of-an-intruder", where=EVERYWHERE)
        for folder in ("/", "/app", "/etc", "/home", "/run/secrets", "/usr/bin", "/usr/local/bin", "/usr/lib", "/var")
    ),
    *(
        _at(f"changing {path}", "change", path, where=EVERYWHERE)
        for path in ("/etc/hosts", "/etc/passwd", "/etc/resolv.conf", "/usr/bin/git")
    ),
    _at("writing to the proxy's own folder", "write", "/workspace/of-an-intruder", where=EVERYWHERE),
    _at("the list of sessions", "listing", "/workspace/sessions", where=EVERYWHERE),
    _at("writing beside the request's own folder", "write", "/run/work/of-an-intruder", where=(TOOL,)),
    _at("the name of the proxy's socket", "listing", "/run/runners", where=(TOOL,)),
    _at("writing beside the proxy's socket", "write", "/run/runners/of-an-intruder", where=EVERYWHERE),
    _at("writing to /tmp", "write", "/tmp/of-an-intruder", where=(TOOL,)),
    _at("writing to memory that others see", "write", "/dev/shm/of-an-intruder", where=(TOOL,)),
    _at("running a program out of /tmp", "run_from", "/tmp", where=EVERYWHERE),
    _at("a set-user-ID program of the image", "set_user_id", where=EVERYWHERE),
    _at("a set-user-ID program that somebody left", "become_root", "/workspace/id-of-root", control=USER),
    _at("the kernel's settings", "change", "/proc/sys/kernel/core_pattern", control=OPEN, where=EVERYWHERE),
    _at("its own limits", "control_group", control=OPEN, where=EVERYWHERE),
    _at("a core of a crash", "dump_core", where=INSIDE),
)
PRIVILEGES = (
    _at("capabilities", "capabilities", where=EVERYWHERE),
    _at("privileges from a program", "new_privileges", where=EVERYWHERE),
    _at("system calls without a filter", "unfiltered", control=OPEN, where=EVERYWHERE),
    _at("mount", "mount", "/tmp", control=OPEN, where=EVERYWHERE),
    *(
        _at(f"a {kind} namespace of its own", "unshare", kind, control=OPEN, where=EVERYWHERE)
        for kind in ("cgroup", "mount", "network", "pid", "user")
    ),
    _at("the network namespace of another process", "enter", "{runner_pid}", control=OPEN, where=EVERYWHERE),
    _at("another root folder", "change_root", where=EVERYWHERE),
    _at("a device node", "device", where=(CONTAINER, ROOT)),
    _at("a raw internet socket", "raw_socket", "internet", where=EVERYWHERE),
    _at("a raw packet socket", "raw_socket", "packet", where=EVERYWHERE),
    _at("tracing the runner", "trace", "{runner_pid}", control=OPEN, where=EVERYWHERE),
    _at("reading the runner's memory by a call", "peek", "{runner_pid}", control=OPEN, where=EVERYWHERE),
    _at("opening the runner's memory", "open_memory", "{runner_pid}", control=OPEN, where=EVERYWHERE),
    _at("the runner's environment", "read", "/proc/{runner_pid}/environ", control=OPEN, where=EVERYWHERE),
    _at("killing the runner", "send_signal", "{runner_pid}", control=OPEN, where=(TOOL, ROOT)),
    _at("killing the container's init", "send_signal", "1", control=OPEN, where=(TOOL, ROOT)),
    _at("the kernel's key ring", "key_ring", control=OPEN, where=EVERYWHERE),
    _at("a program in the kernel", "bpf", control=OPEN, where=EVERYWHERE),
    _at("performance events", "performance_events", control=OPEN, where=EVERYWHERE),
    _at("a terminal", "terminal", where=(TOOL,)),
    _at("io_uring", "io_uring", control=OPEN, where=EVERYWHERE),
    _at("handling page faults", "page_faults", control=OPEN, where=EVERYWHERE),
    _at("the kernel's log", "kernel_log", control=OPEN, where=EVERYWHERE),
    _at("a reboot", "reboot", control=OPEN, where=EVERYWHERE),
    _at("a file by its number", "file_by_handle", control=OPEN, where=EVERYWHERE),
)
SECRETS = (
    _at("a secret in a process", "in_processes", "{secrets}", where=EVERYWHERE),
    _at("a secret in a file", "in_files", "{since}", "{secrets}", where=EVERYWHERE),
)
FROM_INSIDE = (*OUTSIDE, *HOST, *IPV6, *NEIGHBOURS, *THROUGH_THE_GATE, *FILES, *PRIVILEGES, *SECRETS)
_HEALTH = "GET /health HTTP/1.0\r\n"
FROM_A_PEER = (
    *(
        _at(f"{service} by name", "tcp", service, port, say, where=(PEER,))
        for service, port, say in (
            ("redis", "6379", "PING"),
            ("claude-proxy", "3010", _HEALTH),
            ("egress", "8080", _HEALTH),
            ("ollama", "3011", "{token}"),
        )
    ),
    *(
        _at(f"{name.replace('_', ' at ')}", "tcp", f"{{{name}}}", port, say, where=(PEER,))
        for name, port, say in (
            ("redis_data", "6379", "PING"),
            ("claude-proxy_agent", "3010", _HEALTH),
            ("egress_agent", "8080", _HEALTH),
            ("egress_outbound", "8080", _HEALTH),
            ("llm-call-api_agent", "8001", _HEALTH),
            ("llm-call-api_data", "8001", _HEALTH),
            ("llm-call-api_outbound", "8001", _HEALTH),
        )
    ),
    *(
        _at(f"another host through the entrance by {how}", "request", "{proxy}", "{proxy_port}", *lines, where=(PEER,))
        for how, lines in {
            "CONNECT": ("CONNECT {outside}:3011 HTTP/1.1", "Host: {outside}:3011"),
            "an absolute URI": ("GET http://{outside}:3011/{token} HTTP/1.1", "Host: {outside}:3011"),
            "the Host header": ("GET /{token} HTTP/1.1", "Host: {outside}:3011"),
        }.items()
    ),
)
ATTEMPTS = (*FROM_INSIDE, *FROM_A_PEER)


def words(attempt: Attempt, place: str, facts: dict[str, str]) -> list[str]:
    """The attempt as the intruder at that place gets it; a fact of several words becomes several arguments."""
    token = f"{place}-{ATTEMPTS.index(attempt)}"
    told = [word.format_map({**facts, "token": token}) for word in attempt.words]
    return [*told[:-1], *told[-1].split()] if attempt in SECRETS else told
