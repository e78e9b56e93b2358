"""A language model of half a megabyte that answers nonsense: llama's architecture, seeded random weights, byte tokens.

python -m tests.support.tiny_model FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np

SEED = 1
WIDTH, INNER, LAYERS, HEADS, CONTEXT = 64, 128, 2, 4, 131_072
#: Tokens before the bytes: unknown, begin and end; the tokenizer "llama" needs them and one token for each byte.
SPECIAL = ("<unk>", "<s>", "</s>")


def write(path: Path) -> None:
    """Write the model as a GGUF file: the same seed makes the same bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    _add_tokens(writer)
    _add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokens(writer: gguf.GGUFWriter) -> None:
    kinds = gguf.TokenType
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(False)


def _add_weights(writer: gguf.GGUFWriter) -> None:
    random = np.random.default_rng(SEED)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", (random.standard_normal(shape) / 8).astype(np.float32))

    def add_ones(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))

    vocabulary = len(SPECIAL) + 256
    add("token_embd", vocabulary, WIDTH)
    add_ones("output_norm")
    add("output", vocabulary, WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        add_ones(f"{block}.attn_norm")
        add_ones(f"{block}.ffn_norm")
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{name}", WIDTH, WIDTH)
        add(f"{block}.ffn_gate", INNER, WIDTH)
        add(f"{block}.ffn_up", INNER, WIDTH)
        add(f"{block}.ffn_down", WIDTH, INNER)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
