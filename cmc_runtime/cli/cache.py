"""`cmc-runtime cache`."""

import time
from typing import Annotated

import typer

from pm_mined.cli.output import AsJson, print_json, print_table, say, table


def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove them; they are made again when needed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the models that are kept in the user's cache, and their sizes.

    A GGUF model is converted when it is first loaded, so that it loads in a second from then on;
    of packaged models the parts are joined. Converted models have 20 GB together at most: those
    used the longest ago make room. --clear also forgets what --alpha auto chose. XDG_CACHE_HOME
    moves the cache.

    The keys of --json: folder; models, with file, path, bytes and used (UTC), each that was kept
    when the command began; cleared, whether they were removed.
    """
    from cmc_runtime.models.kept_models import kept_models, remove_kept_models
    from pm_mined.kernels.user_cache import cache_root

    models = kept_models()
    if clear:
        remove_kept_models()
    total = sum(one.size for one in models)
    if as_json:
        rows = [
            {"file": one.file, "path": str(one.path), "bytes": one.size, "used": _time(one.used)}
            for one in models
        ]
        print_json({"folder": str(cache_root()), "models": rows, "cleared": clear})
    elif clear or not models:
        say(f"{cache_root()}: {len(models)} models, {_size(total)}{' removed' if clear else ''}")
    else:
        made = table("model", "size", "used last", right=("size",))
        for one in models:
            made.add_row(one.file, _size(one.size), _time(one.used))
        print_table(made)
        say(f"{cache_root()}: {_size(total)}; --clear removes them")


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
