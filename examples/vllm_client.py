r"""Talk to a vLLM server whose requests are steered, by the OpenAI client.

    pip install openai
    vllm serve MODEL --logits-processors cmc_runtime.engines.vllm:SteeringProcessor \
        --additional-config '{"cmc_runtime": {"deltas": {"polite": "DELTA_FOLDER"}}}'
    python examples/vllm_client.py --delta polite

The same question is asked without a delta, and with it at several strengths.
"""

import argparse

from openai import OpenAI


def main() -> None:
    """Ask a question at several strengths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--delta", required=True, help="its name in the server's configuration")
    parser.add_argument("--question", default="Who wrote Emma?")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()

    client = OpenAI(base_url=options.url, api_key="none")
    model = client.models.list().data[0].id
    for alpha in (0.0, 0.5, 1.0):
        # The delta reads the question itself, in its own prompt template.
        asked = {"delta": options.delta, "alpha": alpha, "delta_prompt": options.question}
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": options.question}],
            max_tokens=options.max_tokens,
            temperature=0,
            extra_body={"vllm_xargs": asked if alpha else {}},
        )
        print(f"alpha {alpha:g}: {answer.choices[0].message.content}")


if __name__ == "__main__":
    main()
