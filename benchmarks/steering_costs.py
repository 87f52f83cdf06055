"""Arithmetic of a decode step beside a large model: bytes, operations, and the time at least.

Nothing is measured: a step takes as long as reading its bytes, or as its operations, whichever is
longer, and the delta runs after the model. The arguments are the assumptions.
`python benchmarks/steering_costs.py --document docs/scaling.md` writes the tables there.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

MARKS = "<!-- tables: benchmarks/steering_costs.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False

    @property
    def multiplied(self) -> int:
        """The weights that a step multiplies by: all but the input embeddings."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        block = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * block + self.hidden + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.multiplied + (0 if self.tied else self.vocabulary * self.hidden)

    def cache_bytes(self, rows: int, context: int, width: int) -> int:
        """Those of keys and values."""
        return 2 * self.layers * self.kv_heads * self.head_dim * rows * context * width

    def step_bytes(self, rows: int, context: int, width: int) -> int:
        """Those that a step reads: the weights once, and all keys and values."""
        return self.multiplied * width + self.cache_bytes(rows, context, width)

    def step_operations(self, rows: int, context: int) -> int:
        """Multiplications and additions of a step."""
        attention = 4 * self.layers * self.heads * self.head_dim * context
        return rows * (2 * self.multiplied + attention)


MODELS = {
    "70B": Shape(80, 8192, 28_672, 64, 8, 128, 128_256),
    "405B": Shape(126, 16_384, 53_248, 128, 8, 128, 128_256),
}
DELTAS = {
    "15M": Shape(6, 288, 768, 6, 6, 48, 32_000, tied=True),
    "42M": Shape(8, 512, 1376, 8, 8, 64, 32_000, tied=True),
    "110M": Shape(12, 768, 2048, 12, 12, 64, 32_000, tied=True),
    "135M": Shape(30, 576, 1536, 9, 3, 64, 49_152, tied=True),
}


def fusion_bytes(model: Shape, rows: int, width: int) -> int:
    """Those of adding the delta's logits: read the model's and the map, gather, write."""
    return model.vocabulary * (rows * 3 * width + 4)


def seconds(taken: int, operations: int, given: argparse.Namespace) -> float:
    """The least time of a step."""
    return float(max(taken / (given.bandwidth * 1e9), operations / (given.tflops * 1e12)))


def table(name: str, model: Shape, given: argparse.Namespace) -> str:
    """Rows of Markdown, one for each delta."""
    rows, context, width = given.rows, given.context, given.bytes
    taken = model.step_bytes(rows, context, width) / given.devices
    alone = seconds(int(taken), model.step_operations(rows, context) // given.devices, given)
    lines = [
        f"{name} alone: {taken / 1e9:,.1f} GB a device and step, {alone * 1e3:,.2f} ms at least.",
        "",
        "| delta | parameters | weights read, MB | keys and values, GB | GFLOP | fusion, MB | "
        "ms at least | of the step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, delta in DELTAS.items():
        cache = delta.cache_bytes(rows, context, width)
        operations = delta.step_operations(rows, context)
        fused = fusion_bytes(model, rows, width)
        more = seconds(delta.step_bytes(rows, context, width) + fused, operations, given)
        lines.append(
            f"| {label} | {delta.parameters:,} | {delta.multiplied * width / 1e6:,.0f} | "
            f"{cache / 1e9:,.2f} | {operations / 1e9:,.0f} | {fused / 1e6:,.0f} | "
            f"{more * 1e3:,.2f} | {more / alone:.1%} |"
        )
    return "\n".join(lines)


def tables(given: argparse.Namespace) -> str:
    """All tables, under the assumptions."""
    head = (
        f"{given.devices} devices of {given.bandwidth:,.0f} GB/s and {given.tflops:,.0f} TFLOP/s "
        f"share the model, one of them runs the delta; {given.rows} rows, {given.context:,} tokens "
        f"of context, {given.bytes} bytes a number."
    )
    return "\n\n".join([head, *(table(name, model, given) for name, model in MODELS.items())])


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The assumptions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--bandwidth", type=float, default=3350, help="GB/s of a device")
    parser.add_argument("--tflops", type=float, default=800, help="TFLOP/s of a device")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--bytes", type=int, default=2, help="of a number")
    parser.add_argument("--document", type=Path)
    return parser.parse_args(given)


def main() -> None:
    """Print the tables, or write them into a document."""
    given = arguments()
    made = tables(given)
    if given.document is None:
        print(made)
        return
    head, _, rest = given.document.read_text("utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    given.document.write_text(f"{head}{MARKS[0]}\n\n{made}\n\n{MARKS[1]}{after}", "utf-8")


if __name__ == "__main__":
    main()
