"""What the gate refuses by itself, in the shape of Anthropic's errors."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import orjson

FINAL = {"x-should-retry": "false"}
"""For what stays refused however often it is sent; Anthropic's clients, the CLI among them, do not try it again."""


class Refusal(Exception):
    """A request that ends here. `reason` is the short name by which refusals are counted."""

    def __init__(
        self, status: int, reason: str, message: str, kind: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.kind = kind or KINDS.get(status, "invalid_request_error")
        self.headers = FINAL if headers is None else dict(headers)

    def answer(self, *, close: bool) -> bytes:
        """Return the whole HTTP response."""
        body = orjson.dumps({"type": "error", "error": {"type": self.kind, "message": str(self)}})
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", "content-type: application/json"]
        lines += [f"content-length: {len(body)}", f"connection: {'close' if close else 'keep-alive'}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body


KINDS = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def malformed(what: str) -> Refusal:
    """Return the refusal of a request that is not exactly what the CLI would send."""
    return Refusal(400, "malformed", f"the gate does not accept this request: {what}")
