"""GIDD's self-correction."""

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
        drawn = choose(probs, nl.uniforms(*z.shape, generator=g))
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
    result = nl.outcome(z, corrected, x)
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
