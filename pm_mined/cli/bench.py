"""`pm-mined bench`."""

from typing import Annotated, Any

import typer

from .output import AsJson, note, print_json, print_table, progress_bar, say, table, working


def bench(
    src: Annotated[
        str, typer.Option(help="Source vocabulary: name, path or Hub repository.")
    ] = "llama3",
    dst: Annotated[str, typer.Option(help="Destination vocabulary, likewise.")] = "qwen3",
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Strategy to time; give it once per strategy. Default: all whose tokenizers can "
            "be had.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=1024,
            metavar="N",
            help="Threads of the kernels; give it once per count. Default: 1, and one for each "
            "core.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure the speed of mapping on this machine.

    Only the matching is timed: both vocabularies are loaded before, and the kernels compiled.
    seconds is the median; tokens/s counts source tokens, and MB/s the bytes of the tokens on both
    sides.

    floor is the share of the time that memory alone would take to read both vocabularies once and
    to write the result once, as fast as it copies a large array with as many threads. No method
    that looks anything up can reach 100%.

    Strategies that use a tokenizer load it each time, and its library chooses the threads: they
    are shown as -. Results must not depend on threads; if they do, an error says so, no times are
    shown, and the exit status is 1.
    """
    from pm_mined import bench as module
    from pm_mined.strategies.registry import options_of
    from pm_mined.tokenizer.load import load_vocabulary

    for name in strategy or ():
        options_of(name, {})  # before anything is read
    with working(f"Reading {src} and {dst}"):
        vocabularies = load_vocabulary(src), load_vocabulary(dst)
    with progress_bar() as bar:
        task = bar.add_task("Compiling the kernels", total=None)
        document = module.bench(
            *vocabularies,
            strategies=list(dict.fromkeys(strategy or ())),
            threads=threads or (),
            runs=runs,
            progress=lambda done, total: bar.update(
                task, description="Measuring", completed=done, total=total
            ),
        )
    for name, reason in document["left_out"].items():
        note(f"{name} is left out: {reason}")
    if as_json:
        print_json(document)
    else:
        _print_bench(document)


def _print_bench(document: dict[str, Any]) -> None:
    made_on, src, dst = document["machine"], document["src"], document["dst"]
    say(", ".join(f"{key} {value}" for key, value in made_on.items()))
    say(
        f"{src['name']} ({src['size']:,} tokens) -> {dst['name']} ({dst['size']:,} tokens), "
        f"runs: {document['runs']}"
    )
    speeds = document["copy_bytes_per_second"].items()
    copying = ", ".join(f"{speed / 1e9:.1f} GB/s with {count}" for count, speed in speeds)
    say(f"memory copies {copying} thread(s)\n")
    numbers = ("threads", "seconds", "tokens/s", "MB/s", "floor")
    made = table("strategy", *numbers, right=numbers)
    for one in document["strategies"]:
        made.add_row(
            one["name"],
            "-" if one["threads"] is None else str(one["threads"]),
            f"{one['median_seconds']:.4f}",
            f"{one['tokens_per_second']:,.0f}",
            f"{one['bytes_per_second'] / 1e6:.2f}",
            f"{one['floor_share']:.2%}",
        )
    print_table(made)
