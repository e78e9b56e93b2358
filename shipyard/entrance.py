"""What the balancer knows: how many instances of the API it may ask."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from typing import Any

from shipyard.errors import StackFailed

#: Seconds until a new instance must be in rotation; it takes about one.
PATIENCE = 20.0


def place(config: Mapping[str, Any]) -> tuple[str, int]:
    """Address and port of this machine at which the balancer of a configuration is published."""
    port = config["services"]["balancer"]["ports"][0]
    address = str(port.get("host_ip") or "127.0.0.1")
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address), int(port["published"])


def instances(where: tuple[str, int]) -> int | None:
    """How many instances take requests now; None when there is no balancer to ask."""
    connection = http.client.HTTPConnection(*where, timeout=2)
    try:
        connection.request("GET", "/health/balancer")
        return int(json.loads(connection.getresponse().read())["instances"])
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def wait(where: tuple[str, int], count: int) -> None:
    """Return when at least so many instances take requests. Raises StackFailed after ``PATIENCE``."""
    end = time.monotonic() + PATIENCE
    while (found := instances(where)) is None or found < count:
        if time.monotonic() > end:
            msg = f"the balancer knows {found or 0} instances of the API, not {count}; `invoke logs --service balancer`"
            raise StackFailed(msg)
        time.sleep(0.05)
