"""The settings that all local models share."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from serving.settings import Env

PROGRAM = "llama-server"
FOLDER = "/models"
MOST_LOADED = 2
WATCH_SECONDS = 5.0


@dataclass(frozen=True)
class Options:
    """`program` as a path or a name on PATH; `folder` holds the files; at most `most_loaded` models run at once.

    Every `watch_seconds` the health of each is looked at, the memory five times as often, a GPU every third time.
    `shared`: a prompt that one tenant asked may speed up another's.
    """

    program: str = PROGRAM
    folder: str = FOLDER
    most_loaded: int = MOST_LOADED
    watch_seconds: float = WATCH_SECONDS
    require_gpu: bool = False
    shared: bool = False

    def found(self) -> str | None:
        """Return the path of the program, or None."""
        return shutil.which(self.program)

    @property
    def lack(self) -> str:
        """What to say where the program is missing."""
        if Path(self.program).is_absolute() and Path(self.program).exists():
            what = "is a folder" if Path(self.program).is_dir() else "is not executable"
            return f"{self.program} {what}; LLM_CALL_LLAMA_SERVER names a llama-server"
        return (
            f"there is no {self.program} here: of the image llm-call-api the targets local and cuda have it; "
            "elsewhere LLM_CALL_LLAMA_SERVER names it"
        )


def read(env: Env) -> Options:
    """Return what the environment says; faults are noted in `env`."""
    return Options(
        program=env.text("LLM_CALL_LLAMA_SERVER", PROGRAM),
        folder=env.text("LLM_CALL_MODELS_FOLDER", FOLDER),
        most_loaded=env.integer("LLM_CALL_LOCAL_MODELS_LOADED", MOST_LOADED, minimum=1, maximum=64),
        # A lost GPU is told within 60 s: three of these, two looks at the GPU of 15 s at most, a pause between.
        watch_seconds=env.seconds("LLM_CALL_LOCAL_WATCH_SECONDS", WATCH_SECONDS, minimum=0.1, maximum=6.0),
        require_gpu=env.flag("REQUIRE_GPU", False),
        shared=env.flag("LLM_CALL_CACHE_SHARED", False),
    )
