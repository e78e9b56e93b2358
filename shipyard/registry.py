"""A client of one registry (OCI distribution specification 1.1); what it reads is what its digest says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

from shipyard import credentials, oci, registry_documents
from shipyard.deadline import Deadline, TooLate
from shipyard.errors import RegistryFailed
from shipyard.logins import Login
from shipyard.registry_access import Client
from shipyard.registry_http import PATIENCE, Answer, Passing, Wrong

Item = TypeVar("Item")

#: Seconds in which a registry must answer the first question; one that does not is down.
FIRST_ANSWER = 5.0
#: Bytes of a config or an attachment (an SBOM of some thousand packages has a few MB).
LARGEST_BLOB = 64 * 1024 * 1024
_ACCEPT = {"Accept": ", ".join((*oci.INDEXES, *oci.MANIFESTS))}
_BINARY = {"Content-Type": "application/octet-stream"}
#: What docker-registry also says of a blob or manifest whose record another push is writing at this very moment.
_HALF_WRITTEN = re.compile(rb"DIGEST_INVALID|MANIFEST_BLOB_UNKNOWN")
#: Statuses by which a registry refuses; any other one is no answer to what was asked (distribution specification; RFC 9110).
_REFUSALS = (400, 401, 402, 403, 404, 405, 406, 409, 410, 411, 412, 413, 415, 416, 422, 451)
#: Pages of a list that are read, and entries of all of them.
_PAGES, _LISTED = 1000, 100_000


class Registry:
    """One registry (``HOST`` or ``HOST:PORT``); safe for several threads.

    Every method raises RegistryFailed when it does not answer within ``patience`` seconds or refuses, and AccessDenied
    when it wants another login, and TooLate once a ``deadline`` is over. What is not there is None or false, never an error.
    """

    def __init__(
        self, host: str, login: Login | None = None, patience: float = PATIENCE, deadline: Deadline | None = None
    ) -> None:
        self.host = host
        login = login or credentials.find(host)
        self._client = Client(host, login, patience, deadline)
        self._first = Client(host, login, min(patience, FIRST_ANSWER), deadline)
        self._wire = self._client.wire

    def stop(self) -> None:
        """Let what other threads send or wait for here end with an error."""
        self._wire.stop()
        self._first.wire.stop()

    def ping(self) -> float | None:
        """Whether it answers, and to our login. Returns its clock in seconds since 1970 where it tells."""

        def attempt() -> Answer:
            answer = self._good(self._first.request("GET", "/v2/"), 200)
            if answer.headers.get("content-type", "").startswith("text/html"):
                msg = f"{self.host} answers /v2/ with a web page; is this a registry, and is a login page in between?"
                raise RegistryFailed(msg)
            return answer

        date = self._first.wire.patiently(attempt, "asked for /v2/").headers.get("date", "")
        try:
            return parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError, OverflowError):
            return None

    def writable(self, repository: str) -> None:
        """Raise AccessDenied unless a push may begin: one is begun and given up."""

        def attempt() -> None:
            place = self._begin(self._first, repository)
            # A registry that cannot give up an upload forgets it by itself.
            self._first.request("DELETE", place, scopes=_push(repository))

        self._first.wire.patiently(attempt, f"beginning a push to {repository}")

    def head(self, repository: str, reference: str) -> str | None:
        """The digest that a tag or digest names, as the registry says; None when there is nothing."""

        def attempt() -> tuple[bool, str | None]:
            answer = self._get("HEAD", repository, f"manifests/{reference}", 0)
            said = answer.headers.get("docker-content-digest") if answer else None
            if said and (not oci.is_digest(said) or (oci.is_digest(reference) and said != reference)):
                msg = f"it says that {reference} is {said[:80]}"
                raise Wrong(msg)
            return answer is None, said

        absent, said = self._wire.patiently(attempt, f"looking for {repository} {reference}")
        if absent or said:
            return said
        found = self.manifest(repository, reference)  # this registry does not tell digests
        return found[2] if found else None

    def manifest(self, repository: str, reference: str) -> tuple[bytes, str, str] | None:
        """An index or manifest by tag or digest: its bytes, media type and digest, which was computed from the bytes."""

        def attempt() -> tuple[bytes, str, str] | None:
            answer = self._get("GET", repository, f"manifests/{reference}", oci.LONGEST)
            if answer is None:
                return None
            said, digest = answer.headers.get("docker-content-digest"), oci.digest(answer.body)
            asked = {said or digest, reference if oci.is_digest(reference) else digest}
            if asked != {digest}:
                msg = f"the bytes of {reference} are {digest}, not {' or '.join(sorted(asked - {digest}))[:200]}"
                raise Wrong(msg)
            return answer.body, answer.headers.get("content-type", "").partition(";")[0].strip(), digest

        return self._wire.patiently(attempt, f"reading {repository} {reference}")

    def blob(self, repository: str, digest: str, limit: int = LARGEST_BLOB) -> bytes | None:
        """A small blob such as a config, at most ``limit`` bytes; None when it is not there."""

        def attempt() -> bytes | None:
            answer = self._get("GET", repository, f"blobs/{digest}", limit)
            if answer and oci.digest(answer.body) != digest:
                msg = f"the bytes of {digest} are {oci.digest(answer.body)}"
                raise Wrong(msg)
            return answer.body if answer else None

        return self._wire.patiently(attempt, f"reading {repository} {digest}")

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether a blob is there."""
        what = f"looking for {repository} {digest}"
        return self._wire.patiently(lambda: self._get("HEAD", repository, f"blobs/{digest}", 0), what) is not None

    def check_blob(self, repository: str, digest: str, size: int) -> str:
        """Read a blob of any size, keeping nothing of it; why it is not what its descriptor says, or nothing."""

        def attempt() -> str:
            answer = self._get("GET", repository, f"blobs/{digest}", size, keep=False)
            if answer is None:
                return "it is not in the registry"
            if (answer.size, answer.digest) != (size, digest):
                msg = f"its {answer.size} bytes are {answer.digest}; it should have {size}"
                raise Wrong(msg)
            return ""

        try:
            return self._wire.patiently(attempt, f"reading {repository} {digest}")
        except TooLate:
            raise
        except RegistryFailed as problem:
            self.ping()  # one that does not answer at all raises here
            return str(problem)

    def tags(self, repository: str) -> tuple[str, ...]:
        """Every tag, sorted; none when there is no such repository."""
        return tuple(sorted(set(self._listed(repository, "tags/list?n=1000", registry_documents.tags, "tags") or ())))

    def referrers(self, repository: str, digest: str) -> tuple[oci.Descriptor, ...] | None:
        """The manifests whose subject is this digest; None where a registry has no Referrers API."""
        found = self._listed(repository, f"referrers/{digest}", registry_documents.referrers, "attachments")
        return None if found is None else tuple(found)

    def _listed(
        self, repository: str, first: str, read: Callable[[bytes], Sequence[Item]], what: str
    ) -> list[Item] | None:
        """What a list has, on every page that the registry links; None for 404."""
        found, pages, place = list[Item](), set[str](), f"{self.host}: its list of {what} of {repository}"
        page = f"/v2/{repository}/{first}"

        def attempt() -> tuple[Sequence[Item], str] | None:
            answer = self._get("GET", repository, page, oci.LONGEST)
            if answer is None:
                return None
            try:
                # A list has no digest by which one could tell that it was garbled on its way.
                return read(answer.body), answer.headers.get("link", "")
            except ValueError as problem:
                msg = f"that is not a list of {what}: {problem}"
                raise Wrong(msg) from None

        while page not in pages and len(pages) < _PAGES:
            pages.add(page)
            listed = self._wire.patiently(attempt, f"reading the list of {what} of {repository}")
            if listed is None:
                return found or None
            found += listed[0]
            if len(found) > _LISTED:
                msg = f"{place} has more than {_LISTED:,} entries; no more are read"
                raise RegistryFailed(msg)
            following = registry_documents.following(listed[1])
            if not following:
                return found
            page = self._wire.target(self._wire.base + page if page.startswith("/") else page, following)
        msg = f"{place} has no end: {len(pages)} pages, and the next is {page[:200]}"
        raise RegistryFailed(msg)

    def push_blob(self, repository: str, digest: str, path: Path, mount: Iterable[str] = ()) -> int:
        """Bring a file there unless it is; ``mount`` names repositories of this registry that may have it.

        Returns how many bytes were sent. Begun anew whenever something breaks: the digest makes that safe.
        """

        def attempt() -> int:
            if self._get("HEAD", repository, f"blobs/{digest}", 0):
                return 0
            source = next((each for each in mount if self._get("HEAD", each, f"blobs/{digest}", 0)), "")
            place = self._begin(self._client, repository, source, digest)
            return self._upload(repository, place, digest, path) if place else 0

        return self._wire.patiently(attempt, f"pushing {repository} {digest}")

    def push_manifest(self, repository: str, reference: str, body: bytes, media_type: str) -> str:
        """Write an index or manifest under a tag or its digest. Returns its digest; what it names must be there."""
        digest = oci.digest(body)
        if oci.is_digest(reference) and reference != digest:
            msg = f"{repository}: a manifest with digest {digest} cannot be pushed as {reference}"
            raise RegistryFailed(msg)

        def attempt() -> None:
            headers = {"Content-Type": media_type}
            path = f"/v2/{repository}/manifests/{reference}"
            answer = self._client.request("PUT", path, scopes=_push(repository), headers=headers, body=body)
            if answer.status == 400 and _HALF_WRITTEN.search(answer.body):
                raise Wrong(self._wire.explain(answer))
            said = self._good(answer, 201).headers.get("docker-content-digest", digest)
            if said != digest:
                msg = f"it took {digest} for {said[:80]}"
                raise Wrong(msg)

        self._wire.patiently(attempt, f"pushing {repository} {reference}")
        return digest

    def _get(self, method: str, repository: str, what: str, limit: int, *, keep: bool = True) -> Answer | None:
        """Read what a path below the repository, or a path that the registry gave, holds; None for 404."""
        path = what if what.startswith(("/", "http://", "https://")) else f"/v2/{repository}/{what}"
        scopes = (f"repository:{repository}:pull",)
        headers = _ACCEPT if "manifests/" in what or "referrers/" in what else None
        limit = max(limit, 64 * 1024)
        answer = self._client.request(method, path, scopes=scopes, headers=headers, limit=limit, keep=keep)
        if answer.status == 404:
            return None
        return self._good(answer, 200)

    def _begin(self, client: Client, repository: str, source: str = "", digest: str = "") -> str:
        """Start an upload; returns where it goes on, or nothing when the blob was mounted from ``source``."""
        query = "?" + urlencode({"mount": digest, "from": source}) if source else ""
        scopes = (*_push(repository), *([f"repository:{source}:pull"] if source else []))
        answer = client.request("POST", f"/v2/{repository}/blobs/uploads/{query}", scopes=scopes, body=b"")
        place = self._good(answer, 201, 202).headers.get("location", "")
        if answer.status == 202 and not place:
            msg = f"it accepts a push to {repository} and does not say where"
            raise Wrong(msg)
        return place if answer.status == 202 else ""

    def _upload(self, repository: str, place: str, digest: str, path: Path) -> int:
        place += ("&" if "?" in place else "?") + urlencode({"digest": digest})
        answer = self._client.request("PUT", place, scopes=_push(repository), headers=_BINARY, body=path)
        if answer.status in (400, 404, 416) and b"BLOB_UPLOAD" in answer.body:
            # Restarted in between, it does not know the upload any more.
            raise Passing(self._wire.explain(answer))
        self._good(answer, 201)
        return path.stat().st_size

    def _good(self, answer: Answer, *statuses: int) -> Answer:
        if answer.status in statuses:
            return answer
        if answer.status not in _REFUSALS:
            msg = f"no answer that fits: {self._wire.explain(answer)}"
            raise Wrong(msg)
        msg = f"{self.host} refuses: {self._wire.explain(answer)}"
        raise RegistryFailed(msg)


def _push(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull,push",)
