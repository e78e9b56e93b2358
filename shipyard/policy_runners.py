"""What production demands of claude-proxy's runners, where code runs that nobody trusts: each alone, and with nothing of ours."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from shipyard import policy_rules as rules
from shipyard.models import Fault

#: The volume with the socket of claude-proxy, where it is mounted, and the place for the files of a request.
VOLUME, SOCKETS, WORK = "runners", "/run/runners", "/run/work"
#: A uid that no service of ours has (10001 to 10008), nor root; then the runners' group.
_USER = re.compile(r"(?!1000\d:)([1-9]\d{3,4}):10101")
#: The most that the bounds of one request may be: above, they would be none.
MOST: Mapping[str, int] = {"pids_limit": 1024, "mem_limit": 64 << 30}
_HINT = "as compose/compose.yaml has it"


def faults(service: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What is wrong with one runner: key, problem and hint."""
    if not _USER.fullmatch(str(service.get("user", ""))):
        yield "user", "has no uid of its own", "user: UID:10101, a UID that no other service has"
    for key in ("environment", "secrets", "configs", "depends_on", "entrypoint"):
        if service.get(key):
            yield key, "a runner has nothing but its socket", "leave it out"
    mounts = [(each.get("type"), each.get("source"), each.get("target")) for each in service.get("volumes") or ()]
    if mounts != [("volume", VOLUME, SOCKETS)] or not service["volumes"][0].get("read_only"):
        yield "volumes", "a runner has nothing but its socket", f"volumes: [{VOLUME}:{SOCKETS}:ro]"
    work = [str(each) for each in service.get("tmpfs") or () if is_work(str(each))]
    if len(work) != 1 or "size=" not in work[0] or "nr_inodes=" not in work[0]:
        yield "tmpfs", "the files of a request have no bound", f"{WORK}:rw,exec,nosuid,nodev,size=512m,nr_inodes=131072"
    for key, most in MOST.items():
        if int(service.get(key) or 0) > most:
            yield key, f"is more than {most}, which bounds nothing", _HINT
    if str(service.get("mem_limit")) != str(service.get("memswap_limit")):
        yield "memswap_limit", "memory has another limit with swap", "the same as mem_limit"
    for port in ("ports", "expose"):
        if service.get(port):
            yield port, "a runner listens nowhere", "leave it out"


def is_work(place: str) -> bool:
    """Whether a tmpfs is the one for the files of a request, the only one that programs may run from."""
    return place.partition(":")[0] == WORK


def together(services: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with all of them: none at all beside claude-proxy, or two of one uid."""
    runners = {name: service for name, service in services.items() if name in rules.RUNNERS}
    if "claude-proxy" in services and not runners:
        yield Fault("services", "claude-proxy has no runner: requests would share a user and a container", _HINT)
    users = Counter(str(service.get("user", "")).partition(":")[0] for service in runners.values())
    for name, service in sorted(runners.items()):
        if users[str(service.get("user", "")).partition(":")[0]] > 1:
            yield Fault(f"services.{name}.user", "another runner has that uid", "give each a uid of its own")
