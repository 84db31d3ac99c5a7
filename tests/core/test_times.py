"""Times and their weights: what a mean, or a sum, over them is."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import SMALL
from torch.testing import assert_close
from worlds import row

import noiselab as nl

POWERS = (0.0, 1.0, 2.5)
COUNT = 200_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def integral(power, low, high):
    return (high ** (power + 1) - low ** (power + 1)) / (power + 1)


@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 100))
def test_parts_of_a_shared_set_are_the_whole_set(count, parts, seed):
    total = count * parts
    makers = {
        "uniform": lambda n, **k: nl.times.uniform_times(n, **k),
        "importance": lambda n, **k: nl.times.importance_times(n, 1 + nl.t, cells=64, **k)[0],
        "tokens": lambda n, **k: nl.times.token_times(n, 3, share=0.5, **k),
        "blocks": lambda n, **k: nl.times.block_times(n, 5, 2, **k)[0],
    }
    for name, make in makers.items():
        whole = make(total, generator=seeded(seed))
        pieces = [make(count, first=i * count, total=total, generator=seeded(seed)) for i in range(parts)]
        assert torch.equal(torch.cat(pieces), whole), name


MAKERS = {
    "stratified": lambda n, **k: nl.stratified_times(n, **k),
    "uniform": lambda n, **k: nl.times.uniform_times(n, **k),
    "importance": lambda n, **k: nl.times.importance_times(n, 1, **k),
    "tokens": lambda n, **k: nl.times.token_times(n, 3, **k),
    "blocks": lambda n, **k: nl.times.block_times(n, 5, 2, **k),
}


@pytest.mark.parametrize("name", MAKERS)
def test_parts_that_are_not_among_the_shared_set_are_refused(name):
    for wrong in ({"first": 6, "total": 8}, {"total": 2}, {"first": -1, "total": 8}, {"first": 1}):
        with pytest.raises(ValueError, match=r"first \+ count <= total; got first = "):
            MAKERS[name](4, **wrong)
    MAKERS[name](4, first=4, total=8)


DENSITIES = {
    "constant": 2,
    "schedule": 0.1 + nl.t**2,
    "function": lambda t: torch.exp(-3 * t),
    "infinite at 0": nl.t**-0.5,
    "zero at 0": nl.t,
}


@pytest.mark.parametrize("cells", [7, 4096])
@pytest.mark.parametrize("name", DENSITIES)
def test_importance_is_unbiased_for_any_number_of_cells(name, cells):
    """Evaluated without randomness: at the middle of each of many strata, weight * f is integrated by the midpoint rule."""
    for low, high in ((0.0, 1.0), (0.2, 0.7)):
        t, weight = nl.times.importance_times(
            COUNT, DENSITIES[name], low=low, high=high, shift=0.5 / COUNT, cells=cells
        )
        assert (t >= low).all() and (t <= high).all()
        assert_close((1 / weight).mean() > 0, torch.tensor(True))
        for power in POWERS:
            assert (weight * t**power).mean().item() == pytest.approx(integral(power, low, high), rel=2e-3)


def test_a_constant_density_gives_even_times():
    t, weight = nl.times.importance_times(50, 3.0, low=0.1, high=0.6, shift=0.3)
    assert_close(t, nl.stratified_times(50, low=0.1, high=0.6, shift=0.3), rtol=0, atol=1e-12)
    assert_close(weight, torch.full_like(t, 0.5))


def test_the_density_is_that_of_the_times():
    t, weight = nl.times.importance_times(COUNT, 1 + 3 * nl.t, shift=0.0)
    assert_close(1 / weight, (1 + 3 * t) / 2.5, rtol=2e-3, atol=0)
    assert_close((t < 0.5).double().mean(), torch.tensor((0.5 + 3 / 8) / 2.5).double(), atol=1e-4, rtol=0)


def test_the_best_density_takes_all_variance_out():
    t, weight = nl.times.importance_times(1000, nl.t**2, generator=seeded())
    assert (weight * t**2).std() < 0.01 * (t**2).std()


def test_density_that_is_none():
    for density, words in (
        (nl.t - 0.5, r"positive and finite; got -0.5 at t = "),
        (lambda t: (t > 0.5).double(), "got 0 at"),
        (lambda t: 1 / (t < 0.9), "got inf at t = 0.9"),
        (lambda t: t * torch.nan, "got nan"),
    ):
        with pytest.raises(ValueError, match=words):
            nl.times.importance_times(3, density)
    with pytest.raises(ValueError, match="rise"):
        nl.times.importance_times(3, 1, low=0.5, high=0.5)


def test_planted_mistake_weights_of_another_density():
    """With the reciprocal of the density asked for, in place of the one sampled from, the mean is wrong."""
    density = 0.01 + nl.t**8
    t, weight = nl.times.importance_times(COUNT, density, shift=0.0, cells=7)
    asked = (0.01 + 1 / 9) / density(t)
    assert (weight * t).mean().item() == pytest.approx(0.5, rel=1e-3)
    assert abs((asked * t).mean().item() - 0.5) > 0.01


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.3, 0.5)])
def test_quadrature_is_exact_for_polynomials_and_square_roots(low, high):
    t, weight = nl.times.quadrature(24, low=low, high=high)
    assert t.min() > low and t.max() < high
    for power in (*POWERS, 0.5, -0.5):
        assert (weight * t**power).sum().item() == pytest.approx(integral(power, low, high), rel=1e-10)
    if low == 0:
        assert (weight * t.log() * t**-0.5).sum().item() == pytest.approx(-4, rel=1e-4)  # sqrt-noise's own ends
    with pytest.raises(ValueError, match="node"):
        nl.times.quadrature(0)


def test_gauss_legendre_is_exact_to_its_degree():
    from noiselab.numerics import gauss_legendre

    for nodes in (1, 2, 5):
        u, weight = gauss_legendre(nodes)
        for power in range(2 * nodes):
            assert (weight * u**power).sum().item() == pytest.approx(1 / (power + 1), rel=1e-12)
        assert abs((weight * u ** (2 * nodes)).sum().item() - 1 / (2 * nodes + 1)) > 1e-12


def test_the_sine_clock_keeps_integrals():
    t, weight = nl.times.sine_clock(nl.stratified_times(10_000, shift=0.5), low=0.1, high=0.9)
    assert t.min() >= 0.1 and t.max() <= 0.9
    for power in POWERS:
        assert (weight * t**power).mean().item() == pytest.approx(integral(power, 0.1, 0.9), rel=1e-6)


def test_blocks_are_a_path():
    t, weight = nl.times.block_times(6000, 7, 3, low=0.1, high=0.9, generator=seeded())
    order = torch.arange(7) // 3
    active = weight > 0
    assert (active.sum(-1) == torch.where(active[:, 6], 1, 3)).all()
    for rows, block in ((active[:, 0], 0), (active[:, 3], 1), (active[:, 6], 2)):
        assert rows.double().mean().item() == pytest.approx(1 / 3, abs=1e-3)
        assert (t[rows][:, order < block] == 0.1).all() and (t[rows][:, order > block] == 0.9).all()
        assert (t[rows][:, order == block].diff(dim=-1) == 0).all()
    # Every token's weighted mean is the integral over the whole range.
    assert_close((weight * t).mean(0), torch.full((7,), integral(1, 0.1, 0.9)).double(), rtol=1e-2, atol=0)
    assert_close((weight > 0).double().mean(0) * 3 * 0.8, weight.mean(0))
    assert (nl.times.block_times(5, 4, 4, shift=0.1)[0] == nl.stratified_times(5, shift=0.1)[:, None]).all()
    with pytest.raises(ValueError, match="got 0"):
        nl.times.block_times(2, 4, 0)


def test_path_refusals():
    tau = torch.tensor([0.5])
    for path, words in ((lambda tau: 1 - tau, "slope -1"), (lambda tau: 2.5 * tau, "t = 1.25")):
        with pytest.raises(ValueError, match=words):
            nl.times.path_times(tau, path)


def test_token_times_are_independent_in_the_share_asked_for():
    t = nl.times.token_times(4000, 4, share=0.25, generator=seeded())
    own = t.std(-1) > 1e-12
    assert own.double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert abs(torch.corrcoef(t[own].T)[0, 1]) < 0.1
    assert (nl.times.token_times(3, 4, share=0.0, shift=0.2) == nl.stratified_times(3, shift=0.2)[:, None]).all()
    with pytest.raises(ValueError, match="share"):
        nl.times.token_times(3, 4, share=1.5)


# Which of them are bounds, by enumeration: equal tokens under masking, whose entropy is that of one.


def equal_tokens(length, process):
    law = row(0.7, 0.3)
    oracle = nl.MarkovOracle(law, torch.eye(2, dtype=torch.float64), process)
    x = torch.tensor([[0], [1]]).repeat(1, length)
    return oracle, x, law, -(law * law.log()).sum().item()


def product(length, nodes):
    """Quadrature over independent times."""
    t, weight = nl.times.quadrature(nodes)
    index = torch.cartesian_prod(*length * [torch.arange(nodes)]).view(-1, length)
    return t[index], weight[index].prod(-1)


@pytest.mark.parametrize("length, share", [(1, 1.0), (2, 1.0), (3, 0.75), (4, 0.5)])
def test_independent_times_are_no_bound(length, share):
    """N equal tokens: the mean is n 2^(1-n) H, below the entropy from three tokens on."""
    process = nl.masked(vocab_size=3, mask_id=2)
    oracle, x, law, entropy = equal_tokens(length, process)
    total = nl.likelihood.expected_bound(process, oracle, x, times=product(length, 6)).mean(law).total.item()
    print(f"{length} equal tokens, independent times: {total / entropy:.6f} of the entropy")
    assert total == pytest.approx(share * entropy, rel=1e-9)
    common = nl.likelihood.expected_bound(process, oracle, x, nodes=16).mean(law).total.item()
    assert common == pytest.approx(entropy, rel=1e-9)
    if length == 3:  # the same, drawn
        t = nl.times.token_times(20_000, 3, generator=seeded())
        many = x[(torch.arange(20_000) % 10 < 3).long()]
        weight = torch.ones_like(t)
        drawn = nl.continuous_bound(process, oracle, many, times=(t, weight), low=0.0, generator=seeded(1)).total
        assert drawn.mean().item() == pytest.approx(0.75 * entropy, abs=0.03 * entropy)


def along(path, nodes, pieces=1):
    """Quadrature along a path of per-token times."""
    edges = [i / pieces for i in range(pieces + 1)]
    rules = [nl.times.quadrature(nodes, low=a, high=b) for a, b in itertools.pairwise(edges)]
    tau, outer = (torch.cat(part) for part in zip(*rules, strict=True))
    t, weight = nl.times.path_times(tau, path)
    return t, outer[:, None] * weight


PROCESSES = {
    "masked": lambda: nl.masked(vocab_size=3, mask_id=2),
    "gidd, gamma 2": lambda: nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.3, gamma=2.0),
    "gidd": lambda: nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.3),
    "uniform": lambda: nl.uniform(vocab_size=2),
    "mask and unigram": SMALL["mask and unigram"],
    "turning": SMALL["turning"],
}
CHAIN = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("name", PROCESSES)
def test_blocks_and_clocks_are_bounds(name, block):
    """Earlier tokens at exactly t = 0 and later ones at exactly t = 1 are met here, and have no weight."""
    process = PROCESSES[name]()
    oracle = nl.MarkovOracle(row(0.6, 0.4), CHAIN, process)
    x = nl.likelihood.every_sequence(2, 3)
    p, entropy = oracle.log_prob(x).exp(), oracle.entropy(3)
    blocks, order = -(-3 // block), torch.arange(3) // block

    def path(tau):  # what block_times draws from, in reverse
        return (tau * blocks - (blocks - 1 - order)).clamp(0, 1)

    t, weight = along(path, 48, pieces=blocks)
    assert ((t == 0) | (t == 1)).any() == (blocks > 1)
    found = nl.likelihood.expected_bound(process, oracle, x, times=(t, weight)).mean(p).total.item()
    print(f"{name}, blocks of {block}: {found:.6f}, entropy {entropy:.6f}")
    assert found == pytest.approx(entropy, abs=5e-5)

    powers = row(1.0, 1.5, 3.0)
    found = (
        nl.likelihood.expected_bound(process, oracle, x, times=along(lambda tau: tau**powers, 96)).mean(p).total.item()
    )
    assert found == pytest.approx(entropy, abs=3e-4)
    flat = along(path, 48, pieces=blocks)[0], torch.ones_like(weight) / len(weight)  # weights forgotten
    if blocks > 1:
        wrong = nl.likelihood.expected_bound(process, oracle, x, times=flat).mean(p).total.item()
        assert abs(wrong - entropy) > 0.05


@pytest.mark.parametrize("name", PROCESSES)
def test_drawn_block_times_have_the_entropy_as_their_mean(name):
    process = PROCESSES[name]()
    oracle = nl.MarkovOracle(row(0.6, 0.4), CHAIN, process)
    generator = seeded(3)

    def surplus():
        x = oracle.sample(1000, 3, generator=generator)
        times = nl.times.block_times(1000, 3, 2, generator=generator)
        return nl.continuous_bound(
            process, oracle, x, times=times, low=0.0, generator=generator
        ).total + oracle.log_prob(x)

    found = nl.likelihood.average(surplus, 20)
    print(f"{name}: bound - entropy {found}")
    assert abs(found.distance(0)) < 3 and found.error < 0.2


def test_gradients_at_the_ends_of_time_are_finite():
    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.3)
    x = torch.tensor([[0, 1, 1, 0]])
    t, weight = nl.times.block_times(1, 4, 1, shift=0.3)
    z = process.corrupt(x, t, generator=seeded())
    logits = torch.zeros(1, 4, 3, requires_grad=True)
    loss = torch.where(weight == 0, 0, weight * nl.nelbo(process, logits, x, z, t))
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()
