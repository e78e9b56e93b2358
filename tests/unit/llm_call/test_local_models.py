"""llm_call.api.local without processes: the file, the command line, what a GGUF needs, what may be logged."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from gguf import constants as gguf_constants

from llm_call.api import models_file, settings
from llm_call.api.catalog import Catalog
from llm_call.api.local import device, gguf, recipe, templates, tensors, weights
from llm_call.api.local.journal import Journal
from llm_call.api.local.recipe import Recipe
from llm_call.api.local.refusals import Refusal, Refused
from serving.settings import Env, SettingsError
from tests.support import tiny_model

GOOD = """
[upstream.local]
kind = "llama"
timeout = 600
[upstream.far]
kind = "openai"
base_url = "http://far/v1"
[model."far/one"]
upstream = "far"
[model."local/plain"]
upstream = "local"
file = "plain.gguf"
[model."local/full"]
upstream = "local"
file = "sub/full.gguf"
context = 8192
parallel = 4
threads = 6
gpu_layers = 20
embeddings = true
pooling = "mean"
template = "llama3"
memory = "6.5GB"
idle_seconds = 0
start_seconds = 300
fallbacks = ["far/one"]
retries = 1
[model.best]
candidates = ["local/full", "far/one"]
"""


def load(text: str, tmp_path: Path, **env: str) -> Catalog:
    (tmp_path / "models.toml").write_text(text)
    return models_file.load(str(tmp_path / "models.toml"), Env(env))


def faults(text: str, tmp_path: Path) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(text, tmp_path)
    return [fault.removeprefix(f"{tmp_path}/models.toml: ") for fault in caught.value.faults]


def test_a_local_model_is_an_upstream_of_its_own(tmp_path: Path) -> None:
    catalog = load(GOOD, tmp_path)
    assert set(catalog.upstreams) == {"far", "local/plain", "local/full"}
    assert catalog.recipes() == {
        "local/plain": Recipe("plain.gguf"),
        "local/full": Recipe("sub/full.gguf", 8192, 4, 6, 20, True, "mean", "llama3", 6_500_000_000, 0.0, 300.0),
    }
    first, second = catalog.find("local/full").targets
    assert (first.upstream.name, first.upstream_name, first.timeout, first.retries) == (
        "local/full",
        "local/full",
        600,
        1,
    )
    assert second.upstream.name == "far"
    assert [each.upstream.name for each in catalog.find("best").targets] == ["local/full", "far"]
    assert catalog.find("best").targets[0].upstream is first.upstream


def test_every_fault_of_local_models(tmp_path: Path) -> None:
    text = """
    [upstream.local]
    kind = "llama"
    base_url = "http://x/v1"
    [upstream.far]
    kind = "openai"
    base_url = "http://far/v1"
    [model."tiny"]
    upstream = "local"
    file = "/etc/passwd"
    [model."local/*"]
    upstream = "local"
    file = "a/../../b.gguf"
    [model."local/a"]
    upstream = "local"
    name = "b"
    context = 1
    threads = 0
    gpu_layers = "some"
    embeddings = 1
    pooling = "men"
    template = "chatm"
    memory = "lots"
    idle_seconds = -1
    start_seconds = 0
    [model."far/a"]
    upstream = "far"
    file = "a.gguf"
    [model."b"]
    upstream = "locl"
    file = "b.gguf"
    """
    assert faults(text, tmp_path) == [
        "upstream.local.base_url: unknown key; known: kind, timeout, breaker_failures, breaker_seconds",
        'model."tiny": is answered by "local", so its name is local/NAME, without a *',
        'model."tiny".file: "/etc/passwd" leaves the models folder; name a file below it, such as "tiny.gguf"',
        'model."local/*": is answered by "local", so its name is local/NAME, without a *',
        'model."local/*".file: "a/../../b.gguf" leaves the models folder; name a file below it, such as "tiny.gguf"',
        'model."local/a".name: unknown key; known: upstream, fallbacks, timeout, retries, price, file, context, parallel, '
        "threads, gpu_layers, embeddings, pooling, template, memory, idle_seconds, start_seconds, candidates",
        'model."local/a".pooling: "men" makes no embedding; perhaps you meant "mean"',
        'model."local/a".template: "chatm" is none of llama-server\'s own; perhaps you meant "chatml"',
        'model."local/a".file: is missing',
        'model."local/a".context: is a whole number from 16 to 16777216',
        'model."local/a".threads: is a whole number from 1 to 1024',
        'model."local/a".gpu_layers: is "all", or a whole number from 0 to 998',
        'model."local/a".embeddings: is true or false',
        'model."local/a".memory: is a size such as "800MB" or "6.5GB"',
        'model."local/a".idle_seconds: is a number of seconds from 0 to 2592000',
        'model."local/a".start_seconds: is a number above 0, at most 3600',
        'model."far/a".file: unknown key; known: upstream, name, fallbacks, timeout, retries, price, candidates',
        'model."b".upstream: there is no upstream "locl"; perhaps you meant "local"',
    ]


def test_a_template_is_one_that_llama_server_has(tmp_path: Path) -> None:
    head = '[upstream.local]\nkind = "llama"\n[model."local/a"]\nupstream = "local"\nfile = "a.gguf"\n'
    for text in ("nosuchtemplate", "{{ messages }}"):
        (fault,) = faults(f'{head}template = "{text}"\n', tmp_path)
        assert fault.startswith(f'model."local/a".template: "{text}" is none of llama-server\'s own; known: bailing, ')
    assert templates.flags("") == ["--jinja"]
    assert templates.flags("chatml") == ["--jinja", "--chat-template", "chatml"]


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ('embeddings = true\npooling = "none"', '"none" makes no embedding; known: mean, cls, last'),
        ('pooling = "mean"', "is for models with embeddings = true"),
        ('embeddings = false\npooling = "mean"', "is for models with embeddings = true"),
    ],
)
def test_pooling_is_for_embeddings(keys: str, fault: str, tmp_path: Path) -> None:
    text = f'[upstream.local]\nkind = "llama"\n[model."local/a"]\nupstream = "local"\nfile = "a.gguf"\n{keys}\n'
    assert faults(text, tmp_path) == [f'model."local/a".pooling: {fault}']


def test_the_settings(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(GOOD)
    base = {"LLM_CALL_MODELS": str(tmp_path / "models.toml")}
    chosen = settings.read("127.0.0.1", Env(base)).local
    assert (chosen.program, chosen.folder, chosen.most_loaded, chosen.require_gpu) == (
        "llama-server",
        "/models",
        2,
        False,
    )
    wrong = {"REQUIRE_GPU": "maybe", "LLM_CALL_LOCAL_MODELS_LOADED": "0", "LLM_CALL_LOCAL_WATCH_SECONDS": "60"}
    with pytest.raises(SettingsError) as caught:
        settings.read("127.0.0.1", Env(base | wrong))
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        *("LLM_CALL_LOCAL_MODELS_LOADED", "LLM_CALL_LOCAL_WATCH_SECONDS", "REQUIRE_GPU"),
    ]


def test_the_command_line() -> None:
    plain = recipe.arguments(Recipe("a.gguf"), "local/a", Path("/models/a.gguf"), Path("/tmp/1.sock"), 3)
    assert plain == [
        *("--model", "/models/a.gguf", "--alias", "local/a", "--host", "/tmp/1.sock", "--api-key-file", "/dev/stdin"),
        *("--ctx-size", "4096", "--parallel", "1", "--threads", "3", "--threads-http", "64", "--gpu-layers", "999"),
        *("--no-webui", "--no-slots", "--offline", "--jinja"),
    ]
    given = Recipe(
        "a.gguf", context=100, parallel=2, threads=1, gpu_layers=0, embeddings=True, pooling="cls", template="llama3"
    )
    full = recipe.arguments(given, "local/a", Path("/models/a.gguf"), Path("/tmp/1.sock"), 3)
    assert full[8:] == [
        *("--ctx-size", "200", "--parallel", "2", "--threads", "1", "--threads-http", "64", "--gpu-layers", "0"),
        *("--no-webui", "--no-slots", "--offline", "--no-jinja", "--chat-template", "llama3"),
        *("--embeddings", "--batch-size", "100", "--ubatch-size", "100", "--pooling", "cls"),
    ]


def test_old_prompts_take_a_quarter_of_what_is_left() -> None:
    mib = 1 << 20
    assert recipe.cache_mib(Recipe("a"), 5) == 1024
    assert recipe.cache_mib(Recipe("a", memory=500 * mib), 100 * mib) == 100
    assert recipe.cache_mib(Recipe("a", memory=500 * mib), 900 * mib) == 0


def test_what_a_model_needs(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_model.write(file)
    size = file.stat().st_size
    # Two layers, four heads of 16 numbers, for keys and for values, of two bytes each.
    assert gguf.need(file) == gguf.Need(size, 2 * 4 * (16 + 16) * 2)
    assert gguf.need(file).total(1000) == size + 512_000


def test_a_model_in_several_files(tmp_path: Path) -> None:
    first = tmp_path / "big-00001-of-00002.gguf"
    tiny_model.write(first)
    with pytest.raises(gguf.NotGguf, match=r"is one of 2, and big-00002-of-00002\.gguf is not beside it"):
        gguf.need(first)
    tiny_model.write(tmp_path / "big-00002-of-00002.gguf")
    size = first.stat().st_size
    assert gguf.need(first).weights == 2 * size
    os.truncate(tmp_path / "big-00002-of-00002.gguf", size - 100)
    with pytest.raises(gguf.NotGguf, match="is cut off"):
        gguf.need(first)


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_model.write(file)
    size = file.stat().st_size
    for left in (size - 32, size // 2, 20_000):
        os.truncate(file, left)
        with pytest.raises(gguf.NotGguf, match=f"^is cut off: {left} of {size} bytes are there"):
            gguf.need(file)


def test_the_sizes_of_types_are_those_of_gguf() -> None:
    theirs = {int(kind): size for kind, size in gguf_constants.GGML_QUANT_SIZES.items()}
    assert {kind: theirs[kind] for kind in tensors.SIZES} == tensors.SIZES
    assert tensors.size(12, (512, 3)) == 2 * 3 * 144
    assert tensors.size(9999, (512, 3)) == 0


def entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_grouped_heads_that_differ_by_layer(tmp_path: Path) -> None:
    entries = [
        entry("general.architecture", 8, text("x")),
        entry("x.block_count", 4, struct.pack("<I", 10)),
        entry("x.embedding_length", 4, struct.pack("<I", 64)),
        entry("x.attention.head_count", 4, struct.pack("<I", 8)),
        entry("x.attention.head_count_kv", 9, struct.pack("<IQII", 4, 2, 2, 4)),
        entry("x.attention.key_length", 4, struct.pack("<I", 16)),
    ]
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries))
    assert gguf.need(file).token == 10 * 4 * (16 + 8) * 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is no GGUF file: it begins with b''"),
        (b"PK\3\4....", r"is no GGUF file: it begins with b'PK"),
        (b"GGUF", "is cut off or damaged"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "of version 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60), "a text of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry("k", 77, b""), "a value of the kind 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry("k", 9, struct.pack("<IQ", 0, 1 << 60)), "is cut off"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry("k", 9, struct.pack("<IQ", 9, 1) * 5000),
            "a value of the kind 9",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry("k", 9, struct.pack("<IQQ", 8, 9, 1 << 62)),
            "a text of",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry("k", 9, struct.pack("<IQQ", 8, 9, 1 << 63)),
            "a text of",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + entry("k", 9, struct.pack("<IQ", 0, 1 << 40)), "is cut off"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0), "is cut off or damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<I", 1 << 31), "dimensions"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 8, 0, 64), "is cut off: "),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry("general.alignment", 4, bytes(4)), "its alignment is 0"),
    ],
    ids=range(15),
)
def test_what_is_no_model(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(gguf.NotGguf, match=why):
        gguf.need(tmp_path / "x")


def test_a_file_stays_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.gguf").write_bytes(b"a")
    (tmp_path / "out.gguf").write_bytes(b"a")
    (folder / "in.gguf").symlink_to("sub/a.gguf")
    (folder / "out.gguf").symlink_to("../out.gguf")
    (folder / "loop.gguf").symlink_to("loop.gguf")
    (folder / "absolute.gguf").symlink_to("/elsewhere/models/sub/a.gguf")
    (folder / "away").symlink_to("/elsewhere/models")
    (tmp_path / "link").symlink_to(folder)
    for where in (folder, tmp_path / "link"):
        assert weights.locate(where, "m", Recipe("in.gguf")) == folder / "sub" / "a.gguf"
    remedy = f"put the file itself there, or a relative link (ln -s --relative) to a file inside {folder}."
    dead = f"is a link that leads to nothing here; {remedy}"
    for name, code, message in (
        ("out.gguf", "local_model_outside", f"is a link out of {folder}; {remedy}"),
        ("loop.gguf", "local_model_missing", dead),
        ("absolute.gguf", "local_model_missing", dead),
        ("away/a.gguf", "local_model_missing", dead),
        ("none.gguf", "local_model_missing", f"is not in {folder}; put it there."),
        ("sub", "local_model_missing", "is no file; name a GGUF file."),
    ):
        with pytest.raises(Refused) as caught:
            weights.locate(folder, "m", Recipe(name))
        assert caught.value.code == code
        assert caught.value.message.endswith(message)


@pytest.mark.parametrize(("entries", "pooled"), [([], False), ([0], False), ([1], True), ([3], True)])
def test_how_a_model_that_embeds_pools(entries: list[int], pooled: bool, tmp_path: Path) -> None:
    head = [entry("general.architecture", 8, text("x"))]
    head += [entry("x.pooling_type", 4, struct.pack("<I", value)) for value in entries]
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(head)) + b"".join(head))
    assert gguf.need(file).pooled is pooled
    least = file.stat().st_size + weights.PROGRAM_BYTES
    assert weights.needed("m", Recipe("x.gguf"), file) == least
    assert weights.needed("m", Recipe("x.gguf", embeddings=True, pooling="mean"), file) == least
    if not pooled:
        with pytest.raises(Refused, match='set pooling = "mean"'):
            weights.needed("m", Recipe("x.gguf", embeddings=True), file)


def test_a_ceiling_below_weights_and_context() -> None:
    weights.admit("m", Recipe("a"), 1 << 40)
    weights.admit("m", Recipe("a", memory=10), 10)
    with pytest.raises(Refused, match=r"takes 3\.0 MB at least.*ceiling is 2\.0 MB"):
        weights.admit("m", Recipe("a", memory=2_000_000), 3_000_000)


@pytest.mark.parametrize(
    ("code", "output", "gpus", "why", "sure"),
    [
        (0, "Available devices:\n  (none)\n", (), "llama-server finds no GPU", True),
        (0, "Available devices:\n  CUDA0: NVIDIA A10 (2 MiB, 1 MiB free)\n", ("CUDA0: NVIDIA A10",), "", True),
        (0, "Available devices:\n  BLAS: OpenBLAS (0 MiB, 0 MiB free)\n", (), "llama-server finds no GPU", True),
        (0, "cuda: failed to init: no device\n  (none)\n", (), "finds no GPU (cuda: failed to init: no device)", True),
        (-6, "CUDA error: out of memory\n", (), "the GPU is full", False),
        (1, "boom", (), "llama-server ended with code 1", True),
        (None, "", (), "did not end in time", True),
    ],
)
def test_what_a_look_at_devices_says(
    code: int | None, output: str, gpus: tuple[str, ...], why: str, sure: bool
) -> None:
    look = device.judge(code, output)
    assert (look.gpus, look.sure) == (gpus, sure)
    assert why in look.why


async def follow(journal: Journal, *chunks: bytes) -> None:
    reader = asyncio.StreamReader()
    for chunk in chunks:
        reader.feed_data(chunk)
    reader.feed_eof()
    await journal.follow(reader)


def test_before_any_request_every_line_is_kept_and_the_reason_found() -> None:
    journal = Journal("m", 1)
    asyncio.run(follow(journal, b"0.00.1 I srv  init\n0.00.2 E llama: error loading mod", b"el: bad magic\n\nbye"))
    assert journal.last == ["0.00.1 I srv  init", "0.00.2 E llama: error loading model: bad magic", "bye"]
    assert journal.reason == "llama: error loading model: bad magic"


def test_afterwards_nothing_that_may_quote_a_request() -> None:
    journal = Journal("m", 1)
    journal.serving = True
    lines = [
        "srv  update_slots: all slots are idle",
        "0.00.370.085 I slot      release: id  0 | task 0 | stop processing",
        "slot SECRET",
        'srv    operator(): got exception: {"error":"SECRET"}',
        "0.00.428.277 W srv    operator(): unauthorized SECRET",
        "parse: error parsing grammar: SECRET",
        "SECRET",
        "0.00.390.276 E srv    send_error: SECRET",
        "/build/ggml/src/ggml.c:12: GGML_ASSERT(a) failed",
        "CUDA error: an illegal memory access was encountered",
    ]
    asyncio.run(follow(journal, "\n".join(lines).encode(), b"\n", b"x" * 100_000))
    assert "SECRET" not in str(journal.last)
    assert journal.last == [lines[0], lines[1], lines[8], lines[9], "(7 lines are withheld: they may quote a request)"]
    assert journal.reason.startswith("/build/ggml") or journal.reason.startswith("CUDA error")


def test_a_long_line_is_cut_and_a_line_without_end_takes_no_memory() -> None:
    journal = Journal("m", 1)
    asyncio.run(follow(journal, *[b"x" * 16_384] * 100, b"\nend\n"))
    assert [len(line) for line in journal.last] == [500, 3]


def test_a_refusal_tells_the_gateway_whether_to_ask_again() -> None:
    def told(**more: Any) -> tuple[dict[str, str], dict[str, Any]]:
        refusal = Refusal(Refused("no", "code", **more))
        return dict(refusal.headers), json.loads(asyncio.run(refusal.read()))

    headers, body = told()
    assert headers == {"content-type": "application/json", "x-llm-call-local": "1", "x-should-retry": "false"}
    assert body == {"error": {"message": "no", "type": "server_error", "code": "code"}}
    headers, _ = told(seconds=1.2, hopeless=False)
    assert headers == {"content-type": "application/json", "x-llm-call-local": "1", "retry-after": "2"}
