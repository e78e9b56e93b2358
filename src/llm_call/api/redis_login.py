"""Who the gateway is at Redis. The password is read again for every new connection, so that it may be exchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.settings import Env, Secret


class NoPassword(Exception):
    """The password cannot be read now."""


@dataclass(frozen=True)
class Login:
    """`user` is "" for Redis's default user. `place` is where the password comes from, for messages."""

    user: str
    password: Callable[[], Secret | None]
    place: str

    def credentials(self) -> tuple[str, ...]:
        """Return what AUTH is to be sent now: a password, before it the user if there is one. Raises NoPassword."""
        secret = self.password()
        if secret is None:
            msg = "the password cannot be read"
            raise NoPassword(msg)
        return (self.user, secret.reveal()) if self.user else (secret.reveal(),)

    def __str__(self) -> str:
        return f"user {self.user or 'default'}, password of {self.place}"


def read(env: Env) -> Login | None:
    """Return the login of REDIS_USERNAME and REDIS_PASSWORD or REDIS_PASSWORD_FILE; None where there is no password."""
    user, file = env.text("REDIS_USERNAME"), env.text("REDIS_PASSWORD_FILE")
    password = env.secret("REDIS_PASSWORD")
    if not password and not file:
        if user:
            env.fault("REDIS_USERNAME", "has no password; REDIS_PASSWORD_FILE names the file that holds it")
        return None
    # A file may be empty for a moment while it is written; from the environment nothing new can come.
    return Login(user, lambda: Env().secret("REDIS_PASSWORD") if file else password, file or "REDIS_PASSWORD")
