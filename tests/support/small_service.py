"""A small service on `serving`, for tests of what all services share: `python -m tests.support.small_service`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from serving import cors
from serving.asgi import App
from serving.auth import Guard, Keyring
from serving.errors import handlers
from serving.health import Health
from serving.logs import RequestLog
from serving.metrics import Metrics
from serving.server import main
from serving.settings import Env

log = logging.getLogger("small")


def create(health: Health) -> App:
    env = Env()
    origins = cors.read(env, "SMALL")
    env.finish()
    metrics = Metrics("small", ["/v1/size", "/v1/much"])
    if env.flag("SMALL_RELOADS", False):
        health.on_reload(lambda: log.info("read again"))
        health.on_reload(_fail)
        health.on_reload(lambda: log.info("read the rest again"))
    routes = [Route("/v1/size", _size, methods=["POST"]), Route("/v1/much", _much), metrics.route(), *health.routes()]
    keys = Keyring.for_host(env.text("SMALL_KEYS"), health.host, setting="SMALL_KEYS")
    guarded = Guard(Starlette(routes=routes, exception_handlers=handlers()), keys)
    return RequestLog(cors.wrap(guarded, origins), metrics.observe)


async def _size(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def _much(_request: Request) -> Response:
    """Send 1 GiB, piece by piece: far more than may ever wait in memory."""

    async def pieces():
        for number in range(16384):
            yield b"x" * 65536
            if number % 64 == 0:
                log.info("sent", extra={"pieces": number})

    return StreamingResponse(pieces())


def _fail() -> None:
    msg = "this file is broken"
    raise RuntimeError(msg)


if __name__ == "__main__":
    here = str(Path(__file__).parent)
    sys.exit(
        main(
            "tests.support.small_service:create",
            service="small",
            env_prefix="SMALL",
            default_port=0,
            preload=["starlette.applications", "uvicorn"],
            sources=[here],
        )
    )
