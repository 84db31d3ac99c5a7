"""Ancestral sampling in a world where the truth is known."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from worlds import INITIAL, PROCESSES, TRANSITION, V, processes

import noiselab as nl
from noiselab.numerics import UNIFORMS_PER_MOVE
from noiselab.process.three_way import reverse_move

LENGTH = 6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def in_states(oracle, x):
    """Tokens as states of the chain; fails if one is none: a mask, or a token that the chain does not know."""
    states = (x[..., None] == oracle.tokens).double()
    assert (states.sum(-1) == 1).all()
    return states.argmax(-1)


def bigram_law(x):
    pairs = (x[:, :-1] * V + x[:, 1:]).flatten()
    return torch.bincount(pairs, minlength=V * V) / pairs.numel()


def exact_bigram_law(length):
    law, total = INITIAL, torch.zeros(4, 4, dtype=torch.float64)
    for _ in range(length - 1):
        total, law = total + law[:, None] * TRANSITION, law @ TRANSITION
    return torch.nn.functional.pad(total / (length - 1), (0, V - 4, 0, V - 4)).flatten()


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("steps", [1, 2, 64])
def test_no_noise_is_left_after_n_steps(name, steps):
    """Whatever the number of steps: the last one ends in data."""
    process = PROCESSES[name]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = nl.AncestralSampler(process, oracle).sample((500, LENGTH), steps=steps, generator=generator())
    in_states(oracle, x)
    if steps == 64:
        assert oracle.log_prob(x).isfinite().all()


@settings(max_examples=12)
@given(processes())
def test_no_noise_is_left_for_random_processes(make):
    process = make()
    # The chain lives on four tokens that every support holds.
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = nl.AncestralSampler(process, oracle).sample((100, LENGTH), steps=3, generator=generator())
    in_states(oracle, x)


@pytest.mark.long_for("gidd, gamma 2", "uniform on words", "sparse unigram", "learned")
@pytest.mark.parametrize("name", PROCESSES)
def test_the_sampled_law_converges_to_the_datas(name):
    process, n = PROCESSES[name](), 4000
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    sampler, exact = nl.AncestralSampler(process, oracle), exact_bigram_law(LENGTH)
    distance, gap = {}, {}
    for steps in (1, 4, 64):
        x = sampler.sample((n, LENGTH), steps=steps, generator=generator(steps))
        distance[steps] = 0.5 * (bigram_law(in_states(oracle, x)) - exact).abs().sum().item()
        log_prob = oracle.log_prob(x)
        gap[steps] = (log_prob.mean() + oracle.entropy(LENGTH)).item()
    floor = 0.5 * (bigram_law(oracle.sample(n, LENGTH, generator=generator())) - exact).abs().sum().item()
    error = (log_prob.std() / n**0.5).item()
    assert distance[1] > distance[4] > distance[64]
    assert distance[64] < 2 * floor + 0.02
    assert abs(gap[64]) < 5 * error + 0.03 * oracle.entropy(LENGTH)


def test_one_token_is_exact_at_any_number_of_steps():
    """With one token the plug-in reverse step is Bayes' rule, so that every grid gives the data's law."""
    for name, make in PROCESSES.items():
        process, n = make(), 20_000
        oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
        x = nl.AncestralSampler(process, oracle).sample((n, 1), steps=3, generator=generator())
        law, want = torch.bincount(in_states(oracle, x)[:, 0], minlength=4) / n, INITIAL
        assert ((law - want).abs() < 5 * (want * (1 - want) / n).sqrt()).all(), name


def test_a_sampler_that_stops_early_leaves_noise():
    """The planted mistake: a grid that ends at t = 0.02 leaves masks and random tokens, and is seen to."""
    process = PROCESSES["gidd"]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    times = torch.linspace(1, 0.02, 65, dtype=torch.float64)
    x = nl.AncestralSampler(process, oracle).sample((2000, LENGTH), times=times, clean=False, generator=generator())
    assert (x == V - 1).any()


class Calls(nl.WrappedDenoiser):
    """Counts calls and rows of the denoiser inside."""

    def __init__(self, inner):
        super().__init__(inner)
        self.calls, self.rows = 0, 0

    def forward(self, z, t, rows=None):
        self.calls += 1
        self.rows += z.numel() if rows is None else int(rows.sum())
        return self.inner(z, t, rows)


@pytest.mark.parametrize(("name", "share"), [("masked", 0.06), ("gidd", 0.1), ("uniform", 0.16)])
def test_few_rows_need_the_network(name, share):
    """Asking first whether a token moves even if x_hat_z = 0 spares the network most rows, for every kind of noise."""
    process = PROCESSES[name]()
    counting = Calls(nl.MarkovOracle(INITIAL, TRANSITION, process))
    nl.AncestralSampler(process, counting).sample((64, 16), steps=64, generator=generator())
    assert counting.calls <= 64 and counting.rows < share * 64 * 64 * 16


@pytest.mark.parametrize("name", PROCESSES)
def test_the_same_numbers_give_the_same_tokens_with_all_rows_or_few(name):
    process = PROCESSES[name]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    t, s = torch.full((50,), 0.6), torch.full((50,), 0.3)
    z = process.corrupt(oracle.sample(50, LENGTH, generator=generator()), t, generator=generator())
    u = nl.categorical.uniforms(50, LENGTH, UNIFORMS_PER_MOVE, generator=generator())
    few = reverse_move(process, z, s, t).plan(process, z, u)
    everything = dataclasses.replace(few, rows=torch.ones_like(few.rows))
    same_row = few.rows | (few.z == z)
    a, b = few.resolve(oracle(z, t, few.rows)), everything.resolve(oracle(z, t, everything.rows))
    assert torch.equal(a[same_row], b[same_row])


def test_batched_equals_one_by_one_with_a_generator_each():
    process = PROCESSES["gidd"]()
    sampler = nl.AncestralSampler(process, nl.MarkovOracle(INITIAL, TRANSITION, process))
    together = sampler.sample((4, LENGTH), steps=8, generator=[generator(seed) for seed in range(4)])
    alone = [sampler.sample((1, LENGTH), steps=8, generator=[generator(seed)]) for seed in range(4)]
    assert torch.equal(together, torch.cat(alone))


def test_a_posterior_denoiser_is_converted():
    process = PROCESSES["gidd"]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    samples = [
        nl.AncestralSampler(process, denoiser).sample((200, LENGTH), steps=8, generator=generator())
        for denoiser in (oracle, nl.denoisers.Posterior(oracle, process))
    ]
    assert torch.equal(*samples)


def test_walk_yields_every_state_and_edits_nothing():
    process = PROCESSES["gidd"]()
    sampler = nl.AncestralSampler(process, nl.MarkovOracle(INITIAL, TRANSITION, process))
    start = process.prior(3, LENGTH, generator=generator())
    kept = start.clone()
    states = list(sampler.walk(start, torch.linspace(1, 0, 9), generator=generator(1)))
    assert len(states) == 8 and torch.equal(start, kept)
    record = nl.revisions.list_revisions(start, states, "denoise")
    replayed = start.clone()
    for change in record:
        assert replayed[change.sequence, change.position] == change.old
        replayed[change.sequence, change.position] = change.new
    assert torch.equal(replayed, states[-1])


def test_per_token_times_step_each_token_by_its_own_clock():
    """A token with s = t stays; one at s = 0 becomes data."""
    process = PROCESSES["gidd"]()
    sampler = nl.AncestralSampler(process, nl.MarkovOracle(INITIAL, TRANSITION, process))
    t = torch.full((200, LENGTH), 0.7, dtype=torch.float64)
    z = process.corrupt(torch.zeros(200, LENGTH, dtype=torch.long), t, generator=generator())
    s = t.clone()
    s[:, ::2] = 0
    after = sampler.step(z, t, s, generator=generator(1))
    assert torch.equal(after[:, 1::2], z[:, 1::2]) and (after[:, ::2] < 4).all()


LEAKY = {
    "geometric masking": lambda: nl.masked(vocab_size=3, mask_id=2, signal=nl.schedules.geometric(1e-3, 20)),
    "log-SNR masking": lambda: nl.processes.log_snr_hybrid(vocab_size=3, mask_id=2, shift=-1000),
    "log-SNR hybrid": lambda: nl.processes.log_snr_hybrid(vocab_size=3, mask_id=2, shift=1),
}


@pytest.mark.parametrize("name", LEAKY)
def test_no_noise_is_left_of_a_process_that_does_not_begin_clean(name):
    process = LEAKY[name]()
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]]), process)
    sampler = nl.AncestralSampler(process, oracle)
    x = sampler.sample((4_000, 8), steps=32, generator=generator())
    left = sampler.sample((4_000, 8), steps=32, clean=False, generator=generator())
    assert (x < 2).all() and (x != left).any()  # same draws up to the jump
    assert (left == 2).any() or name == "log-SNR hybrid"
