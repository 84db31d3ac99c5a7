"""Streams of tokens and backspaces, and the texts that they collapse to."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..typing import TokenSequence

Reach: TypeAlias = Callable[[list[int]], int]
"""A function from a non-empty text to the number of tokens that remain after a backspace."""


def one_token(text: list[int]) -> int:
    """A backspace deletes the last token."""
    return len(text) - 1


def last_boundary(text: list[int], boundary: Collection[int]) -> int:
    """A backspace deletes all tokens after the last boundary, or, if that is the last token, the step that it ends."""
    left = one_token(text)
    while left and text[left - 1] not in boundary:
        left -= 1
    return left


@dataclass(frozen=True, eq=False)
class Tree:
    """A stream as a tree: one node for each written token, whose parent is the text after which it was written.

    Node 0 is the empty text. At a node, an erasing model attends only to the node and its ancestors, so that one pass
    over the nodes gives its predictions at every entry of the stream.

    **Arguments:**

    - `tokens`: the token of each node, -1 for node 0.
    - `parents`: the parent of each node, -1 for node 0; `depths`: the length of the text at each node.
    - `nodes`: for each entry of the stream, the node after which it was written.
    - `places`: for each entry of the stream, the node that it created; -1 for a backspace.
    - `again`: for each entry of the stream, whether it follows a backspace, so that its text was visited before.
    - `end`: the node of the final text.
    - `void`: the number of backspaces on an empty text, which have no effect.
    """

    tokens: Int[Tensor, " node"]
    parents: Int[Tensor, " node"]
    depths: Int[Tensor, " node"]
    nodes: Int[Tensor, " stream"]
    places: Int[Tensor, " stream"]
    again: Bool[Tensor, " stream"]
    end: int
    void: int

    @property
    def path(self) -> TokenSequence:
        """The nodes of the final text, in order."""
        node, found, parents = self.end, [], self.parents.tolist()
        while node:
            found.append(node)
            node = parents[node]
        return torch.tensor(found[::-1], dtype=torch.long, device=self.tokens.device)

    @property
    def text(self) -> TokenSequence:
        """The final text."""
        return self.tokens[self.path]

    @property
    def wrong(self) -> Bool[Tensor, " stream"]:
        """The mask of entries that are tokens deleted later."""
        kept = torch.zeros(len(self.tokens), dtype=torch.bool, device=self.tokens.device)
        kept[self.path] = True
        return (self.places >= 0) & ~kept[self.places]

    @property
    def ancestors(self) -> Bool[Tensor, "node node"]:
        """Whether the first node attends to the second: it is the same node or an ancestor."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool, device=self.tokens.device)
        above = self.parents.clamp(min=0)  # the root is its own parent
        # Path doubling: each iteration doubles the distance of known ancestors.
        for _ in range(int(self.depths.max()).bit_length()):
            seen = seen | seen[above]
            above = above[above]
        return seen


def tree_of(z: Int[Tensor, " stream"], backspace: int, reach: Reach = one_token) -> Tree:
    """Build the tree of a stream.

    **Arguments:**

    - `z`: tokens and backspaces.
    - `backspace`: the id of the backspace.
    - `reach`: how much a backspace deletes.

    **Example:**

    ```python
    import torch
    from noiselab.autoregressive import tree_of

    tree = tree_of(torch.tensor([3, 5, 9, 4]), backspace=9)   # 3, then 5, no: 4
    assert tree.text.tolist() == [3, 4] and tree.wrong.tolist() == [False, True, False, False]
    assert tree.parents.tolist() == [-1, 0, 1, 1]
    ```
    """
    tokens, parents, depths = [-1], [-1], [0]
    nodes, places, again = [], [], []
    stack, void, before = [0], 0, False
    for entry in z.tolist():
        nodes.append(stack[-1])
        again.append(before)
        before = entry == backspace
        if not before:
            places.append(len(tokens))
            tokens.append(entry)
            parents.append(stack[-1])
            depths.append(len(stack))
            stack.append(places[-1])
            continue
        places.append(-1)
        if len(stack) == 1:
            void += 1
        else:
            left = reach([tokens[node] for node in stack[1:]])
            if not 0 <= left < len(stack) - 1:
                raise ValueError(f"a backspace must leave 0 to {len(stack) - 2} tokens of this text; got {left}")
            del stack[1 + left :]
    token, parent, depth, node, place = (
        torch.tensor(values, dtype=torch.long, device=z.device) for values in (tokens, parents, depths, nodes, places)
    )
    seen = torch.tensor(again, dtype=torch.bool, device=z.device)
    return Tree(token, parent, depth, node, place, seen, stack[-1], void)
