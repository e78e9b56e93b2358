"""Redis's users: what each may do, and the files that say so: ``users.conf`` and those of their passwords.

A command or key that is not named is refused. The API's are those of src/llm_call/api (``store``, ``cache``, ``shared``);
``client|setinfo`` is what redis-py says of itself on each connection.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

API, EXPORTER = "llm-call-api", "exporter"
#: Each user's keys, and its commands.
USERS = {
    API: (
        ("~llm-call:*",),
        ("+get", "+mget", "+set", "+hgetall", "+hset", "+hdel", "+expire", "+ping", "+client|setinfo"),
    ),
    # Without slowlog|get, which the exporter would like: it shows what others have written.
    EXPORTER: ((), ("+info", "+latency|latest", "+slowlog|len")),
}
#: prometheus-redis-exporter reads a document of passwords by address; this is the one that it is given in compose/.
EXPORTER_ADDRESS = "redis://exporter@redis:6379"
_HEADER = """\
# Made by `invoke secrets.init`: what each user of Redis may do. It is made anew when that changes; further users go into
# a file of their own beside it. No password is in it, only digests (SHA-256).
user default off
"""


def digest(password: str) -> str:
    """The SHA-256 of a password or key in hexadecimal digits, as Redis and our services keep it."""
    return hashlib.sha256(password.encode()).hexdigest()


def password_file(user: str, password: str) -> str:
    """The text of the file from which this user's service takes its password."""
    return (json.dumps({EXPORTER_ADDRESS: password}) if user == EXPORTER else password) + "\n"


def password(user: str, text: str) -> str:
    """The password in such a text; empty when there is none in it."""
    if user != EXPORTER:
        return text.strip()
    try:
        found = json.loads(text)
    except ValueError:
        return ""
    value = found.get(EXPORTER_ADDRESS) if isinstance(found, dict) else None
    return value if isinstance(value, str) and value.isprintable() else ""


def users_conf(digests: Mapping[str, Sequence[str]]) -> str:
    """The whole file; a user with several digests has several passwords, all of them good."""
    lines = []
    for name, (keys, commands) in USERS.items():
        passwords = (f"#{each}" for each in digests[name])
        lines.append(" ".join(("user", name, "on resetkeys resetchannels -@all", *passwords, *keys, *commands)))
    return _HEADER + "\n".join(lines) + "\n"


def digests(text: str) -> dict[str, tuple[str, ...]]:
    """The digests of each of our users in a ``users.conf``; none for a user whom it does not have or who is off."""
    lines = [line.split() for line in text.splitlines()]
    words = {line[1]: line[2:] for line in lines if line[:1] == ["user"] and "on" in line[2:]}
    return {
        name: tuple(word[1:] for word in words.get(name, ()) if re.fullmatch("#[0-9a-f]{64}", word)) for name in USERS
    }
