"""`python -m claude_proxy`: serve on CLAUDE_PROXY_HOST and CLAUDE_PROXY_PORT, or --host and --port."""

from __future__ import annotations

import sys
from pathlib import Path

from serving.server import main

PRELOAD = ("starlette.applications", "uvicorn", "uvloop", "httptools", "orjson")

if __name__ == "__main__":
    sources = Path(__file__).parents[1]
    sys.exit(
        main(
            "claude_proxy.app:create",
            service="claude-proxy",
            env_prefix="CLAUDE_PROXY",
            default_port=3010,
            preload=PRELOAD,
            sources=[str(sources / name) for name in ("claude_proxy", "serving")],
        )
    )
