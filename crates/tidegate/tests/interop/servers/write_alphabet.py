"""Writes a language model of 1.2 million weights for llama.cpp, whose answers are known beforehand.

    python write_alphabet.py FILE

A token is a character. After a small letter comes the next one (after z, a), after a digit the next lower one, after
0 the end, after anything else an a: `x7y` goes on `zabc…` without end, `room 3` goes on `210` and stops. It is a
whole llama, with a chat template and embeddings; its attention and feed-forward layers are random, and too faint to
change what comes next.
"""

from __future__ import annotations

import pathlib
import sys

import gguf
import numpy as np

NAME = "alphabet"
CONTEXT = 65536
LAYERS, HEADS, HIDDEN = 2, 4, 64
FAINT = 1e-3
BEGIN, END = 1, 2
#: The messages one after the other: an answer goes on from the last character of the last message.
TEMPLATE = "{% for message in messages %}{{ ' ' + message['role'] + ': ' + message['content'] }}{% endfor %}"


def vocabulary() -> list[tuple[str, gguf.TokenType]]:
    special = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL)]
    # What has no token of its own is spelt in bytes; a blank is a bar in this kind of vocabulary.
    spelt = [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    characters = [("▁", gguf.TokenType.NORMAL)]
    characters += [(chr(code), gguf.TokenType.NORMAL) for code in range(ord("!"), ord("~") + 1)]
    tokens = special + spelt + characters
    unused = -len(tokens) % (32 * HEADS)
    return tokens + [(f"<unused{index}>", gguf.TokenType.UNUSED) for index in range(unused)]


def successor(token: str, index: dict[str, int]) -> int:
    if token == "0":
        return END
    if len(token) == 1 and "1" <= token <= "9":
        return index[chr(ord(token) - 1)]
    if len(token) == 1 and "a" <= token < "z":
        return index[chr(ord(token) + 1)]
    return index["a"]


def describe(writer: gguf.GGUFWriter, tokens: list[tuple[str, gguf.TokenType]]) -> None:
    width = len(tokens)
    writer.add_name(NAME)
    writer.add_vocab_size(width)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(width // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_scores([0.0] * width)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)


def add_weights(writer: gguf.GGUFWriter, tokens: list[tuple[str, gguf.TokenType]]) -> None:
    width = len(tokens)
    random = np.random.default_rng(20)

    def add(name: str, weights: np.ndarray) -> None:
        writer.add_tensor(f"{name}.weight", weights.astype(np.float32))

    def faint(rows: int, columns: int) -> np.ndarray:
        return FAINT * random.standard_normal((rows, columns))

    index = {token: place for place, (token, _) in enumerate(tokens)}
    following = np.zeros((width, width))
    for place, (token, _) in enumerate(tokens):
        following[successor(token, index), place] = 2.0
    add("token_embd", np.eye(width))
    add("output_norm", np.ones(width))
    add("output", following)
    for layer in (f"blk.{layer}" for layer in range(LAYERS)):
        add(f"{layer}.attn_norm", np.ones(width))
        add(f"{layer}.attn_q", faint(width, width))
        add(f"{layer}.attn_k", faint(width // HEADS, width))
        add(f"{layer}.attn_v", faint(width // HEADS, width))
        add(f"{layer}.attn_output", faint(width, width))
        add(f"{layer}.ffn_norm", np.ones(width))
        add(f"{layer}.ffn_gate", faint(HIDDEN, width))
        add(f"{layer}.ffn_up", faint(HIDDEN, width))
        add(f"{layer}.ffn_down", faint(width, HIDDEN))


def main(file: pathlib.Path) -> None:
    writer = gguf.GGUFWriter(file, "llama")
    tokens = vocabulary()
    describe(writer, tokens)
    add_weights(writer, tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
