"""What ``.env`` says of variants and local models: each fault with its place, before Compose or the engine trip over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from shipyard.diagnosis import gpu_choice
from shipyard.errors import ConfigError
from shipyard.models import Fault, Project, Selection
from shipyard.names import perhaps

#: What can be the service "ollama": services of compose/model-servers.yaml.
SERVERS = ("local-llm", "ollama")
#: Targets that are no variant: which of them runs is the overlay's matter.
PLAIN = ("prod", "dev", "debug")
API, PROXY, SERVER, FOLDER, REQUIRE = (
    "LLM_CALL_API_VARIANT",
    "CLAUDE_PROXY_VARIANT",
    "MODEL_SERVER",
    "MODELS_FOLDER",
    "REQUIRE_GPU",
)
#: The words that the services take for yes (serving.settings).
TRUE = ("1", "true", "yes", "on")


def check(project: Project, selection: Selection, settings: Mapping[str, str]) -> None:
    """Raise ConfigError with everything that is wrong. ``settings`` is what Compose fills in: ``.env`` and the environment."""
    found = [
        *_variant(project, "api", API, settings),
        *_variant(project, "claude-proxy", PROXY, settings),
        *_server(settings),
        *_gpu(selection, settings),
        *_models(project, selection, settings),
    ]
    if found:
        raise ConfigError(found)


def folder(project: Project, settings: Mapping[str, str]) -> Path:
    """Where model files lie on the host; the folder ``models`` of the checkout unless MODELS_FOLDER names another."""
    return Path(settings.get(FOLDER) or project.root / "models")


def prepare(project: Project, selection: Selection, settings: Mapping[str, str]) -> None:
    """Make the checkout's own models folder where it is mounted and missing: the engine would make it root's."""
    if _mounted(selection, settings) and not settings.get(FOLDER) and not folder(project, settings).exists():
        folder(project, settings).mkdir()
        folder(project, settings).chmod(0o755)  # whatever the umask: services read it as users of their own


def notes(selection: Selection, settings: Mapping[str, str]) -> list[str]:
    """What a person should know who asked for a variant where it does not count."""
    said = []
    variant, overlay = settings.get(API), selection.overlay
    if variant and overlay == "host":
        said.append(
            f"{API}={variant} counts in production only: models local/NAME run by the llama-server of this host, which is "
            "looked for on PATH (HOST_LLM_CALL_LLAMA_SERVER in .env names another)"
        )
    elif variant and overlay != "prod":
        said.append(
            f"{API}={variant} counts in production only: the API of {overlay} has no llama-server, and models local/NAME "
            "answer 503"
        )
    if settings.get(REQUIRE, "").lower() in TRUE and overlay != "prod":
        more = "; HOST_REQUIRE_GPU=true is for the API on the host" if overlay == "host" else ""
        said.append(f"{REQUIRE}={settings[REQUIRE]} counts in production only: here the API starts without a GPU{more}")
    if settings.get(PROXY) and overlay == "dev":
        said.append(f"{PROXY}={settings[PROXY]} does not count here: the claude-proxy of dev is an image of its own")
    return said


def _variant(project: Project, image: str, name: str, settings: Mapping[str, str]) -> Iterator[Fault]:
    declared = project.images[image].targets if image in project.images else ()
    known = [target for target in declared if target not in PLAIN]
    value = settings.get(name)
    if value and value not in known:
        hint = f"{perhaps(value, known)}; empty for the ordinary one" if known else "leave it empty"
        yield Fault(f".env: {name}", f'"{value}" is no variant of the image {image}', hint)


def _server(settings: Mapping[str, str]) -> Iterator[Fault]:
    value = settings.get(SERVER)
    if value and value not in SERVERS:
        yield Fault(f".env: {SERVER}", f'"{value}" is no model server', perhaps(value, SERVERS))


def _gpu(selection: Selection, settings: Mapping[str, str]) -> Iterator[Fault]:
    """A GPU that there cannot be, that nobody would use, or that is demanded by one who gets none."""
    asked, prod = "gpu" in selection.add_ons, selection.overlay == "prod"
    if asked:
        yield from gpu_choice.faults(settings)
    accelerated = [settings.get(PROXY)] if selection.overlay != "dev" else []
    accelerated += [settings.get(API)] if prod else []
    if asked and settings.get(SERVER) == "local-llm" and "cuda" not in accelerated:
        hint = f"leave --gpu out, or write {SERVER}=ollama, or {API}=cuda for invoke prod"
        yield Fault("--gpu", "nothing of this stack would use a GPU: local-llm computes on the CPU", hint)
    demanded = settings.get(REQUIRE, "").lower() in TRUE
    if demanded and prod and not (asked and settings.get(API) == "cuda"):
        hint = f"start with --gpu and {API}=cuda, or leave it out"
        yield Fault(f".env: {REQUIRE}", "the API would have no GPU, and end at once", hint)


def _mounted(selection: Selection, settings: Mapping[str, str]) -> bool:
    """Whether a service has the models folder."""
    return settings.get(SERVER) == "local-llm" or bool(selection.overlay == "prod" and settings.get(API))


def _models(project: Project, selection: Selection, settings: Mapping[str, str]) -> Iterator[Fault]:
    if not _mounted(selection, settings):
        return
    place, path = f".env: {FOLDER}", folder(project, settings)
    if not path.is_absolute():
        yield Fault(place, f'"{path}" is no absolute path', "write for example /srv/models")
    elif settings.get(FOLDER) and not path.is_dir():
        yield Fault(place, f"{path} is no folder of this machine", "make it, or name another")
    elif path.is_dir():
        closed = [each for each in (path, *sorted(path.rglob("*"))) if not _readable(each)]
        if closed:
            more = f" and {len(closed) - 1} more" if len(closed) > 1 else ""
            hint = f"the services run as a user of their own; chmod -R go+rX {path}"
            yield Fault(str(closed[0]) + more, "is not readable by others", hint)


def _readable(path: Path) -> bool:
    """Whether everybody may read a file, or enter a folder; a link that leads nowhere is the service's to tell."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return True
    wanted = 0o005 if path.is_dir() else 0o004
    return mode & wanted == wanted
