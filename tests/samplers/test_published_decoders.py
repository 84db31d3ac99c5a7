"""Published decoders, canvas by canvas: the rules of `ThresholdSampler` make the runs that other projects' code made."""

import itertools

import pytest
import torch
from published_decoders import RUNS, PublishedNetwork, canvases, settings, without_idle

import noiselab as nl
from noiselab.denoisers import Credit, TopK
from noiselab.samplers import (
    BlockSampler,
    ConfidenceThreshold,
    EntropyBound,
    EntropyThreshold,
    Factor,
    LocalMaxima,
    Prompted,
    Quota,
    StableConfidence,
    ThresholdSampler,
    even_quotas,
)

VOCAB, MASK = 37, 36
PROCESS = nl.masked(vocab_size=VOCAB, mask_id=MASK)


def prompt_of(c):
    return c["prompt"].reshape(-1, c["prompt"].shape[-1])


def published(c):
    """The stored trace, [forwards + 1, rows, length]."""
    return c["trace"].reshape(len(c["trace"]), -1, c["trace"].shape[-1])


def ours(c, rule, *, around=lambda network: network, **blocks):
    """Every canvas that the network is called with, and the result."""
    network, length = network_of(c), c["trace"].shape[-1]
    sampler = BlockSampler(ThresholdSampler(PROCESS, around(network), rule), c["block"], **blocks)
    x = Prompted(sampler, prompt_of(c)).sample((len(prompt_of(c)), length), steps=c["block"])
    return torch.stack([*canvases(network, length, MASK), x])


def network_of(c):
    return PublishedNetwork(RUNS, MASK)


def quotas(c):
    """Those of a run whose steps are counted over all blocks."""
    return even_quotas(c["block"], c["steps"] * c["block"] // c["gen"])


def klass(pick):
    return lambda c: StableConfidence(
        c["kl_threshold"], c["conf_threshold"], history=c["history"], minimum=quotas(c), pick=pick
    )


AFTER_PROMPT = {
    "fast.whole": lambda c: ConfidenceThreshold(c["threshold"]),
    "fast.blocks": lambda c: ConfidenceThreshold(c["threshold"]),
    "fast.blocks_low": lambda c: ConfidenceThreshold(c["threshold"]),
    "fast.fixed": lambda c: Quota(quotas(c)),
    "dllm.threshold": lambda c: ConfidenceThreshold(c["threshold"]),
    "dllm.factor": lambda c: Factor(c["factor"]),
    "dllm.factor_whole": lambda c: Factor(c["factor"]),
    "dinfer.threshold": lambda c: ConfidenceThreshold(c["threshold"]),
    "dinfer.hierarchy": lambda c: LocalMaxima(c["low_threshold"], c["threshold"]),
    "d3llm.entropy": lambda c: EntropyThreshold(c["entropy_threshold"]),
    "klass.all": klass("all"),
    "klass.hist1": klass("all"),
    "klass.min_kl": klass("most stable"),
    "klass.max_conf": klass("most confident"),
}


@pytest.mark.parametrize("case", AFTER_PROMPT)
def test_blocks_after_the_prompt(case):
    c = settings(case)
    assert torch.equal(ours(c, AFTER_PROMPT[case](c)), published(c))


def test_credit_for_tokens_predicted_before():
    c = settings("dinfer.credit")
    options = {"decay": c["decay_beta"], "power": c["boost_gamma"]}
    credited = ours(c, ConfidenceThreshold(c["threshold"]), around=lambda d: Credit(d, c["credit_alpha"], **options))
    assert torch.equal(credited, published(c))
    plain, other = (
        ours(c, ConfidenceThreshold(c["threshold"]), around=around)
        for around in (lambda d: d, lambda d: Credit(d, c["credit_alpha"], decay=0, power=c["boost_gamma"]))
    )
    assert len(plain) > len(credited) and not torch.equal(other[: len(credited)], credited[: len(other)])


FROM_ZERO = {
    "sglang.eb": (lambda c: EntropyBound(c["gamma"]), {}),
    "sglang.eb_small": (lambda c: EntropyBound(c["gamma"]), {}),
    "sdar.sequential": (lambda c: Quota(even_quotas(c["block"], c["steps"]), order="position"), {}),
    "sdar.dynamic_topk1": (lambda c: ConfidenceThreshold(c["threshold"]), {"around": lambda d: TopK(d, 1)}),
    "sdar.dynamic_warm": (
        lambda c: ConfidenceThreshold(c["threshold"], minimum=even_quotas(c["block"], c["steps"])),
        {"around": lambda d: nl.Temperature(d, 2.0)},
    ),
}


@pytest.mark.parametrize("case", FROM_ZERO)
def test_blocks_from_position_0(case):
    """The engines make one more forward for each block, which changes nothing: to store it, or to see that it is finished."""
    c = settings(case)
    rule, options = FROM_ZERO[case]
    trace, theirs = ours(c, rule(c), given=0, context="past", **options), published(c)
    blocks = (c["trace"].shape[-1] - prompt_of(c).shape[1] // c["block"] * c["block"]) // c["block"]
    assert len(theirs) == len(trace) + blocks
    assert torch.equal(trace, torch.stack(without_idle(theirs)))


def overwriting(c, threshold):
    """SDAR's step as it is published: the quota is taken even if fewer masks are left, by `topk` over minus infinities, and
    overwrites tokens of the prompt and revealed ones.
    """
    network, size, length = network_of(c), c["block"], c["trace"].shape[-1]
    z = torch.full((1, length), MASK)
    z[:, : prompt_of(c).shape[1]] = prompt_of(c)
    found = []
    for first in range(prompt_of(c).shape[1] // size * size, length, size):
        for count in even_quotas(size, c["steps"]):
            block = z[0, first : first + size]
            masks = block == MASK
            if not masks.any():
                break
            found.append(z.clone())
            sure, token = network(z[:, : first + size], torch.ones(1))[0, first:].softmax(-1).max(-1)
            sure = torch.where(masks, sure, -torch.inf)
            chosen = sure > threshold
            if threshold == 1 or chosen.sum() < count:
                chosen = torch.zeros_like(masks)
                chosen[sure.topk(count).indices] = True
            z[0, first : first + size] = torch.where(chosen, token, block)
    return torch.stack([*found, z])


@pytest.mark.parametrize("case", ["sdar.dynamic", "sdar.static"])
def test_sdar_overwrites_tokens_and_this_library_does_not(case):
    c = settings(case)
    counts, dynamic = even_quotas(c["block"], c["steps"]), case == "sdar.dynamic"
    theirs = torch.stack(without_idle(published(c)))
    assert torch.equal(overwriting(c, c["threshold"] if dynamic else 1), theirs)
    rule = ConfidenceThreshold(c["threshold"], minimum=counts) if dynamic else Quota(counts)
    trace = ours(c, rule, given=0, context="past")
    # The first block has one mask, at 7, and a quota of two: the prompt's token at 5 is overwritten.
    assert torch.equal(trace[0], theirs[0]) and counts[0] == 2 and prompt_of(c).shape[1] == 7
    assert (trace[1] != theirs[1]).nonzero().tolist() == [[0, 5]]
    known = prompt_of(c)
    assert (trace[:, :, :7] == known).all() and not (theirs[-1, :, :7] == known).all()
    for before, after in itertools.pairwise(trace):  # nothing revealed changes
        assert torch.equal(after[before != MASK], before[before != MASK])


def dinfer_factor(sure, factor):
    """The published count: i, the first rank (from 0) that fails, or the last; but all if i is the last."""
    order = sorted(sure, reverse=True)
    fails = [r for r, c in enumerate(order) if c < 1 - factor / (r + 2)]
    i = max(1, fails[0]) if fails else len(order) - 1
    return i + 1 if i == len(order) - 1 else i


def test_the_factor_of_dinfer_counts_otherwise():
    """Its canvases are those of its count; ours are those of the formula, and differ where only the last candidate fails."""
    c = settings("dinfer.factor")
    trace, theirs = ours(c, Factor(c["factor"])), published(c)
    seen = []

    def as_published(found):
        count = [
            dinfer_factor(row[rows].tolist(), c["factor"])
            for row, rows in zip(found.confidence, found.rows, strict=True)
        ]
        seen.append(count)
        rank = torch.where(found.rows, found.confidence, -1).argsort(dim=-1, descending=True, stable=True).argsort(-1)
        return found.rows & (rank < torch.tensor(count)[:, None])

    assert torch.equal(ours(c, as_published), theirs)
    first = next(k for k in range(len(trace)) if not torch.equal(trace[k], theirs[k]))
    before = trace[first - 1]
    more = (theirs[first] != trace[first])[0].nonzero()[:, 0]
    assert len(more) == 1 and trace[first, 0, more].eq(MASK).all()  # one that fails is revealed, in a block's last step
    begin = 7 + (int(more) - 7) // 8 * 8
    assert (theirs[first, 0, begin : begin + 8] != MASK).all() and (before[0, begin : begin + 8] == MASK).sum() > 1
