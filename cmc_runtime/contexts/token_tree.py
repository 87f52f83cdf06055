"""All contexts that a delta model reads for a row, as one tree of its tokens.

To decode a row, a delta model reads a context before each generated token. These contexts share
their beginnings, so in training and evaluation one forward over the tree of them all gives every
prediction (see `tree_attention`). Where each token only adds to the context, the tree is a chain;
where one changes how the text before it is encoded, it has a short branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cmc_runtime.errors import ContextError

from .context import Context

MASKED = -1  # the node of a place that is left out
_NO_PARENT = -1


@dataclass(frozen=True, eq=False)
class TokenTree:
    """The contexts of a row; make one with `token_tree`.

    A node is a delta token. The tokens on the way to it from node 0, itself included, are one
    context, or the beginning of several.
    """

    ids: NDArray[np.int32]
    """[nodes]: the delta tokens."""
    parents: NDArray[np.int32]
    """[nodes]: the node before, which has a smaller number; -1 for node 0."""
    places: NDArray[np.int32]
    """[generated]: the node after which the token is predicted; -1 where it is masked."""
    num_exact: int
    """The number of generated tokens whose context is still the beginning of the last one."""

    @property
    def num_masked(self) -> int:
        """The number of generated tokens that are left out."""
        return int((self.places == MASKED).sum())

    @property
    def num_reencoded(self) -> int:
        """The number of generated tokens of whose context a later token changed the end."""
        return len(self.places) - self.num_exact - self.num_masked

    @property
    def is_chain(self) -> bool:
        """True if every context is a beginning of the last one."""
        return bool((self.parents == np.arange(len(self.ids)) - 1).all())

    @cached_property
    def positions(self) -> NDArray[np.int32]:
        """[nodes]: the position of each token in its context."""
        positions = np.zeros(len(self.ids), np.int32)
        for node in range(1, len(positions)):
            positions[node] = positions[self.parents[node]] + 1
        return positions

    @property
    def longest(self) -> int:
        """The length of the longest context, in ids."""
        return int(self.positions.max()) + 1


def token_tree(context: Context, generated: Sequence[int], *, reencode: bool = True) -> TokenTree:
    """The contexts before each generated token, as decoding would read them.

    `context` is that of the prompt; the generated tokens, of the user model, are appended to it,
    but for the last, after which nothing is predicted.

    Without `reencode`, places whose context is not the beginning of the last one are masked: what
    remains is a chain, which every model and every attention can run.

    Raises:
        ContextError: the prompt is empty, so that nothing would predict the first token.

    >>> from cmc_runtime.contexts.same_vocabulary import SameVocabularyContext
    >>> tree = token_tree(SameVocabularyContext(100, [1, 7]), [30, 31, 32])
    >>> tree.ids.tolist(), tree.places.tolist()
    ([1, 7, 30, 31], [1, 2, 3])
    """
    if not context.ids:
        raise ContextError("the delta model's prompt is empty: it needs at least one id")
    edges: dict[tuple[int, int], int] = {}  # (parent, id) -> node
    path = [_NO_PARENT]  # the nodes of the context
    _walk(edges, path, context.ids)
    places = [path[-1]]
    for src_id in generated[:-1]:
        keep, new_ids = context.append(src_id)
        del path[keep + 1 :]
        _walk(edges, path, new_ids)
        places.append(path[-1])
    return _tree(list(edges), path[1:], places[: len(generated)], reencode)


def _walk(edges: dict[tuple[int, int], int], path: list[int], ids: list[int]) -> None:
    """Go on from the end of `path`, through nodes that are made where there are none."""
    for token_id in ids:
        path.append(edges.setdefault((path[-1], token_id), len(edges)))


def _tree(
    edges: list[tuple[int, int]], last: list[int], places: list[int], reencode: bool
) -> TokenTree:
    """The tree of all nodes, or of those of the last context alone."""
    number = {node: position for position, node in enumerate(last)}
    num_exact = sum(place in number for place in places)
    if not reencode:
        edges = [(position - 1, edges[node][1]) for position, node in enumerate(last)]
        places = [number.get(place, MASKED) for place in places]
    parents, ids = np.array(edges, np.int32).T
    return TokenTree(ids, parents, np.array(places, np.int32), num_exact)
