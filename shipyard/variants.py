"""What ``.env`` says of variants and local models: each fault with its place, before Compose or the engine trip over it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from shipyard import model_files, quantities
from shipyard.diagnosis import gpu_choice
from shipyard.errors import ConfigError
from shipyard.models import Fault, Project, Selection
from shipyard.names import perhaps

#: What can be the service "ollama": services of compose/model-servers.yaml.
SERVERS = ("local-llm", "ollama")
#: Targets that are no variant: which of them runs is the overlay's matter.
PLAIN = ("prod", "dev", "debug")
API, PROXY, SERVER, REQUIRE = "LLM_CALL_API_VARIANT", "CLAUDE_PROXY_VARIANT", "MODEL_SERVER", "REQUIRE_GPU"
#: The words that the services take for yes and no (serving.settings).
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def check(project: Project, selection: Selection, settings: Mapping[str, str], filled: Collection[str] = ()) -> None:
    """Raise ConfigError with everything that is wrong. ``settings`` is what Compose fills in: ``.env`` and the environment.

    ``filled`` are names whose values Compose changes before it takes them (``dotenv.filled``). Numbers are left to it then; a
    folder is not, for it would make another one.
    """
    numbers = {name: value for name, value in settings.items() if name not in filled}
    found = [
        *_variant(project, "api", API, settings),
        *_variant(project, "claude-proxy", PROXY, settings),
        *_server(settings),
        *_gpu(selection, settings),
        *quantities.faults(selection, numbers),
        *(_models(project, settings, filled) if _mounted(selection, settings) else ()),
    ]
    if found:
        raise ConfigError(found)


def folder(project: Project, settings: Mapping[str, str]) -> Path:
    """Where model files lie on the host; the folder ``models`` of the checkout unless MODELS_FOLDER names another."""
    return model_files.place(project, settings)


def prepare(project: Project, selection: Selection, settings: Mapping[str, str]) -> None:
    """Make the checkout's own models folder where it is mounted and missing: the engine would make it root's."""
    own = not settings.get(model_files.FOLDER)
    if _mounted(selection, settings) and own and not folder(project, settings).exists():
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
    word = settings.get(REQUIRE, "").lower()
    if word and word not in (*TRUE, *FALSE):
        yield Fault(f".env: {REQUIRE}", f'"{settings[REQUIRE]}" is neither true nor false', "write true or false")
    if word in TRUE and prod and not (asked and settings.get(API) == "cuda"):
        hint = f"start with --gpu and {API}=cuda, or leave it out"
        yield Fault(f".env: {REQUIRE}", "the API would have no GPU, and end at once", hint)


def _mounted(selection: Selection, settings: Mapping[str, str]) -> bool:
    """Whether a service has the models folder."""
    return settings.get(SERVER) == "local-llm" or bool(selection.overlay == "prod" and settings.get(API))


def _models(project: Project, settings: Mapping[str, str], filled: Collection[str]) -> list[Fault]:
    read = (model_files.FOLDER, *([model_files.PRESETS] if settings.get(SERVER) == "local-llm" else []))
    hint = "write it in single quotes, where everything stands for itself"
    changed = [Fault(f".env: {name}", "Compose makes another name of it", hint) for name in read if name in filled]
    presets = settings.get(model_files.PRESETS, "") if model_files.PRESETS in read else ""
    return changed or model_files.faults(project, settings, presets)
