"""Decoding with drafts: ProSeCo's runs token for token, its corrector, and the rule by hand."""

import re

import pytest
import torch
from exact_worlds import NOISES, generator, oracle_of, p_value
from published_decoders import LAWS, RUNS, PublishedNetwork, settings

import noiselab as nl
from noiselab.samplers import ConfidenceThreshold, DraftSampler, Prompted, Quota, StableConfidence, even_quotas

STATES = RUNS["vocab"].item()
MASK = STATES - 1
PROCESS = nl.masked(vocab_size=STATES, mask_id=MASK)


def rule_of(c):
    if "threshold" in c:
        return ConfidenceThreshold(c["threshold"])
    return Quota(even_quotas(c["block"], c["steps"] * c["block"] // c["gen"]))


def run(case, **changes):
    """The tokens at each forward of ours, and the result."""
    c = settings(case)
    network = PublishedNetwork(RUNS, MASK)
    options = {"every": c["every"], "passes": c["max_corrector_steps"], "block_size": c["block"], **changes}
    sampler = Prompted(DraftSampler(PROCESS, network, rule_of(c), **options), c["prompt"][None])
    length = c["trace"].shape[1]
    return sampler.sample((1, length), steps=length), network, c


@pytest.mark.parametrize("case", ["proseco.topk", "proseco.threshold"])
def test_published_runs(case):
    result, network, c = run(case)
    ours = torch.cat([*network.seen, result])
    assert torch.equal(ours, c["trace"])
    predictor = sum((z == MASK).any().item() for z in network.seen)
    assert (predictor, len(network.seen) - predictor) == (c["predictor_forwards"], c["corrector_forwards"])
    for change in ({"passes": 1}, {"every": c["every"] + 1}, {"block_size": 12}):
        result, network, _ = run(case, **change)
        assert len(network.seen) + 1 != len(c["trace"]) or not torch.equal(
            torch.cat([*network.seen, result]), c["trace"]
        )


def by_hand(law, z, known, rule, *, every, passes, size):
    """The rule position by position, for one sequence; `law(z)` gives a row for each position."""
    z, calls = list(z), 0
    free = [i for i in range(len(z)) if not known[i]]
    for start in range(free[0], len(z), size):
        k = 0
        while any(z[i] == 3 for i in free if start <= i < start + size):
            rows, calls = law(z), calls + 1
            if (k + 1) % every == 0:
                y = [rows[i].argmax().item() if z[i] == 3 else z[i] for i in range(len(z))]
                for _ in range(passes):
                    found, calls = law(y), calls + 1
                    new = [found[i].argmax().item() if i in free and i < start + size else y[i] for i in range(len(z))]
                    for i in free:
                        if i < start + size:
                            rows[i] = found[i]
                    y, same = new, new == y
                    if same:
                        break
                z = [y[i] if z[i] != 3 and i in free and i < start + size else z[i] for i in range(len(z))]
            masks = [i for i in free if start <= i < start + size and z[i] == 3]
            for i in [i for i in masks if rows[i].max() >= rule] or [max(masks, key=lambda i: rows[i].max().item())]:
                z[i] = rows[i].argmax().item()
            k += 1
    return z, calls


class Disagrees(nl.Denoiser):
    """A fixed random network of a token and its neighbours, sure of other tokens than those that it reads."""

    def __init__(self):
        super().__init__()
        self.weight = 3 * torch.randn(3, 4, 4, generator=generator(7), dtype=torch.float64)

    def forward(self, z, t):
        parts = [torch.nn.functional.one_hot(z.roll(o, 1), 4).double() @ self.weight[o + 1] for o in (-1, 0, 1)]
        return sum(parts)


@pytest.mark.parametrize(("every", "passes", "size"), [(1, 3, 3), (2, 1, 4), (3, 2, 9), (1, 1, 2)])
def test_the_rule_by_hand_and_in_a_batch(every, passes, size):
    process, network = NOISES["masked"](), Disagrees()
    tokens = torch.randint(3, (6, 9), generator=generator())
    known = torch.rand(6, 9, generator=generator(1)) < 0.3
    known[0], known[1] = False, torch.arange(9) < 5
    counting = nl.denoisers.CallCounter(network)
    options = {"every": every, "passes": passes, "block_size": size}
    sampler = nl.Infilling(DraftSampler(process, counting, ConfidenceThreshold(0.8), **options), tokens, known)
    together = sampler.sample((6, 9), steps=9)
    for n in range(6):
        z = torch.where(known[n], tokens[n], 3).tolist()

        def law(z):
            return network(torch.tensor([z]), torch.ones(1))[0, :, :3].softmax(-1)

        want, calls = by_hand(law, z, known[n].tolist(), 0.8, every=every, passes=passes, size=size)
        one, counting.calls = nl.Infilling(sampler.inner, tokens[n : n + 1], known[n : n + 1]), 0
        assert one.sample((1, 9), steps=9)[0].tolist() == want == together[n].tolist()
        assert counting.calls == calls


@pytest.mark.parametrize(("every", "passes", "size"), [(1, 3, 3), (2, 2, 9)])
def test_known_tokens_stay_in_drafts_under_one_time_for_each_sequence(every, passes, size):
    """The network reads them as they are in each pass; the result is that of times for each token, and by hand."""

    class Sees(Disagrees):
        def forward(self, z, t):
            seen.append(z.clone())
            return super().forward(z, t)

    process, seen = NOISES["masked"](), []
    tokens = torch.randint(3, (1, 9), generator=generator(2))
    known = torch.tensor([[True, True, False, False, True, False, False, True, False]])
    sampler = DraftSampler(process, Sees(), ConfidenceThreshold(0.8), every=every, passes=passes, block_size=size)
    x = nl.Infilling(sampler, tokens, known, times="sequence").sample((1, 9), steps=9)
    assert all((z[known] == tokens[known]).all() for z in seen)
    assert torch.equal(x, nl.Infilling(sampler, tokens, known).sample((1, 9), steps=9))

    def law(z):
        return Disagrees()(torch.tensor([z]), torch.ones(1))[0, :, :3].softmax(-1)

    want, _ = by_hand(
        law, torch.where(known, tokens, 3)[0].tolist(), known[0].tolist(), 0.8, every=every, passes=passes, size=size
    )
    assert x[0].tolist() == want
    seen.clear()
    z = torch.where(known, tokens, 1)
    nl.correctors.ResamplingReviser(sampler, time=0.8, steps=9)(z, rows=~known, generator=generator())
    assert seen and all((z[known] == tokens[known]).all() for z in seen)


def test_the_corrector_of_the_other_sampler():
    """ProSeCo's own sampler: the law of the corrector, the most likely tokens, and the best changes alone."""
    c = settings("proseco_corrector", LAWS)
    logits, z, states = LAWS["proseco_corrector.logits"], c["z"], LAWS["vocab"].item()
    process, t = nl.masked(vocab_size=states, mask_id=states - 1), torch.full((2,), 0.5)

    class Given(nl.Denoiser):
        def forward(self, z, t):
            return logits

    full = process.on_support(Given()(z, t)).softmax(-1)
    assert (full - LAWS["proseco_corrector.law_full"]).abs().max() < 1e-12
    assert torch.equal(full.argmax(-1), c["argmax_full_x"])
    # The published nucleus leaves out the token that crosses p; `TopP` keeps it, as everywhere else.
    support = nl.denoisers.Support(Given(), process.support)
    ours = nl.TopP(support, c["nucleus_p"])(z, t).softmax(-1)
    nucleus = LAWS["proseco_corrector.law_nucleus"]
    more = (ours > 0).sum(-1) - (nucleus > 0).sum(-1)
    assert ((nucleus > 0) <= (ours > 0)).all() and more.min() == 0 and more.max() == 1
    alone = full.amax(-1) >= c["nucleus_p"]
    assert torch.equal(more == 0, alone)
    short = full.masked_fill(nucleus == 0, 0)
    assert (short / short.sum(-1, keepdim=True) - nucleus).abs().max() < 1e-12
    # The best changes: `SelfCorrection`, with the uniform numbers that draw the most likely tokens.
    for law, name in ((full, "full"), (nucleus, "nucleus")):
        best = law.argmax(-1, keepdim=True)
        u = (law.cumsum(-1) - law / 2).gather(-1, best)[..., 0]
        given = type("Law", (nl.Denoiser,), {"forward": lambda self, z, t, law=law: law.log()})()
        corrector = nl.SelfCorrection(given, temperature=1, tokens_per_step=c["top_k"], support=process.support)
        assert torch.equal(corrector.revise(z, u)[0], c[f"select_top_k_{name}_x"])
        assert torch.equal(best[..., 0], c[f"argmax_{name}_x"])


def test_it_is_not_exact_and_says_so():
    process = NOISES["masked"]()
    sampler = DraftSampler(process, oracle_of(process), ConfidenceThreshold(0.9))
    assert not sampler.converges and p_value(sampler, steps=8, n=1000) < 1e-10
    assert "every=1, passes=1, block_size=None" in repr(sampler)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("masked", {"every": 0}, "every must"),
        ("masked", {"passes": 0}, "passes must"),
        ("masked", {"block_size": 0}, "block_size must"),
        ("masked", {"accept": StableConfidence()}, "accept must not compare with the step before"),
        ("gidd", {}, "needs absorbing noise"),
    ],
)
def test_what_is_refused(name, options, message):
    process = NOISES[name]()
    with pytest.raises(ValueError, match=re.escape(message)):
        DraftSampler(process, oracle_of(process), **options)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_fewer_steps_than_tokens_leave_no_masks(steps):
    """Later blocks were never begun: their masks are revealed in the last step."""
    process = nl.masked(vocab_size=4, mask_id=3)
    for every in (1, 2):
        sampler = DraftSampler(process, Disagrees(), ConfidenceThreshold(1.0), every=every, block_size=4)
        for outer in (sampler, Prompted(sampler, torch.tensor([[1, 0]]))):
            assert (outer.sample((2, 14), steps=steps) < 3).all()
