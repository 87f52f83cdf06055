"""The audit page: one HTML file with the figures of an audit and every source token.

Libraries, styles and data are inside; nothing is loaded from elsewhere, and the page's own
policy forbids it.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from numpy.typing import NDArray

from pm_mined.display import display_token, printable
from pm_mined.maps.arrow_columns import packed_tokens
from pm_mined.strategies.registry import describe_strategy

from .audit import MATCHES, NEAR, Audit

_STYLES = ("vendor/slick.grid.css", "page.css")
_SCRIPTS = (
    "vendor/d3.min.js",
    "vendor/plot.umd.min.js",
    "vendor/slick.core.min.js",
    "vendor/slick.interactions.min.js",
    "vendor/slick.grid.min.js",
    "tokens.js",
    "charts.js",
    "table.js",
    "page.js",
)


def render_page(audit: Audit, limit: int = 10) -> bytes:
    """Render the page, in UTF-8, with `limit` rows of each list; deterministic to the byte.

    Raises:
        MapFileError: a column of the map is damaged.
    """
    info = audit.token_map.info
    scripts = [_resource(name) for name in _SCRIPTS]
    page = Template(_resource("page.html")).substitute(
        title=html.escape(printable(f"{info.src.name} → {info.dst.name}")),
        policy=_policy(scripts),
        styles="\n".join(map(_resource, _STYLES)),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
        # ASCII, because the names of files may not be UTF-8.
        audit=_inside_html(json.dumps(audit.to_json(limit), sort_keys=True)),
        columns=_inside_html(json.dumps(_columns(audit), ensure_ascii=False)),
    )
    return page.encode()


def _resource(name: str) -> str:
    return files("pm_mined").joinpath("data/page", name).read_text("utf-8")


def _policy(scripts: list[str]) -> str:
    """The content security policy: only these scripts run, nothing is loaded or sent."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    # SlickGrid and Plot write style elements of their own.
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _inside_html(text: str) -> str:
    """Escape JSON so that no `</script>` and no comment can begin in it."""
    return text.replace("<", "\\u003c")


def _columns(audit: Audit) -> dict[str, Any]:
    """The columns of the table of source tokens, one value per id."""
    token_map = audit.token_map
    return {
        "near": NEAR,
        "strategy": describe_strategy(token_map.info.strategy),
        "token": _tokens(packed_tokens(token_map.column("src_token")).tolist()),
        "kind": _codes(audit.kinds, token_map.names("src_kind")),
        "script": _codes(audit.script, audit.script_names),
        "match": _codes(audit.match, MATCHES),
        "rule": _codes(token_map.rule, token_map.names("rule")),
        "distance": _base64(token_map.distance, "<i4"),
        "dst_id": _base64(token_map.dst_id, "<i4"),
        "dst_token": _tokens(packed_tokens(token_map.column("dst_token")).tolist()),
        # Exact up to 2**53, as all numbers in a script.
        "uses": None if audit.uses is None else _base64(audit.uses, "<f8"),
    }


def _tokens(tokens: Iterable[bytes]) -> str:
    """The tokens as they are displayed, a line each."""
    return "\n".join(map(display_token, tokens))


def _codes(codes: NDArray[Any], names: Sequence[str]) -> dict[str, Any]:
    return {"names": list(names), "codes": _base64(codes, "<i2")}


def _base64(values: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(values.astype(dtype).tobytes()).decode()
