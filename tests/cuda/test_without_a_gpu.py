"""What holds of the targets cuda on a machine without a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import docker
from shipyard import fatbin, linking
from shipyard.models import BuildResult, Project
from tests.cuda.conftest import ARCHITECTURES, Root
from tests.support import claude_proxy_image
from tests.support.image_models import chat, serving
from tests.support.images import CUDA, listed, members
from tests.support.stack import ROOT

Built = dict[str, BuildResult]
Roots = dict[str, Root]
BACKEND = "usr/lib/llama/libggml-cuda.so"
#: The CUDA libraries that an image may have, in any version: what llama.cpp loads.
LOADED = {"libcudart", "libcublas", "libcublasLt"}
COMPILERS = {
    "nvcc",
    "ptxas",
    "cicc",
    "cudafe++",
    "fatbinary",
    "nvlink",
    "gcc",
    "g++",
    "cc",
    "ld",
    "as",
    "cmake",
    "ninja",
}
COMMAND = ["llama-server", "--model", "/models/tiny.gguf", "--host", "0.0.0.0", "--port", "9000", "--ctx-size", "512"]


def test_every_library_is_found_but_the_driver_s(roots: Roots, image: str) -> None:
    assert len(roots[image].elfs) > 30
    assert linking.missing(roots[image].elfs, roots[image].names) == []


def test_the_backend_asks_for_the_driver_and_for_these_cuda_libraries(roots: Roots) -> None:
    needed = roots["api"].elfs[BACKEND].needed
    assert {"libcuda.so.1", "libcudart.so.13", "libcublas.so.13"} <= set(needed)
    assert "libcuda.so.1" not in {Path(name).name for name in roots["api"].names}, "it is the host's"


def test_no_cuda_library_twice(roots: Roots, image: str) -> None:
    assert linking.twice(roots[image].files) == []
    found = {
        Path(name).name.split(".")[0] for name in roots[image].files if re.match(r"lib(cu(?!rl)|nv)", Path(name).name)
    }
    assert found == LOADED


def test_the_backend_has_no_cuda_runtime_of_its_own(roots: Roots) -> None:
    """Linked statically it would be a second copy, which no name tells; the runtime alone has the texts of its errors."""
    text = b"no CUDA-capable device is detected"
    folder = roots["api"].folder
    assert text in (folder / "usr/lib/x86_64-linux-gnu/libcudart.so.13").read_bytes()
    assert text not in (folder / BACKEND).read_bytes()


def test_nothing_that_only_a_compiler_needs(roots: Roots) -> None:
    names = [Path(name) for name in roots["api"].names]
    assert {name.name for name in names if "bin" in name.parts} & COMPILERS == set()
    assert [str(name) for name in names if name.suffix in (".a", ".o", ".h", ".hpp", ".cuh", ".cu", ".cubin")] == []


def test_the_binary_is_for_the_architectures_that_were_asked_for(roots: Roots) -> None:
    asked = sorted(int(re.sub(r"\D", "", each)) for each in ARCHITECTURES.split(";"))
    found = fatbin.architectures((roots["api"].folder / BACKEND).read_bytes())
    assert (list(found.real), list(found.virtual)) == (asked, asked[-1:])


def test_a_bill_of_materials_names_llama_cpp_and_the_cuda_packages(roots: Roots, image: str) -> None:
    found = listed(roots[image].folder, "amd64")
    locked = (ROOT / "requirements/cuda-runtime.txt").read_text() + (ROOT / "requirements/llama.txt").read_text()
    packages = {f"{name} {version}" for name, version in re.findall(r"^([\w-]+)==(\S+)", locked, re.MULTILINE)}
    expected = {each for each in packages if image == "api" or not each.startswith("llama")}
    assert expected <= set(found)
    assert all("NOASSERTION" not in found[each] for each in expected), {each: found[each] for each in expected}


def test_within_its_budget(built: Built, project: Project, image: str) -> None:
    assert 0 < built[image].size <= project.images[image].budget[CUDA]


def test_it_starts_and_answers_on_the_processor(client: docker.DockerClient, built: Built, tmp_path: Path) -> None:
    with serving(client, built["api"].reference, tmp_path, 9000, command=COMMAND) as (container, address):
        answer = chat(address)
        said = container.logs().decode()
    assert answer["usage"]["completion_tokens"] == 4
    assert "listening on" in said


def test_without_a_driver_it_lists_no_device(client: docker.DockerClient, built: Built) -> None:
    said = client.containers.run(
        built["api"].reference, ["llama-server", "--list-devices"], remove=True, read_only=True, stderr=True
    ).decode()
    assert "Available devices" in said
    assert "CUDA0" not in said


def test_it_is_prod_and_layers_on_top(client: docker.DockerClient, built: Built, prod: Built, image: str) -> None:
    def layers(reference: str) -> list[str]:
        found: list[str] = client.api.inspect_image(reference)["RootFS"]["Layers"]
        return found

    below, mine = layers(prod[image].reference), layers(built[image].reference)
    assert mine[: len(below)] == below
    assert len(mine) == len(below) + {"api": 2, "claude-proxy": 1}[image]


def test_it_is_told_about_the_gpu_and_nothing_else(
    client: docker.DockerClient, built: Built, prod: Built, image: str
) -> None:
    def settings(reference: str) -> set[str]:
        return set(client.api.inspect_image(reference)["Config"]["Env"])

    more = {"NVIDIA_DRIVER_CAPABILITIES=compute,utility"}
    more |= {"CLAUDE_PROXY_GPU=true"} if image == "claude-proxy" else set()
    assert settings(built[image].reference) - settings(prod[image].reference) == more


def test_a_tool_of_the_cli_finds_the_cuda_libraries(client: docker.DockerClient, built: Built, tmp_path: Path) -> None:
    """In the sandbox of the real CLI's Bash; cudaErrorNoDevice and cudaErrorInsufficientDriver of driver_types.h."""
    call = 'libraries.CDLL("libcudart.so.13").cudaGetDeviceCount(libraries.byref(libraries.c_int()))'
    command = f"python3 -c 'import ctypes as libraries; print(\"error\", {call})'"
    with claude_proxy_image.serving(client, built["claude-proxy"].reference, tmp_path) as container:
        answer = claude_proxy_image.said(claude_proxy_image.bash(container, command))
        log = container.logs().decode()
    assert answer.rstrip().endswith(("error 35", "error 100"))
    assert "there is no GPU here" in log


def test_prod_has_no_model_runtime_and_nothing_of_cuda(client: docker.DockerClient, prod: Built, image: str) -> None:
    """The control: what the other tests look for in the targets cuda is not there."""
    names = [member.name for member, _ in members(client, prod[image].reference, prod[image].platform)]
    assert [name for name in names if re.search(r"llama|ggml|/lib(cu|nv)[A-Za-z]+\.so", name)] == []
