"""Looks for secrets everywhere. They are given masked, so that nobody finds them in the hunter itself."""

import contextlib
import os
import stat
from pathlib import Path

MASK = 0x55
HUNTER = b"HUNTER = b"
"""In the command line of every hunter: what was unmasked there is not found again."""
LAST_PROCESS = 2000
LARGEST = 64 << 20
"""Bytes of a memory area; the CLI reserves some that are larger, and empty."""


def unmasked(secrets):
    return [bytes(byte ^ MASK for byte in bytes.fromhex(each)) for each in secrets]


def in_processes(*secrets):
    """Command line, environment and memory of every process but the hunters."""
    wanted, found, looked = unmasked(secrets), [], 0
    # Where /proc cannot be listed, its entries may be open all the same.
    for pid in range(1, LAST_PROCESS):
        for name, content in parts(Path(f"/proc/{pid}")):
            looked += bool(content)
            found += [f"{pid} {name}"] * any(each in content for each in wanted)
    return found_in(found, f"{looked} parts of /proc were open")


def parts(process):
    command = whole(process / "cmdline")
    if HUNTER not in command:
        yield "command line", command
        yield "environment", whole(process / "environ")
        with contextlib.suppress(OSError):
            yield from (("memory", area) for area in areas(process))


def whole(path):
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def areas(process):
    with (process / "mem").open("rb", 0) as memory:
        for line in (process / "maps").read_text().splitlines():
            start, end = (int(each, 16) for each in line.split()[0].split("-"))
            if line.split()[1].startswith("rw") and end - start <= LARGEST:
                with contextlib.suppress(OSError):
                    memory.seek(start)
                    yield memory.read(end - start)


def in_files(since, *secrets):
    """Every file that can be opened, but for the kernel's own and those that are older than the secrets."""
    wanted, found, looked = unmasked(secrets), [], 0
    for path in every_file():
        with contextlib.suppress(OSError):
            if path.stat().st_ctime >= float(since):
                content, looked = path.read_bytes(), looked + 1
                found += [str(path)] * any(each in content for each in wanted)
    return found_in(found, f"{looked} files were open")


def every_file():
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if f"{folder}{name}" not in ("/proc", "/sys")]
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path


def set_user_id():
    """Programs of the image with a set-user-ID or set-group-ID bit."""
    device = Path("/").stat().st_dev
    found = [(path, path.lstat()) for path in every_file()]
    marked = [str(path) for path, each in found if each.st_mode & 0o6000 and each.st_dev == device]
    return found_in(marked, f"{len(found)} files were looked at")


def found_in(found, looked):
    if not found:
        raise FileNotFoundError(f"there is none; {looked}")
    return found
