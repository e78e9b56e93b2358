"""The source of a release: what git says of this checkout, the commit of a bump, the tag at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from shipyard import signals
from shipyard.artifacts import Commit
from shipyard.errors import CommandFailed, ReleaseRefused
from shipyard.run import Completed, run

#: Variables by which git's hooks point at the repository that called them: ours is the one at the root
#: (`git rev-parse --local-env-vars`, without those that carry settings).
_LOCAL = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
#: No hook, no monitor, no signature of a user's settings takes part; names are written as they are.
_SETTINGS = (
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false"),
    *("-c", "tag.gpgSign=false", "-c", "commit.gpgSign=false", "-c", "gc.auto=0"),
)


def repository(root: Path) -> None:
    """Raises ReleaseRefused unless ``root`` is the top of a git repository with a commit and all of its history."""
    if not shutil.which("git"):
        msg = "git is not installed; a release is made from a commit: install git"
        raise ReleaseRefused(msg)
    top = _git(root, "rev-parse", "--show-toplevel", check=False)
    if top.status:
        msg = f"{root} is not a git repository ({_last(top.stderr)}); a release is made from a commit: use a clone"
        raise ReleaseRefused(msg)
    if Path(top.stdout.strip()).resolve() != root.resolve():
        msg = f"{root} is a folder of the repository {top.stdout.strip()}; a release is made from the top of one"
        raise ReleaseRefused(msg)
    if _git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False).status:
        msg = f"the repository at {root} has no commit yet; commit what is to be released"
        raise ReleaseRefused(msg)


def commit(root: Path) -> Commit:
    """The commit that is checked out. Raises ReleaseRefused as ``repository`` does."""
    repository(root)
    revision, epoch = _git(root, "log", "-1", "--format=%H %ct").stdout.split()
    branch = _git(root, "symbolic-ref", "--quiet", "--short", "HEAD", check=False).stdout.strip()
    return Commit(revision, int(epoch), branch, not changes(root))


def shallow(root: Path) -> bool:
    """Whether history is cut off, as CI's checkouts do; tags are missing then too."""
    return _git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true"


def changes(root: Path) -> list[str]:
    """Paths that differ from the commit: changed, staged or untracked; ignored ones do not count."""
    words = ("status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames")
    return [line[3:] for line in _git(root, *words).stdout.split("\0") if line]


def text(root: Path, revision: str, path: str) -> str | None:
    """A file as a commit has it; None when it has none."""
    found = _git(root, "show", f"{revision}:{path}", check=False)
    return None if found.status else found.stdout


def subject(root: Path, revision: str) -> str:
    """The first line of a commit's message."""
    return _git(root, "log", "-1", "--format=%s", revision).stdout.strip()


def parent(root: Path, revision: str) -> str | None:
    """The first parent of a commit; None for the first commit, or one that is not there."""
    return _git(root, "rev-parse", "--verify", "--quiet", f"{revision}^1", check=False).stdout.strip() or None


def tagged(root: Path, tag: str) -> str | None:
    """The commit that a tag names; None when there is no such tag."""
    found = _git(root, "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}", check=False)
    return found.stdout.strip() or None


def tag(root: Path, name: str, revision: str, message: str) -> bool:
    """Make an annotated tag; false when it names the commit already. Raises ReleaseRefused when it names another one."""
    found = tagged(root, name)
    if found == revision:
        return False
    if found:
        msg = f"the git tag {name} names {found[:12]}, not {revision[:12]}; tags are not moved: choose a new version"
        raise ReleaseRefused(msg)
    identity(root)
    with signals.whole():
        _git(root, "tag", "--annotate", "--message", message, name, revision)
    return True


def identity(root: Path) -> None:
    """Raises ReleaseRefused when git does not know who commits and tags."""
    for kind in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"):
        found = _git(root, "var", kind, check=False)
        if found.status:
            msg = f"git does not know who you are ({_last(found.stderr)}); set user.name and user.email"
            raise ReleaseRefused(msg)


def record(root: Path, onto: str, files: Mapping[str, Path | None], message: str) -> str:
    """A new commit on top of ``onto`` in which the files have the given content, or are gone (None); its revision.

    Neither the working tree nor a branch changes: a kill leaves nothing but an object that nobody names.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(root, "read-tree", onto, extra=index)
        for path, content in sorted(files.items()):
            if content is None:
                _git(root, "update-index", "--force-remove", "--", path, extra=index)
                continue
            blob = _git(root, "hash-object", "-w", "--no-filters", "--", str(content)).stdout.strip()
            _git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", extra=index)
        tree = _git(root, "write-tree", extra=index).stdout.strip()
    return _git(root, "commit-tree", tree, "-p", onto, "-m", message).stdout.strip()


def forward(root: Path, revision: str) -> None:
    """Move the branch and the working tree on to a commit that follows the current one."""
    with signals.whole():
        _git(root, "merge", "--quiet", "--ff-only", revision)


def halfway(root: Path, revision: str) -> bool:
    """Whether the working tree is on its way from the current commit to ``revision``, its child, and nothing else changed.

    That is what a kill in the middle of ``forward`` leaves behind.
    """
    if parent(root, revision) != _git(root, "rev-parse", "HEAD").stdout.strip():
        return False
    return all(
        _content(root, path) in {_blob(root, "HEAD", path), _blob(root, revision, path)} for path in changes(root)
    )


def finish(root: Path, revision: str) -> None:
    """Bring a tree that is ``halfway`` to its end. Raises ReleaseRefused when it holds anything else."""
    if not halfway(root, revision):
        msg = f"the tree has other changes than those of {revision[:12]}: " + ", ".join(changes(root)[:5])
        raise ReleaseRefused(msg)
    with signals.whole():
        _git(root, "reset", "--quiet", "--hard", revision)


def _blob(root: Path, revision: str, path: str) -> str:
    return _git(root, "rev-parse", "--verify", "--quiet", f"{revision}:{path}", check=False).stdout.strip()


def _content(root: Path, path: str) -> str:
    """The blob that a file of the working tree would be; empty when it is gone, as ``_blob`` says of one that is not there."""
    if not os.path.lexists(root / path):
        return ""
    return _git(root, "hash-object", "--", path).stdout.strip()


def _git(root: Path, *words: str, check: bool = True, extra: Mapping[str, str] | None = None) -> Completed:
    kept = {name: value for name, value in os.environ.items() if name not in _LOCAL}
    # No lock for a mere question; messages that this module and its callers can read.
    environment = {**kept, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8", **(extra or {})}
    with suppress(FileNotFoundError):
        return run(["git", *_SETTINGS, *words], env=environment, cwd=root, timeout=120, check=check)
    raise CommandFailed(["git", *words], -1, f"{root} is not there")


def _last(message: str) -> str:
    lines = message.strip().splitlines()
    return lines[-1] if lines else "git says nothing"
