"""The balancer and the API agree where a request ends: the cases of tests/support/framing_cases.py through both images."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

import docker
import shipyard
from shipyard.models import Project
from tests.support.balancer import CHAT, Balancer, balancer
from tests.support.framing_cases import CHUNKS, PATH, cases, chunks, post
from tests.support.images import api_keys, await_health, running

pytestmark = pytest.mark.native("what HAProxy and llhttp read is the same on every platform")

SERVED = "invalid_json"
"""The code with which the API answers a well framed request of these: its body is no JSON object."""


@pytest.fixture(scope="module")
def entrance(
    client: docker.DockerClient, project: Project, engine: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Balancer, str]]:
    """The balancer before one instance of the real API, and a key."""
    built = shipyard.images.build(project, engine, shipyard.images.Request(images=("api", "balancer")))
    images = {result.name: result.reference for result in built}
    alias, network = f"api-{secrets.token_hex(4)}", client.networks.create(f"framing-{secrets.token_hex(4)}")
    key, options = api_keys(tmp_path_factory.mktemp("keys"))
    options |= {"network": network.name, "environment": {"LLM_CALL_KEYS_FILE": "/run/secrets/keys"}}
    options["networking_config"] = {network.name: client.api.create_endpoint_config(aliases=[alias])}
    try:
        with (
            running(client, images["api"], **options) as api,
            balancer(client, images["balancer"], network.name, alias) as found,
        ):
            await_health(api)
            found.await_count(1)
            yield found, key
    finally:
        network.remove()


NEXT = b"GET /health/nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
ANSWER = (404, "not_found")
"""To the next request on the connection, which ends it."""


def said(entrance: tuple[Balancer, str], sent: bytes) -> list[tuple[int, str]]:
    """Return the status and the error's code of every answer to these bytes, with the key, and to the next request."""
    found, key = entrance
    sent = re.sub(
        rb"\r?\n", rb"\g<0>authorization: Bearer %b\g<0>" % key.encode(), sent.replace(PATH, CHAT.encode()), count=1
    )
    with found.connect(sent + NEXT) as connection:
        came = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    _, *pieces = re.split(r"HTTP/1\.[01] (\d{3}) ", came)
    codes = [re.search(r'"code": ?"(\w+)"', each) for each in pieces[1::2]]
    answers = zip(map(int, pieces[::2]), codes, strict=True)
    return [(status, code[1] if code else "") for status, code in answers if status != 100]


@pytest.mark.parametrize(("sent", "status"), [pytest.param(sent, status, id=name) for name, sent, _, status in cases()])
def test_a_request_is_refused_or_read_in_one_way(entrance: tuple[Balancer, str], sent: bytes, status: int) -> None:
    """What is behind it is the next request, or is not read at all: never a part of it, and it never a part of that."""
    (found, code), *more = said(entrance, sent)
    if status:
        assert (found, code == SERVED, more in ([], [ANSWER])) == (status, False, True)
    else:
        assert (found, code, more in ([], [ANSWER])) == (400, SERVED, True)


@pytest.mark.parametrize("sent", [post(b"content-length: 5"), chunks(CHUNKS)], ids=["length", "chunks"])
def test_what_is_behind_a_good_request_is_the_next_one(entrance: tuple[Balancer, str], sent: bytes) -> None:
    found, key = entrance
    # From a 2xx on the balancer knows the key; of a client without one it serves a single request of a connection.
    known = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
    assert found.raw(known.encode()).startswith(b"HTTP/1.1 200 ")
    assert said(entrance, sent) == [(400, SERVED), ANSWER]
