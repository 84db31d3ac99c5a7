r"""The cost of wrong tokens at the end of a prompt for the text after it.

The last $k$ tokens of a real prefix are replaced by wrong ones, a model continues from there, and a judge scores the text
after the prefix. A model that was never trained on errors may continue them; a model that backtracks can delete them
first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Generator, Tensor, nn

from noiselab.bench import replace_tokens
from noiselab.evaluation.intervals import Interval, interval
from noiselab.evaluation.judge import token_nats
from noiselab.revisions import Reviser, require_reviser


@dataclass(frozen=True)
class Recovery:
    r"""Judged texts after prefixes with wrong tokens at their ends.

    The judge scores the same places of each text, the $m$ after the prefix of $n$ tokens, whether the model changed the prefix
    or not. It does so twice. With $y$ the final text and $x$ the real one,

    $$\text{nats} = -\frac 1 m \sum_{i = n+1}^{n+m} \log p(y_i \mid y_1 \dots y_{i-1}), \qquad
    \text{nats given truth} = -\frac 1 m \sum_{i = n+1}^{n+m} \log p(y_i \mid x_1 \dots x_n, y_{n+1} \dots y_{i-1}) .$$

    The first measures whether the text follows from what is there, right or wrong. Wrong tokens that were left make the judge
    less certain of what follows, and a text that follows from them is not penalised. The second measures whether the text could
    follow the undamaged prefix. A continuation that took up a wrong token is penalised, and so is one that fits a prefix that
    was mended differently. Where the prefix is fully mended, both are equal.

    **Arguments:**

    - `errors`: $k$, how many tokens at the end of each prefix were wrong.
    - `nats`, `given_truth`: per token, as above.
    - `cost`, `cost_given_truth`: their increase over those without errors, set by set, with the same prefixes and random
      numbers.
    - `fixed`: the share of wrong tokens that are right in the final text.
    """

    errors: int
    nats: Interval
    given_truth: Interval
    cost: Interval
    cost_given_truth: Interval
    fixed: Interval


def measure_recovery(
    reviser: Reviser,
    judge: nn.Module,
    x: Int[Tensor, "sequence prefix"],
    support: Int[Tensor, " token"],
    *,
    more: int,
    start: int,
    errors: Sequence[int] = (1, 2, 4, 8),
    sets: int = 4,
    batch_size: int = 16,
    seed: int = 0,
) -> list[Recovery]:
    """Let a model continue prefixes whose last tokens were replaced, and have the texts judged.

    The reviser can change the last `max(errors)` tokens of each prefix, whatever the number of errors, so that it is not given
    how many of them are wrong. One error is also among two, and so on.

    **Arguments:**

    - `reviser`: a `ContinuationReviser` or an `InfillingReviser`, with `given` the length of the prefixes, or one of yours: it
      writes the tokens after the prefix anew, and can change the last `max(errors)` of the prefix.
    - `judge`: an autoregressive model that is none of those compared, as for `generative_perplexity`.
    - `x`: real prefixes, of one length, dealt into sets in their order; those that do not fill the last set are left out.
    - `support`: the tokens to replace with, as for `force_errors`.
    - `more`: the number of tokens written after the prefix.
    - `start`: the token that the judge reads first.
    - `errors`: numbers of wrong tokens, shorter than the prefix; no errors come first by themselves.
    - `sets`: at least two, for the intervals.
    - `batch_size`: of the judge.
    - `seed`: of the wrong tokens and of what is written.

    **Returns:** one result without errors, whose costs and `fixed` are 0, and one for each number of errors.

    **Raises:** `ValueError` for settings out of range, anything but a `Reviser`, or a revision that changes other tokens.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from backspaces.recovery import measure_recovery, tabulate_recovery
    from noiselab.autoregressive import BackspaceSampler, ContinuationReviser, RandomTokenBackspace, UniformTokens

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    judge, network = (LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes)).eval() for _ in range(2))  # better: trained ones
    edits = RandomTokenBackspace(vocab_size=11, backspace=10, rate=0.1, wrong=UniformTokens(10))
    reviser = ContinuationReviser(BackspaceSampler(network, edits, start=0, budget=20), given=12)
    x = (torch.randint(10, (8, 1)) + torch.arange(12)) % 10
    rows = measure_recovery(reviser, judge, x, torch.arange(10), more=4, start=0, sets=2)
    print(tabulate_recovery({"backspaces": rows}))
    ```
    """
    require_reviser(reviser)
    length, most = x.shape[1], max(errors, default=0)
    if min(errors, default=0) < 1 or most >= length or sets < 2 or len(x) < sets or more < 1:
        raise ValueError(
            f"errors must lie in [1, {length}), more be positive, sets be at least 2 and no more than prefixes; got {errors}, "
            f"{more}, {sets} of {len(x)}"
        )
    size, kept = len(x) // sets, length - most
    found: dict[int, list[_Outcome]] = {k: [] for k in (0, *sorted(set(errors)))}
    for number, truth in enumerate(x[: sets * size].split(size)):
        random = Generator().manual_seed(seed + number)
        u = torch.rand(truth.shape, generator=random, dtype=torch.float64).to(x.device)
        wrong, same = replace_tokens(truth, support, u), int(torch.randint(2**62, (), generator=random))
        for k, outcomes in found.items():
            damaged = torch.where(torch.arange(length, device=x.device) >= length - k, wrong, truth)
            z = torch.cat(
                [damaged, damaged[:, :1].expand(-1, more)], 1
            )  # the end is generated again, so its tokens do not matter
            rows = (torch.arange(length + more, device=x.device) >= kept).expand(z.shape)
            texts = reviser(z, rows=rows, generator=Generator().manual_seed(same)).tokens
            outcomes.append(_judge_texts(judge, texts, truth, k, start, batch_size))
    return [_summarize(k, outcomes, found[0]) for k, outcomes in found.items()]


def _summarize(k: int, found: list["_Outcome"], plain: list["_Outcome"]) -> Recovery:
    own, clean, fixed = ([outcome[part] for outcome in found] for part in range(3))
    own_plain, clean_plain = ([outcome[part] for outcome in plain] for part in range(2))
    return Recovery(
        k,
        interval(own),
        interval(clean),
        interval([a - b for a, b in zip(own, own_plain, strict=True)]),
        interval([a - b for a, b in zip(clean, clean_plain, strict=True)]),
        interval(fixed),
    )


_Outcome: TypeAlias = tuple[float, float, float]
"""Nats given the text, nats given the truth, the share of wrong tokens that are right in the end."""


def _judge_texts(judge: nn.Module, texts: Tensor, truth: Tensor, k: int, start: int, batch_size: int) -> _Outcome:
    length = truth.shape[1]
    behind_truth = torch.cat([truth, texts[:, length:]], 1)
    own, clean = (
        token_nats(judge, some, start=start, batch_size=batch_size)[:, length:].mean().item()
        for some in (texts, behind_truth)
    )
    last = slice(length - k, length)
    return own, clean, (texts[:, last] == truth[:, last]).double().mean().item() if k else 0.0


def tabulate_recovery(results: dict[str, list[Recovery]]) -> str:
    """The results of some models as a Markdown table."""
    lines = [
        "| model | wrong tokens | nats per token | given the truth | cost | cost given the truth | fixed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, rows in results.items():
        for row in rows:
            cells = [name, str(row.errors)]
            cells += [f"{i.mean:.3f} ± {i.half:.3f}" for i in (row.nats, row.given_truth)]
            if row.errors:
                cells += [str(row.cost), str(row.cost_given_truth), f"{row.fixed.mean:.1%} ± {row.fixed.half:.1%}"]
            else:
                cells += ["", "", ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
