"""CPU or GPU. There is none here: what llama-server finds is a double's word, everything else is real."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.local.conftest import Start
from tests.support.local_models import model, script
from tests.support.service import wait_until

OFTEN = {"LLM_CALL_LOCAL_WATCH_SECONDS": "0.4"}
GPU = "Available devices:\n  CUDA0: Tesla T4 (15095 MiB, 14000 MiB free)\n"
NONE = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected\nAvailable devices:\n  (none)\n"


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """The file with what the double says of devices."""
    (tmp_path / "devices").write_text(GPU)
    return tmp_path / "devices"


@pytest.fixture
def double(tmp_path: Path, devices: Path, program: Path) -> Path:
    """llama-server but for its devices."""
    body = f"""
if '--list-devices' in sys.argv:
    sys.stdout.write(open({str(devices)!r}).read())
    sys.exit(0)
os.execv({str(program)!r}, [{str(program)!r}, *sys.argv[1:]])
"""
    return script(tmp_path / "with-gpu", body)


def test_without_a_gpu_the_service_refuses_where_one_is_required(start: Start) -> None:
    """The real llama-server finds none."""
    with pytest.raises(AssertionError) as caught, start(model("tiny"), REQUIRE_GPU="1"):
        pass
    assert "ended with 78" in str(caught.value)
    assert "llm-call-api: REQUIRE_GPU: llama-server finds no GPU" in str(caught.value)


def test_an_image_without_llama_server_refuses_too(start: Start, tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as caught, start(model("tiny"), program=tmp_path / "no", REQUIRE_GPU="1"):
        pass
    assert "the targets local and cuda have it" in str(caught.value)


def test_it_says_on_which_gpu_models_run(start: Start, double: Path) -> None:
    with start(model("tiny"), program=double, REQUIRE_GPU="1") as api:
        wait_until(lambda: api.logged("local models run on CUDA0: Tesla T4"), "the line")
        assert api.ask()[0] == 200
        assert api.service.get("/health/ready")[1]["dependencies"]["gpu"] == {"state": "ok", "required": True}


@pytest.mark.parametrize("required", ["0", "1"])
def test_a_lost_gpu_ends_readiness_until_it_is_back(start: Start, double: Path, devices: Path, required: str) -> None:
    with start(model("tiny"), program=double, REQUIRE_GPU=required, **OFTEN) as api:
        wait_until(lambda: api.service.get("/health/ready")[1]["dependencies"].get("gpu"), "the GPU is watched")
        assert api.service.get("/health/ready")[0] == 200
        _replace(devices, NONE)
        wait_until(lambda: api.service.get("/health/ready")[0] == 503, "readiness says that the GPU is lost")
        reason = api.service.get("/health/ready")[1]["dependencies"]["gpu"]["reason"]
        assert "no CUDA-capable device is detected" in reason
        status, body, _ = api.ask()
        assert (status, body["error"]["code"]) == (503, "gpu_lost")
        assert api.service.get("/health/live")[0] == 200
        _replace(devices, GPU)
        wait_until(lambda: api.service.get("/health/ready")[0] == 200, "readiness is back with the GPU")
        assert api.ask()[0] == 200
        assert [len(api.logged(text)) for text in ("the GPU is lost", "the GPU is back")] == [1, 1]


def test_a_gpu_that_is_full_is_not_lost(start: Start, double: Path, devices: Path) -> None:
    with start(model("tiny"), program=double, **OFTEN) as api:
        wait_until(lambda: api.service.get("/health/ready")[1]["dependencies"].get("gpu"), "the GPU is watched")
        before = devices.stat().st_atime_ns
        _replace(devices, "CUDA error: out of memory\n")
        wait_until(lambda: devices.stat().st_atime_ns > before, "it was looked at")
        assert api.service.get("/health/ready")[0] == 200
        assert not api.logged("the GPU is lost")


def _replace(file: Path, text: str) -> None:
    new = file.with_name("new")
    new.write_text(text)
    new.rename(file)
