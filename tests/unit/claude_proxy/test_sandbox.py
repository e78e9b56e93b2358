from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from claude_proxy import capacity, gpu, landlock
from claude_proxy.calls import Calls
from claude_proxy.cli import Cli
from claude_proxy.conversation import Ask
from claude_proxy.sandbox import Reach, Sandbox, port, reach
from claude_proxy.settings import Settings
from serving.errors import ApiError
from serving.settings import SettingsError


def test_a_request_reaches_its_folder_the_system_and_its_provider() -> None:
    found = reach("/usr/bin/env", Path("/workspace/p/1"), ["/opt/x"], ["/login"], ["http://egress:8080", "https://a/b"])
    assert {"/workspace/p/1", "/login", "/dev/null"} <= set(found.write)
    assert {"/usr", "/opt/x", "/proc/self"} <= set(found.read)
    assert found.ports == (443, 8080)
    everything = {*found.read, *found.write}
    assert not everything & {"/", "/app", "/home", "/proc", "/run", "/tmp", "/var", "/workspace", "/dev", "/sys"}


def test_gpus_are_reached_where_they_are_named(tmp_path: Path) -> None:
    assert gpu.nodes(tmp_path) == ()
    (tmp_path / "nvidia-caps").mkdir()
    names = ("nvidia0", "nvidia12", "nvidia-caps/nvidia-cap2", "nvidia-uvm", "nvidia-uvm-tools", "nvidiactl")
    for name in (*names, "nvidia-modeset", "nvidia-caps-imex-channels", "nvidia0x", "nvidia", "tty0"):
        (tmp_path / name).touch()
    found = gpu.nodes(tmp_path)
    assert sorted(found) == sorted(str(tmp_path / name) for name in names)
    plain = reach("/usr/bin/env", Path("/workspace/p/1"), (), (), ())
    more = reach("/usr/bin/env", Path("/workspace/p/1"), (), (), (), found)
    assert (plain.gpu, more.gpu) == (False, True)
    assert set(more.write) - set(plain.write) == set(found)
    assert set(more.read) - set(plain.read) == set(gpu.DESCRIPTIONS)


@pytest.mark.parametrize(
    ("url", "expected"), [("http://a", 80), ("https://a/x", 443), ("http://a:8080", 8080), ("tcp://localhost:5", 5)]
)
def test_the_port_of_a_url(url: str, expected: int) -> None:
    assert port(url) == expected


def test_an_older_kernel_is_asked_for_less() -> None:
    assert landlock.handled(1) == ((1 << 13) - 1, 0, 0)
    assert landlock.handled(3)[0] & (landlock.REFER | landlock.TRUNCATE)
    assert landlock.handled(4)[1:] == (landlock.BIND_TCP | landlock.CONNECT_TCP, 0)
    assert landlock.handled(7) == ((1 << 16) - 1, 3, 3)


def test_without_a_sandbox_tools_are_off(tmp_path: Path) -> None:
    sandbox = Sandbox("best-effort", version=0)
    sandbox.check()
    with pytest.raises(RuntimeError, match="Landlock"):
        asyncio.run(sandbox.working())
    settings = Settings(workspace=tmp_path, cli="/nonexistent")

    async def ask(**more: tuple[str, ...]) -> ApiError:
        calls = Calls(settings, Cli(settings), sandbox)
        with pytest.raises(ApiError) as caught:
            await calls.run(Ask("opus", "", [], [], **more), "someone", None)  # type: ignore[arg-type]  # never called
        return caught.value

    for more in ({"tools": ("Bash",)}, {"servers": ("docs",)}):
        error = asyncio.run(ask(**more))
        assert (error.status, error.code) == (503, "sandbox_missing")
        assert "Linux 5.13" in error.message


def test_a_sandbox_may_be_demanded() -> None:
    Sandbox("required", version=1).check()
    with pytest.raises(SettingsError, match="CLAUDE_PROXY_SANDBOX: required, but"):
        Sandbox("required", version=0).check()


def test_nothing_is_reached_by_default() -> None:
    assert Reach() == Reach((), (), ())


@pytest.mark.parametrize(
    ("limit", "expected"), [("max\n", 8 << 30), (f"{1 << 30}\n", 1 << 30), (f"{64 << 30}\n", 8 << 30)]
)
def test_memory_is_the_containers_or_the_machines(tmp_path: Path, limit: str, expected: int) -> None:
    (tmp_path / "max").write_text(limit)
    (tmp_path / "info").write_text(f"MemTotal: {8 << 20} kB\nMemFree: 1 kB\n")
    assert capacity.memory([tmp_path / "max"], tmp_path / "info") == expected
    assert capacity.memory([tmp_path / "none", tmp_path / "max"], tmp_path / "info") == expected
    assert capacity.memory([tmp_path / "none"], tmp_path / "info") == 8 << 30


def test_at_least_one_cli_and_at_most_64() -> None:
    assert [capacity.processes(each) for each in (1, 1 << 30, 1 << 40)] == [1, 4, 64]
