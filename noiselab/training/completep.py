"""CompleteP: settings of a small network for one of any width and depth."""

from dataclasses import dataclass

from ..numerics import require_number


@dataclass(frozen=True)
class CompleteP:
    r"""The factors that carry settings from a network to one that is $m_N$ times as wide and $m_L$ times as deep.

    | setting | matrices of the blocks | other weights |
    | --- | --- | --- |
    | standard deviation at the start | $m_N^{-1/2}$ | 1 |
    | learning rate of Adam or LaProp | $m_N^{-1}$ | 1 |
    | weight decay, decoupled | $m_N$ | 1 |
    | $\epsilon$ of Adam or LaProp | $m_N^{-1} m_L^{-1}$ | $m_N^{-1} m_L^{-1}$ |

    The output of each branch is multiplied by $m_L^{-1}$ before it is added to the residual stream, and the logits by
    $m_N^{-1}$. Then activations, and what a step changes in them, keep their size for every width and depth, and the best
    learning rate is the same. The trainer applies rates, decays and $\epsilon$ (`width_ratio` and `depth_ratio` of
    `Optimization`); the network has the two multipliers.

    **Arguments:**

    - `width`, `depth`: $m_N$ and $m_L$, positive. 1 for the network whose settings are known. With the width and the number
      of blocks themselves, settings are those of a network of width 1 with one block, as the scaling study states them.

    **Raises:** `ValueError` if a ratio is not positive.

    **Source:** Dey et al. (2025), "Don't be lazy: CompleteP enables compute-efficient deep transformers", arXiv 2505.01618,
    table 1 with $\alpha = 1$; one $\epsilon$ for all weights, as in gidd_easydel/train.py of github.com/dvruette/gidd-easydel
    (commit 6525e88).

    **Example:**

    ```python
    from noiselab.training import CompleteP

    large = CompleteP(width=4, depth=2)
    assert (large.rate, large.decay, large.residual, large.output) == (0.25, 4, 0.5, 0.25)
    ```
    """

    width: float | int = 1.0
    depth: float | int = 1.0

    def __post_init__(self) -> None:
        require_number("width", self.width, 0, above=True)
        require_number("depth", self.depth, 0, above=True)

    @property
    def deviation(self) -> float:
        """Of the standard deviation of the matrices of the blocks at the start."""
        return self.width**-0.5

    @property
    def rate(self) -> float:
        """Of the learning rate of the matrices of the blocks."""
        return 1 / self.width

    @property
    def decay(self) -> float:
        """Of the weight decay of the matrices of the blocks, so that rate times decay stays."""
        return float(self.width)

    @property
    def epsilon(self) -> float:
        """Of the epsilon of the optimizer, as gradients shrink."""
        return 1 / (self.width * self.depth)

    @property
    def residual(self) -> float:
        """Of the output of a branch that is added to the residual stream."""
        return 1 / self.depth

    @property
    def output(self) -> float:
        """Of the logits."""
        return 1 / self.width
