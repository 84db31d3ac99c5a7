"""What wrong tokens at the end of a prompt cost, against chains whose cost is known."""

import math

import pytest
import torch
from readers import BACK, INITIAL, START, TRANSITION, Chain, Judge, Reader, data

import noiselab as nl
from backspaces.recovery import measure_recovery, tabulate_recovery
from noiselab.autoregressive import BackspaceSampler, ContinuationReviser, RandomTokenBackspace, UniformTokens
from noiselab.categorical import choose, uniforms
from noiselab.correctors import InfillingReviser
from noiselab.evaluation import generative_perplexity, token_nats
from noiselab.revisions import Revised

N, MORE = 12, 5
EDITS = RandomTokenBackspace(5, BACK, 0.1, UniformTokens(4))


class Continues(nl.Reviser):
    """Texts whose end is written by a function of the first N tokens."""

    def __init__(self, write):
        self.write = write

    def revise(self, z, *, rows=None, generator=None):
        kept = int((~rows[0]).sum())
        return Revised(self.write(z[:, :N], kept=kept, length=z.shape[1], generator=generator), 0)


def judged(sample, x, **settings):
    settings = {"errors": (1, 2, 4), "sets": 2} | settings
    reviser = sample if isinstance(sample, nl.Reviser) else Continues(sample)
    return measure_recovery(reviser, Judge(), x, torch.arange(4), more=MORE, start=START, **settings)


def along_the_chain(prompts, *, kept, length, generator):
    """Goes on by the law of the chain from the last token, whatever that is."""
    texts = [prompts[:, place] for place in range(prompts.shape[1])]
    while len(texts) < length:
        texts.append(choose(TRANSITION[texts[-1]], uniforms(len(prompts), generator=generator)))
    return torch.stack(texts, 1)


def test_nats_of_tokens_are_those_of_their_samples():
    x = data(7, 9)
    found = token_nats(Judge(), x, start=START, batch_size=3)
    assert found.sum(-1).tolist() == pytest.approx(generative_perplexity(Judge(), x, start=START).total.tolist())
    assert found[:, 0].tolist() == pytest.approx((-INITIAL.log())[x[:, 0]].tolist())
    assert found[:, 1:].flatten().tolist() == pytest.approx((-TRANSITION.log())[x[:, :-1], x[:, 1:]].flatten().tolist())
    assert token_nats(Judge(), x[:0], start=START).shape == (0, 9)


def test_a_text_that_does_not_care_costs_where_it_begins():
    """The true continuation: given the truth it is as likely as ever; given the text, one step of the chain is another."""
    x, seen = data(40, N + MORE), []
    halves = x.split(20)

    def true(prompts, *, kept, length, generator):
        seen.append((prompts, kept))
        return torch.cat([prompts, halves[(len(seen) - 1) // 4][:, N:]], 1)

    plain, *rows = judged(true, x[:, :N])
    assert plain.errors == 0 and plain.nats == plain.given_truth and plain.cost.mean == plain.fixed.mean == 0
    assert plain.nats.mean == pytest.approx((-TRANSITION.log())[x[:, N - 1 : -1], x[:, N:]].mean().item())
    for index, row in enumerate(rows, 1):
        assert row.cost_given_truth.mean == row.cost_given_truth.half == row.fixed.mean == 0
        cost = [
            (TRANSITION.log()[x[:, N - 1], x[:, N]] - TRANSITION.log()[prompts[:, -1], x[:, N]]).mean().item() / MORE
            for x, (prompts, _) in zip(halves, (seen[index], seen[index + 4]), strict=True)
        ]
        assert row.cost.mean == pytest.approx(sum(cost) / 2) and row.cost.half == pytest.approx(
            12.7062047 * abs(cost[0] - cost[1]) / 2, rel=1e-6
        )
        assert row.nats.mean == pytest.approx(plain.nats.mean + row.cost.mean)
    # Just the last k tokens are wrong, and the same ones may be deleted each time.
    for half, prompts in zip(halves, (seen[:4], seen[4:]), strict=True):
        for k, (prompt, kept) in zip((0, 1, 2, 4), prompts, strict=True):
            assert torch.equal(prompt != half[:, :N], (torch.arange(N) >= N - k).expand(len(half), N)) and kept == N - 4
        assert torch.equal(prompts[1][0][:, -1], prompts[3][0][:, -1]), "one error is among four"
        assert set(((prompts[3][0] - half[:, :N]) % 4)[:, N - 4 :].flatten().tolist()) == {1, 2, 3}, "any other token"


def test_a_chain_that_goes_on_from_a_wrong_token_pays_given_the_truth():
    """Its law is the judge's, so that the text costs its entropy; given the truth, the first step is one of another row."""
    x = data(6000, N)
    plain, one, four = judged(along_the_chain, x, errors=(1, 4))
    assert (four.nats, four.cost_given_truth) == (one.nats, one.cost_given_truth), "one error or more are all the same"
    last = torch.bincount(x[:, -1], minlength=4) / len(x)
    wrong = (1 - torch.eye(4, dtype=torch.float64)) / 3

    def entropy(start):
        """Of MORE steps of the chain, a step."""
        total = 0.0
        for _ in range(MORE):
            total -= (start[:, None] * TRANSITION * TRANSITION.log()).sum().item()
            start = start @ TRANSITION
        return total / MORE

    assert plain.nats.mean == pytest.approx(entropy(last.double()), abs=0.02)
    assert one.nats.mean == pytest.approx(entropy(last.double() @ wrong), abs=0.02)
    first = last.double()[:, None, None] * wrong[:, :, None] * TRANSITION  # truth, wrong token, what follows
    extra = (first * (TRANSITION.log()[None] - TRANSITION.log()[:, None])).sum().item() / MORE
    assert extra > 0.3
    assert one.given_truth.mean == pytest.approx(one.nats.mean + extra, abs=0.02)


@pytest.mark.parametrize("semantics", ["visible", "erasing"])
def test_a_model_that_deletes_what_is_wrong_recovers(semantics):
    """A model that knows the truth: with backspaces it has it again, in any depth; without them the errors stay."""
    truth = torch.tensor([0, 2, 1, 2, 1, 2, 1, 0, 0, 2, 1, 3, 0, 0, 2, 1, 2])
    x = truth[:N].repeat(8, 1)

    def knows(text):
        law = torch.nn.functional.one_hot(truth[min(len(text), len(truth) - 1)], 4).double()
        return law, 0.9 if text != truth[: len(text)].tolist() else 0.0

    class Deep(Reader):
        """Backtracks after a backspace too."""

        def after(self, text, again):
            return super().after(text, False)

    settings = {"start": START, "semantics": semantics, "temperature": 0, "cache": False}
    back = BackspaceSampler(Deep(knows), EDITS, **settings)
    plain = BackspaceSampler(Deep(knows), EDITS, bias=-torch.inf, **settings)
    found = judged(ContinuationReviser(back, given=N), x)
    for row in found:
        assert row.fixed.mean == (row.errors > 0) and row.cost.mean == row.cost_given_truth.mean == 0
        assert row.nats == found[0].nats == found[0].given_truth
    stuck = judged(ContinuationReviser(plain, given=N), x)
    assert [row.fixed.mean for row in stuck] == [0] * 4
    assert all(row.cost.mean > 0 and row.cost_given_truth.mean == 0 for row in stuck[1:])


def test_self_correction_may_change_the_ends_of_prompts_alone():
    process = nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    sampler, x = nl.AncestralSampler(process, oracle), data(200, N)
    blind = judged(InfillingReviser(sampler, given=N, steps=8), x, errors=(1, 2))
    assert [row.fixed.mean for row in blind] == [0, 0, 0]
    correction = nl.SelfCorrection(oracle, process=process)
    seeing = judged(InfillingReviser(sampler, given=N, steps=8, correction=correction), x, errors=(1, 2))
    assert all(row.fixed.mean > 0.3 for row in seeing[1:])
    assert seeing[1].cost_given_truth.mean < blind[1].cost_given_truth.mean
    random = torch.Generator().manual_seed(0)
    reviser, z = InfillingReviser(sampler, given=N, steps=2, correction=correction), torch.cat([x, x[:, :3]], 1)
    texts, evaluations = reviser(z, rows=(torch.arange(15) >= 7).expand(200, -1), generator=random)
    assert 200 * 4 <= evaluations <= 200 * 130
    changed = (texts[:, :N] != x).double().mean(0)
    assert (changed[:7] == 0).all() and (changed[7:] > 0).all()


def test_a_table_has_a_line_for_each_number_of_errors():
    lines = tabulate_recovery(
        {"chain": judged(along_the_chain, data(8, N)), "again": judged(along_the_chain, data(8, N))}
    )
    assert len(lines.splitlines()) == 2 + 2 * 4 and {line.count("|") for line in lines.splitlines()} == {8}


def test_what_does_not_fit_is_refused():
    x = data(8, N)
    for wrong in ({"errors": (0, 1)}, {"errors": (N,)}, {"errors": ()}, {"sets": 1}, {"sets": 9}):
        with pytest.raises(ValueError, match="errors must lie"):
            judged(along_the_chain, x, **wrong)

    def forgetful(prompts, *, kept, length, generator):
        return along_the_chain((prompts + 1) % 4, kept=kept, length=length, generator=generator)

    def short(prompts, *, kept, length, generator):
        return prompts

    for sample, why in ((forgetful, "in rows only"), (short, "must keep the shape")):
        with pytest.raises(ValueError, match=why):
            judged(sample, x)
    undecided = Reader(lambda text: (torch.full((4,), 0.25, dtype=torch.float64), 1 - 1e-9))
    sampler = BackspaceSampler(undecided, EDITS, start=START, cache=False)
    with pytest.raises(ValueError, match="texts must have 4 tokens"):
        rows = (torch.arange(4) >= 2)[None]
        ContinuationReviser(sampler, given=2)(x[:1, :4], rows=rows, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="after the first 2; got 1 left out"):
        ContinuationReviser(sampler, given=2)(x[:1, :4], rows=(torch.arange(4) > 2)[None])
    assert math.isfinite(
        judged(
            ContinuationReviser(
                BackspaceSampler(Chain(0.1), EDITS, start=START, cache=False, semantics="erasing", budget=9), given=N
            ),
            x[:4],
        )[1].nats.mean
    )
