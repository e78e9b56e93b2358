"""A model on a GPU against the same model on the processors, by the llama-server of the target cuda, in the same run.

.venv/bin/python -m bench.gpu [--llama PATH] [--model FILE.gguf] [--tokens N] [--rounds N] [--cpu-only]

PATH is a llama-server, or the folder of an unpacked image (docker export llm-call-api:VERSION-cuda | tar -x -C FOLDER); without
it the one on PATH. No Docker is needed. Without --model one of llama's architecture with random weights is written, 0.5 GB:
its answers are nonsense, their speed is that of any model of its size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.measure import ROOT
from tests.support.service import Service, wait_until
from tests.support.stack import free_ports

#: Seconds until a model is loaded: half a gigabyte, or the user's tens of them.
_LOADED = 600
#: Seconds for one answer on slow processors.
_ANSWER = 600
#: Words of the prompt, as many as to make reading it measurable.
_PROMPT = "The quick brown fox jumps over the lazy dog. " * 40
#: Layers on the GPU: more than any model has, or none.
_ALL, _NONE = "999", "0"


class Refused(Exception):
    """Why nothing can be measured here, and what to do."""


def main() -> None:
    """Measure and print the table; ends with 1 and one line where nothing can be measured."""
    options = _options()
    try:
        program = _program(options.llama)
        gpu = "" if options.cpu_only else _gpu(program)
    except Refused as refused:
        sys.exit(f"bench.gpu: {refused}")
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        model = options.model or _written(Path(scratch) / "model.gguf")
        size = model.stat().st_size
        found = {"CPU": _measure(program, model, _NONE, options, Path(scratch))}
        if gpu:
            found["GPU"] = _measure(program, model, _ALL, options, Path(scratch))
    _show(gpu or "no GPU was asked", size, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--llama", type=Path, help="a llama-server, or the folder of an unpacked image")
    parser.add_argument("--model", type=Path, help="a GGUF file")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=3, help="answers of which the median counts")
    parser.add_argument("--cpu-only", action="store_true", help="leave the GPU out: shows that the rest works")
    return parser.parse_args()


def _program(named: Path | None) -> list[str]:
    """The command that runs llama-server; one of an unpacked image by that image's own loader."""
    if named is None:
        found = shutil.which("llama-server")
        if not found:
            msg = "there is no llama-server on PATH; name one with --llama"
            raise Refused(msg)
        return [found]
    if named.is_file():
        return [str(named.resolve())]
    server = named / "usr/lib/llama/llama-server"
    loaders = [*named.glob("usr/lib64/ld-linux-*.so.*"), *named.glob("usr/lib/ld-linux-*.so.*")]
    if not server.is_file() or not loaders:
        msg = f"{named} is neither a llama-server nor an unpacked image of the target cuda (usr/lib/llama/llama-server)"
        raise Refused(msg)
    libraries = [*named.glob("usr/lib/*-linux-gnu"), server.parent]
    places = [each.resolve() for each in (*libraries, *_drivers())]
    return [str(loaders[0].resolve()), "--library-path", ":".join(map(str, places)), str(server.resolve())]


def _drivers() -> list[Path]:
    """Folders where a host keeps its driver's library: a foreign loader does not know them."""
    listed = (
        subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False) if _has("ldconfig") else None
    )
    lines = listed.stdout.splitlines() if listed else []
    found = [Path(line.split("=>")[-1].strip()).parent for line in lines if "libcuda.so.1" in line]
    named = [Path(each) for each in os.environ.get("LD_LIBRARY_PATH", "").split(":") if each]
    return list(dict.fromkeys(found + named + [Path("/usr/local/nvidia/lib64")]))


def _has(name: str) -> bool:
    return shutil.which(name) is not None


def _folder(program: list[str]) -> Path:
    """Where llama-server is started: beside its backends, which are looked for there; by a foreign loader else nowhere."""
    return Path(program[-1]).resolve().parent


def _gpu(program: list[str]) -> str:
    """The GPU's name and driver. Raises Refused where there is none, or llama-server does not see it."""
    if not _has("nvidia-smi"):
        msg = (
            "this machine has no NVIDIA GPU, or its driver is not installed (no nvidia-smi); --cpu-only shows the rest"
        )
        raise Refused(msg)
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    if said.returncode or not said.stdout.strip():
        msg = f"nvidia-smi finds no GPU: {(said.stdout + said.stderr).strip()[:300]}"
        raise Refused(msg)
    asked = [*program, "--list-devices"]
    listed = subprocess.run(asked, cwd=_folder(program), capture_output=True, text=True, check=False)
    if "CUDA0" not in listed.stdout + listed.stderr:
        msg = (
            f"llama-server does not see the GPU ({said.stdout.strip()}); is it the one of the target cuda, and the driver of "
            f"branch 580 or newer?\n{(listed.stdout + listed.stderr).strip()[-1000:]}"
        )
        raise Refused(msg)
    return said.stdout.splitlines()[0].strip()


def _written(path: Path) -> Path:
    """A model of half a gigabyte, in a process of its own: its sizes are those of a module."""
    code = (
        "import sys; from pathlib import Path; from tests.support import tiny_model as t; "
        "t.WIDTH, t.INNER, t.LAYERS, t.HEADS, t.CONTEXT = 1024, 4096, 8, 16, 8192; t.write(Path(sys.argv[1]))"
    )
    print("writing a model of random weights", file=sys.stderr)
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True)
    return path


@contextmanager
def _serving(program: list[str], model: Path, layers: str, log: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    line = [*program, "--model", str(model.resolve()), "--host", "127.0.0.1", "--port", str(port), "--ctx-size", "4096"]
    line += ["--parallel", "1", "--n-gpu-layers", layers]
    # Without the backend for GPUs not even the reading of the prompt is done there.
    device = ["--device", "none"] if layers == _NONE else []
    with log.open("wb") as output:
        process = subprocess.Popen([*line, *device], cwd=_folder(program), stdout=output, stderr=subprocess.STDOUT)
    service = Service(process, log)
    try:
        wait_until(lambda: service.find(r"listening on http"), "llama-server", _LOADED)
        yield f"http://127.0.0.1:{port}"
    finally:
        service.stop()


def _measure(
    program: list[str], model: Path, layers: str, options: argparse.Namespace, scratch: Path
) -> dict[str, float]:
    """Medians of tokens per second, read and written, and the memory that the GPU's processes take, in MB."""
    before = _memory()
    with _serving(program, model, layers, scratch / f"{layers}.log") as address:
        _answer(address, 8)  # what is only done for the first answer
        rounds = [_answer(address, options.tokens)["timings"] for _ in range(options.rounds)]
        memory = _memory() - before
    return {
        "prompt": statistics.median(each["prompt_per_second"] for each in rounds),
        "answer": statistics.median(each["predicted_per_second"] for each in rounds),
        "memory": memory,
    }


def _answer(address: str, tokens: int) -> dict[str, Any]:
    question = {"prompt": _PROMPT, "n_predict": tokens, "cache_prompt": False, "ignore_eos": True, "temperature": 0}
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{address}/completion", json.dumps(question).encode(), headers)
    with urllib.request.urlopen(request, timeout=_ANSWER) as response:
        found: dict[str, Any] = json.loads(response.read())
        return found


def _memory() -> float:
    """MB in use on all GPUs; 0 without one."""
    if not _has("nvidia-smi"):
        return 0.0
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    return sum(float(line) for line in said.stdout.split() if line.strip().isdigit())


def _show(gpu: str, size: int, found: dict[str, dict[str, float]]) -> None:
    print(f"{gpu}; {os.cpu_count()} processors; model of {size / 1e6:.0f} MB")
    print(f"{'':4}  {'prompt tokens/s':>16}  {'answer tokens/s':>16}  {'GPU memory, MB':>16}")
    for name, each in found.items():
        print(f"{name:4}  {each['prompt']:16.1f}  {each['answer']:16.1f}  {each['memory']:16.0f}")
    if "GPU" in found:
        ratio = {key: found["GPU"][key] / found["CPU"][key] for key in ("prompt", "answer")}
        print(f"GPU to CPU: prompt {ratio['prompt']:.1f}, answer {ratio['answer']:.1f}")


if __name__ == "__main__":
    main()
