"""One table of forced errors for all models that correct themselves: what they find, what they make of it, what it takes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from .forced_errors import Damage, Suspicion, detection
from .intervals import Interval, interval
from .judge import generative_perplexity
from .repair import Reviser, repair


@dataclass(frozen=True)
class ForcedErrorRow:
    """What a model did to texts with wrong tokens.

    **Arguments:**

    - `model`: its name.
    - `area`, `recall`: as in `Detection`.
    - `fixed`, `changed_wrongly`, `harmed`, `gain`, `evaluations`: as in `Repair`.
    - `truth`, `before`, `after`: nats per token by the judge of the real texts, the damaged ones, and the revised ones.
    - `better`: before minus after, taken set by set.
    """

    model: str
    area: Interval
    recall: Interval
    fixed: Interval
    changed_wrongly: Interval
    harmed: Interval
    gain: Interval
    evaluations: Interval
    truth: Interval | None = None
    before: Interval | None = None
    after: Interval | None = None
    better: Interval | None = None


def forced_error_row(
    model: str,
    sets: Sequence[Damage],
    suspicion: Suspicion,
    reviser: Reviser,
    *,
    judge: nn.Module | None = None,
    start: int | None = None,
    batch_size: int = 16,
) -> ForcedErrorRow:
    """Have a model find and mend the wrong tokens of some sets of texts.

    **Arguments:**

    - `model`: its name.
    - `sets`: damaged texts, two sets or more, for the intervals; the same for all models that are compared.
    - `suspicion`: by which the model finds wrong tokens: `by_backspace`, `by_surprise`, `by_denoiser`.
    - `reviser`: by which it mends them: `by_proofreading`, `by_surprise_proofreading`, `by_self_correction`, `by_guess`, with
      thresholds that were chosen on other texts.
    - `judge`, `start`, `batch_size`: as for `generative_perplexity`; without a judge there are no nats. A judge prefers likely
      texts to true ones, so that its nats may fall while right tokens are harmed.

    **Raises:** `ValueError` for less than two sets.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.evaluation import by_denoiser, by_guess, by_self_correction, damage, threshold_at
    from noiselab.evaluation import forced_error_row, forced_error_table

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.95, 0.05], [0.05, 0.95]]), process)
    random = torch.Generator().manual_seed(0)
    others, *sets = (damage(oracle.sample(8, 32, generator=random), torch.arange(2), 0.1, generator=random) for _ in range(4))
    threshold = threshold_at(by_denoiser(oracle)(others.tokens), others.wrong)
    revisers = {
        "best guess": by_guess(oracle, threshold=threshold),
        "self-correction": by_self_correction(nl.SelfCorrection(oracle, process=process), generator=random),
    }
    print(forced_error_table(forced_error_row(name, sets, by_denoiser(oracle), r) for name, r in revisers.items()))
    ```
    """
    if len(sets) < 2:
        raise ValueError(f"there must be two sets or more, for the intervals; got {len(sets)}")
    found = []
    for damaged in sets:
        seen, revised = detection(suspicion(damaged.tokens), damaged.wrong), reviser(damaged.tokens)
        measures = seen._asdict() | repair(damaged, revised)._asdict()
        if judge is not None:
            texts = {"truth": damaged.truth, "before": damaged.tokens, "after": revised.tokens}
            for name, some in texts.items():
                measures[name] = generative_perplexity(judge, some, start=start, batch_size=batch_size).nats
            measures["better"] = measures["before"] - measures["after"]
        found.append(measures)
    return ForcedErrorRow(model, **{name: interval([some[name] for some in found]) for name in found[0]})


def forced_error_table(rows: Iterable[ForcedErrorRow]) -> str:
    """The rows as a Markdown table."""
    shares = {
        "recall": "found at 5 % false alarms",
        "fixed": "wrong → right",
        "changed_wrongly": "wrong → other",
        "harmed": "right → wrong",
        "gain": "net gain",
    }
    nats = {"truth": "nats of the truth", "before": "damaged", "after": "revised", "better": "better by"}
    heads = ["model", "area under ROC", *shares.values(), *nats.values(), "evaluations per token"]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for row in rows:
        cells = [row.model, _plain(row.area)]
        cells += [f"{getattr(row, name).mean:.1%} ± {getattr(row, name).half:.1%}" for name in shares]
        cells += [_plain(getattr(row, name)) for name in nats]
        lines.append(f"| {' | '.join([*cells, _plain(row.evaluations)])} |")
    return "\n".join(lines)


def _plain(value: Interval | None) -> str:
    return "" if value is None else f"{value.mean:.3f} ± {value.half:.3f}"
