"""The validation bound against entropies that are known exactly."""

import pytest
import torch
from torch.utils.data import StackDataset
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl
from noiselab.data import TokenBlocks
from noiselab.evaluation import bound as module
from noiselab.evaluation import validation_bound
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser

LENGTH = 6
NAMES = ["masked", "gidd", "stranger"]


def bound_of(process, count=30_000, **options):
    generator = torch.Generator().manual_seed(0)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = oracle.sample(count, LENGTH, generator=generator)
    found = validation_bound(process, oracle, x, generator=generator, batch_size=5000, **options)
    # The exact denoiser's bound is tight for every x by itself, so that -log p(x) takes out most of the noise.
    surplus = (found.nats + oracle.log_prob(x)) / LENGTH
    return found, surplus.mean().item(), surplus.std().item() / count**0.5, oracle.entropy(LENGTH) / LENGTH


@pytest.mark.long_for("stranger-1e-06")
@pytest.mark.parametrize("low", [1e-6, 1e-4])
@pytest.mark.parametrize("name", NAMES)
def test_with_its_end_terms_the_bound_is_the_entropy(name, low):
    found, surplus, error, entropy = bound_of(PROCESSES[name](), low=low)
    assert abs(found.nelbo - entropy) < 4 * found.error and found.error < 0.02 * entropy
    assert abs(surplus) < 4 * error < 0.06 * entropy
    assert found.nelbo == pytest.approx(found.diffusion + found.reconstruction + found.prior)
    assert (found.sequences, found.tokens) == (30_000, 30_000 * LENGTH)


@pytest.mark.parametrize("name", NAMES)
def test_at_every_truncation_it_is_a_bound(name):
    """Cut at 0.1 or 0.3, reconstruction treats the tokens as independent: a little more than the entropy, never less."""
    for low in (0.01, 0.1, 0.3):
        _, surplus, error, entropy = bound_of(PROCESSES[name](), low=low)
        assert -4 * error < surplus < 0.1 * entropy
    if name in ("gidd", "uniform"):
        assert surplus > 4 * error


@pytest.mark.parametrize("name", ["gidd", "uniform"])
def test_stopped_before_the_end_it_pays_the_prior(name):
    found, surplus, error, entropy = bound_of(PROCESSES[name](), high=0.8)
    assert found.prior > 0.01 * entropy
    assert surplus > -4 * error
    assert surplus - found.prior < -4 * error  # without the term it would be none


@pytest.mark.parametrize("name", ["masked", "gidd", "uniform"])
def test_without_reconstruction_it_would_be_no_bound(name):
    found, surplus, error, _ = bound_of(PROCESSES[name](), low=0.1)
    assert surplus - found.reconstruction < -10 * error


def test_a_posterior_is_converted():
    process = PROCESSES["gidd"]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = oracle.sample(500, LENGTH, generator=torch.Generator().manual_seed(0))
    both = [
        validation_bound(process, d, x, generator=torch.Generator().manual_seed(1)).nelbo
        for d in (oracle, nl.denoisers.Posterior(oracle, process))
    ]
    assert both[0] == pytest.approx(both[1], rel=1e-9)


def test_the_error_is_the_spread_of_repeated_estimates():
    process = PROCESSES["masked"]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    generator = torch.Generator().manual_seed(0)
    found = [
        validation_bound(process, oracle, oracle.sample(100, LENGTH, generator=generator), generator=generator)
        for _ in range(40)
    ]
    spread = torch.tensor([f.nelbo for f in found]).std().item()
    stated = sum(f.error for f in found) / len(found)
    assert 0.6 < spread / stated < 1.3  # even times make it smaller than stated, never larger


def test_repeats_average_over_times_not_over_sequences():
    process = PROCESSES["gidd"]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = oracle.sample(100, LENGTH, generator=torch.Generator().manual_seed(0))
    once, often = (
        validation_bound(process, oracle, x, repeats=r, generator=torch.Generator().manual_seed(1)) for r in (1, 30)
    )
    assert often.tokens == once.tokens
    assert often.error < 0.6 * once.error
    assert (often.nats + oracle.log_prob(x)).std() < 0.35 * (once.nats + oracle.log_prob(x)).std()


@pytest.mark.parametrize("name", NAMES)
def test_fixed_nodes_estimate_the_same_bound(name):
    found, surplus, error, _ = bound_of(PROCESSES[name](), count=4000, nodes=16)
    _, _, drawn, _ = bound_of(PROCESSES[name](), count=4000)
    print(
        f"{name}: nodes {found.nelbo:.4f} +- {found.error:.4f}, surplus {surplus:+.4f} +- {error:.4f}, drawn +- {drawn:.4f}"
    )
    assert abs(surplus) < 4 * error < 0.5 * 4 * drawn


@pytest.mark.parametrize("steps", [1, 8, torch.linspace(1, 0, 9, dtype=torch.float64) ** 2])
@pytest.mark.parametrize("name", ["masked", "gidd"])
def test_steps_bound_the_sampler_that_takes_them(name, steps):
    process = PROCESSES[name]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = nl.likelihood.every_sequence(oracle.tokens, 2)
    grid = steps if isinstance(steps, torch.Tensor) else torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    want = nl.likelihood.expected_discrete_bound(process, oracle, x, grid).mean(oracle.log_prob(x).exp())
    generator = torch.Generator().manual_seed(0)
    data = oracle.sample(10_000, 2, generator=generator)
    found = validation_bound(process, oracle, data, steps=steps, batch_size=5000, generator=generator)
    assert abs(found.nelbo - want.total.item() / 2) < 4 * found.error
    assert found.reconstruction == pytest.approx(want.reconstruction.item() / 2, abs=4 * found.error)
    assert (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize("later", [[0.0], [0.5, 0.0]])
def test_steps_bound_answers_given_their_prompts(later):
    """By hand: the first token is a prompt, the other two are drawn at once, or in two steps of which half of them are late."""
    process = nl.masked(vocab_size=V, mask_id=V - 1)  # alpha = 1 - t
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    far = TRANSITION @ TRANSITION
    alone = [-TRANSITION[0, 1].log(), -far[0, 2].log()]  # of the tokens 1 and 2 after 0
    beside = [-(TRANSITION[0, 1] * TRANSITION[1, 2] / far[0, 2]).log(), -TRANSITION[1, 2].log()]
    want = sum(alone) if len(later) == 1 else 3 / 4 * sum(alone) + 1 / 4 * sum(beside)
    x = torch.tensor([0, 1, 2]).expand(2000, -1)
    rows = StackDataset(input_ids=x, labels=x.clone().index_fill(1, torch.tensor(0), -100))
    generator = torch.Generator().manual_seed(0)
    grid = torch.tensor([1.0, *later], dtype=torch.float64)
    found = validation_bound(process, oracle, rows, steps=grid, batch_size=500, generator=generator)
    assert abs(found.nelbo - want.item() / 2) < 4 * found.error + 1e-4 < 0.1
    assert found.tokens == 4000 and found.lengths.unique().tolist() == [2]


@pytest.mark.parametrize("name", ["masked", "by token"])
def test_a_prompt_is_evidence_from_the_first_step(name):
    """By enumeration: one step from t = 1 draws the other tokens independently of each other, each given the prompt."""
    process = (
        PROCESSES[name]() if name in PROCESSES else nl.processes.TokenRates(torch.linspace(1, 2, V), mask_id=V - 1)
    )
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    every = nl.likelihood.every_sequence(oracle.tokens, 4)
    law, known = oracle.log_prob(every).exp(), torch.tensor([False, True, False, True])
    want = torch.zeros(len(every), dtype=torch.float64)
    for row, x in enumerate(every):
        same = law * (every[:, known] == x[known]).all(-1)
        for i in (0, 2):
            want[row] -= ((same * (every[:, i] == x[i])).sum() / same.sum()).log()
    grid = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = nl.discrete_bound(process, oracle, every, grid, real=(~known).expand(every.shape))
    torch.testing.assert_close(found.total, want, rtol=0, atol=1e-6)
    # As the sampler of these steps, which is given the prompt.
    rows = every[:1].expand(4000, -1)
    sampler = nl.Infilling(nl.AncestralSampler(process, oracle), rows[:1], known[None], times="sequence")
    x = sampler.sample(rows.shape, times=grid, generator=torch.Generator().manual_seed(0))
    share = (x == rows).all(-1).double().mean().item()
    p = want[0].neg().exp().item()
    assert abs(share - p) < 4 * (p * (1 - p) / len(rows)) ** 0.5


class Frequencies(nl.Denoiser):
    def forward(self, z, t, rows=None):
        return nl.denoisers.select(torch.arange(8.0).expand(*z.shape, -1), rows)


def test_padding_is_not_scored():
    process = nl.gidd(vocab_size=8, mask_id=6, p_uniform=0.2)
    process.support[7] = False
    x = torch.randint(6, (40, 5), generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (0, 4), value=7)
    blocks = TokenBlocks(padded, torch.full((40,), 5), vocab_size=8)

    def bound(data, size):
        return validation_bound(
            process, Frequencies(), data, repeats=50, batch_size=size, generator=torch.Generator().manual_seed(2)
        )

    plain, filled = bound(x, 40), bound(blocks, 7)
    assert filled.tokens == plain.tokens == 200
    assert torch.equal(filled.lengths, plain.lengths)
    assert abs(filled.nelbo - plain.nelbo) < 4 * (plain.error**2 + filled.error**2) ** 0.5
    wrong = bound(torch.where(padded == 7, 0, padded), 40)  # what scoring the padding would give
    assert abs(wrong.nelbo - plain.nelbo) > 4 * (plain.error**2 + wrong.error**2) ** 0.5


def test_the_network_gets_the_places_of_padding():
    """Its tokens change nothing, also for a network inside wrappers; a mask of its own may hide more."""
    torch.manual_seed(0)
    process = nl.gidd(vocab_size=8, mask_id=6, p_uniform=0.2)
    model = DiT(DiTConfig(vocab_size=8, max_seq_len=9, hidden_size=16, num_hidden_layers=2, num_attention_heads=2))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x = torch.randint(6, (12, 9), generator=torch.Generator().manual_seed(0))
    real = torch.arange(9) < torch.randint(3, 9, (12, 1), generator=torch.Generator().manual_seed(1))

    def bound(value, denoiser):
        blocks = TokenBlocks(torch.where(real, x, value), real.sum(-1), vocab_size=8)
        return validation_bound(process, denoiser, blocks, generator=torch.Generator().manual_seed(2)).nelbo

    class Unmasked(nl.Denoiser):
        def forward(self, z, t, rows=None):
            return nl.denoisers.select(model(z, t.float()).logits, rows)

    for denoiser in (TransformersDenoiser(model), nl.denoisers.Suppress(TransformersDenoiser(model), [7])):
        assert bound(1, denoiser) == pytest.approx(bound(5, denoiser), rel=1e-6)
    assert bound(1, Unmasked()) != pytest.approx(bound(5, Unmasked()), rel=1e-4)
    everywhere = TransformersDenoiser(model, attention_mask=torch.ones(1, 9, dtype=torch.bool))
    assert bound(1, everywhere) == pytest.approx(bound(1, TransformersDenoiser(model)), rel=1e-6)
    first = TransformersDenoiser(model, attention_mask=torch.arange(9)[None] < 2)
    assert bound(1, first) != pytest.approx(bound(1, everywhere), rel=1e-4)


def test_bytes_and_perplexity():
    found, *_ = bound_of(PROCESSES["masked"](), count=100)
    assert found.perplexity == pytest.approx(torch.tensor(found.nelbo).exp().item(), rel=1e-6)
    assert found.bits_per_byte(2 * found.tokens) == pytest.approx(found.nelbo / 2 / 0.6931472, rel=1e-6)


@pytest.mark.parametrize(
    "signal",
    [nl.schedules.log_linear(1e-3), nl.schedules.geometric(), nl.schedules.from_log_snr(9 - 18 * nl.t)],
    ids=["log-linear", "geometric", "log-SNR"],
)
def test_signal_left_at_the_end_costs_little(signal):
    """Masking as published leaves up to 0.1 % of the tokens visible at t = 1: pure noise shows some, too."""
    process = nl.masked(vocab_size=V, mask_id=V - 1, signal=signal)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = oracle.sample(10, 3, generator=torch.Generator().manual_seed(0))
    found = validation_bound(process, oracle, x, batch_size=3)
    left = process.alpha(torch.ones(1, dtype=torch.float64)).item()
    # Masks say nothing, and a visible token is one of the V - 1 data tokens.
    assert found.prior == pytest.approx(left * torch.tensor(V - 1.0).log().item(), rel=1e-3)


def test_the_error_of_a_ratio():
    nats, lengths = torch.tensor([2.0, 6.0, 4.0]), torch.tensor([1, 3, 2])
    mean, error = module.mean_and_error(nats, lengths)
    assert mean == 2.0 and error == 0.0  # two nats a token everywhere: length alone is no uncertainty


@pytest.mark.parametrize(
    "options",
    [
        {"low": 0.5, "high": 0.4},
        {"low": -0.1},
        {"high": 1.1},
        {"repeats": 0},
        {"nodes": 0},
        {"steps": 0},
        {"nodes": 4, "steps": 4},
        {"steps": torch.tensor([0.0, 1.0])},
        {"steps": torch.tensor([1.0, 0.0]), "low": 0.1},
    ],
)
def test_refusals(options):
    process = PROCESSES["masked"]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    with pytest.raises(ValueError, match="got"):
        validation_bound(process, oracle, torch.zeros(2, 3, dtype=torch.long), **options)
