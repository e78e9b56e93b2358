"""Settings of variants and local models: what is wrong is told with its place and all at once, what is right is left alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from shipyard import dotenv, overlays, variants
from shipyard.errors import ConfigError
from shipyard.models import Project


@pytest.fixture
def ours(project: Project) -> Project:
    """The small project with the variants that this repository has."""
    api = dataclasses.replace(project.images["api"], targets=("dev", "prod", "debug", "local", "cuda"))
    proxy = dataclasses.replace(api, name="claude-proxy", targets=("dev", "prod", "debug", "cuda"))
    return dataclasses.replace(project, images={"api": api, "claude-proxy": proxy})


def told(project: Project, overlay: str, **settings: str) -> str:
    with pytest.raises(ConfigError) as raised:
        variants.check(project, overlays.select(overlay), settings, dotenv.filled(project))
    return str(raised.value)


@pytest.mark.parametrize(
    ("overlay", "settings"),
    [
        ("prod", {}),
        ("prod", {"LLM_CALL_API_VARIANT": "", "MODEL_SERVER": "", "MODELS_FOLDER": "", "REQUIRE_GPU": ""}),
        ("prod", {"LLM_CALL_API_VARIANT": "local"}),
        ("prod", {"LLM_CALL_API_VARIANT": "cuda"}),  # on the CPU, too: REQUIRE_GPU is what demands one
        ("prod", {"MODEL_SERVER": "ollama"}),
        ("dev", {"MODEL_SERVER": "local-llm"}),
        ("prod+gpu", {}),
        ("prod+gpu", {"MODEL_SERVER": "local-llm", "LLM_CALL_API_VARIANT": "cuda"}),
        ("hybrid+gpu", {"MODEL_SERVER": "local-llm", "CLAUDE_PROXY_VARIANT": "cuda"}),
        ("prod+gpu", {"LLM_CALL_API_VARIANT": "cuda", "REQUIRE_GPU": "true"}),
        ("hybrid", {"REQUIRE_GPU": "true"}),
        ("prod+gpu", {"GPU_DRIVER": "cdi", "GPU_DEVICE": "1"}),
        ("prod", {"GPU_DRIVER": "not used"}),
        ("prod", {"REQUIRE_GPU": "false"}),
        ("prod", {"MODELS_FOLDER": "not/used"}),
    ],
)
def test_what_is_right(ours: Project, overlay: str, settings: dict[str, str]) -> None:
    variants.check(ours, overlays.select(overlay), settings)


@pytest.mark.parametrize(
    ("overlay", "settings", "problem"),
    [
        ("prod", {"LLM_CALL_API_VARIANT": "lcal"}, '"lcal" is no variant of the image api; perhaps you meant "local"'),
        ("prod", {"LLM_CALL_API_VARIANT": "dev"}, '"dev" is no variant of the image api; known: cuda, local'),
        ("hybrid", {"LLM_CALL_API_VARIANT": "x"}, '.env: LLM_CALL_API_VARIANT: "x" is no variant'),
        ("prod", {"CLAUDE_PROXY_VARIANT": "local"}, '"local" is no variant of the image claude-proxy; known: cuda'),
        ("prod", {"MODEL_SERVER": "olama"}, '.env: MODEL_SERVER: "olama" is no model server; perhaps you meant "ollama"'),
        ("prod+gpu", {"MODEL_SERVER": "local-llm"}, "--gpu: nothing of this stack would use a GPU"),
        ("prod+gpu", {"MODEL_SERVER": "local-llm", "LLM_CALL_API_VARIANT": "local"}, "--gpu: nothing of this stack"),
        ("hybrid+gpu", {"MODEL_SERVER": "local-llm", "LLM_CALL_API_VARIANT": "cuda"}, "--gpu: nothing of this stack"),
        ("dev+gpu", {"MODEL_SERVER": "local-llm", "CLAUDE_PROXY_VARIANT": "cuda"}, "--gpu: nothing of this stack"),
        ("dev+gpu", {"GPU_DRIVER": "amd"}, '.env: GPU_DRIVER: "amd" is no device driver for GPUs'),
        ("prod+gpu", {"GPU_DEVICE": ""}, ".env: GPU_DEVICE: is empty"),
        ("prod", {"LLM_CALL_API_VARIANT": "cuda", "REQUIRE_GPU": "TRUE"}, ".env: REQUIRE_GPU: the API would have no GPU"),
        ("prod+gpu", {"LLM_CALL_API_VARIANT": "local", "REQUIRE_GPU": "1"}, ".env: REQUIRE_GPU: the API would have no GPU"),
        ("prod", {"REQUIRE_GPU": "maybe"}, '.env: REQUIRE_GPU: "maybe" is neither true nor false; write true or false'),
        ("prod", {"LLM_CALL_API_CPUS": "abc"}, '.env: LLM_CALL_API_CPUS: "abc" is no number of processors'),
        ("dev", {"MODEL_SERVER": "local-llm", "LOCAL_LLM_PRESETS": "a.ini"}, ".env: LOCAL_LLM_PRESETS: there is no file a.ini"),
        ("prod", {"MODEL_SERVER": "local-llm", "MODELS_FOLDER": "models"}, '.env: MODELS_FOLDER: "models" is no absolute path'),
        ("prod", {"LLM_CALL_API_VARIANT": "local", "MODELS_FOLDER": "/no/such"}, "/no/such is no folder of this machine"),
    ],
)  # fmt: skip
def test_what_is_wrong(ours: Project, overlay: str, settings: dict[str, str], problem: str) -> None:
    assert problem in told(ours, overlay, **settings)


def test_everything_at_once(ours: Project) -> None:
    found = told(ours, "prod", LLM_CALL_API_VARIANT="x", CLAUDE_PROXY_VARIANT="x", MODEL_SERVER="x", REQUIRE_GPU="on")
    assert len(found.splitlines()) == 4
    numbers = {"LOCAL_LLM_CONTEXT": "x", "OLLAMA_MEMORY": "x", "OLLAMA_CPUS": "x", "LLM_CALL_API_PORT": "x"}
    folder = {"MODEL_SERVER": "local-llm", "MODELS_FOLDER": "x"}
    assert len(told(ours, "prod", **numbers, **folder).splitlines()) == 5


@pytest.mark.parametrize("line", ["MODELS_FOLDER=/srv/$x", 'MODELS_FOLDER="/srv/$x"', 'MODELS_FOLDER="/a\\tb"'])
def test_a_folder_that_compose_would_change_is_refused(ours: Project, line: str) -> None:
    (ours.root / ".env").write_text(line + "\n")
    settings = {**dotenv.write(ours), "MODEL_SERVER": "local-llm"}
    assert told(ours, "prod", **settings) == (
        ".env: MODELS_FOLDER: Compose makes another name of it; write it in single quotes, where everything stands for itself"
    )


def test_a_folder_in_single_quotes_is_as_it_is(ours: Project, tmp_path: Path) -> None:
    (tmp_path / "of $x").mkdir()
    (ours.root / ".env").write_text(f"MODELS_FOLDER='{tmp_path}/of $x'\n")
    variants.check(
        ours, overlays.select("prod"), {**dotenv.write(ours), "MODEL_SERVER": "local-llm"}, dotenv.filled(ours)
    )


def test_a_number_that_compose_makes_of_others_is_left_to_it(ours: Project) -> None:
    (ours.root / ".env").write_text("LLM_CALL_API_PORT=${BASE}1\n")
    variants.check(ours, overlays.select("prod"), dotenv.write(ours), dotenv.filled(ours))


def test_an_image_without_variants(project: Project) -> None:
    assert "is no variant of the image api; leave it empty" in told(project, "prod", LLM_CALL_API_VARIANT="local")


def test_the_checkouts_own_folder_is_made_where_it_is_needed(ours: Project, tmp_path: Path) -> None:
    own = ours.root / "models"
    variants.prepare(ours, overlays.select("prod"), {})
    variants.prepare(ours, overlays.select("hybrid"), {"LLM_CALL_API_VARIANT": "local"})
    variants.prepare(ours, overlays.select("prod"), {"LLM_CALL_API_VARIANT": "local", "MODELS_FOLDER": str(tmp_path)})
    assert not own.exists()
    variants.prepare(ours, overlays.select("prod"), {"LLM_CALL_API_VARIANT": "local"})
    variants.prepare(ours, overlays.select("prod"), {"LLM_CALL_API_VARIANT": "local"})
    assert own.stat().st_mode & 0o777 == 0o755
    assert variants.folder(ours, {}) == own


@pytest.mark.parametrize(
    ("overlay", "notes"),
    [
        ("prod", []),
        ("hybrid", ["LLM_CALL_API_VARIANT=local counts in production only: the API of hybrid has no llama-server"]),
        ("host", ["LLM_CALL_API_VARIANT=local counts in production only: models local/NAME run by the llama-server"]),
        (
            "dev",
            [
                "LLM_CALL_API_VARIANT=local counts in production only: the API of dev has no llama-server",
                "CLAUDE_PROXY_VARIANT=cuda does not count here",
            ],
        ),
    ],
)
def test_where_a_variant_does_not_count_that_is_said(overlay: str, notes: list[str]) -> None:
    settings = {"LLM_CALL_API_VARIANT": "local", "CLAUDE_PROXY_VARIANT": "cuda"}
    found = variants.notes(overlays.select(overlay), settings)
    assert [note[: len(start)] for note, start in zip(found, notes, strict=True)] == notes
    assert variants.notes(overlays.select(overlay), {}) == []


@pytest.mark.parametrize("overlay", ["host", "hybrid", "dev", "prod"])
def test_where_a_demanded_gpu_does_not_count_that_is_said(overlay: str) -> None:
    found = variants.notes(overlays.select(overlay), {"REQUIRE_GPU": "true"})
    assert len(found) == (overlay != "prod")
    assert all(note.startswith("REQUIRE_GPU=true counts in production only") for note in found)
    assert ("HOST_REQUIRE_GPU=true" in "".join(found)) == (overlay == "host")
    assert variants.notes(overlays.select(overlay), {"REQUIRE_GPU": "false"}) == []
