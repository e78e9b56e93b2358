"""The pooled HTTP client that talks to the upstreams, and what becomes of their failures."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, get_args
from weakref import WeakKeyDictionary

import aiohttp
import orjson
from yarl import URL

from llm_call.api import foreign
from llm_call.api.call import Call
from llm_call.api.catalog import Target, Upstream
from llm_call.api.local import templates
from llm_call.api.local.options import Options
from llm_call.api.local.recipe import Recipe
from llm_call.api.local.refusals import Ended
from llm_call.api.request import Asked, Wire
from serving.errors import ApiError
from serving.health import Dependency, NotConfigured
from serving.keys_file import NUMBERS, Key

if TYPE_CHECKING:
    from llm_call.api.local.fleet import Fleet

log = logging.getLogger("llm_call.upstreams")

CONNECT_SECONDS = 5.0
"""A server that does not accept a connection within this time is taken for unreachable."""
IDLE_SECONDS = 30.0
"""How long an unused connection is kept."""
WIRES: tuple[Wire, ...] = get_args(Wire)
EXCERPT = 300
"""How many characters of an upstream's own error text are passed on."""


class Content(Protocol):
    """The body of a response as it comes."""

    async def readany(self) -> bytes:
        """Return what is there, none at the end."""


class Response(Protocol):
    """What is used of an aiohttp response, and of what stands in for one."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; names in lower case find them."""

    @property
    def content(self) -> Content:
        """The body."""

    async def read(self) -> bytes:
        """Return the whole body."""

    def release(self) -> object:
        """Give the connection back."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What is the same for all requests to an upstream."""

    urls: dict[Wire, URL]
    headers: dict[str, str]
    timeout: aiohttp.ClientTimeout


class Upstreams:
    """One client session for all requests. `start` and `close` belong to the application's lifespan."""

    def __init__(self, local: Options | None = None) -> None:
        self._local = local or Options()
        self._fleet: Fleet | None = None
        self._session: aiohttp.ClientSession | None = None
        self._litellm: Any = None
        self._targets: WeakKeyDictionary[Upstream, _Place] = WeakKeyDictionary()

    async def start(self) -> None:
        """Open the session; connections are made when needed."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS)
        # Answers are passed on as they come, so they must come as they are: no compression, no cookies, no redirects.
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"accept-encoding": "identity", "user-agent": "llm-call"},
        )

    async def close(self) -> None:
        """Close all connections and end the models that are served here."""
        if self._session:
            await self._session.close()
        if self._fleet:
            await self._fleet.close()

    def house(self, recipes: Mapping[str, Recipe]) -> None:
        """Serve these local models from now on, in the event loop; each is started by the first request for it."""
        if not self._fleet and (recipes or self._local.require_gpu):
            # Imported with the first local model only, as nothing of it runs without one.
            from llm_call.api.local.fleet import Fleet

            self._fleet = Fleet(self._local)
        if self._fleet:
            self._fleet.change(recipes)

    def figures(self) -> Iterable[tuple[str, Mapping[str, float]]]:
        """Return the figures of the local models; see Fleet.figures."""
        return self._fleet.figures() if self._fleet else ()

    def dependencies(self) -> Iterable[Dependency]:
        """Return what local models depend on besides themselves."""
        return self._fleet.dependencies() if self._fleet else ()

    async def post(self, target: Target, call: Call) -> Response:
        """Send a request; return the response as soon as its head is here, whatever its status.

        Raises what aiohttp raises.
        """
        if target.upstream.kind == "litellm":
            self._litellm = self._litellm or await foreign.load()
            return await foreign.post(self._litellm, target, call)
        if target.upstream.recipe:
            assert self._fleet, "house() comes first"
            return await self._fleet.post(target, call)
        place = self._place(target.upstream)
        asked, timeout = call.asked, place.timeout
        headers = {**place.headers, "x-request-id": call.ident}
        if target.upstream.kind == "claude-proxy" and call.client:
            headers |= _told_of(call.client)
        if target.timeout != target.upstream.timeout:
            timeout = _timeout(target.timeout)
        return await self._open_session().post(
            place.urls[asked.wire],
            data=call.sent(target),
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        )

    async def check(self, upstream: Upstream) -> None:
        """Raise unless the Claude proxy is alive (its /health/live), or a local model works; NotConfigured for what is missing."""
        if upstream.lacks_key:
            msg = f"{upstream.api_key_env} is not set"
            raise NotConfigured(msg)
        if upstream.kind == "claude-proxy":
            url = URL(upstream.base_url).with_path("/health/live")
            async with self._open_session().get(url) as response:
                response.raise_for_status()
        if upstream.recipe and self._fleet:
            await self._fleet.check(upstream.name)

    def _open_session(self) -> aiohttp.ClientSession:
        assert self._session, "start() comes first"
        return self._session

    def _place(self, upstream: Upstream) -> _Place:
        place = self._targets.get(upstream)
        if place is None:
            headers = {"content-type": "application/json"}
            if upstream.api_key:
                headers["authorization"] = f"Bearer {upstream.api_key.reveal()}"
            urls: dict[Wire, URL] = {wire: URL(f"{upstream.base_url}/{wire}") for wire in WIRES}
            place = self._targets[upstream] = _Place(urls, headers, _timeout(upstream.timeout))
        return place


def _told_of(client: Key) -> dict[str, str]:
    """For whom we ask: the proxy keeps sessions apart by it, and gives no tools that this key may not use."""
    tools, servers = (",".join(client.options.get(option, ())) for option in ("tools", "mcp"))
    most = {f"x-llm-call-{name}": client.options[name][0] for name in NUMBERS if name in client.options}
    told = {"x-llm-call-client": client.name, "x-llm-call-scope": client.scope.hex()}
    return {**told, "x-llm-call-tools": tools, "x-llm-call-mcp": servers, **most}


def _timeout(silence: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)


def not_configured(upstream: Upstream) -> ApiError:
    """Return the error of an upstream whose key is missing."""
    message = f'The upstream "{upstream.name}" has no key; give it one in {upstream.api_key_env}_FILE.'
    return _error(503, message, upstream, "upstream_not_configured")


def unfit(target: Target, asked: Asked) -> ApiError | None:
    """Return the error of a local model that is asked for what it cannot do by its own table, or None.

    llama-server would be started for it, and dies of some of these requests or answers 500.
    """
    recipe = target.upstream.recipe
    if not recipe or asked.wire == "embeddings":
        return None
    if recipe.embeddings:
        told = (
            f'The model "{target.model}" answers /v1/embeddings only (embeddings = true); GET /v1/models lists others.'
        )
        return ApiError(400, told, code="model_not_for_chat", param="model")
    if recipe.template not in ("", templates.JINJA):
        for param in ("tools", "tool_choice"):
            if asked.body.get(param) not in (None, [], "auto"):
                told = f'The model "{target.model}" takes no {param} with its template "{recipe.template}"; '
                told += f'"{templates.JINJA}" has tools, and so may the template of its file.'
                return ApiError(400, told, code="model_without_tools", param=param)
    return None


def failure(upstream: Upstream, error: Exception) -> ApiError:
    """Return what a client is told of a connection that failed; the log tells more."""
    # What the upstream sent may stand in the text of an error: only those of connections are logged whole.
    told = str(error) if isinstance(error, aiohttp.ClientConnectionError | Ended) else ""
    log.warning("upstream %s: %s", upstream.name, told or type(error).__name__)
    name = f'The upstream "{upstream.name}"'
    if isinstance(error, Ended):
        ended = _error(502, f"{name} ended while it was asked: {error}.", upstream, "local_model_ended")
        ended.headers["retry-after"] = str(math.ceil(error.seconds))
        return ended
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return _error(502, f"{name} cannot be reached.", upstream, "upstream_unreachable")
    if isinstance(error, TimeoutError):
        return _error(504, f"{name} did not answer in time.", upstream, "upstream_timeout")
    return broke_off(upstream)


def broke_off(upstream: Upstream) -> ApiError:
    """Return what a client is told of an answer that ended too early."""
    return _error(502, f'The upstream "{upstream.name}" broke off its answer.', upstream, "upstream_failed")


def no_document(upstream: Upstream, what: str) -> ApiError:
    """Return what a client is told of an answer that is not what was asked for."""
    return _error(502, f'The answer of the upstream "{upstream.name}" {what}.', upstream, "upstream_failed")


def refusal(upstream: Upstream, status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """Return an upstream's own error answer in OpenAI's shape, with its status and Retry-After."""
    name = f'The upstream "{upstream.name}"'
    if not 400 <= status < 600:
        return _error(502, f"{name} answered with status {status}.", upstream, "upstream_failed")
    if status == 401 or (status == 403 and upstream.kind != "claude-proxy"):
        # The upstream's text may quote the gateway's own key, which is none of the client's business.
        message = f"{name} does not accept the gateway's key (status {status})."
        return _error(status, message, upstream, "upstream_refused_key")
    said = _said(body)
    error = _error(status, said.get("message") or f"{name} answered with status {status}.", upstream, None)
    error.type = said.get("type") or ("server_error" if status >= 500 else "invalid_request_error")
    error.code = said.get("code")
    error.param = said.get("param")
    wait = headers.get("retry-after", "")
    if wait.isascii() and wait.isprintable() and wait:
        error.headers["retry-after"] = wait
    return error


def _said(body: bytes) -> dict[str, str]:
    """Return message, type, code and param of an error body, as far as it has them."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body.decode("utf-8", "replace").strip()
        return {} if text.startswith("<") else {"message": text[:EXCERPT]}
    inner = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(inner, str):
        return {"message": inner}
    if not isinstance(inner, dict):
        return {}
    return {key: inner[key] for key in ("message", "type", "code", "param") if isinstance(inner.get(key), str)}


def _error(status: int, message: str, upstream: Upstream, code: str | None) -> ApiError:
    headers = {"x-llm-call-upstream": upstream.name}
    return ApiError(status, message, type="server_error", code=code, headers=headers)
