"""`python -m llm_call.api`: start the gateway."""

import sys
from pathlib import Path

from serving.server import main

SOURCE = Path(__file__).resolve().parents[2]
PRELOAD = (
    "aiohttp",
    "httptools",
    "orjson",
    "prometheus_client",
    "redis.asyncio",
    "starlette.applications",
    "uvicorn",
    "uvloop",
)
"""Libraries that hot reload loads once; none of them may start a thread when imported."""


def run() -> int:
    """Serve until a signal; return the exit code."""
    return main(
        "llm_call.api.app:create",
        service="llm-call-api",
        env_prefix="LLM_CALL",
        default_port=8001,
        preload=PRELOAD,
        sources=[str(SOURCE / "llm_call"), str(SOURCE / "serving"), "config"],
    )


if __name__ == "__main__":
    sys.exit(run())
