"""From the CLI's failures to OpenAI-shaped errors; each says who can mend it and how."""

from __future__ import annotations

import math
import signal

from serving.errors import ApiError

LOGIN_HINT = (
    "put an API key or a long-lived token (`claude setup-token`) into secrets/egress/anthropic_api_key; without the egress "
    "gateway, name its file by ANTHROPIC_API_KEY_FILE or CLAUDE_CODE_OAUTH_TOKEN_FILE"
)
HOPELESS = {"x-should-retry": "false"}
"""For what only the operator can mend, and for what would run a tool's work twice; OpenAI's clients and our gateway
heed it."""
BUSY_SECONDS = 5
"""What a client that finds every CLI busy is told to wait: a short answer takes about that long."""

OVER = {
    "pids": (
        "claude_too_many_processes",
        "its tools started more than {} processes and threads",
        "CLAUDE_PROXY_REQUEST_PIDS",
    ),
    "memory": ("claude_out_of_memory", "it took more than {} bytes of memory", "CLAUDE_PROXY_REQUEST_MEMORY_BYTES"),
    "disk": ("claude_out_of_disk", "its files took more than {} bytes", "CLAUDE_PROXY_REQUEST_DISK_BYTES"),
    "container": ("claude_memory_exhausted", "its tools ran when all requests together had used up the memory", ""),
}
"""By the name that the keeper has for a bound: the error's code, what happened, and which setting says how much."""

LONGEST_WAIT = 3600
"""In seconds; what a client is told to wait at most, whatever the CLI says."""


def not_authenticated() -> ApiError:
    """Return the error for a CLI that is not logged in, or whose credential the provider refused."""
    message = f"The Claude CLI is not logged in, or its credential was refused; {LOGIN_HINT}."
    return ApiError(503, message, type="authentication_error", code="claude_not_authenticated", headers=HOPELESS)


def rate_limited(delay_ms: float | None) -> ApiError:
    """Return the error for a rate limit; `delay_ms` is what the CLI would have waited, if it said so."""
    seconds = None if delay_ms is None else max(1, min(LONGEST_WAIT, math.ceil(delay_ms / 1000)))
    headers = {} if seconds is None else {"retry-after": str(seconds)}
    message = "The provider's rate limit is reached; try again later."
    return ApiError(429, message, type="rate_limit_error", code="claude_rate_limited", headers=headers)


def busy() -> ApiError:
    """Return the error for a request that found every CLI taken and the queue full or too slow."""
    headers = {"retry-after": str(BUSY_SECONDS)}
    message = "Every Claude CLI is busy; try again in a moment."
    return ApiError(429, message, type="rate_limit_error", code="claude_proxy_busy", headers=headers)


def sandbox_missing(lack: str) -> ApiError:
    """Return the error for a request with tools where requests cannot be kept apart."""
    message = f"Tools are off: {lack}. Send claude_tools: [] and no mcp_servers to go without."
    return ApiError(503, message, type="server_error", code="sandbox_missing", param="claude_tools", headers=HOPELESS)


def session_busy(ident: str) -> ApiError:
    """Return the error for a session that another request continues right now."""
    message = f'The session "{ident}" is answering another request; send this one when that has ended.'
    return ApiError(409, message, code="session_busy", param="session_id", headers={"retry-after": "1"})


def session_repeated(ident: str, turns: int) -> ApiError:
    """Return the error for a request that sends again what its session already holds."""
    message = f'The session "{ident}" already holds {turns} turns; send only the new messages of the user '
    message += "(and a system message to replace the session's), or take another session_id for another conversation."
    return ApiError(400, message, code="session_exists", param="messages")


def session_too_long(ident: str, size: int) -> ApiError:
    """Return the error for a session that has grown too large."""
    message = f'The session "{ident}" would grow beyond {size} bytes; begin another one.'
    return ApiError(400, message, code="session_too_long", param="session_id")


def deadline(seconds: float) -> ApiError:
    """Return the error for a call that took longer than it may."""
    message = f"The Claude CLI did not finish within {seconds:g} s; ask for less, or raise CLAUDE_PROXY_DEADLINE."
    return ApiError(504, message, type="server_error", code="deadline_exceeded", headers=HOPELESS)


def over(name: str, limit: int | None) -> ApiError:
    """Return the error for a request that was ended because it took more than it may.

    It is the request's fault, unless the memory of all ended: 4xx does not count against this service, nor is it tried again.
    """
    code, what, setting = OVER[name]
    if not setting:
        message = f"The request was ended: {what}; try again later, or give the container more memory."
        return ApiError(503, message, type="server_error", code=code, headers=HOPELESS)
    message = f"The request was ended: {what.format(limit)}; let it do less at once, or raise {setting}."
    return ApiError(400, message, code=code)


def at_the_gate(reason: str, calls: int, tokens: int) -> ApiError | None:
    """Return the error for a request whose CLI was refused at the gate for this reason, if that is the request's fault."""
    if reason == "model":
        message = "The Claude CLI asked for another model than the request names; the gate let it not have that one."
        return ApiError(502, message, type="server_error", code="claude_model_refused", headers=HOPELESS)
    if reason not in ("calls", "tokens"):
        return None
    setting = f"CLAUDE_PROXY_REQUEST_{reason.upper()}, or {reason}= in the line of its key"
    what = f"{calls} calls of the model" if reason == "calls" else f"{tokens} tokens"
    message = f"The request was ended: it used all its {what}; let it do less at once, or raise {setting}."
    return ApiError(400, message, code=f"claude_out_of_{reason}")


def crashed(returncode: int | None) -> ApiError:
    """Return the error for a CLI that ended before it gave a result. Its own words are in the service's log."""
    how = "was ended" if returncode is None else f"ended with exit code {returncode}"
    if returncode is not None and returncode < 0:
        how = f"was ended by signal {-returncode}"
    if returncode == -signal.SIGKILL:
        how += ", as the kernel does when the container's memory is used up,"
    return ApiError(
        502,
        f"The Claude CLI {how} before it gave a result.",
        type="server_error",
        code="claude_cli_crashed",
        headers=HOPELESS,
    )


def too_large() -> ApiError:
    """Return the error for a CLI, or an impostor of it, that wrote more than any answer takes."""
    message = "The Claude CLI wrote more than an answer takes, so it was ended."
    return ApiError(502, message, type="server_error", code="claude_output_too_large", headers=HOPELESS)


def no_runner() -> ApiError:
    """Return the error for a request that found no runner connected."""
    message = "No runner is connected, so no Claude CLI can start; see `docker compose ps` for claude-runner-1 and the others."
    headers = {"retry-after": str(BUSY_SECONDS)}
    return ApiError(503, message, type="server_error", code="claude_no_runner", headers=headers)


def runner_lost() -> ApiError:
    """Return the error for a request whose runner ended in the middle."""
    message = "The runner of this request ended before the CLI gave a result; other requests go on. Send it again."
    return ApiError(502, message, type="server_error", code="claude_runner_lost", headers=HOPELESS)


def not_started(reason: str) -> ApiError:
    """Return the error for a CLI that could not be started."""
    message = f"The Claude CLI could not be started: {reason}; check CLAUDE_PROXY_CLI and CLAUDE_PROXY_WORKSPACE."
    return ApiError(503, message, type="server_error", code="claude_cli_not_started")


def stopped() -> ApiError:
    """Return the error for an answer that the end of the service cut short, after all the time that it had to finish."""
    message = "The service ended before the answer was whole; send the request again."
    return ApiError(503, message, type="server_error", code="draining", headers={"retry-after": "1"})


def interrupted() -> ApiError:
    """Return the error for an answer that broke off and began anew after a part of it had been passed on."""
    message = "The provider's answer broke off in the middle; send the request again."
    return ApiError(502, message, type="server_error", code="claude_answer_interrupted")


def from_retry(status: int | None, delay_ms: float | None) -> ApiError | None:
    """Return the error for a failure that the CLI is about to retry, if waiting here helps nobody."""
    if status == 429:
        return rate_limited(delay_ms)
    if status in (401, 403):
        return not_authenticated()
    return None


def from_result(kind: str, status: int | None, words: str) -> ApiError:
    """Return the error for a failed result.

    `kind` is the CLI's own name of the failure, `status` the provider's HTTP status (None: it never answered), `words`
    what the CLI says; they are passed on only where the client can mend the request.
    """
    if status in (401, 403) or kind == "authentication_failed":
        return not_authenticated()
    if status == 429 or kind == "rate_limit":
        return rate_limited(None)
    if status == 404:
        message = "The provider does not know this model, or the account may not use it."
        return ApiError(404, message, code="model_not_found", param="model")
    if status in (400, 413, 422) or kind == "invalid_request":
        return ApiError(400, words[:1000] or "The provider refused the request.", code="claude_invalid_request")
    if kind == "billing_error":
        message = "The provider refuses the account for billing reasons; see its console."
        return ApiError(503, message, type="server_error", code="claude_billing_error", headers=HOPELESS)
    if status in (503, 529):
        return ApiError(
            503, "The provider is overloaded; try again later.", type="server_error", code="claude_overloaded"
        )
    told = f"status {status}" if status else "no status: it could not be reached, or the answer broke off"
    return ApiError(502, f"The provider failed ({told}).", type="server_error", code="claude_upstream_error")
