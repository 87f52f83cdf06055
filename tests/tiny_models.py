"""Tiny model folders, as transformers writes them, with tokenizers of two kinds."""

import tiny_tokenizers as tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOKENIZERS = {"byte-level": tiny.byte_level_bpe, "metaspace": tiny.metaspace_bpe}


def tiny_llama(logits, seed, *, max_length=256, **special_tokens):
    """A Llama with random weights in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=logits,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_length,
        initializer_range=0.3,
        **special_tokens,
    )
    return LlamaForCausalLM(config).eval()


def save_model(folder, tokenizer, *, seed=0, max_length=256, logits=420, chat_template=None):
    """Save a Llama that is wider than its tokenizer; 0 ends a text."""
    ends = {"pad_token_id": None, "eos_token_id": 0, "bos_token_id": None}
    tiny_llama(logits, seed, max_length=max_length, **ends).save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS[tokenizer]())
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    return folder
