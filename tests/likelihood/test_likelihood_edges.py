"""Padding, numbers with errors, refusals, and what has no bound."""

import pytest
import torch
from small_worlds import grid, world

import noiselab as nl


def test_padding_is_neither_noised_nor_scored():
    process = nl.gidd(vocab_size=4, mask_id=2, p_uniform=0.3)
    process.support[3] = False

    class Flat(nl.Denoiser):
        seen: torch.Tensor

        def forward(self, z, t, rows=None):
            self.seen = z
            return nl.denoisers.select(torch.tensor([0.0, 0.5, 0.0, 0.0]).expand(*z.shape, -1), rows)

    flat = Flat()
    x = torch.randint(2, (4000, 3), generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (0, 2), value=3)
    real = padded != 3
    times = torch.linspace(1, 0.0, 4)
    bounds = {
        "continuous": lambda x, real, g: nl.continuous_bound(process, flat, x, real=real, generator=g).total,
        "discrete": lambda x, real, g: nl.discrete_bound(process, flat, x, times, real=real, generator=g).total,
        "importance": lambda x, real, g: nl.likelihood.importance_bound(
            process, flat, x, times, draws=2, real=real, generator=g
        ),
    }
    for name, bound in bounds.items():
        plain, filled = (bound(v, r, torch.Generator().manual_seed(1)) for v, r in ((x, None), (padded, real)))
        assert (flat.seen[~real] == 3).all()
        error = (plain.var() / 4000 + filled.var() / 4000).sqrt()
        assert (plain.mean() - filled.mean()).abs() < 4 * error, name


def test_a_time_of_no_weight_costs_nothing():
    process, oracle, x, _, _ = world("masked", 2)
    nodes = torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64)
    terms = nl.continuous_bound(process, oracle, x, nodes=nodes, generator=torch.Generator().manual_seed(0))
    assert (terms.diffusion == 0).all()


def test_padding_may_be_a_token_that_the_process_lacks():
    class Even(nl.Denoiser):
        def forward(self, z, t, rows=None):
            return nl.denoisers.select(torch.zeros(*z.shape, 3), rows)

    x, real = torch.tensor([[0, 1, 0], [1, 2, 0]]), torch.tensor([[True, True, False], [True, True, True]])

    def bound(x):
        return nl.continuous_bound(
            nl.uniform(vocab_size=3), Even(), x, real=real, nodes=2, generator=torch.Generator().manual_seed(0)
        ).total

    assert torch.equal(bound(torch.where(real, x, 7)), bound(x))
    with pytest.raises(ValueError, match=r"x must lie in \[0, 3\)"):
        bound(torch.where(real, 7, x))


def test_means_and_distances_by_hand():
    terms = nl.likelihood.BoundTerms(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.25]))
    assert [term.tolist() for term in terms.mean()] == [[2.0], [0.25], [0.125]]
    assert nl.likelihood.Estimate(3.0, 0.5).distance(2) == 2


def test_revealed_tokens_cost_nothing_whatever_the_network_says():
    """A network that gives visible tokens no probability at all: masking never asks it."""
    process, oracle, x, _, _ = world("masked", 3)

    class Denies(nl.Denoiser):
        def forward(self, z, t, rows=None):
            logits = oracle(z, t)
            return nl.denoisers.select(logits.masked_fill(torch.arange(3) == z[..., None], -torch.inf), rows)

    times = grid(process, 4)
    for one, other in (
        (
            nl.likelihood.expected_bound(process, oracle, x, low=0.01),
            nl.likelihood.expected_bound(process, Denies(), x, low=0.01),
        ),
        (
            nl.likelihood.expected_discrete_bound(process, oracle, x, times),
            nl.likelihood.expected_discrete_bound(process, Denies(), x, times),
        ),
    ):
        assert torch.allclose(one.total, other.total)
    one, other = (
        nl.likelihood.importance_bound(process, d, x, times[:-1], draws=2, generator=torch.Generator().manual_seed(0))
        for d in (oracle, Denies())
    )
    assert torch.allclose(one, other)
    assert torch.allclose(
        nl.likelihood.model_law(process, oracle, 3, times), nl.likelihood.model_law(process, Denies(), 3, times)
    )


def test_fixed_nodes_take_the_luck_out_of_times():
    process, oracle, x, p, _ = world("gidd 0.5", 3)
    generator = torch.Generator().manual_seed(0)
    many = x[nl.categorical.choose(p.expand(400, -1), nl.categorical.uniforms(400, generator=generator))]

    def spread(**options):
        totals = [nl.continuous_bound(process, oracle, many, generator=generator, **options).total for _ in range(20)]
        return torch.stack(totals).std(0).mean()

    assert spread(nodes=16) < 0.5 * spread()


def test_several_times_give_one_bound():
    """Importance, blocks and a path of clocks, drawn: all have the entropy as their mean."""
    process, oracle, x, p, entropy = world("gidd 0.5", 3)
    generator = torch.Generator().manual_seed(0)
    low = 1e-4
    powers = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def path(tau):
        return low + (1 - low) * torch.sin(torch.pi * tau / 2) ** (2 * powers)

    kinds = {
        "importance": lambda n: nl.times.importance_times(n, (nl.t * (1 - nl.t)) ** -0.5, low=low, generator=generator),
        "blocks": lambda n: nl.times.block_times(
            n, 3, 2, low=low, density=(nl.t * (1 - nl.t)) ** -0.5, generator=generator
        ),
        "path": lambda n: nl.times.path_times(nl.stratified_times(n, generator=generator), path),
    }
    for name, draw in kinds.items():

        def surplus(draw=draw):
            many = x[nl.categorical.choose(p.expand(1000, -1), nl.categorical.uniforms(1000, generator=generator))]
            terms = nl.continuous_bound(process, oracle, many, times=draw(1000), low=low, generator=generator)
            return terms.total + oracle.log_prob(many)

        found = nl.likelihood.average(surplus, 20)
        print(f"{name}: bound - entropy {found} of {entropy:.4f}")
        assert abs(found.distance(0)) < 3 and found.error < 0.15


def test_errors_of_replicates_are_right():
    generator = torch.Generator().manual_seed(0)
    stated, means = [], []
    for _ in range(200):
        found = nl.likelihood.average(lambda: torch.rand(10, generator=generator), 20)
        stated.append(found.error)
        means.append(found.mean)
    assert 0.85 < torch.tensor(means).std() / torch.tensor(stated).mean() < 1.15
    assert str(nl.likelihood.Estimate(1.23456, 0.0123)) == "1.235 +- 0.012"
    assert f"{nl.likelihood.Estimate(1.23456, 0.0123)}" == "1.235 +- 0.012"
    assert (
        str(nl.likelihood.Estimate(123.4, 45.0)) == "123 +- 45"
        and str(nl.likelihood.Estimate(1.0, 0.0)) == "1.0000 +- 0.0000"
    )
    with pytest.raises(ValueError, match="repeats must be at least 2; got 1"):
        nl.likelihood.average(lambda: torch.rand(10), 1)


def test_refusals():
    process, oracle, x, _, _ = world("masked", 2)
    with pytest.raises(ValueError, match=r"got 0\.5 to 0\.4"):
        nl.continuous_bound(process, oracle, x, low=0.5, high=0.4)
    with pytest.raises(ValueError, match="both"):
        nl.continuous_bound(process, oracle, x, nodes=3, times=nl.times.quadrature(4))
    with pytest.raises(ValueError, match="fall"):
        nl.discrete_bound(process, oracle, x, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="fall"):
        nl.discrete_bound(process, oracle, x, torch.tensor([1.0, 0.2, 0.5, 0.0]))
    with pytest.raises(ValueError, match="lie in"):
        nl.likelihood.model_law(process, oracle, 2, torch.tensor([1.5, 0.0]))
    with pytest.raises(ValueError, match="pick"):
        nl.discrete_bound(process, oracle, x, grid(process, 3), pick=torch.ones(4))
    with pytest.raises(ValueError, match=r"3\^30"):
        nl.likelihood.model_law(process, oracle, 30, grid(process, 3))
    with pytest.raises(ValueError, match="enumerated"):
        nl.likelihood.expected_bound(process, oracle, torch.zeros(1, 30, dtype=torch.long))
    with pytest.raises(ValueError, match="width"):
        nl.elbo.step_kl(process, torch.zeros(4, 2, 5), x, x, torch.zeros(4), torch.ones(4))


def test_times_of_another_range_are_refused():
    """The mean over a part of the range would be no bound."""
    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.full((2, 2), 0.5), process)
    x, generator = torch.zeros(200, 4, dtype=torch.long), torch.Generator().manual_seed(0)
    for times in (
        nl.times.importance_times(200, 1.0, low=0.3, high=0.9, generator=generator),
        nl.times.block_times(200, 4, 2, low=0.2, high=0.5, generator=generator),
        nl.times.importance_times(200, 1.0, low=0.0, high=1.0, shift=0.0, generator=generator),
    ):
        with pytest.raises(
            ValueError, match=r"times must (run over|lie in).* the range of the bound|range of the bound"
        ):
            nl.continuous_bound(process, oracle, x, times=times, low=1e-4, generator=generator)
    t = torch.linspace(0.01, 0.99, 200, dtype=torch.float64)
    with pytest.raises(
        ValueError, match="with weights of mean"
    ):  # half of the range, as the mean weight says; they vary by 0.1
        nl.continuous_bound(process, oracle, x, times=(t, 0.4 + 0.2 * t), low=1e-4, generator=generator)
    right = nl.times.importance_times(200, nl.t**-0.5, low=1e-4, generator=generator)
    assert nl.continuous_bound(process, oracle, x, times=right, low=1e-4, generator=generator).total.isfinite().all()


def test_times_without_weights_are_refused(unchecked):
    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.full((2, 2), 0.5), process)
    right = nl.times.importance_times(8, nl.t**-0.5, low=1e-4, generator=torch.Generator().manual_seed(0))
    for wrong in (torch.tensor([0.2, 0.7]), [*right, right[1]]):
        with pytest.raises(ValueError, match="times must be two tensors, the times and their weights; got"):
            nl.continuous_bound(process, oracle, torch.zeros(8, 4, dtype=torch.long), times=wrong)


def test_masks_in_the_data_are_refused():
    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.full((2, 2), 0.5), process)
    with pytest.raises(ValueError, match=r"x must consist of data tokens .* got token 2"):
        nl.continuous_bound(process, oracle, torch.tensor([[0, 2]]))


def test_predictions_at_padding_may_be_anything():
    """Networks of transformers return NaN in rows that attend to nothing."""

    class Even(nl.Denoiser):
        def __init__(self, padding):
            super().__init__()
            self.padding = padding

        def forward(self, z, t, rows=None):
            logits = torch.zeros(*z.shape, 3).masked_fill(~real[..., None], self.padding)
            return nl.denoisers.select(logits, rows)

    x, real = torch.tensor([[0, 1, 0], [1, 2, 0]]), torch.tensor([[True, True, False], [True, True, True]])

    def bound(padding):
        random = torch.Generator().manual_seed(0)
        return nl.continuous_bound(
            nl.uniform(vocab_size=3), Even(padding), x, real=real, nodes=4, generator=random
        ).total

    assert torch.equal(bound(torch.nan), bound(0.0))
