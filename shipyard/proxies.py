"""The proxies of a network that has no other way out, named by HTTPS_PROXY and NO_PROXY as docker and cosign heed them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import urllib3


def find(url: str) -> str:
    """The URL of the proxy for a URL; empty where it is asked straight."""
    from urllib.request import getproxies, proxy_bypass

    parts, known = urlsplit(url), getproxies()
    if not known or proxy_bypass(parts.netloc):
        return ""
    found = known.get(parts.scheme) or known.get("all") or ""
    return found if "://" in found or not found else f"http://{found}"


def through(proxy: str, **options: Any) -> urllib3.ProxyManager:
    """Connections by way of a proxy; its URL may hold a login."""
    import urllib3

    if login := urlsplit(proxy).netloc.rpartition("@")[0]:
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=unquote(login))
    return urllib3.ProxyManager(proxy, **options)
