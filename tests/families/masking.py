"""Masking."""

from collections.abc import Callable

import published
import torch
from family import MASK, MD4, SIGNALS, Equality, Pairs, V, bound, draw, normalised, values_and_gradients
from torch import Tensor

import noiselab as nl
from noiselab.training import CorrectionLoss, Place, fill_draft, quality_loss, reveal
from noiselab.training.masked_texts import MaskedTexts, bound_of

MDLM = "MDLM, Sahoo et al. (2024), [2406.07524](https://arxiv.org/abs/2406.07524)"

WORLDS = {
    "masked": lambda: nl.masked(vocab_size=5, mask_id=4),
}

SETTINGS = [
    lambda size: {"family": "masked", "mask_id": 2, "signal": "cosine", "vocab_size": size},
    lambda size: {"family": "masked", "mask_id": 2, "signal": {"name": "polynomial", "power": 2}, "vocab_size": size},
]


def masking(names: str, paper=published.mdlm) -> Callable[[], Pairs]:
    def pairs() -> Pairs:
        for seed, name in enumerate(names.split(", ")):
            ours, theirs = SIGNALS[name]
            yield from bound(nl.masked(vocab_size=V, mask_id=MASK, signal=ours), paper(theirs, MASK), seed)

    return pairs


def llada() -> Pairs:
    yield from bound(nl.masked(vocab_size=V, mask_id=MASK), published.llada(MASK))


def md4_steps() -> Pairs:
    steps = 10
    for seed, name in enumerate(["linear", "MD4 cosine", "square"]):
        signal, theirs = SIGNALS[name]
        process = nl.masked(vocab_size=V, mask_id=MASK, signal=signal)
        logits, x, _, t = draw(process, seed)
        t = ((t * steps).floor() + 1) / steps
        z = process.corrupt(x, t, generator=torch.Generator().manual_seed(seed))
        paper = published.md4_steps(theirs, MASK, steps)
        yield from values_and_gradients(
            lambda leaf, x=x, z=z, t=t, process=process: nl.elbo.step_kl(process, leaf, x, z, t - 1 / steps, t),
            lambda leaf, x=x, z=z, t=t, process=process, paper=paper: paper(normalised(process, leaf), x, z, t),
            logits,
        )


def drawn_texts(seed: int):
    """Masked texts with one time for each, as the losses of trained correction draw them."""
    process = nl.masked(vocab_size=V, mask_id=MASK)
    logits, x, _, t = draw(process, seed, per_token=False)
    t = t[:, 0]
    z = process.corrupt(x, t, generator=torch.Generator().manual_seed(seed))
    every = torch.ones_like(x, dtype=torch.bool)
    return process, logits, MaskedTexts(x, z, t, every, z == MASK, None, [], Place(0))


def quality() -> Pairs:
    for seed in range(2):
        process, logits, texts = drawn_texts(seed)
        allowed, random = process.on_support(logits), torch.Generator().manual_seed(seed)
        shown, revealed = reveal(allowed, texts.seen, texts.masked, 2, generator=random)
        predicted, paper, time = Predicts(), published.prism(MASK, 0.5), texts.t[:, None]

        def ours(leaf: Tensor, process=process, texts=texts, shown=shown, revealed=revealed, by=predicted) -> Tensor:
            own = quality_loss(leaf[..., MASK], texts.x, shown, revealed)
            return own + 0.5 * bound_of(process, by, leaf, texts)

        def theirs(leaf: Tensor, process=process, texts=texts, shown=shown, paper=paper, time=time) -> Tensor:
            return paper(leaf[..., MASK], normalised(process, leaf), texts.x, shown, texts.seen, time)

        yield from values_and_gradients(
            ours, theirs, logits
        )  # the logit of the mask, which counts for nothing, is the quality


def drafts() -> Pairs:
    for seed in range(2):
        process, logits, texts = drawn_texts(seed)
        draft = fill_draft(process.on_support(logits), texts.seen, texts.masked)
        loss, paper, time = CorrectionLoss(process, weight=0.5), published.proseco(MASK, 0.5), texts.t[:, None]
        both = torch.stack([logits, logits.flip(0)])

        def ours(leaf: Tensor, loss=loss, texts=texts, draft=draft) -> Tensor:
            return loss.of_tokens(Predicts(), leaf[0], leaf[1], texts, draft)

        def theirs(leaf: Tensor, process=process, texts=texts, paper=paper, time=time) -> Tensor:
            return paper(normalised(process, leaf[0]), normalised(process, leaf[1]), texts.x, texts.seen, time)

        yield from values_and_gradients(ours, theirs, both)


class Predicts:
    predicts = "leave_one_out"


EQUALITIES = {
    "mdlm": Equality(
        "`masked`, linear, log-linear, cosine and squared cosine signal",
        MDLM,
        "equations 10, 11",
        masking("linear, log-linear, cosine, cosine squared"),
    ),
    "md4": Equality(
        "`masked`, linear, polynomial and MD4's cosine signal",
        MD4,
        "equation 5",
        masking("linear, square, square root, MD4 cosine"),
    ),
    "md4 steps": Equality("`masked` with `step_kl`", MD4, "section 3, T steps", md4_steps),
    "llada": Equality(
        "`masked`", "LLaDA, Nie et al. (2025), [2502.09992](https://arxiv.org/abs/2502.09992)", "equation 3", llada
    ),
    "prism": Equality(
        "`quality_loss` and the bound of `masked`, as in `QualityLoss`",
        "PRISM, Kim et al. (2025), [2510.01384](https://arxiv.org/abs/2510.01384)",
        "quality with the regulariser; the mask has no probability",
        quality,
    ),
    "proseco": Equality(
        "`CorrectionLoss` with `masked`",
        "ProSeCo, Schiff et al. (2026), [2602.11590](https://arxiv.org/abs/2602.11590)",
        "masked loss plus corrector",
        drafts,
    ),
}
