"""Schedules as expressions; weights, times and means of an objective."""

import itertools
import subprocess
import sys

import jaxtyping
import pytest
import torch
from by_hand import World
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor
from torch.testing import assert_close
from type_checks import check
from worlds import PROCESSES

import noiselab as nl

t = nl.t
TIMES = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


@st.composite
def expressions(draw, depth=0):
    if depth == 3 or draw(st.booleans()):
        return draw(st.sampled_from(["t", "1", "2", "0.5", "0.25"]))
    left, right = draw(expressions(depth + 1)), draw(expressions(depth + 1))
    sign = draw(st.sampled_from(["+", "-", "*", "**"]))
    if sign == "**":
        right = draw(st.sampled_from(["2", "0.5", "3"]))
        left = f"(t + {left} * {left})"
    return f"({left} {sign} {right})"


@given(expressions())
def test_an_expression_prints_what_it_computes(text):
    schedule = nl.schedules.as_schedule(eval(text, {"t": t}))
    assert_close(schedule(TIMES), torch.as_tensor(eval(text, {"t": TIMES})).expand_as(TIMES).double())
    again = nl.schedules.as_schedule(eval(repr(schedule), {"t": t}))
    assert_close(again(TIMES), schedule(TIMES))
    assert repr(again) == repr(schedule)


def test_slopes_are_derived():
    assert_close((2 * t**3 - 1 / (1 + t)).derivative(TIMES), 6 * TIMES**2 + 1 / (1 + TIMES) ** 2)
    assert_close((1 - t).log_snr(TIMES), ((1 - TIMES) / TIMES).log())
    assert_close(nl.schedules.Function(torch.sin).derivative(TIMES), TIMES.cos())
    assert repr(nl.schedules.Function(torch.sin)) == "sin(t)" and repr(-t) == "-t"


@given(st.integers(1, 40), st.integers(1, 4), st.floats(0, 1, exclude_max=True))
def test_stratified_times_fall_one_into_each_interval(count, parts, shift):
    times = torch.cat(
        [
            nl.stratified_times(count, shift=shift, first=i * count, total=parts * count, low=0.1, high=0.9)
            for i in range(parts)
        ]
    )
    gaps = ((times - 0.1) / 0.8).sort().values.diff()
    assert_close(gaps, torch.full_like(gaps, 1 / (parts * count)), rtol=0, atol=1e-9)
    assert (times >= 0.1).all() and (times <= 0.9).all()


def test_padding_does_not_count_in_the_mean():
    loss = torch.tensor([[1.0, 2.0, 100.0], [3.0, float("nan"), 100.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert nl.objectives.mean_over_tokens(loss, mask) == 2.0
    assert nl.objectives.mean_over_tokens(loss[:1], None) == pytest.approx(103 / 3)


def test_the_dynamic_weight_is_the_elbos_ratio_to_first_order():
    """Where signal dominates, w(clean) / w(wrong) of the ELBO is b / alpha, which is scale * exp(-gamma lambda / 2)."""
    process = nl.gidd(vocab_size=1001, mask_id=1000, p_uniform=0.02)
    x = torch.zeros(1, 3, dtype=torch.long)
    z = torch.tensor([[0, 5, 1000]])
    for time in (0.1, 0.5):
        at = torch.tensor([time])
        weight = nl.objectives.Dynamic.gidd(vocab_size=1001, p_uniform=0.02)(process, x, z, at)[0]
        bound = process.elbo_weight(x, z, at)[0]
        # lambda is (1 - t) / (t + c) where the ELBO has (1 - t) / t: equal up to the share of uniform noise.
        assert weight[0].item() == pytest.approx((bound[0] / bound[1]).item(), rel=0.1)
        assert weight[1] == 1 and weight[2] == 2
    assert nl.objectives.Clipped(0.5)(process, x, z, at).max() == 0.5


def test_a_clipped_objective_is_the_clipped_weight_times_the_divergence():
    """By hand: the weight is r(z) / q(z | x); the divergence is q(z | x) times the sum over y of
    u log(u / v) - u + v, with u and v the ratios of q(y) to q(z), given x and given the prediction."""
    world, time = World("gidd", 1), 0.3
    process, x_hat, at = world.process(), torch.tensor([0.35, 0.65, 0.0], dtype=torch.float64), torch.tensor([time])
    q, clipped = world.q(time), set()
    for x, z in itertools.product(range(2), range(3)):
        y = (z + 1) % 3
        weight = (world.rates(time)[y, z] / q[x, z]).item()
        u, v = q[x] / q[x, z], (x_hat @ q) / (x_hat @ q)[z]
        divergence = (q[x, z] * (u * (u / v).log() - u + v).sum()).item()
        for largest in (0.4, 1.0, 3.0):
            found = nl.objectives.objective_loss(
                process,
                x_hat.log()[None, None],
                torch.tensor([[x]]),
                torch.tensor([[z]]),
                at,
                nl.objectives.Clipped(largest),
            )
            assert found.item() == pytest.approx(min(weight, largest) * divergence, rel=1e-6)
            clipped.add(weight > largest)
    assert clipped == {False, True}


def test_importing_the_core_imports_nothing_heavy():
    code = (
        "import sys, noiselab; "
        "print([m for m in ('transformers', 'datasets', 'matplotlib', 'accelerate', 'tyro', 'beartype') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_shape_checks_are_on():
    """If the import hook were missing, every other test would still pass, and check less."""
    with pytest.raises(jaxtyping.TypeCheckError):
        PROCESSES["gidd"]().corrupt(torch.zeros(3, dtype=torch.long), torch.zeros(3))


def test_values_are_checked_with_the_sizes_of_the_arguments():
    @jaxtyping.jaxtyped(typechecker=check)
    def tail(x: Float[Tensor, " n"], from_: int) -> Float[Tensor, " n"]:
        return x[from_:]

    assert tail(torch.ones(3), 0).shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        tail(torch.ones(3), 1)
    with pytest.raises(jaxtyping.TypeCheckError, match="parameters"):
        tail(torch.ones(3), "1")
