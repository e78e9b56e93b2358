"""Engine, plugins, signing tool and registry, unpacked from Debian packages into a private folder."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

from shipyard import console, proxies
from shipyard.commands import debian
from shipyard.engine.types import home
from shipyard.errors import CommandFailed, EngineMissing
from shipyard.run import run

#: Debian testing: the first suite with Docker Engine 28, Compose 2.40 and cosign.
SUITE = "forky"
PACKAGES = (
    "containerd",
    "cosign",
    "docker-buildx",
    "docker-cli",
    "docker-compose",
    "docker-registry",
    "docker.io",
    "iptables",
    "tini",
)
#: Programs that run on any C library from 2.34 on, by their place in the unpacked folder.
_LINKS = {
    "usr/bin/containerd": "containerd",
    "usr/bin/containerd-shim-runc-v2": "containerd-shim-runc-v2",
    "usr/bin/cosign": "cosign",
    "usr/bin/docker": "docker",
    "usr/bin/docker-registry": "docker-registry",
    "usr/bin/tini-static": "docker-init",
    "usr/sbin/docker-proxy": "docker-proxy",
    "usr/sbin/dockerd": "dockerd",
}
_IPTABLES = tuple(f"{name}{suffix}" for name in ("iptables", "ip6tables") for suffix in ("", "-save", "-restore"))
_TRIPLETS = {
    "x86_64": ("x86_64-linux-gnu", "usr/lib64/ld-linux-x86-64.so.2"),
    "aarch64": ("aarch64-linux-gnu", "usr/lib/ld-linux-aarch64.so.1"),
}
#: The C library those programs need (symbol versions read off the binaries of Docker Engine 28.5.2).
_GLIBC = (2, 34)
#: Below 2.38 the host's own runc is taken: testing's is linked against that version.
_GLIBC_OF_RUNC = (2, 38)


def folder() -> Path:
    """Where the unpacked programs are, or will be: named by what is unpacked, so that a new list is a new folder."""
    stamp = hashlib.sha256(" ".join((SUITE, platform.machine(), *PACKAGES)).encode()).hexdigest()[:12]
    return home() / f"packages-{stamp}"


def binaries() -> Path:
    """The folder to put on PATH."""
    return folder() / "bin"


def plugins() -> Path:
    """The folder with docker-buildx and docker-compose."""
    return folder() / "root/usr/libexec/docker/cli-plugins"


def obstacle() -> str:
    """Why packages cannot be unpacked on this machine; empty when they can."""
    if platform.system() != "Linux":
        return f"this is {platform.system()}, not Linux"
    if platform.machine() not in _TRIPLETS:
        return f"{platform.machine()} is neither x86_64 nor aarch64"
    if os.geteuid() != 0:
        return "you are not root"
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return "this is not a Debian-family system (no apt-get and dpkg-deb)"
    if _glibc() < _GLIBC:
        return f"the C library is older than {_GLIBC[0]}.{_GLIBC[1]}"
    return ""


def _glibc() -> tuple[int, ...]:
    name, version = platform.libc_ver()
    return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" and version else (0, 0)


def ensure() -> Path:
    """Unpack once; afterwards only the folder is looked up. The caller holds the engine lock. Returns the PATH folder."""
    done = folder()
    if done.exists():
        return binaries()
    if reason := obstacle():
        msg = f"Docker's programs cannot be unpacked here: {reason}"
        raise EngineMissing(msg)
    done.parent.mkdir(parents=True, exist_ok=True)
    for stale in done.parent.glob("unpacking-*"):
        shutil.rmtree(stale, ignore_errors=True)
    console.step(f"unpacking Docker Engine, buildx, Compose, cosign and registry from Debian {SUITE} into {done}")
    scratch = Path(tempfile.mkdtemp(prefix="unpacking-", dir=done.parent))
    scratch.chmod(0o755)
    try:
        _fill(scratch, done)
        scratch.rename(done)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return binaries()


def _fill(scratch: Path, done: Path) -> None:
    root, links = scratch / "root", scratch / "bin"
    try:
        run(debian.unpack(mmdebstrap(), SUITE, PACKAGES, root, keyring=keyring()), env=environment(), timeout=900)
    except CommandFailed as failed:
        msg = f"Debian packages could not be unpacked; is a Debian mirror reachable and is there space?\n{failed}"
        raise EngineMissing(msg) from failed
    links.mkdir()
    for source, name in _LINKS.items():
        (links / name).symlink_to(done / "root" / source)
    (links / "runc").symlink_to(done / "root/usr/bin/runc" if _glibc() >= _GLIBC_OF_RUNC else _host_runc(scratch, done))
    triplet, loader = _TRIPLETS[platform.machine()]
    for name in _IPTABLES:
        script = links / name
        script.write_text(debian.loader_wrapper(done / "root", triplet, loader, "usr/sbin/xtables-nft-multi", name))
        script.chmod(0o755)


def _host_runc(scratch: Path, done: Path) -> Path:
    """The runc of the host's own suite: the one on PATH, else its package unpacked beside the others."""
    if present := shutil.which("runc"):
        return Path(present)
    _download("runc", scratch / "host")
    return done / "host/usr/sbin/runc"


def mmdebstrap() -> str:
    """The bootstrap program: the host's, else its package unpacked privately. Raises EngineMissing when Perl cannot run it."""
    if present := shutil.which("mmdebstrap"):
        return present
    place = home() / "mmdebstrap"
    program = place / "usr/bin/mmdebstrap"
    if not program.exists():
        _download("mmdebstrap", place)
    if run(["perl", "-c", str(program)], check=False).status:
        console.step("installing Perl's standard modules, which mmdebstrap needs: apt-get install perl")
        run(["apt-get", "install", "--yes", "--no-install-recommends", "perl"], env=_quiet_apt(), timeout=600)
    return str(program)


def keyring() -> Path | None:
    """Debian's archive keys where the host (an Ubuntu, say) does not bring them; None when apt knows them already."""
    known = Path("usr/share/keyrings/debian-archive-keyring.gpg")
    if Path("/", known).exists():
        return None
    place = home() / "keyring"
    if not (place / known).exists():
        _download("debian-archive-keyring", place)
    return place / known


def environment() -> dict[str, str]:
    """For mmdebstrap: its helper programs lie beside it, wherever it was unpacked."""
    path = f"{Path(mmdebstrap()).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, **proxies.both_cases(), "PATH": path}


def _quiet_apt() -> dict[str, str]:
    return {**os.environ, **proxies.both_cases(), "DEBIAN_FRONTEND": "noninteractive"}


def _download(package: str, place: Path) -> None:
    """Fetch one package of the host's own suite and unpack it below ``place``; nothing is installed."""
    with tempfile.TemporaryDirectory(prefix="shipyard-apt-") as scratch:
        state = Path(scratch)
        for part in ("lists/partial", "cache/archives/partial"):
            (state / part).mkdir(parents=True)
        options = debian.private_apt(state)
        try:
            # A broken third-party source makes the update fail though ours is fine: the download decides.
            run(["apt-get", *options, "--quiet", "update"], env=_quiet_apt(), timeout=600, check=False)
            run(["apt-get", *options, "--quiet", "download", package], cwd=state, env=_quiet_apt(), timeout=600)
        except CommandFailed as failed:
            msg = f"the package {package} could not be fetched; try `apt-get install {package}`\n{failed}"
            raise EngineMissing(msg) from failed
        for archive in state.glob("*.deb"):
            run(["dpkg-deb", "--extract", str(archive), str(place)], timeout=120)
