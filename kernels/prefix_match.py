"""PM-MinED: prefix match with minimal edit distance, in time linear in the bytes.

Of two strings of which one is a prefix of the other, the Levenshtein distance is the
difference of their lengths. So the nearest destination token among those that are a prefix
of the source token, or that it is a prefix of, is either the *longest proper prefix* or the
*shortest extension*. A trie over the destination answers both: walking down it along a source
token ends at the node that knows them.

    build_trie    O(destination bytes): one hash probe per byte, then one pass over the nodes
    match         O(source bytes): one hash probe per byte, then a constant number of look-ups

The edges of the trie are one open-addressing hash table, so that a step costs one cache miss
however wide the node is: the nodes near the root have over a hundred children each.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import jit, run_in_threads
from .tokens import Kind, Matches, PackedTokens, Rule, Unit

_TEXT, _FRAGMENT = int(Kind.TEXT), int(Kind.FRAGMENT)
_EXACT, _BYTE = int(Rule.EXACT), int(Rule.BYTE)
_PREFIX, _EXTENSION = int(Rule.PREFIX), int(Rule.EXTENSION)
_SPACE = 0x20

# An edge is one int64: parent node (27 bits), byte (8), child node (28). Zero is a free slot,
# because no edge leads to the root.
_CHILD_BITS = 28
MAX_DST_BYTES = 2**25  # ten times the largest vocabulary; a trie takes up to 50 bytes for each
# Fibonacci hashing, kept narrow enough that key * multiplier does not overflow: the same
# arithmetic then runs, without warnings, when Numba is switched off.
_HASH_MULTIPLIER = 41475557  # odd, near 2**26 / golden ratio
_HASH_SHIFT = 20

TOKENS_PER_TASK = 8192


class Trie(NamedTuple):
    """A trie over the destination tokens of one unit; nodes are numbered parents first."""

    edges: NDArray[np.int64]  # [a power of two], open addressing
    parent: NDArray[np.int32]  # [nodes], -1 for the root
    depth: NDArray[np.int32]  # [nodes], units from the root
    token: NDArray[np.int32]  # [nodes, 3], lowest id of each matchable kind that ends here, or -1
    candidate: NDArray[np.int32]  # [nodes], lowest id that prefix and extension may use, or -1
    prefix_node: NDArray[np.int32]  # [nodes], nearest node with a candidate, here or above, or -1
    extension: NDArray[np.int32]  # [nodes], candidate nearest below this node, or -1
    extension_distance: NDArray[np.int32]  # [nodes], units down to it


@jit
def _slot(edges, node, byte):
    """The slot of the edge from `node` by `byte`, or the free slot for it."""
    key = np.int64(node) * 256 + np.int64(byte)
    mask = len(edges) - 1
    slot = ((key * _HASH_MULTIPLIER) >> _HASH_SHIFT) & mask
    while edges[slot] != 0 and edges[slot] >> _CHILD_BITS != key:
        slot = (slot + 1) & mask
    return slot


@jit
def _child(edges, node, byte):
    """The node below `node` by `byte`, or 0: the root is nobody's child."""
    return edges[_slot(edges, node, byte)] & ((1 << _CHILD_BITS) - 1)


@jit
def _units(byte, in_bytes):
    """1 if `byte` begins a unit: in code points, UTF-8 continuation bytes do not."""
    return np.int32(1) if in_bytes or (byte & 0xC0) != 0x80 else np.int32(0)


@jit
def _insert(data, offsets, kinds, in_bytes, edges, parent, depth, token):
    """Add every matchable token; returns the number of nodes, or 0: `edges` is too small.

    The table stays at most half full, so that a probe seldom takes a second look.
    """
    parent[0], depth[0], token[0] = -1, 0, -1
    nodes = 1
    for i in range(len(kinds)):
        if kinds[i] > _FRAGMENT:
            continue
        if 2 * (nodes + offsets[i + 1] - offsets[i]) > len(edges):
            return 0
        node = np.int64(0)
        for j in range(offsets[i], offsets[i + 1]):
            slot = _slot(edges, node, data[j])
            if edges[slot] == 0:
                edges[slot] = ((node * 256 + np.int64(data[j])) << _CHILD_BITS) | nodes
                parent[nodes] = node
                depth[nodes] = depth[node] + _units(data[j], in_bytes)
                token[nodes] = -1
                nodes += 1
            node = edges[slot] & ((1 << _CHILD_BITS) - 1)
        if token[node, kinds[i]] < 0:  # ids ascend: the first is the lowest
            token[node, kinds[i]] = i
    return nodes


@jit
def _lowest(ids):
    """The lowest id that is not -1, or -1."""
    lowest = np.int32(-1)
    for one in ids:
        if one >= 0 and (lowest < 0 or one < lowest):
            lowest = one
    return lowest


@jit
def _link(in_bytes, parent, depth, token, candidate, prefix_node, extension, distance):
    """Give each node its candidate, the nearest one above it and the nearest one below."""
    for node in range(len(parent)):
        candidate[node] = _lowest(token[node]) if in_bytes else token[node, _TEXT]
        if candidate[node] >= 0:
            prefix_node[node] = node
        elif node > 0:
            prefix_node[node] = prefix_node[parent[node]]
    for node in range(len(parent) - 1, 0, -1):  # children before parents
        below = distance[node] if candidate[node] < 0 else np.int32(0)
        nearest = extension[node] if candidate[node] < 0 else candidate[node]
        if nearest < 0:
            continue
        up = parent[node]
        below += depth[node] - depth[up]
        tie = below == distance[up] and nearest < extension[up]
        if extension[up] < 0 or below < distance[up] or tie:
            extension[up] = nearest
            distance[up] = below


def build_trie(dst: PackedTokens, unit: Unit) -> Trie:
    """The trie over all text, byte and fragment tokens of `dst`.

    In code points only text tokens are candidates for prefix and extension; in bytes all are.

    Raises:
        ValueError: the tokens hold more than 2**25 bytes.
    """
    size = int(dst.offsets[-1])
    if size > MAX_DST_BYTES:
        raise ValueError(f"the tokens hold {size} bytes; a trie takes at most {MAX_DST_BYTES}")
    parent, depth = np.empty(size + 1, np.int32), np.empty(size + 1, np.int32)
    token = np.empty((size + 1, 3), np.int32)
    # Real vocabularies share two bytes of three: the smaller the table, the more of it is cached.
    nodes, slots = 0, 1 << (size + 1).bit_length()
    while nodes == 0:
        edges = np.zeros(slots, np.int64)
        nodes = _insert(*dst, unit == "byte", edges, parent, depth, token)
        slots *= 2
    parent, depth, token = parent[:nodes], depth[:nodes], token[:nodes]
    links = [np.full(nodes, -1, np.int32) for _ in range(4)]
    _link(unit == "byte", parent, depth, token, *links)
    return Trie(edges, parent, depth, token, *links)


@jit
def _is_spaces(data, start, stop):
    for j in range(start, stop):
        if data[j] != _SPACE:
            return False
    return True


@jit
def _match_range(first, last, in_bytes, data, offsets, kinds, trie, dst_id, rule, distance):
    """The leaf: match source tokens `first` to `last`; the rows start out unmapped."""
    space = _child(trie.edges, np.int64(0), np.uint8(_SPACE))
    for i in range(first, last):
        if kinds[i] > _FRAGMENT:
            continue
        start, stop = offsets[i], offsets[i + 1]
        node, j = np.int64(0), start
        while j < stop:
            child = _child(trie.edges, node, data[j])
            if child == 0:
                break
            node = child
            j += 1
        whole = j == stop
        if whole:
            same_kind = trie.token[node, kinds[i]]
            same_bytes = same_kind if same_kind >= 0 else _lowest(trie.token[node])
            if same_bytes >= 0:
                dst_id[i] = same_bytes
                rule[i] = _EXACT if same_kind >= 0 else _BYTE
                distance[i] = 0
                continue
        if kinds[i] != _TEXT and not in_bytes:
            continue
        units = trie.depth[node]
        while j < stop:
            units += _units(data[j], in_bytes)
            j += 1
        if whole and trie.extension[node] >= 0:
            dst_id[i] = trie.extension[node]
            rule[i] = _EXTENSION
            distance[i] = trie.extension_distance[node]
        # Had the whole token ended at a candidate, it would have matched exactly: so this
        # is always a proper prefix.
        prefix = trie.prefix_node[node]
        if prefix == space and prefix > 0 and not _is_spaces(data, start, stop):
            prefix = trie.prefix_node[0]
        if prefix >= 0:
            cut = units - trie.depth[prefix]
            found = trie.candidate[prefix]
            tie = cut == distance[i] and found < dst_id[i]
            if dst_id[i] < 0 or cut < distance[i] or tie:
                dst_id[i] = found
                rule[i] = _PREFIX
                distance[i] = cut


def match(src: PackedTokens, trie: Trie, unit: Unit) -> Matches:
    """Match every source token against a trie built for the same unit."""
    matches = Matches.unmapped(len(src.kinds))

    def run(first: int, last: int) -> None:
        _match_range(first, last, unit == "byte", *src, trie, *matches)

    run_in_threads(run, len(src.kinds), TOKENS_PER_TASK)
    return matches


def prefix_match(src: PackedTokens, dst: PackedTokens, unit: Unit = "char") -> Matches:
    """PM-MinED for every source token: exact bytes, else nearest prefix or extension.

    1. The same bytes: the same kind first (`EXACT`), then any (`BYTE`); lowest id.
    2. Otherwise the nearest destination token that is a proper prefix of the source token
       (`PREFIX`) or that it is a proper prefix of (`EXTENSION`); equal distance, lowest id.
       In code points this is for text tokens only; in bytes, all three kinds take part. The
       bare space is a candidate only where the source token is all spaces.

    Defined in Cross-model Control (arXiv 2410.17599, `wujwyi/CMC`); the plain twin of this
    function is `reference.prefix_match`.

    >>> from pm_mined.kernels.tokens import pack
    >>> kinds = np.zeros(2, np.uint8)
    >>> prefix_match(pack([b"cat", b"do"], kinds), pack([b"ca", b"dog"], kinds)).dst_id.tolist()
    [0, 1]
    """
    return match(src, build_trie(dst, unit), unit)
