"""Requests to one registry with its login: by password, or by a token from the service that the registry names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from shipyard import logins, registry_documents
from shipyard.deadline import Deadline
from shipyard.errors import AccessDenied, RegistryFailed
from shipyard.logins import Challenge, Login
from shipyard.registry_http import PATIENCE, TEXT, Answer, Wire, loopback


class Client:
    """Sends requests to one registry (``HOST`` or ``HOST:PORT``), logged in when it asks for it; safe for several threads."""

    def __init__(
        self, host: str, login: Login | None, patience: float = PATIENCE, deadline: Deadline | None = None
    ) -> None:
        self.host, self._login = host, login
        # Docker Hub's registry has another name than its images.
        place = "registry-1.docker.io" if host in logins.names("docker.io") else host
        base = f"{'http' if loopback(host) else 'https'}://{place}"
        self.wire = Wire(host, base, self._clean, patience, deadline)
        self._tokens: dict[str, str] = {}
        self._basic = False

    def request(
        self,
        method: str,
        path: str,
        *,
        scopes: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | Path | None = None,
        limit: int = TEXT,
        keep: bool = True,
    ) -> Answer:
        """One request, logged in when the registry asks for it; ``path`` may be a whole URL that the registry gave.

        ``scopes`` is what the request needs (``repository:NAME:pull,push``); of an answer at most ``limit`` bytes are
        read, and not kept without ``keep``. Raises Passing for what may pass, AccessDenied, and RegistryFailed for a larger answer.
        """
        url, given = self.wire.target(self.wire.base, path), dict(headers or {})
        key = " ".join(scopes)
        answer = self.wire.follow(method, url, self._authorized(given, key), body, limit, keep)
        if answer.status == 401:
            self._log_in(answer, scopes)
            answer = self.wire.follow(method, url, self._authorized(given, key), body, limit, keep)
        if answer.status in (401, 403):
            raise AccessDenied(self._refused(answer, method))
        if method not in ("GET", "HEAD") and answer.status == 405:
            msg = f"{self.host} takes no writes: it is read-only ({self.wire.explain(answer)})"
            raise AccessDenied(msg)
        return answer

    def _clean(self, text: str) -> str:
        for token in self._tokens.values():
            text = text.replace(token, "[REDACTED]")
        return self._login.redact(text) if self._login else text

    def _authorized(self, headers: dict[str, str], key: str) -> dict[str, str]:
        if token := self._tokens.get(key):
            return {**headers, "Authorization": f"Bearer {token}"}
        if self._basic and self._login:
            return {**headers, "Authorization": self._login.basic()}
        return headers

    def _log_in(self, answer: Answer, scopes: tuple[str, ...]) -> None:
        """Prepare what the next request sends; when that is refused too, the login is no good."""
        asked, login = logins.challenge(answer.headers.get("www-authenticate", "")), self._login
        if login and login.bearer:
            self._tokens[" ".join(scopes)] = login.bearer.reveal()
        elif asked and asked.scheme == "bearer":
            self._tokens[" ".join(scopes)] = self._token(asked, scopes)
        elif asked and login and login.password:
            self._basic = True
        else:
            raise AccessDenied(self._refused(answer, "GET"))

    def _refused(self, answer: Answer, method: str) -> str:
        what = f"{self.host} refuses {'this read' if method in ('GET', 'HEAD') else 'this write'}"
        if self._login is None:
            return (
                f"{what} without a login ({self.wire.explain(answer)}); run `docker login {self.host}`, "
                "or set SHIPYARD_REGISTRY_USERNAME with SHIPYARD_REGISTRY_PASSWORD_FILE, or SHIPYARD_REGISTRY_TOKEN_FILE"
            )
        return (
            f"{what} with the login from {self._login.origin} ({self.wire.explain(answer)}); "
            f"is it wrong or expired, or may it not do this? Renew it with `docker login {self.host}` or in its file"
        )

    def _token(self, asked: Challenge, scopes: tuple[str, ...]) -> str:
        """A Bearer token (distribution's "Token Authentication Specification"; identity tokens as in its OAuth2 form)."""
        try:
            place = registry_documents.target(self.wire.base, asked.realm)
        except ValueError as problem:
            msg = f"{self.host} names no token service that can be asked: {problem}"
            raise RegistryFailed(msg) from None
        realm = urlsplit(place)
        if realm.scheme != "https" and not (realm.scheme == "http" and loopback(realm.netloc)):
            msg = f"{self.host} sends us to a token service without TLS ({realm.netloc}); no login is sent there"
            raise AccessDenied(msg)
        fields = [("service", asked.service), *(("scope", each) for each in scopes or (asked.scope,))]
        query = [(name, value) for name, value in fields if value]
        login = self._login
        if login and login.identity:
            form = [*query, ("grant_type", "refresh_token"), ("refresh_token", login.identity.reveal())]
            body = urlencode([*form, ("client_id", "shipyard")]).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self.wire.send("POST", place, headers, body, TEXT)
        else:
            headers = {"Authorization": login.basic()} if login and login.password else {}
            join = "&" if realm.query else "?"
            answer = self.wire.send("GET", place + join + urlencode(query), headers, None, TEXT)
        if answer.status != 200:
            raise AccessDenied(self._refused(answer, "GET"))
        try:
            return registry_documents.token(answer.body)
        except ValueError as problem:
            msg = f"{self.host}: its token service {realm.netloc} gave no token: {problem}"
            raise RegistryFailed(msg) from None
