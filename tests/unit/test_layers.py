"""The import contract: which part may know which, read off the source itself, whatever a test happens to import.

Imports inside functions and under ``TYPE_CHECKING`` count like any other.
"""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: shipyard, lowest layer first: a module imports only from rows above it. Peers of one row do not know each other,
#: but for those of ``TOGETHER``, whose modules are one capability each.
TOGETHER = ("engine", "diagnosis", "doctor")
LAYERS = (
    ("models", "artifacts", "plain_text", "strict_json"),
    ("errors", "model_files", "policy_mounts", "policy_rules", "quantities"),
    ("policy_runners",),
    ("names", "tags", "inputs", "policy", "acl", "secret_text", "deadline", "commands.*"),
    ("diagnosis", "diagnosis.*"),
    ("elf", "oci", "provenance", "treemap", "dsse", "evidence", "licenses", "socks", "processes", "signals", "owned"),
    ("proxies",),
    ("fatbin", "linking", "registry_documents"),
    ("config", "versions", "components"),
    ("console", "bill", "channels"),
    ("run",),
    ("engine", "engine.*"),
    ("machine", "journal", "lease", "layouts", "source", "logins", "registry_http"),
    ("credentials", "registry_access", "contents", "layers"),
    (
        "bases",
        "plans",
        "outdated",
        "sizes",
        "progress",
        "secrets",
        "dotenv",
        "ports",
        "host",
        "host_started",
        "registry",
        "changelog",
        "recorded",
        "variants",
        "gpus",
    ),
    (
        "failures",
        "compose",
        "remembered",
        "entrance",
        "secrets_access",
        "sbom",
        "debian_locks",
        "local_registry",
    ),
    ("attachments", "growth", "signing_keys", "published", "tag_checks"),
    ("secrets_check", "signing"),
    ("channel_statements",),
    ("freshness", "promotion"),
    ("images", "overlays", "containers", "loading", "release_build", "publishing", "image_checks", "release_drawing"),
    ("rolling", "host_api", "reached", "verification", "repro", "release_page", "world"),
    ("released", "statement", "doctor", "doctor.*"),
    ("moves", "rotation", "steps", "steps.*"),
    ("stack", "pipeline", "rollback"),
)

#: The services below src/: what each may import of the others.
SERVICES = {"serving": set(), "llm_call": {"serving"}, "claude_proxy": {"serving"}}


def imported(path: Path, package: str) -> set[str]:
    """Every name that a file imports, as far down as it is written: ``from a import b`` is ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -(node.level - 1) or None] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Modules below a top package, by their dotted name from its parent; a package counts as itself."""
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def package_of(name: str, path: Path) -> str:
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def modules() -> dict[str, set[str]]:
    """Each module of shipyard with the modules of shipyard that it imports, all without the leading ``shipyard.``."""
    found = dict(sources(ROOT / "shipyard"))
    graph: dict[str, set[str]] = {}
    for name, path in found.items():
        names = imported(path, package_of(name, path))
        targets = {each if each in found else each.rpartition(".")[0] for each in names}
        graph[name.removeprefix("shipyard.")] = {
            each.removeprefix("shipyard.") for each in targets if each.partition(".")[0] == "shipyard"
        }
    return graph


def row(module: str) -> int | None:
    rows = [number for number, row in enumerate(LAYERS) if any(fnmatch.fnmatch(module, each) for each in row)]
    return rows[0] if len(rows) == 1 else None


def tops(path: Path, package: str = "") -> set[str]:
    return {name.partition(".")[0] for name in imported(path, package)}


def test_every_module_of_the_toolkit_has_its_place() -> None:
    graph = modules()
    homeless = sorted(name for name in graph if row(name) is None and name not in ("shipyard", "commands"))
    assert homeless == [], "add these modules to LAYERS, in the lowest row that is true"
    unused = [each for row in LAYERS for each in row if not fnmatch.filter(graph, each)]
    assert unused == [], "LAYERS names modules that do not exist"


def test_a_module_of_the_toolkit_imports_only_from_rows_above_it() -> None:
    wrong = []
    for name, targets in modules().items():
        for target in targets:
            mine, other = row(name), row(target)
            together = name.partition(".")[0] == target.partition(".")[0] in TOGETHER
            if mine is None or other is None or not (other < mine or together):
                wrong.append(f"shipyard.{name} imports shipyard.{target}")
    assert sorted(wrong) == []


def test_the_packages_themselves_import_nothing() -> None:
    graph = modules()
    assert {name: graph[name] for name in ("shipyard", "commands")} == {"shipyard": set(), "commands": set()}


def test_the_toolkit_knows_neither_its_callers_nor_the_services() -> None:
    forbidden = {"invoke", "nox", "tasks", "verbs", "noxfile", "tests", *SERVICES}
    wrong = {
        name: found
        for name, path in sources(ROOT / "shipyard")
        if (found := tops(path, package_of(name, path)) & forbidden)
    }
    assert wrong == {}


def test_services_import_neither_the_toolkit_nor_each_other() -> None:
    found = {folder.name for folder in (ROOT / "src").iterdir() if (folder / "__init__.py").exists()}
    assert found == set(SERVICES)
    outside = {"shipyard", "invoke", "nox", "tasks", "verbs", "noxfile", "tests"}
    wrong = []
    for service, allowed in SERVICES.items():
        forbidden = (outside | set(SERVICES)) - allowed - {service}
        for name, path in sources(ROOT / "src" / service):
            wrong += [f"{name} imports {each}" for each in sorted(tops(path, package_of(name, path)) & forbidden)]
    assert wrong == []


def test_the_proofs_do_not_know_the_toolkit() -> None:
    files = [path for path in (ROOT / "noxfile.py",) if path.exists()]
    assert [path.name for path in files if tops(path) & {"shipyard", "tasks", "verbs", "invoke"}] == []


def test_only_one_place_starts_processes() -> None:
    """``run``: what ends with us, and what outlives us; two others name the type of what that returns."""
    starters = {
        name for name, path in sources(ROOT / "shipyard") if tops(path) & {"subprocess", "pty", "multiprocessing"}
    }
    assert starters == {"shipyard.run", "shipyard.engine.embedded", "shipyard.local_registry"}


def test_the_verbs_stay_thin() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "tasks.py", *ROOT.glob("verbs/*.py"))}
    assert max(lengths.values()) < 150, lengths


def test_nothing_is_called_utils() -> None:
    paths = [path for top in ("shipyard", "src", "tests", "verbs") for path in (ROOT / top).rglob("*.py")]
    assert [path for path in paths if {"utils", "util", "helpers", "misc"} & {path.stem, path.parent.name}] == []


def test_the_reader_of_imports_sees_every_form(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import a.b, c\n"
        "from d import e as f\n"
        "from . import g\n"
        "from .h import i\n"
        "from ..j import k\n"
        "if TYPE_CHECKING:\n    from l.m import n\n"
        "def lazy():\n    import o\n"
    )
    assert imported(path, "top.sub") == {"a.b", "c", "d.e", "top.sub.g", "top.sub.h.i", "top.j.k", "l.m.n", "o"}
