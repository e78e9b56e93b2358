"""What the balancer knows: how many instances of the API it may ask."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shipyard.errors import StackFailed

#: Seconds until a new instance must be in rotation; it takes about one.
PATIENCE = 20.0
#: Seconds without an answer after which a port counts as dead: what is done then ends all requests that are open.
DEAD = 10.0


def place(config: Mapping[str, Any]) -> tuple[str, int]:
    """Address and port of this machine at which the balancer of a configuration is published."""
    port = config["services"]["balancer"]["ports"][0]
    address = str(port.get("host_ip") or "127.0.0.1")
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address), int(port["published"])


@dataclass(frozen=True)
class Answer:
    """What came back through a published port: ``answers`` is whether the balancer did, ``seen`` the answer or the failure."""

    answers: bool
    seen: str


def probe(where: tuple[str, int], seconds: float = 3.0) -> Answer:
    """Ask the balancer from this machine, through what forwards its port: its container may be healthy and the port dead."""
    connection = http.client.HTTPConnection(*where, timeout=seconds)
    began = time.monotonic()
    try:
        connection.request("GET", "/health/balancer")
        found = json.loads(connection.getresponse().read(4096))
        count = int(found["instances"])
    except TimeoutError:
        return Answer(False, f"no answer within {seconds:g} s")
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as failed:
        reason = failed.strerror if isinstance(failed, OSError) and failed.strerror else type(failed).__name__
        return Answer(False, f"no answer of the balancer: {reason}")
    finally:
        connection.close()
    many = "1 instance" if count == 1 else f"{count} instances"
    return Answer(True, f"answers in {(time.monotonic() - began) * 1000:.0f} ms, with {many} of the API")


def bound(ports: str) -> tuple[str, int] | None:
    """Where to ask for one of a container's published ports, ``ADDRESS:PORT->8001``; None for one that has none."""
    for each in ports.split():
        outside, _, inside = each.partition("->")
        address, _, port = outside.rpartition(":")
        if inside == "8001" and port.isdecimal():
            return place({"services": {"balancer": {"ports": [{"host_ip": address.strip("[]"), "published": port}]}}})
    return None


def instances(where: tuple[str, int], seconds: float = 2.0) -> int | None:
    """How many instances take requests now; None when no balancer answers within so many seconds."""
    connection = http.client.HTTPConnection(*where, timeout=seconds)
    try:
        connection.request("GET", "/health/balancer")
        return int(json.loads(connection.getresponse().read())["instances"])
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def found(where: tuple[str, int]) -> int | None:
    """The same with patience: None only where nothing has answered for ``DEAD`` seconds, however busy the machine is."""
    end = time.monotonic() + DEAD
    while (known := instances(where, DEAD)) is None and time.monotonic() < end:
        time.sleep(0.2)
    return known


def wait(where: tuple[str, int], count: int) -> None:
    """Return when at least so many instances take requests. Raises StackFailed after ``PATIENCE``."""
    end = time.monotonic() + PATIENCE
    while (found := instances(where)) is None or found < count:
        if time.monotonic() > end:
            msg = f"the balancer knows {found or 0} instances of the API, not {count}; `invoke logs --service balancer`"
            raise StackFailed(msg)
        time.sleep(0.05)
