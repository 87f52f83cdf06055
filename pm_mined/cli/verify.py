"""`pm-mined verify`."""

from typing import TYPE_CHECKING, Any

from .options import DstSpec, MapFile, SrcSpec
from .output import AsJson, print_json, say, working

if TYPE_CHECKING:
    from pm_mined.maps.info import Side
    from pm_mined.maps.token_map import TokenMap


def verify(
    map_file: MapFile, src: SrcSpec = None, dst: DstSpec = None, as_json: AsJson = False
) -> None:
    """Check that a map is whole and fits its tokenizers.

    Every column is checked against its digest and against the others. Without --src or --dst,
    that side is not compared with any tokenizer.
    """
    from pm_mined.maps.token_map import load_map
    from pm_mined.maps.verify import check_map

    token_map = load_map(map_file)
    check_map(token_map)
    document: dict[str, Any] = {"file": str(map_file), "rows": len(token_map)}
    document["form"] = token_map.form
    document["src"] = _verified(token_map, "src", src)
    document["dst"] = _verified(token_map, "dst", dst)
    if as_json:
        print_json(document)
        return
    form = "" if token_map.form == "one" else f", {token_map.form}"
    say(f"{map_file}: whole, {len(token_map):,} rows{form}")
    for side in ("src", "dst"):
        _print_side(side, document[side])


def _verified(token_map: "TokenMap", side: "Side", spec: str | None) -> dict[str, Any]:
    """Describe one side of the map, and the source of the vocabulary it was compared with."""
    from pm_mined.maps.verify import vocabulary_of

    info = token_map.info.of(side)
    found = None
    if spec is not None:
        with working(f"Reading {spec}"):
            found = vocabulary_of(token_map, side, spec).source
    return {
        "name": info.name,
        "source": info.source,
        "size": info.size,
        "fingerprint": info.fingerprint,
        "same_as": found,
    }


def _print_side(side: str, said: dict[str, Any]) -> None:
    compared = (
        f"the same as {said['same_as']}" if said["same_as"] else f"not compared (no --{side})"
    )
    say(f"{side}  {said['name']}, {said['size']:,} tokens, {said['fingerprint'][:12]}: {compared}")
