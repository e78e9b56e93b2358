"""Which proxy a URL is asked through: HTTPS_PROXY, HTTP_PROXY and NO_PROXY by the rules of Go's ``httpproxy`` package, which
docker and cosign follow, so that all three go the same way. Looked at: Python's ``urllib.request``, which knows neither
networks nor ports in NO_PROXY, prefers lower case, and reads ALL_PROXY.

- The name in upper case counts, the one in lower case only where the other is empty. ALL_PROXY is not read.
- ``localhost`` and loopback addresses are never asked through a proxy; nothing is looked up for that.
- NO_PROXY: ``*``; an address or network, which addresses are held against; ``example.com`` for a name and all below it,
  ``.example.com`` and ``*.example.com`` for those below it only. Each but ``*`` and networks may have a ``:port``.
- A proxy's address without a scheme is one of ``http://``. Where REQUEST_METHOD is set, HTTP_PROXY may be a client's header
  (CGI), and is refused.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from shipyard import socks
from shipyard.errors import ConfigError
from shipyard.models import Fault

if TYPE_CHECKING:
    import urllib3

_PORTS = {"http": "80", "https": "443"}
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
#: A URL with a place, which may be empty: a login, a host, a port.
_URL = re.compile(
    rf"(?P<scheme>{_SCHEME})://"
    r"(?P<place>(?:(?P<login>(?:[^\s/?#%]|%[0-9A-Fa-f]{2})*)@)?(?:\[[^][/?#\s]*\]|[^][/?#:\s%<>\"\\^`{|}]*)(?::\d*)?)"
    r"(?=[/?#]|$)(?![^?#]*%(?![0-9A-Fa-f]{2}))(?!.*[\x00-\x1f\x7f])"
)
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def find(url: str, environment: Mapping[str, str] | None = None) -> str:
    """The URL of the proxy for a URL; empty where it is asked straight. Raises ConfigError for a proxy that is refused."""
    environment = os.environ if environment is None else environment
    parts = urlsplit(url)
    if not _value(f"{parts.scheme.upper()}_PROXY", environment) or parts.scheme not in _PORTS:
        return ""
    if parts.scheme == "http" and environment.get("REQUEST_METHOD"):
        problem = (
            "is not used where REQUEST_METHOD is set, as in a CGI script: it may come from a client's header Proxy"
        )
        raise ConfigError([Fault("HTTP_PROXY", problem, "unset REQUEST_METHOD, or HTTP_PROXY")])
    host, port = _place(parts.netloc)
    port = port or _PORTS[parts.scheme]
    return "" if _straight(host, port, _value("NO_PROXY", environment)) else _proxy(parts.scheme, environment)


def named(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The proxies that count, by the variable that names them."""
    environment = os.environ if environment is None else environment
    found = {f"{scheme.upper()}_PROXY": _proxy(scheme, environment) for scheme in ("https", "http")}
    return {name: proxy for name, proxy in found.items() if proxy}


def both_cases(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for a program that reads names of one case only, as apt does: each says what counts in both."""
    environment = os.environ if environment is None else environment
    found = {**named(environment), "NO_PROXY": _value("NO_PROXY", environment)}
    return {spelt: value for name, value in found.items() if value for spelt in (name, name.lower())}


def _value(name: str, environment: Mapping[str, str]) -> str:
    return environment.get(name) or environment.get(name.lower()) or ""


def _proxy(scheme: str, environment: Mapping[str, str]) -> str:
    """The proxy that is named for a scheme; nothing where that is no URL even to Go, which goes on without it then.

    Raises ConfigError for one that Go would take and could not talk to.
    """
    name = f"{scheme.upper()}_PROXY"
    found = _value(name, environment) if scheme in _PORTS else ""
    for url in (found, f"http://{found}"):
        if (whole := _URL.match(url)) and whole["place"]:
            if url.startswith("://", whole.end() - 1):
                break  # what was taken for a host is a scheme
            login, rest = (
                (whole["login"] or "").replace("@", "%40"),
                url[whole.end("login") :] if whole["login"] else "",
            )
            where = f"{login}{rest}" if rest else url[whole.start("place") :]
            return f"{whole['scheme'].lower()}://{where}"
    else:
        if not found or _unreadable(found):
            return ""
    raise ConfigError([Fault(name, "names no proxy: it is to be http://HOST:PORT", f"correct it, or unset {name}")])


def _unreadable(text: str) -> bool:
    """Whether Go can read no URL in a text that has no place either: control characters, a scheme or an escape that is none."""
    head, path = re.split(r"[/?#]", text, maxsplit=1)[0], re.split(r"[?#]", text, maxsplit=1)[0]
    scheme, colon, _ = head.partition(":")
    if colon and not re.fullmatch(_SCHEME, scheme):
        return True
    return bool(re.search(r"[\x00-\x1f\x7f]", text) or re.search(r"%(?![0-9A-Fa-f]{2})", path))


def _place(netloc: str) -> tuple[str, str]:
    """Host, without brackets, and port of the place that a URL names."""
    found = re.fullmatch(r"(?:.*@)?(?:\[(?P<six>[^\]]*)\]|(?P<host>[^:]*))(?::(?P<port>\d*))?", netloc)
    return (found["six"] or found["host"] or "", found["port"] or "") if found else (netloc, "")


def _straight(host: str, port: str, exceptions: str) -> bool:
    """Whether a host is asked without a proxy; ``exceptions`` is NO_PROXY."""
    host = _ascii(unquote(host))
    if host == "localhost":
        return True
    address = _address(host)
    if address and address.is_loopback:
        return True
    host = host.strip().lower()
    return any(_excepts(each.strip().lower(), host, address, port) for each in exceptions.split(","))


def _excepts(rule: str, host: str, address: _Address | None, port: str) -> bool:
    """Whether one entry of NO_PROXY is about a host."""
    if rule == "*":
        return True
    if network := _network(rule):
        return address is not None and address.version == network.version and address in network
    name, wanted = _split(rule)
    if not name or wanted not in ("", port):
        return False
    if (about := _address(name)) is not None and "%" not in name:
        return address is not None and address == about
    if address is not None:
        return False
    name = name.removeprefix("*") if name.startswith("*.") else name
    below = "." + _ascii(name.removeprefix("."))
    return host.endswith(below) or (not name.startswith(".") and host == below[1:])


def _split(rule: str) -> tuple[str, str]:
    """An entry's host, without brackets, and its port: of what is neither ``HOST:PORT`` nor ``[HOST]:PORT`` all is the host."""
    found = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([^:\[\]]*)", rule)
    return (found[1] if found[1] is not None else found[2], found[3]) if found else (rule, "")


def _network(rule: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    address, slash, size = rule.partition("/")
    if not slash or not (size.isascii() and size.isdigit()) or "%" in address:
        return None
    try:
        found = ipaddress.ip_network(rule, strict=False)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Network) and found.prefixlen >= 96 and found.network_address.ipv4_mapped:
        return ipaddress.ip_network(f"{found.network_address.ipv4_mapped}/{found.prefixlen - 96}")
    return found


def _address(host: str) -> _Address | None:
    """An address, one of IPv4 that is written as IPv6 as what it is; None for a name."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def _ascii(name: str) -> str:
    """A name as it is asked for; one that is no international name stays as it is."""
    if name.isascii():
        return name
    import idna

    try:
        return idna.encode(name, uts46=True, std3_rules=False, transitional=False).decode()
    except idna.IDNAError:
        return name


def through(proxy: str, **options: Any) -> urllib3.PoolManager:
    """Connections by way of a proxy; its URL may hold a login. Raises ConfigError for a kind that nobody speaks."""
    import urllib3

    scheme = urlsplit(proxy).scheme
    if scheme in socks.SCHEMES:
        return socks.manager(proxy, **options)
    if scheme not in _PORTS:
        problem = f"{scheme}:// is no kind of proxy"
        raise ConfigError([Fault("HTTPS_PROXY", problem, "name one of http://, https:// or socks5://")])
    if login := urlsplit(proxy).netloc.rpartition("@")[0]:
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=unquote(login))
    return urllib3.ProxyManager(proxy, **options)
