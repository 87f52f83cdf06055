"""The tables of `cmc-runtime eval`, from the object that --json prints."""

from typing import Any

from rich.table import Table

from pm_mined.cli.output import print_table, say, table

_SETS = {
    "forget": "forget",
    "retain": "retain",
    "real_authors": "real authors",
    "world_facts": "world facts",
}


def print_evaluation(document: dict[str, Any]) -> None:
    """Print the tables of what was asked for."""
    models = document["models"]
    if models[0]["data"] is not None:
        _print_data(models, has_delta=document["delta"] is not None)
    if models[0]["tofu"] is not None:
        _print_tofu(models)
    if any(model["shifts"] is not None for model in models):
        say("")
        print_table(_shifts(models))
    for model in models:
        if model["outputs"] is not None:
            say("{texts:,} answers of {generator} written to {file}".format(**model["outputs"]))


def _print_data(models: list[dict[str, Any]], *, has_delta: bool) -> None:
    for model in models:
        data = model["data"]
        say(
            f"{model['model']}: {data['samples']:,} samples, {data['tokens']:,} tokens, "
            f"{data['characters']:,} characters"
        )
    say("")
    print_table(_losses(models))
    if has_delta:
        say("")
        print_table(_rules(models))
        for model in models:
            say(_places(model))


def _losses(models: list[dict[str, Any]]) -> Table:
    numbers = ("alpha", "loss/char", "95 % interval", "loss/token", "bits/byte", "accuracy")
    made = table("model", *numbers, right=numbers)
    for model in models:
        for result in model["data"]["results"]:
            low, high = result["interval"]
            made.add_row(
                model["model"],
                _alpha(result),
                f"{result['loss_per_character']:.4f}",
                f"{low:.4f} - {high:.4f}",
                f"{result['loss_per_token']:.4f}",
                f"{result['bits_per_byte']:.4f}",
                f"{result['accuracy']:.4f}",
            )
    return made


def _rules(models: list[dict[str, Any]]) -> Table:
    """The loss of tokens by the rule that maps them, and of ending where a response ends."""
    results = models[0]["data"]["results"]
    losses = [f"alpha {_alpha(result)}" for result in results[1:]]
    numbers = ("tokens", "share", "loss/token alone", *losses)
    made = table("model", "rule", *numbers, right=numbers)
    for model in models:
        each = [result["rules"] for result in model["data"]["results"]]
        for rule, first in each[0].items():
            found = [f"{rules[rule]['loss_per_token']:.4f}" for rules in each]
            share = f"{first['share']:.2%}"
            made.add_row(model["model"], rule, f"{first['tokens']:,}", share, *found)
        ends = [result["ending_loss"] for result in model["data"]["results"]]
        if None not in ends:
            made.add_row(model["model"], "(ends)", "", "", *(f"{one:.4f}" for one in ends))
    return made


def _shifts(models: list[dict[str, Any]]) -> Table:
    """The similarity of the shifts by which the delta changes the models."""
    numbers = ("rows", "Sinkhorn", "correlation", "lacking")
    made = table("model, by the delta", "like", "by", *numbers, right=numbers)
    for model in models:
        if (found := model["shifts"]) is not None:
            made.add_row(
                model["model"],
                found["reference"],
                found["by"],
                f"{found['rows']:,}",
                f"{found['sinkhorn']:.3f}",
                f"{found['correlation']:.3f}",
                f"{found['lacking']:.2%}",
            )
    return made


def _places(model: dict[str, Any]) -> str:
    places = model["data"]["places"]
    share = places["reencoded"] / max(sum(places.values()), 1)
    return f"{model['model']}: {share:.2%} of the delta's contexts re-encoded"


def _print_tofu(models: list[dict[str, Any]]) -> None:
    numbers = ("alpha", "questions", "probability", "ROUGE-L", "truth ratio")
    sets = table("model", "set", *numbers, right=numbers)
    figures = ("alpha", "model utility", "forget quality")
    whole = table("model", *figures, right=figures)
    for model in models:
        tofu = model["tofu"]
        for result in tofu["results"]:
            alpha, quality = _alpha(result), result["forget_quality"]
            for name, shown in _SETS.items():
                one = result[name]
                metrics = [f"{one[key]:.4f}" for key in ("probability", "rouge", "truth_ratio")]
                asked = f"{tofu['questions'][name]:,}"
                sets.add_row(model["model"], shown, alpha, asked, *metrics)
            shown = "-" if quality is None else f"{quality:.4g}"
            whole.add_row(model["model"], alpha, f"{result['model_utility']:.4f}", shown)
    print_table(sets)
    say("")
    print_table(whole)


def _alpha(result: dict[str, Any]) -> str:
    return "alone" if result["alpha"] is None else f"{result['alpha']:g}"
