"""What the CLI of one request may reach: pure rules, put into force by `landlock` between fork and exec.

Everything that is not named here is out of reach: other requests' folders, /run/secrets, /app, the workspace itself,
the services' settings below /etc, and whatever /proc says of other processes. Landlock has no rule for UDP and for
looking whether a file exists; the networks of the stack and names that nobody can guess stand in for these. `seccomp`
refuses the rest that it has no rule for.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from claude_proxy import gpu, landlock, seccomp
from serving.settings import SettingsError

log = logging.getLogger("claude_proxy.sandbox")

ETC = (
    # Users, hosts and time, as the C library asks for them.
    *("passwd", "group", "nsswitch.conf", "hosts", "host.conf", "hostname", "gai.conf", "resolv.conf", "networks"),
    *("protocols", "services", "ethertypes", "rpc", "localtime", "timezone", "locale.alias", "locale.conf"),
    # The loader, and what Debian's and Red Hat's links in /usr/bin lead through.
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "alternatives"),
    # Certificates, but no private keys.
    *("ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf", "ca-certificates", "ca-certificates.conf"),
    *("pki/tls/certs", "pki/tls/openssl.cnf", "pki/ca-trust", "crypto-policies"),
    # Settings of the tools themselves.
    *("os-release", "debian_version", "lsb-release", "mime.types", "magic", "gitconfig", "xattr.conf", "shells"),
    *("profile", "profile.d", "bash.bashrc", "bashrc", "inputrc", "terminfo", "python3", "python3.13"),
)
"""Names in /etc, one by one: the folder is also where services keep settings and secrets, ours among them."""
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"),
    *(f"/etc/{name}" for name in ETC),
    # Not /proc itself: command lines of other requests are readable there. `self` is the CLI's own process.
    *("/proc/self", "/proc/cpuinfo", "/proc/filesystems", "/proc/loadavg", "/proc/meminfo", "/proc/stat"),
    *("/proc/sys", "/proc/uptime", "/proc/version", "/sys/devices/system/cpu", "/sys/fs/cgroup"),
    *("/dev/random", "/dev/urandom", "/dev/zero"),
)
DEVICES = ("/dev/full", "/dev/null", "/dev/tty")
MODES = ("required", "best-effort")


@dataclass(frozen=True)
class Reach:
    """Files to read and run, files to change, TCP ports to connect to, and whether there are GPUs among the files."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    gpu: bool = False


class Sandbox:
    """Whether this kernel has the sandbox, and what is to happen where it does not."""

    def __init__(self, mode: str, version: int | None = None, machine: str | None = None) -> None:
        self._machine = platform.machine() if machine is None else machine
        known = seccomp.knows(self._machine)
        self.version = (landlock.abi() if version is None else version) if known else 0
        self.required = mode == "required"

    @property
    def lack(self) -> str:
        """What is missing, for the readiness report; empty when nothing is."""
        if not seccomp.knows(self._machine):
            known = ", ".join(seccomp.ARCHITECTURES)
            return f"there is no system call filter for {self._machine}, so tools stay off; use one of {known}"
        if not self.version:
            return "this kernel or its seccomp filter offers no Landlock, so tools stay off; use Linux 5.13 or later"
        return ""

    def announce(self) -> None:
        """Log how well requests are kept apart."""
        if self.version and self.version < landlock.SCOPED_ABI:
            log.warning("this kernel lets a tool signal other requests' processes; Linux 6.12 does not")
        log.info("sandbox", extra={"landlock_abi": self.version, "required": self.required})

    async def working(self) -> None:
        """Health check: raises when requests cannot be kept apart."""
        if self.lack:
            raise RuntimeError(self.lack)

    def check(self) -> None:
        """Raise SettingsError where the sandbox is demanded and cannot be had."""
        if self.required and self.lack:
            raise SettingsError([f"CLAUDE_PROXY_SANDBOX: required, but {self.lack}"])


def reach(
    cli: str,
    folder: Path,
    readable: Iterable[str],
    writable: Iterable[str],
    urls: Iterable[str],
    gpus: Sequence[str] = (),
) -> Reach:
    """Return what a CLI may reach that works in `folder` and talks to `urls`; `gpus` are their device files."""
    return Reach(
        read=(*SYSTEM, str(Path(cli).resolve()), *readable, *(gpu.DESCRIPTIONS if gpus else ())),
        write=(*DEVICES, str(folder), *writable, *gpus),
        ports=tuple(sorted({port(url) for url in urls})),
        gpu=bool(gpus),
    )


def port(url: str) -> int:
    """Return the TCP port of an http or https URL."""
    parts = urlsplit(url)
    return parts.port or (80 if parts.scheme == "http" else 443)
