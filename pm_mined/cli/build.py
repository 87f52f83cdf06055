"""`pm-mined build`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from .output import AsJson, note, print_json, print_table, say, table, working

if TYPE_CHECKING:
    from pm_mined.maps.token_map import TokenMap
    from pm_mined.strategies.registry import Strategy
    from pm_mined.vocabulary import Vocabulary

UnitName = Literal["char", "byte"]


class BuildCommand(TyperCommand):
    """The command whose help ends with the strategies; they are loaded only then."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Say what each strategy does, and which options it has."""
        from pm_mined.strategies.registry import STRATEGIES

        with formatter.section("Strategies (what a token without an exact match maps to)"):
            formatter.write_dl([(name, _described(one)) for name, one in STRATEGIES.items()])
        super().format_epilog(ctx, formatter)


def _described(strategy: "Strategy") -> str:
    options = [
        f"--{name.replace('_', '-')}{'' if default is None else f' {default}'}"
        for name, default in strategy.options.items()
    ]
    return f"{strategy.help} ({', '.join(options)})" if options else strategy.help


def _strategy_names() -> list[str]:
    from pm_mined.strategies.registry import STRATEGIES

    return list(STRATEGIES)


def build(
    src: Annotated[
        str,
        typer.Option(help="Source vocabulary (the user model's): name, path or Hub repository."),
    ],
    dst: Annotated[str, typer.Option(help="Destination vocabulary (the delta model's), likewise.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Map file; default SRC-to-DST.arrow here.")
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How ordinary tokens match; the names are below.",
            autocompletion=_strategy_names,
        ),
    ] = "pm-mined",
    unit: Annotated[
        UnitName, typer.Option(help="What distances count: code points or bytes.")
    ] = "char",
    fallback: Annotated[
        Literal["edit"] | None,
        typer.Option(help="pm-mined: what is unmapped takes the nearest token by edit distance."),
    ] = None,
    max_distance: Annotated[
        int | None,
        typer.Option(metavar="K", help="Edits that the fallback may take."),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Weighted strategies: destination tokens for each token, at most.",
        ),
    ] = None,
    decay: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Weighted strategies: what is left of a weight one token or one edit on.",
        ),
    ] = None,
    overrides: Annotated[
        Path | None, typer.Option(help="TOML table of tokens that a person maps by hand.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Map every token of one vocabulary onto a token of another."""
    from pm_mined.build import build_map
    from pm_mined.inputs import refuse_inputs
    from pm_mined.strategies.registry import options_of
    from pm_mined.tokenizer.load import load_vocabulary
    from pm_mined.tokenizer.locate import local_files

    given = {"fallback": fallback, "max_distance": max_distance, "top_k": top_k, "decay": decay}
    options_of(strategy, {"unit": unit, **given})  # before anything is read
    start = time.perf_counter()
    with working(f"Reading {src} and {dst}"):
        vocabularies = load_vocabulary(src), load_vocabulary(dst)
    names = (vocabulary.name.replace("/", "-") for vocabulary in vocabularies)
    path = output or Path("-to-".join(names) + ".arrow")
    refuse_inputs([path], [*local_files(src), *local_files(dst), overrides])
    with working("Matching"):
        token_map = build_map(
            *vocabularies,
            strategy=strategy,
            unit=unit,
            fallback=fallback,
            max_distance=max_distance,
            top_k=top_k,
            decay=decay,
            overrides=overrides,
        )
    token_map.save(path)
    seconds = time.perf_counter() - start
    for vocabulary in vocabularies:
        _note_missing_special_tokens(vocabulary)
    if as_json:
        made = {"form": token_map.form, "file": str(path), "seconds": round(seconds, 3)}
        print_json({**token_map.summary(), **made})
    else:
        _print_summary(token_map, path, seconds)


def _note_missing_special_tokens(vocabulary: "Vocabulary") -> None:
    from pm_mined.kernels.tokens import Kind

    if not vocabulary.ids_of_kind(Kind.SPECIAL):
        note(
            f"{vocabulary.name} has no special tokens, so none is matched; a rank file carries "
            "none, a name from `pm-mined vocab list` or a tokenizer.json brings them"
        )


def _print_summary(token_map: "TokenMap", path: Path, seconds: float) -> None:
    from pm_mined.strategies.registry import describe_strategy

    src, dst = token_map.info.src, token_map.info.dst
    say(
        f"{src.name} ({src.size:,} tokens) -> {dst.name} ({dst.size:,} tokens), "
        f"{describe_strategy(token_map.info.strategy)}\n"
    )
    rules = table("rule", "tokens", "share", right=("tokens", "share"))
    for rule, count in token_map.info.rules.items():
        if count:
            rules.add_row(rule, f"{count:,}", f"{count / len(token_map):.2%}")
    print_table(rules)
    say(f"\nmean distance of the mapped tokens  {token_map.mean_distance:.4f}")
    say(f"{path}  {path.stat().st_size / 1e6:.1f} MB  {seconds:.2f} s")
