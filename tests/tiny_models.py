"""Tiny models: folders as transformers writes them, with tokenizers of two kinds; GGUF files."""

import json

import gguf
import numpy as np
import tiny_tokenizers as tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOKENIZERS = {"byte-level": tiny.byte_level_bpe, "metaspace": tiny.metaspace_bpe}


def tiny_llama(logits, seed, *, max_length=256, hidden_size=32, **special_tokens):
    """A Llama with random weights in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=logits,
        hidden_size=hidden_size,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_length,
        initializer_range=0.3,
        **special_tokens,
    )
    return LlamaForCausalLM(config).eval()


def save_model(
    folder, tokenizer, *, seed=0, max_length=256, logits=420, chat_template=None, hidden_size=32
):
    """Save a Llama that is wider than its tokenizer; 0 ends a text."""
    ends = {"pad_token_id": None, "eos_token_id": 0, "bos_token_id": None}
    sizes = {"max_length": max_length, "hidden_size": hidden_size}
    tiny_llama(logits, seed, **sizes, **ends).save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS[tokenizer]())
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    return folder


def write_gguf(path, architecture="llama"):
    """A model of two layers with random weights and a byte-level tokenizer."""
    tokenizer = json.loads(tiny.byte_level_bpe().to_str())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(24)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, shape in gguf_weights(len(tokens)).items():
        values = np.random.default_rng(0).normal(size=shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_weights(num_tokens):
    square = ("attn_q", "attn_k", "attn_v", "attn_output")
    block = {
        **dict.fromkeys(square, (16, 16)),
        **dict.fromkeys(("attn_norm", "ffn_norm"), (16,)),
        **dict.fromkeys(("ffn_gate", "ffn_up"), (24, 16)),
        "ffn_down": (16, 24),
    }
    blocks = {f"blk.0.{name}": shape for name, shape in block.items()}
    return {"token_embd": (num_tokens, 16), "output_norm": (16,), **blocks}
