"""Families of schedules: slopes, ends, published closed forms, and what they print."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import noiselab as nl
from noiselab import schedules as S
from noiselab import t

TIMES = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)

FAMILIES = {
    "linear": lambda draw: S.linear(),
    "log_linear": lambda draw: S.log_linear(draw(st.floats(0, 1e-3))),
    "cosine": lambda draw: S.cosine(draw(st.floats(0, 1e-3))),
    "cosine_squared": lambda draw: S.cosine_squared(draw(st.floats(0, 1e-3))),
    "cosine_md4": lambda draw: S.cosine_md4(),
    "polynomial": lambda draw: S.polynomial(draw(st.floats(0.2, 6))),
    "geometric": lambda draw: S.geometric(draw(st.floats(1e-6, 1e-3)), draw(st.floats(7, 50))),
    "from_log_snr": lambda draw: S.from_log_snr(draw(st.floats(7, 15)) - draw(st.floats(22, 30)) * t),
    "MonotoneNetwork": lambda draw: wild(draw(st.integers(1, 9)), draw(st.integers(0, 99))),
}


def wild(width, seed, rising=False):
    """A network far from where it begins."""
    network = S.MonotoneNetwork(width, rising=rising)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return network


def signals():
    @st.composite
    def draw_signal(draw):
        return FAMILIES[draw(st.sampled_from(sorted(FAMILIES)))](draw)

    return draw_signal()


def slope_is_that_of_the_values(schedule):
    h = 1e-6
    difference = (schedule(TIMES + h) - schedule(TIMES - h)) / (2 * h)
    assert_close(schedule.derivative(TIMES), difference, rtol=1e-5, atol=1e-8)


def is_a_signal(schedule):
    values = schedule(torch.linspace(0, 1, 501, dtype=torch.float64))
    assert (
        (values.diff() <= 0).all() and values[0] <= 1 + 1e-15 and values[-1] >= -1e-15
    )  # weights sum to 1 but for rounding
    assert_close(values[[0, -1]], 1 - ENDS, rtol=0, atol=1.001e-3)


def complement_has_all_digits(schedule):
    """Against the slope: near 0, where 1 - alpha rounds, its logarithm must still have the right slope."""
    assert_close(schedule.complement(TIMES), 1 - schedule(TIMES))
    tiny = torch.tensor([1e-11], dtype=torch.float64)
    log_slope = torch.func.jvp(lambda u: schedule.complement(u).log(), (tiny,), (torch.ones_like(tiny),))[1]
    difference = (schedule.complement(1.01 * tiny) / schedule.complement(0.99 * tiny)).log()
    assert_close(difference, 0.02 * tiny * log_slope, rtol=1e-3, atol=1e-12)


def inverts(schedule):
    values = schedule(TIMES).detach()
    assert_close(schedule(schedule.inverse(values)), values, rtol=0, atol=1e-12)
    assert_close(schedule.inverse(schedule(ENDS).detach()), ENDS, rtol=0, atol=1e-6)


@pytest.mark.parametrize("law", [slope_is_that_of_the_values, is_a_signal, complement_has_all_digits, inverts])
def test_signals_obey(law):
    @settings(max_examples=30)
    @given(signals())
    def check(schedule):
        law(schedule)

    check()


@pytest.mark.parametrize(
    ("law", "mistake"),
    [
        (slope_is_that_of_the_values, nl.schedules.Function(lambda t: 1 - t.detach())),
        (is_a_signal, 1 - t + 0.9 * t * (1 - t) * S.sin(9 * t)),
        (is_a_signal, 0.99 - 0.99 * t),
        (complement_has_all_digits, nl.schedules.Function(lambda t: 1 - t**2)),
        (inverts, nl.schedules.Function(lambda t: torch.where(t < 0.5, 1 - t, 0.9 - t).clamp(min=0))),
    ],
)
def test_the_laws_see_mistakes(law, mistake):
    with pytest.raises(AssertionError):
        law(mistake)


@pytest.mark.parametrize(
    ("schedule", "published"),
    [
        # -log alpha, the total noise sigma(t), as the papers give it
        (S.log_linear(1e-3), lambda t: -torch.log1p(-(1 - 1e-3) * t)),
        (S.cosine(1e-3), lambda t: -torch.log(1e-3 + (1 - 1e-3) * torch.cos(torch.pi / 2 * t))),
        (S.cosine_squared(1e-3), lambda t: -torch.log(1e-3 + (1 - 1e-3) * torch.cos(torch.pi / 2 * t) ** 2)),
        (S.geometric(1e-3, 20), lambda t: 1e-3 ** (1 - t) * 20**t),
        (S.cosine_md4(), lambda t: -torch.log(1 - torch.cos(torch.pi / 2 * (1 - t)))),
        (S.polynomial(2), lambda t: -torch.log(1 - t**2)),
        (S.from_log_snr(9 - 18 * t), lambda t: torch.log1p(torch.exp(18 * t - 9))),
    ],
)
def test_total_noise_is_the_published_one(schedule, published):
    assert_close(-schedule(TIMES).log(), published(TIMES))


@pytest.mark.parametrize(
    ("schedule", "published"),
    [
        # -alpha' / alpha, the rate of destruction sigma'(t), as MDLM and SEDD release it
        (S.log_linear(1e-3), lambda t: (1 - 1e-3) / (1 - (1 - 1e-3) * t)),
        (
            S.cosine(1e-3),
            lambda t: torch.pi / 2 * 0.999 * torch.sin(torch.pi / 2 * t) / (0.999 * torch.cos(torch.pi / 2 * t) + 1e-3),
        ),
        (
            S.cosine_squared(1e-3),
            lambda t: (
                torch.pi / 2 * 0.999 * torch.sin(torch.pi * t) / (0.999 * torch.cos(torch.pi / 2 * t) ** 2 + 1e-3)
            ),
        ),
        (S.geometric(1e-4, 20), lambda t: 1e-4 ** (1 - t) * 20**t * math.log(20 / 1e-4)),
        (S.linear(), lambda t: 1 / (1 - t)),
    ],
)
def test_the_rate_is_the_published_one(schedule, published):
    assert_close(-schedule.derivative(TIMES) / schedule(TIMES), published(TIMES))
    masked = nl.Interpolation(schedule, {nl.Absorbing(2, 3): 1 - schedule})
    masks = torch.full((len(TIMES), 1), 2)
    assert_close(masked.rate_into(masks, TIMES)[:, 0], published(TIMES))


def test_the_weight_of_md4_is_minus_the_slope_over_the_masked_share():
    """MD4's bound: alpha' / (1 - alpha) times the cross-entropy of masked tokens, for every schedule."""
    for alpha in (S.cosine_md4(), S.polynomial(3), S.geometric()):
        process = nl.Interpolation(alpha, {nl.Absorbing(2, 3): 1 - alpha})
        x, z = torch.zeros(len(TIMES), 1, dtype=torch.long), torch.full((len(TIMES), 1), 2)
        logits = torch.tensor([0.3, -0.4, 0.0], dtype=torch.float64).expand(len(TIMES), 1, 3)
        cross_entropy = -logits[0, 0, :2].log_softmax(-1)[0]
        want = -alpha.derivative(TIMES) / alpha.complement(TIMES) * cross_entropy
        assert_close(nl.nelbo(process, logits, x, z, TIMES)[:, 0], want)


@pytest.mark.parametrize("ratio", [12.0, 40.0, 300.0])
def test_neither_signal_nor_noise_loses_digits_at_a_high_ratio(ratio):
    alpha = S.from_log_snr(ratio - 2 * ratio * t)
    process = nl.Interpolation(alpha, {nl.Absorbing(4, 5): 1 - alpha})
    ends = torch.tensor([[1e-3], [0.5], [1 - 1e-3]], dtype=torch.float64)
    snr = ratio - 2 * ratio * ends
    assert_close(process.noise(ends).total().log(), torch.nn.functional.logsigmoid(-snr))
    assert_close(process.alpha(ends).log(), torch.nn.functional.logsigmoid(snr))
    assert_close(alpha.log_snr(ends), snr)
    weight = process.elbo_weight(torch.zeros(3, 1, dtype=torch.long), torch.full((3, 1), 4), ends)
    assert_close(weight, torch.full_like(weight, 2 * ratio))  # rate -alpha' / alpha over 1 - alpha is -lambda'
    if ratio > 37:
        # The mistake: noise by subtraction is lost where alpha rounds to 1.
        assert (1 - alpha(ends))[0] == 0 and (1 - alpha)(ends)[0] > 0


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (S.linear(), "1 - t"),
        (S.log_linear(), "1 - (1 - 0.001) * t"),
        (S.log_linear(0), "1 - t"),
        (S.cosine(), "cos(pi / 2 * t)"),
        (S.cosine(1e-3), "1 - (1 - 0.001) * (1 - cos(pi / 2 * t))"),
        (S.cosine_squared(), "cos(pi / 2 * t) ** 2"),
        (S.cosine_md4(), "1 - sin(pi / 2 * t)"),
        (S.polynomial(2), "1 - t ** 2"),
        (S.geometric(), "exp(-(0.0001 ** (1 - t) * 20 ** t))"),
        (S.from_log_snr(9 - 18 * t), "sigmoid(9 - 18 * t)"),
        (-t, "-t"),
        (-(t * t), "-(t * t)"),
        (-t * t, "-t * t"),
        (-(t**2), "-t ** 2"),
        ((-t) ** 2, "(-t) ** 2"),
        ((t - 1) * -2, "(t - 1) * -2"),
        (2**-t, "2 ** (-t)"),
        (2 * S.sqrt(t * (1 - t)), "2 * sqrt(t * (1 - t))"),
        (S.log(1 + t) ** 0.5, "log(1 + t) ** 0.5"),
        ((1 - t)(t**2), "1 - t ** 2"),
        ((t**2)(1 - t), "(1 - t) ** 2"),
        (S.cosine()(t**2), "cos(pi / 2 * t ** 2)"),
        ((2 * t)(-t), "2 * -t"),
        (nl.schedules.Function(torch.tanh)(1 - t), "tanh(1 - t)"),
        (nl.schedules.Function(torch.tanh)(1 - t)(t**2), "tanh(1 - t ** 2)"),
        (S.MonotoneNetwork(4)(t**2), "MonotoneNetwork(4)(t ** 2)"),
        (S.MonotoneNetwork(4, rising=True), "MonotoneNetwork(4, rising=True)"),
        (S.cosine().inverse(1 - t), "cos(pi / 2 * t).inverse(1 - t)"),
        ((1 - t).inverse(S.cosine()), "(1 - t).inverse(cos(pi / 2 * t))"),
    ],
)
def test_schedules_print_as_written(schedule, text):
    assert repr(schedule) == text
    names = {name: getattr(S, name) for name in ("cos", "sin", "exp", "log", "sqrt", "sigmoid", "pi", "t")}
    if "tanh" not in text and "Network" not in text:
        again = S.as_schedule(eval(text, names))
        assert_close(again(TIMES), schedule(TIMES))
        assert repr(again) == text.replace("(1 - 0.001)", "0.999")  # Python's own arithmetic
    assert repr(nl.schedules.Constant(-2) ** t) == "(-2) ** t"


@settings(max_examples=20)
@given(
    signals(), st.sampled_from([t**2, S.sin(S.pi / 2 * t), wild(3, 5, rising=True), nl.schedules.Function(torch.sqrt)])
)
def test_a_schedule_by_a_clock(schedule, clock):
    both = schedule(clock)
    assert_close(both(TIMES), schedule(clock(TIMES)))
    assert_close(both.complement(TIMES), schedule.complement(clock(TIMES)))
    slope_is_that_of_the_values(both)
    assert_close(both.derivative(TIMES), schedule.derivative(clock(TIMES)) * clock.derivative(TIMES))
    assert_close(both(t**2)(TIMES), schedule(clock(TIMES**2)))


def test_a_learned_schedule_by_a_clock_keeps_its_parameters():
    network = S.MonotoneNetwork(3)
    both = (1 - network)(t**2)
    assert {id(p) for p in both.parameters()} == {id(p) for p in network.parameters()}


@settings(max_examples=10)
@given(signals())
def test_the_clock_by_which_one_signal_becomes_another(schedule):
    """Its slope is a' / b' by the implicit function theorem, and derivatives of the slope are right as well."""
    # The signal that the other becomes must not leave its range.
    low, high = schedule(ENDS)[1].item(), schedule(ENDS)[0].item()
    target = high - (high - low) * t
    clock = schedule.inverse(target)
    assert_close(schedule(clock(TIMES)), target(TIMES))
    slope = target.derivative(TIMES) / schedule.derivative(clock(TIMES))
    assert_close(clock.derivative(TIMES), slope)
    h = 1e-5
    curve = torch.func.jvp(clock.derivative, (TIMES,), (torch.ones_like(TIMES),))[1]
    difference = (clock.derivative(TIMES + h) - clock.derivative(TIMES - h)) / (2 * h)
    assert_close(curve, difference, rtol=1e-4, atol=1e-4)


def test_the_inverse_of_a_learned_schedule_passes_gradients_on():
    network = wild(3, 1)
    clock = network.inverse(1 - t)
    (clock(TIMES).sum() + clock.derivative(TIMES).sum()).backward()
    for parameter in network.parameters():
        for i in range(len(parameter)):
            sums = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[i] += step
                    sums.append(clock(TIMES).sum() + clock.derivative(TIMES).sum())
                    parameter[i] -= step
            want = (sums[0] - sums[1]) / 2e-5
            assert_close(parameter.grad[i], want, rtol=1e-5, atol=1e-6)


def test_small_values_are_inverted_by_their_complements():
    tiny = torch.tensor([1e-20, 1e-14, 1e-9], dtype=torch.float64)
    # 1 - cos(pi t / 2) = tiny at the root of 8 tiny / pi^2, though 1 - tiny is 1.
    clock = S.cosine().inverse(1 - t)
    assert_close(clock(tiny), (8 * tiny).sqrt() / torch.pi)
    assert S.cosine().inverse(torch.ones(1))[0] == 0 and (t**3).inverse(torch.zeros(1))[0] == 0
    assert (0.5 - 0.5 * t).inverse(torch.tensor([0.5]))[0] == 0


def test_where_the_slope_is_0_the_inverse_is_the_time_itself():
    """A power of t at 0: the value is there, and no step of Newton's leads away from it."""
    times = torch.tensor([0.0, 0.5], dtype=torch.float64)
    assert_close((t**3).inverse(1 * t)(times), torch.tensor([0.0, 0.5 ** (1 / 3)], dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: (t * (1 - t)).inverse(TIMES),
            r"monotone on \[0, 1\] to have an inverse; got t \* \(1 - t\)",
        ),
        (lambda: nl.schedules.Constant(0.5).inverse(TIMES), "have an inverse; got 0.5"),
        (lambda: nl.schedules.Function(lambda t: t / 0).inverse(TIMES), r"have an inverse; got f\(t\)"),
        (lambda: S.log_linear(0.1).inverse(TIMES), r"values must lie in \[0.1, 1\].*got 0.02"),
        (lambda: t.inverse(torch.tensor([0.5, float("nan")])), "got nan"),
        (lambda: S.log_linear(0.1).inverse(1 - t), r"values must lie in \[0.1, 1\]"),
        (lambda: S.log_linear(1), r"eps, the signal left at t = 1, must lie in \[0, 1\); got 1"),
        (lambda: S.cosine(-0.1), "eps.*got -0.1"),
        (lambda: S.cosine_squared(float("nan")), "eps.*got nan"),
        (lambda: S.polynomial(0), "power must be positive and finite; got 0"),
        (lambda: S.geometric(2, 1), "0 < sigma_min < sigma_max must hold; got 2 and 1"),
        (lambda: S.geometric(0, 1), "sigma_min"),
        (lambda: S.MonotoneNetwork(0), "width must be at least 1; got 0"),
        (lambda: S.LearnedConstant(0), "positive and finite; got 0"),
    ],
)
def test_bad_schedules(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("width", [1, 4, 16, 64])
def test_a_monotone_network_begins_near_the_straight_line(width):
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    for network, line in ((S.MonotoneNetwork(width), 1 - grid), (S.MonotoneNetwork(width, rising=True), grid)):
        assert_close(network(grid).detach(), line, rtol=0, atol=0.01)
        assert_close(network(ENDS).detach(), line[[0, -1]], rtol=0, atol=1e-15)
        network(grid).square().sum().backward()
        assert all((parameter.grad != 0).all() for parameter in network.parameters())


def test_a_monotone_network_begins_with_nine_tenths_of_the_line_and_steps_as_wide_as_their_distance():
    network = S.MonotoneNetwork()
    assert repr(network) == "MonotoneNetwork(16)" and len(network.middles) == 16
    assert_close(network.shares.softmax(0), torch.tensor([0.9, *[0.1 / 16] * 16], dtype=torch.float64))
    assert_close(network.steepness.sigmoid() * 256, torch.full((16,), 34, dtype=torch.float64))
    # Half of the largest steepness at most, from where it can rise and fall.
    for width, steepness in ((50, 102), (200, 128)):
        assert_close(
            S.MonotoneNetwork(width).steepness.sigmoid() * 256, torch.full((width,), steepness, dtype=torch.float64)
        )


def test_a_monotone_network_reaches_any_curve():
    network, grid = S.MonotoneNetwork(8), torch.linspace(0, 1, 64, dtype=torch.float64)
    curve = S.cosine_md4()(grid)
    optimizer = torch.optim.LBFGS(
        network.parameters(), max_iter=150, tolerance_change=0, tolerance_grad=0, line_search_fn="strong_wolfe"
    )

    def error():
        return (network(grid) - curve).square().mean()

    def closure():
        optimizer.zero_grad()
        (1e4 * error()).backward()
        return 1e4 * error()

    assert error().sqrt() > 0.1
    optimizer.step(closure)
    assert error().sqrt() < 5e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_learned_schedules_keep_their_digits_in_a_model_of_low_precision(dtype):
    network, share = wild(4, 0), S.LearnedConstant(0.3)
    process = nl.Interpolation(network, {nl.Absorbing(4, 5): 1 - network, nl.Uniform(5): share * t * network})
    parameters, before = list(process.parameters()), process.alpha(TIMES).detach()
    process.alpha(TIMES).sum().backward()
    grads = [p.grad.clone() for p in parameters]
    assert torch.equal(process.to(dtype).alpha(TIMES).detach(), before)
    # They are the same parameters: an optimizer may hold them.
    assert all(
        p is q and torch.equal(p.grad, g) for p, q, g in zip(parameters, process.parameters(), grads, strict=True)
    )
    assert all(p.dtype == torch.float64 and p.requires_grad for p in process.parameters())


def test_learned_schedules_are_saved_and_restored():
    process = nl.Interpolation(wild(4, 0), {nl.Absorbing(4, 5): S.LearnedConstant(0.3) * t})
    other = nl.Interpolation(S.MonotoneNetwork(4), {nl.Absorbing(4, 5): S.LearnedConstant(1) * t})
    other.load_state_dict(process.state_dict())
    assert torch.equal(other.alpha(TIMES), process.alpha(TIMES))


def test_a_clock_of_ones_own_counts_inside_expressions():
    class Late(nl.schedules.Time):
        def forward(self, t):
            return t**2

    x = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    torch.testing.assert_close((1 - 0.5 * Late())(x), 1 - 0.5 * x**2)
    torch.testing.assert_close((1 - Late())(x), 1 - x**2)


def test_a_constant_of_ones_own_counts_inside_expressions():
    class Double(nl.schedules.Constant):
        def forward(self, t):
            return torch.full_like(t, 2 * self.value)

    x = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    assert_close((t + Double(0.25) ** t)(x), x + 0.5**x)
    assert_close((1 - Double(0.25))(x), torch.full_like(x, 0.5))
