"""The chat templates that llama-server has itself, by name."""

from __future__ import annotations

JINJA = "chatml"
"""The one of them that llama-server also has as a Jinja template, which tools need. With `--jinja` it takes every other
name for the text of a template, which then holds nothing of what was asked."""

NAMES = (
    *("bailing", "bailing-think", "bailing2", "chatglm3", "chatglm4", "chatml", "command-r", "deepseek"),
    *("deepseek-ocr", "deepseek2", "deepseek3", "exaone-moe", "exaone3", "exaone4", "falcon3", "gemma"),
    *("gigachat", "glmedge", "gpt-oss", "granite", "granite-4.0", "granite-4.1", "grok-2"),
    *("hunyuan-dense", "hunyuan-moe", "hunyuan-vl", "kimi-k2", "llama2", "llama2-sys", "llama2-sys-bos"),
    *("llama2-sys-strip", "llama3", "llama4", "megrez", "minicpm", "mistral-v1", "mistral-v3"),
    *("mistral-v3-tekken", "mistral-v7", "mistral-v7-tekken", "monarch", "openchat", "orion"),
    *("pangu-embedded", "phi3", "phi4", "rwkv-world", "seed_oss", "smolvlm", "solar-open", "vicuna"),
    *("vicuna-orca", "yandex", "zephyr"),
)
"""LLM_CHAT_TEMPLATES of https://github.com/ggml-org/llama.cpp/blob/master/src/llama-chat.cpp, the same in Debian's 0.7.0
(`llama-server --help` lists them) and in the source that the target cuda compiles."""


def flags(name: str) -> list[str]:
    """Return the options for a chat template; "": that of the model's file."""
    if not name:
        return ["--jinja"]
    return ["--jinja" if name == JINJA else "--no-jinja", "--chat-template", name]
