"""What a checkout calls its own on an engine that others share: other checkouts, other users, other machines."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path


def mark(root: Path) -> str:
    """Twelve hex digits that tell a checkout from all others: of its machine's name, its path, and the folder's own number.

    The number (st_dev and st_ino of stat(2)) tells apart containers that mount other folders at the same path.
    """
    place = root.resolve()
    found = place.stat()
    text = f"{socket.gethostname()} {place} {found.st_dev}:{found.st_ino}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
