r"""The negative ELBO of any process, from logits.

$$-\log p(x) \le \mathbb E_{t,\, z \sim q_t(\cdot \mid x)}
  \Big[ w_t(z, x)\,\big( KL(q_t(\cdot \mid x)\,\|\,q_t(\cdot \mid \hat x)) + IS(q_t(z \mid x),\, q_t(z \mid \hat x)) \big) \Big]$$

with $w_t(z, x) = r_t(z) / q_t(z \mid x)$ and $IS(a, b) = a/b - \log(a/b) - 1$. `definition` computes it densely;
`streaming` computes the same value and its gradient in a few passes over the logits; `fused` does so without storing
the logits. `ends` contains the terms of a truncated time range, `steps` the bound in discrete time, `score` the bound
for scores, and `by_token` the bound for state-dependent corruption.
"""  # noqa: E501

from .bound import nelbo
from .by_token import nelbo_by_token
from .definition import nelbo_dense
from .ends import prior_kl, reconstruction
from .fused import nelbo_fused
from .score import score_entropy
from .steps import step_kl, step_kl_dense

__all__ = [
    "nelbo",
    "nelbo_by_token",
    "nelbo_dense",
    "nelbo_fused",
    "prior_kl",
    "reconstruction",
    "score_entropy",
    "step_kl",
    "step_kl_dense",
]
