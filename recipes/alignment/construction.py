r"""A transformer with weights set by hand whose forward pass is gradient descent on a ranking loss.

This network implements the theorem of in-context alignment. Its tokens are the answers with their rewards, and one query
token. Each block processes one rank with three softmax heads and a ReLU layer:

1. The first head attends sharply by reward and returns the best remaining answer.
2. The second head attends by the model's score, $2 \hat y \cdot y_j - \|y_j\|^2$, which equals $-\|\hat y - y_j\|^2$ up to a
   constant, and returns the weighted average of the remaining answers. The difference of the two heads is the contribution
   of this rank to the gradient.
3. The third head attends by reward again and returns the highest reward, at every token. The ReLU layer removes the token
   that has it.

Linear attention cannot compute any of the three, because each needs a maximum or a ratio.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

FAR = 100.0  # subtracted from the reward of an answer that is already ranked, and from scores; e^-100 is negligible


class _Block(nn.Module):
    """Softmax attention with any number of heads and a ReLU layer, each with a residual connection."""

    def __init__(self, queries: Tensor, keys: Tensor, values: Tensor, into: Tensor, bias: Tensor, out: Tensor) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Parameter(weight) for weight in (queries, keys, values))
        self.into, self.bias, self.out = (nn.Parameter(weight) for weight in (into, bias, out))

    def forward(self, tokens: Tensor) -> Tensor:
        queries = torch.einsum("bti,hij->bhtj", tokens, self.queries)
        keys = torch.einsum("bti,hij->bhtj", tokens, self.keys)
        scores = queries @ keys.mT
        tokens = tokens + (scores.softmax(-1) @ torch.einsum("bti,hij->bhtj", tokens, self.values)).sum(1)
        return tokens + torch.relu(tokens @ self.into + self.bias) @ self.out


class InContextPlackettLuce(nn.Module):
    r"""Performs steps of gradient descent on the Plackett-Luce loss of the answers in its context.

    From the prediction $W x$, with the reward $-\|W x - y\|^2$, one block for each rank but the last gives

    $$(W + \Delta W) x, \qquad \Delta W = -\eta \frac{\partial L}{\partial W} ,$$

    up to an error that vanishes as `sharpness` grows. Further steps are further blocks.

    **Arguments:**

    - `dim`: dimension of the answers, at least 1.
    - `answers`: number of answers in the context, $N \ge 2$.
    - `step_size`: $\eta \|x\|^2$; all questions must have the same norm.
    - `steps`: number of gradient steps, at least 1; there are `steps` times $N - 1$ blocks.
    - `sharpness`: $\beta$, the inverse temperature of the heads that select, and the slope of the ReLU layer. Rewards must
      differ by a few multiples of $1 / \beta$.
    - `dtype`: dtype of the weights.

    **Raises:** `ValueError` for arguments out of range.

    **Source:** Wang, Wang, Wang and others (2024), arXiv 2405.18634, theorem 3.3 and appendix E; these weights are ours.

    **Example:**

    ```python
    import torch
    from alignment import InContextPlackettLuce, plackett_luce_gradient

    torch.manual_seed(0)
    weight, x, y = torch.randn(1, 5, 5).double(), torch.randn(1, 5).double(), torch.randn(1, 4, 5).double()
    rewards = torch.tensor([[0.3, 0.9, 0.1, 0.6]]).double()
    network = InContextPlackettLuce(5, 4, step_size=0.1 * x.square().sum().item())
    after = (weight - 0.1 * plackett_luce_gradient(weight, x, y, rewards)) @ x[0]
    assert (network((weight @ x[0]), y, rewards) - after).abs().max() < 1e-9
    ```
    """

    def __init__(
        self,
        dim: int,
        answers: int,
        *,
        step_size: float,
        steps: int = 1,
        sharpness: float = 300.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if dim < 1 or answers < 2 or steps < 1 or not sharpness > 0:
            raise ValueError(
                "dim and steps must be at least 1, answers at least 2, sharpness above 0; "
                f"got {dim}, {steps}, {answers}, {sharpness}"
            )
        self.dim, self.answers = dim, answers
        self.room = _Layout(dim, dtype)
        ranks = [self.room.rank(step_size, sharpness, last=rank == answers - 2) for rank in range(answers - 1)]
        self.blocks = nn.Sequential(*(_Block(*weights) for _ in range(steps) for weights in ranks))

    def forward(
        self,
        prediction: Float[Tensor, "batch {self.dim}"],
        y: Float[Tensor, "batch {self.answers} {self.dim}"],
        rewards: Float[Tensor, "batch {self.answers}"],
    ) -> Float[Tensor, "batch {self.dim}"]:
        """The prediction after the steps.

        **Arguments:**

        - `prediction`: $W x$ before the steps.
        - `y`: the answers; `rewards`: their rewards, in [0, 1].
        """
        return self.blocks(self.room.tokens(prediction, y, rewards))[:, -1, self.room.prediction]


class _Layout:
    """The layout of a token's vector, and the weights of a block for this layout."""

    def __init__(self, dim: int, dtype: torch.dtype) -> None:
        self.dtype, self.dim = dtype, dim
        self.prediction, self.y, self.change = (slice(part * dim, (part + 1) * dim) for part in range(3))
        # Squared norm of the answer; current, initial reward; ranked flag, current and initial; highest reward; constant one.
        self.square, self.reward, self.first, self.gone, self.off, self.top, self.one = range(3 * dim, 3 * dim + 7)
        self.width = 3 * dim + 7

    def tokens(self, prediction: Tensor, y: Tensor, rewards: Tensor) -> Tensor:
        """The answers, followed by the query token, which is marked as already ranked."""
        batch, count, _ = y.shape
        tokens = torch.zeros(batch, count + 1, self.width, dtype=self.dtype, device=y.device)
        tokens[..., self.prediction] = prediction[:, None]
        tokens[:, :-1, self.y] = y
        tokens[:, :-1, self.square] = y.square().sum(-1)
        tokens[:, :-1, self.reward] = tokens[:, :-1, self.first] = rewards
        tokens[:, -1, self.reward] = tokens[:, -1, self.first] = -FAR
        tokens[:, -1, self.gone] = tokens[:, -1, self.off] = 1
        tokens[..., self.one] = 1
        return tokens

    def rank(self, step_size: float, sharpness: float, *, last: bool) -> tuple[Tensor, ...]:
        """The weights of one block: queries, keys, values of the heads; into, bias and out of the ReLU layer."""
        each = range(self.dim)
        queries, keys, values = torch.zeros(3, 3, self.width, self.width, dtype=self.dtype).unbind(0)
        for head in (0, 2):
            queries[head, self.one, 0], keys[head, self.reward, 0] = sharpness, 1
        for k in each:
            queries[1, self.prediction.start + k, k], keys[1, self.y.start + k, k] = 2, 1
            values[0, self.y.start + k, self.change.start + k] = 2 * step_size
            values[1, self.y.start + k, self.change.start + k] = -2 * step_size
        queries[1, self.one, self.dim] = 1
        keys[1, self.square, self.dim], keys[1, self.gone, self.dim] = -1, -FAR * FAR
        values[2, self.reward, self.top] = 1

        units: list[tuple[dict[int, float], float, dict[int, float]]] = []

        def linear(source: dict[int, float], target: dict[int, float]) -> None:
            """Add a linear map, as the difference of two ReLU units."""
            for sign in (1.0, -1.0):
                scaled = {where: sign * weight for where, weight in source.items()}
                units.append((scaled, 0.0, {where: sign * weight for where, weight in target.items()}))

        linear({self.top: 1.0}, {self.top: -1.0})
        if last:
            # The gradient step is complete: update the prediction and restore all answers.
            for k in each:
                linear({self.change.start + k: 1.0}, {self.prediction.start + k: 1.0, self.change.start + k: -1.0})
            linear({self.first: 1.0, self.reward: -1.0}, {self.reward: 1.0})
            linear({self.off: 1.0, self.gone: -1.0}, {self.gone: 1.0})
        else:
            # 1 for the token with the highest reward, 0 for tokens whose reward is clearly lower.
            units.append(({self.top: -sharpness, self.reward: sharpness}, 1.0, {self.reward: -FAR, self.gone: 1}))
        into = torch.zeros(self.width, len(units), dtype=self.dtype)
        bias, out = torch.zeros(len(units), dtype=self.dtype), torch.zeros(len(units), self.width, dtype=self.dtype)
        for unit, (source, shift, target) in enumerate(units):
            bias[unit] = shift
            for where, weight in source.items():
                into[where, unit] = weight
            for where, weight in target.items():
                out[unit, where] = weight
        return queries, keys, values, into, bias, out
