"""GIDD's self-correction."""

import pytest
import torch
from worlds import INITIAL, TRANSITION, V

import noiselab as nl
from noiselab.categorical import choose

PROCESS = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
ORACLE = nl.MarkovOracle(INITIAL, TRANSITION, PROCESS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def published_rule(z, steps, temperature, patience, tokens, seed, k=1, time=0.01):
    """The published loop for one sequence, written out: batch 1, k tokens a step."""
    best, waited, g = 0.0, 0, generator(seed)
    for _ in range(steps):
        logits = ORACLE(z, torch.tensor([time])).masked_fill(~PROCESS.support, -torch.inf)
        probs = (logits / temperature).softmax(-1)
        drawn = choose(probs, nl.categorical.uniforms(*z.shape, generator=g))
        score = (drawn != z) * probs.gather(-1, drawn[..., None])[..., 0]
        where = score.topk(k, -1).indices
        new = z.scatter(-1, where, drawn.gather(-1, where))
        accuracy = (new == logits.argmax(-1)).double().mean().item()
        if accuracy > best:
            best, waited = accuracy, 0
        else:
            waited += 1
            if waited > patience:
                break
        if torch.equal(z, new):
            break
        z = new
    return z


def test_batched_equals_the_published_rule_one_by_one():
    z = torch.randint(0, 4, (6, 10), generator=generator(3))
    correction = nl.SelfCorrection(ORACLE, temperature=0.7, patience=3, support=PROCESS.support)
    together = correction.correct(z, steps=60, generator=[generator(seed) for seed in range(6)])
    for i in range(6):
        assert torch.equal(together[i : i + 1], published_rule(z[i : i + 1], 60, 0.7, 3, 1, seed=i))


def test_it_changes_at_most_k_tokens_a_step_and_stops_at_a_fixed_point():
    z = torch.randint(0, 4, (40, 12), generator=generator(1))
    # Without ties between two answers, which would be settled by chance again and again.
    uneven = TRANSITION * torch.linspace(1, 1.3, 16, dtype=torch.float64).view(4, 4)
    oracle = nl.MarkovOracle(INITIAL, uneven / uneven.sum(-1, keepdim=True), PROCESS)
    for k in (1, 3):
        correction = nl.SelfCorrection(
            oracle, temperature=1e-3, tokens_per_step=k, patience=1000, support=PROCESS.support
        )
        before, states = z, list(correction.walk(z, steps=200, generator=generator()))
        for state in states:
            assert ((state != before).sum(-1) <= k).all()
            before = state
        if k == 1:  # several changes at once may chase each other
            assert len(states) < 200
            assert torch.equal(correction.correct(before, steps=50, generator=generator(2)), before)


def test_it_repairs_corrupted_tokens_in_a_known_world():
    sharp = torch.full((4, 4), 0.0005, dtype=torch.float64) + 0.998 * torch.eye(4, dtype=torch.float64).roll(1, 1)
    oracle = nl.MarkovOracle(torch.full((4,), 0.25, dtype=torch.float64), sharp, PROCESS)
    x = oracle.sample(100, 16, generator=generator())
    wrong = torch.rand(x.shape, generator=generator(1)) < 0.1
    z = torch.where(wrong, torch.randint(0, 4, x.shape, generator=generator(2)), x)
    corrected = nl.SelfCorrection(oracle, support=PROCESS.support).correct(z, steps=32, generator=generator(3))
    result = nl.revisions.count_outcome(z, corrected, x)
    assert result.wrong_to_right > 0.8 * result.wrong_before
    assert result.net_gain > 0.6 * result.wrong_before
    assert oracle.log_prob(corrected).mean() > oracle.log_prob(z).mean() + 5


def test_the_mask_is_never_drawn():
    class Mad(nl.Denoiser):
        def forward(self, z, t, rows=None):
            return torch.zeros(*z.shape, V).index_fill(-1, torch.tensor(V - 1), 50.0)

    z = torch.zeros(4, 6, dtype=torch.long)
    corrected = nl.SelfCorrection(Mad(), temperature=1.0, support=PROCESS.support).correct(z, generator=generator())
    assert (corrected < V - 1).all()


def test_where_nothing_scores_nothing_changes():
    """The draws are the tokens that are there: there is no best-scored position, and no token is put in its place."""

    class Content(nl.Denoiser):
        def forward(self, z, t):
            return 100 * torch.nn.functional.one_hot(z, V).double()

    z = torch.randint(0, 4, (5, 7), generator=generator())
    for k in (1, 3, 20):
        correction = nl.SelfCorrection(Content(), tokens_per_step=k, support=PROCESS.support)
        states = list(correction.walk(z, generator=generator(1)))
        assert len(states) == 1 and torch.equal(states[0], z)
        assert torch.equal(correction.step(z, torch.full((5,), 0.3), generator=generator(1)), z)


def test_it_takes_128_steps_at_most_unless_told_otherwise():
    class Contrary(nl.Denoiser):
        """Sure that each token is the other one."""

        def forward(self, z, t):
            return torch.nn.functional.one_hot(1 - z, 2) * 100.0

    counting = nl.denoisers.CallCounter(Contrary())
    correction = nl.SelfCorrection(counting, tokens_per_step=3, patience=1000)
    z = torch.tensor([[0, 1, 1]])
    assert torch.equal(correction.correct(z), z) and counting.calls == 128
    assert len(list(correction.walk(z))) == 128 and torch.equal(correction.correct(z, steps=3), 1 - z)


def test_a_step_is_one_revision_of_the_walk():
    z = torch.randint(0, 4, (6, 10), generator=generator(3))
    correction = nl.SelfCorrection(ORACLE, temperature=0.7, process=PROCESS)
    first = next(correction.walk(z, generator=generator(1)))
    assert torch.equal(correction.step(z, torch.full((6,), correction.time), generator=generator(1)), first)
    assert isinstance(correction, nl.Corrector) and correction.kind == "self-correct" and not correction.converges


def test_a_step_takes_its_time_from_the_caller_and_leaves_masks_to_the_sampler():
    """With much noise the neighbours say little; a mask, which is no mistake, stays."""
    z = torch.tensor([[0, 0, V - 1, 1, 0, 0]]).expand(4000, -1)
    correction = nl.SelfCorrection(ORACLE, temperature=1, process=PROCESS)
    moved = {}
    for time in (0.01, 0.9):
        after = correction.step(z, torch.full((4000,), time), generator=generator())
        assert (after[:, 2] == V - 1).all() and ((after != z).sum(-1) <= 1).all()
        moved[time] = torch.bincount(after[:, 3], minlength=V) / 4000
    assert moved[0.01][0] > moved[0.9][0] > 0


def test_a_prompt_stays_and_its_mistakes_do_not_count():
    z = torch.randint(0, 4, (30, 10), generator=generator(3))
    kept, rows = z.clone(), torch.arange(10).expand(30, -1) >= 4
    correction = nl.SelfCorrection(ORACLE, temperature=0.5, patience=4, tokens_per_step=2, process=PROCESS)
    asked = nl.denoisers.CallCounter(ORACLE)
    counted = nl.SelfCorrection(asked, temperature=0.5, patience=4, tokens_per_step=2, process=PROCESS)
    states = list(correction.walk(z, rows=rows, generator=generator()))
    assert all(torch.equal(state[~rows], z[~rows]) for state in states) and (states[-1] != z).any()
    assert torch.equal(counted.correct(z, rows=rows, generator=generator()), states[-1]) and torch.equal(z, kept)
    assert asked.rows == 6 * asked.sequences  # neither the prompt nor stopped sequences are evaluated
    _, accuracy = correction.revise(z, nl.categorical.uniforms(30, 10, generator=generator()), rows=rows)
    new = states[0]
    logits = ORACLE(z, torch.full((30,), 0.01)).masked_fill(~PROCESS.support, -torch.inf)
    torch.testing.assert_close(accuracy, (new == logits.argmax(-1))[:, 4:].double().mean(-1))
    # All rows are what no rows are; without any, nothing is evaluated.
    same = [correction.correct(z, rows=r, generator=generator(1)) for r in (None, torch.ones_like(rows))]
    assert torch.equal(*same)
    asked.reset()
    assert torch.equal(counted.correct(z, rows=torch.zeros_like(rows)), z) and asked.calls == 0


def test_a_prompt_is_kept_one_by_one_as_in_a_batch():
    z = torch.randint(0, 4, (6, 10), generator=generator(3))
    rows = torch.rand(z.shape, generator=generator(4)) < 0.5
    rows[2] = False
    correction = nl.SelfCorrection(ORACLE, temperature=0.7, patience=3, process=PROCESS)
    together = correction.correct(z, steps=60, rows=rows, generator=[generator(seed) for seed in range(6)])
    for i in range(6):
        alone = correction.correct(z[i : i + 1], steps=60, rows=rows[i : i + 1], generator=[generator(i)])
        assert torch.equal(together[i : i + 1], alone)


def test_a_noise_that_makes_no_visible_token_wrong_is_warned_of():
    masked = nl.masked(vocab_size=V, mask_id=V - 1)
    rates = nl.processes.TokenRates(torch.arange(1.0, V + 1), mask_id=V - 1)
    for process, time in ((masked, 0.01), (masked, 0.5), (rates, 0.01), (PROCESS, 0.0)):
        oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
        with pytest.warns(UserWarning, match=f"no visible token is ever wrong at t = {time:g}"):
            correction = nl.SelfCorrection(oracle, time=time, process=process)
        # It works all the same, and draws no masks.
        x = oracle.sample(20, 8, generator=generator())
        assert (correction.correct(x, generator=generator()) < V - 1).all()


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0}, {"temperature": -1}, {"time": -0.1}, {"time": 1.1}, {"tokens_per_step": 0}, {"patience": -1}],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}.*; got"):
        nl.SelfCorrection(ORACLE, support=PROCESS.support, **wrong)


def test_a_noise_that_makes_some_wrong_is_not():
    sparse = nl.Interpolation(1 - nl.t, {nl.Absorbing(V - 1, V): nl.t, nl.Unigram(torch.eye(V)[0]): nl.t})
    for process in (PROCESS, nl.uniform(vocab_size=V), sparse):
        correction = nl.SelfCorrection(nl.MarkovOracle(INITIAL, TRANSITION, process), process=process)
        assert (correction.support is None) == (process.support is None)
    given = torch.arange(V) < 2
    assert torch.equal(nl.SelfCorrection(ORACLE, support=given, process=PROCESS).support, given)
