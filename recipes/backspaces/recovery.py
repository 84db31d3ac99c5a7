r"""What wrong tokens in a prompt cost the text behind it.

The last $k$ tokens of a real prefix are replaced by wrong ones, a model goes on from there, and a judge says how likely the
text behind the prefix is. A model that has never read mistakes may be led astray by them; one that takes back may remove
them first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Int
from torch import Generator, Tensor, nn

from noiselab.autoregressive.backtracking import BacktrackingDecoder
from noiselab.correctors import SelfCorrection
from noiselab.evaluation.bound import evaluating
from noiselab.evaluation.forced_errors import other_tokens
from noiselab.evaluation.intervals import Interval, interval
from noiselab.evaluation.judge import token_nats
from noiselab.samplers import Infilling, Sampler


@runtime_checkable
class Continuation(Protocol):
    """A model that writes on behind prompts, and may take back their ends."""

    def __call__(
        self, prompts: Int[Tensor, "sequence prefix"], *, kept: int, length: int, generator: Generator
    ) -> Int[Tensor, "sequence length"]:
        """Texts of a length, of which the first `kept` tokens are those of the prompts."""
        ...


@dataclass(frozen=True)
class Recovery:
    r"""What became of texts behind prefixes with wrong tokens at their ends.

    The judge scores the same places of each text, the $m$ behind the prefix of $n$ tokens, whether the model took back tokens
    of the prefix or not. It does so twice. With $y$ the final text and $x$ the real one,

    $$\text{nats} = -\frac 1 m \sum_{i = n+1}^{n+m} \log p(y_i \mid y_1 \dots y_{i-1}), \qquad
    \text{nats given truth} = -\frac 1 m \sum_{i = n+1}^{n+m} \log p(y_i \mid x_1 \dots x_n, y_{n+1} \dots y_{i-1}) .$$

    The first asks whether the text goes on from what stands there, be it right or wrong. The judge reads wrong tokens that were
    left, which make it less certain of what follows, and does not mind a text that follows from them. The second asks whether
    the text could stand behind what was there before the damage. A continuation that took up a wrong token pays for it, and so
    does one that fits a prefix mended in another way than it was. Where the prefix is whole in the end, both are the same.

    **Arguments:**

    - `errors`: $k$, how many tokens at the end of each prefix were wrong.
    - `nats`, `given_truth`: per token, as above.
    - `cost`, `cost_given_truth`: by how much they are above those without errors, taken set by set, in which prefixes and
      random numbers are the same.
    - `fixed`: the share of wrong tokens that the final text has right.
    """

    errors: int
    nats: Interval
    given_truth: Interval
    cost: Interval
    cost_given_truth: Interval
    fixed: Interval


def recovery(
    sample: Continuation,
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

    What may be taken back is the same for all numbers of errors, the last `max(errors)` tokens, so that a model is not told
    how many of them are wrong. One error is also among two, and so on.

    **Arguments:**

    - `sample`: `continued_with_backspaces`, `continued_by_infilling`, or a function of yours.
    - `judge`: an autoregressive model that is none of those compared, as for `generative_perplexity`.
    - `x`: real prefixes, all as long, dealt into sets in their order; those that do not fill the last set are left out.
    - `support`: the tokens to replace with, as for `damage`.
    - `more`: how many tokens are written behind the prefix.
    - `start`: the token that the judge reads first.
    - `errors`: numbers of wrong tokens, shorter than the prefix; no errors come first by themselves.
    - `sets`: at least two, for the intervals.
    - `batch_size`: of the judge.
    - `seed`: of the wrong tokens and of what is written.

    **Returns:** one result without errors, whose costs are 0 and of which nothing is fixed, and one for each number of errors.

    **Raises:** `ValueError` for settings out of range, or texts that do not keep what they must.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from backspaces.recovery import recovery, recovery_table

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    judge = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes)).eval()  # one that was trained would be better

    def count_on(prompts, *, kept, length, generator):
        new = prompts[:, -1:] + torch.arange(1, length - prompts.shape[1] + 1)
        return torch.cat([prompts, new % 10], 1)

    x = (torch.randint(10, (8, 1)) + torch.arange(12)) % 10
    print(recovery_table({"counts on": recovery(count_on, judge, x, torch.arange(10), more=4, start=0, sets=2)}))
    ```
    """
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
        wrong, same = other_tokens(truth, support, u), int(torch.randint(2**62, (), generator=random))
        for k, outcomes in found.items():
            damaged = torch.where(torch.arange(length, device=x.device) >= length - k, wrong, truth)
            texts = sample(damaged, kept=kept, length=length + more, generator=Generator().manual_seed(same)).to(
                x.device
            )
            if texts.shape != (size, length + more) or not torch.equal(texts[:, :kept], truth[:, :kept]):
                raise ValueError(
                    f"texts must have the shape {[size, length + more]} and the first {kept} tokens of their prompts; got "
                    f"{list(texts.shape)}"
                )
            outcomes.append(_judged(judge, texts, truth, k, start, batch_size))
    return [_summary(k, outcomes, found[0]) for k, outcomes in found.items()]


def _summary(k: int, found: list["_Outcome"], plain: list["_Outcome"]) -> Recovery:
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


def _judged(judge: nn.Module, texts: Tensor, truth: Tensor, k: int, start: int, batch_size: int) -> _Outcome:
    length = truth.shape[1]
    behind_truth = torch.cat([truth, texts[:, length:]], 1)
    own, clean = (
        token_nats(judge, some, start=start, batch_size=batch_size)[:, length:].mean().item()
        for some in (texts, behind_truth)
    )
    last = slice(length - k, length)
    return own, clean, (texts[:, last] == truth[:, last]).double().mean().item() if k else 0.0


def continued_with_backspaces(sampler: BacktrackingDecoder) -> Continuation:
    """A `BackspaceSampler` or `RetryUponRegret` that may take back the ends of prompts.

    With `bias=-torch.inf` the sampler is the plain model, which can not. With `deep=False` it can take back no more than the
    last token of a prompt.

    **Arguments:**

    - `sampler`: with a budget such that no text meets the limit on entries, ten times its length.

    **Raises:** `ValueError`, when it writes, if a text stays shorter than asked for.
    """

    def write(prompts: Tensor, *, kept: int, length: int, generator: Generator) -> Tensor:
        with evaluating(sampler.network):
            written = sampler.sample(list(prompts.cpu()), length=length, kept=kept, generator=generator)
        shortest = min(map(len, written.texts))
        if shortest < length:
            raise ValueError(
                f"texts must have {length} tokens; one of {shortest} was given up, the budget is {sampler.budget}"
            )
        return torch.stack(written.texts).to(prompts)

    return write


def continued_by_infilling(
    sampler: Sampler, *, steps: int, correction: SelfCorrection | None = None, corrections: int = 128
) -> Continuation:
    """A diffusion model that fills in what is behind the prompts; then self-correction may change their ends too.

    **Arguments:**

    - `sampler`: of noise and denoiser, for example `AncestralSampler`.
    - `steps`: of the sampler.
    - `correction`: of the whole text but the tokens that must be kept; none by default.
    - `corrections`: steps of it, at most.
    """

    def write(prompts: Tensor, *, kept: int, length: int, generator: Generator) -> Tensor:
        count, known = prompts.shape
        tokens = torch.zeros(count, length, dtype=torch.long)
        tokens[:, :known] = prompts
        tokens, places = tokens.to(sampler.device), torch.arange(length, device=sampler.device)
        given = (places < known).expand(count, -1)
        x = Infilling(sampler, tokens, given, times="sequence").sample(
            (count, length), steps=steps, generator=generator
        )
        if correction is not None:
            free = (places >= kept).expand(count, -1)
            x = correction.correct(x, steps=corrections, rows=free, generator=generator)
        return x.to(prompts)

    return write


def recovery_table(results: dict[str, list[Recovery]]) -> str:
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
