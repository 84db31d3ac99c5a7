"""Draws by inverse CDF: the law, the tail, and independence of how the work is done."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noiselab.categorical import choose, uniforms, uniforms_at

V = 50_257


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1.0)), min_size=1, max_size=8), st.floats(0, 1, exclude_max=True)
)
def test_the_chosen_token_is_where_the_cumulative_mass_passes_u(entries, u):
    mass = torch.tensor(entries, dtype=torch.float64)
    if mass.sum() == 0:
        return
    token = int(choose(mass, torch.tensor(u, dtype=torch.float64)))
    before, after = mass[:token].sum(), mass[: token + 1].sum()
    slack = 1e-12 * mass.sum()
    assert mass[token] > 0
    assert before - slack <= u * mass.sum() <= after + slack


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_token_of_a_large_vocabulary_can_be_drawn(dtype):
    """A float32 or bfloat16 uniform misses most of them; one float64 uniform per draw reaches each in its own turn."""
    mass = torch.ones(V, dtype=dtype)
    u = (torch.arange(V, dtype=torch.float64) + 0.5) / V
    assert torch.equal(choose(mass.expand(V, -1)[::97], u[::97]), torch.arange(V)[::97])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tail_of_zipfs_law_is_drawn_as_often_as_it_should(dtype):
    logits = -torch.arange(1, V + 1).double().log().to(dtype)
    mass = logits.float().softmax(-1)
    n = 8_000
    u = uniforms(n, generator=torch.Generator().manual_seed(0))
    drawn = torch.cat([choose(mass.expand(len(part), -1), part) for part in u.split(500)])
    exact = logits.double().softmax(-1)
    for rank in (10, 1000, 5000, 20_000):
        want = exact[rank:].sum()
        assert abs((drawn >= rank).double().mean() - want) < 4 * (want * (1 - want) / n) ** 0.5


def test_a_float32_uniform_would_fail_the_tail_test():
    """The planted mistake: quantised to 8 bits, as in bfloat16, uniform numbers reach few tokens."""
    mass, u = torch.ones(V), uniforms(2000, generator=torch.Generator().manual_seed(0))
    coarse = u.to(torch.bfloat16).double().clamp(max=1 - 2**-53)
    assert (
        choose(mass.expand(2000, -1), coarse).unique().numel() < 0.7 * choose(mass.expand(2000, -1), u).unique().numel()
    )


def test_two_levels_equal_one_long_sum():
    generator = torch.Generator().manual_seed(1)
    mass = torch.rand(64, 3000, generator=generator, dtype=torch.float64)
    mass[:, ::3] = 0
    u = uniforms(64, generator=generator)
    target = u[:, None] * mass.sum(-1, keepdim=True)
    assert torch.equal(choose(mass, u), torch.searchsorted(mass.cumsum(-1), target, right=True)[:, 0])


def test_no_token_without_mass_even_at_the_ends():
    mass = torch.zeros(2000)
    mass[[3, 1500]] = torch.tensor([1e-30, 1.0])
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert choose(mass.expand(2, -1), ends).tolist() == [3, 1500]


def test_a_generator_for_each_sequence_makes_batches_and_loops_agree():
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    together = uniforms(3, 4, 2, generator=generators)
    alone = [uniforms(1, 4, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    assert torch.equal(together, torch.cat(alone))
    with pytest.raises(ValueError, match="one generator for each of 2 sequences"):
        uniforms(2, generator=generators)


@pytest.mark.parametrize("states", [5, 1500])
def test_a_row_without_mass_gives_a_token_that_exists(states):
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert (choose(torch.zeros(3, states), u) < states).all()


@pytest.mark.parametrize("states", [1024, 1025, 1500, 1537])
def test_each_token_that_has_all_the_mass_is_chosen(states):
    """Whatever the position of its block, in batches with a position too."""
    tokens = torch.tensor([[0, 255, 256, 1023], [states - 2, states - 1, states // 2, 511]])
    mass = torch.zeros(2, 4, states).scatter(-1, tokens[..., None], 0.25)
    for u in (0.0, 0.5, 1 - 2**-53):
        assert torch.equal(choose(mass, torch.full((2, 4), u, dtype=torch.float64)), tokens)


def test_tokens_that_are_not_selected_get_0():
    rows = torch.tensor([[True, False, True], [False, False, True]])
    for generator in (torch.Generator().manual_seed(0), [torch.Generator().manual_seed(i) for i in range(2)]):
        assert torch.equal(uniforms_at(rows, generator=generator) > 0, rows)


def test_numbers_are_drawn_where_the_generator_is_and_returned_where_they_are_wanted():
    assert uniforms(2, 3, generator=torch.Generator(), device="meta").device.type == "meta"
