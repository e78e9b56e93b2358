"""The bare pass-through, a peer of bench/gateway.py: no keys, no checks, no logs; what any Python gateway must cost.

UPSTREAM holds the base URL of the server behind it.
"""

import os
from typing import Any

import aiohttp

URL = os.environ.get("UPSTREAM", "") + "/chat/completions"
session: aiohttp.ClientSession


async def app(scope: Any, receive: Any, send: Any) -> None:
    global session
    if scope["type"] == "lifespan":
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
        await send({"type": (await receive())["type"] + ".complete"})
        await send({"type": (await receive())["type"] + ".complete"})
        await session.close()
        return
    body = (await receive())["body"]
    async with session.post(URL, data=body, headers={"content-type": "application/json"}) as answer:
        kept = ("content-type", "content-length")
        headers = [(name.encode(), answer.headers[name].encode()) for name in kept if name in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for chunk in answer.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
