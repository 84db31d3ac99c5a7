"""Composed processes drawn at random, valid by construction, and what must be equal when one is stored and read back.

A noise of weight c S^b G^a beside a signal S that falls from 1 to 0, with G that rises from 0 and 0 <= b <= 1, is a Markov
process: its ratio to the signal rises. In a blend with shares S and 1 - S and weight c G^a both do.
"""

import torch
from hypothesis import reject
from hypothesis import strategies as st

import noiselab as nl
from noiselab import schedules, t
from noiselab.process import ChangeOfTime

V = 6
MASK = V - 1


def moved(schedule, seed):
    """A learned schedule away from where it begins."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return schedule


SIGNALS = {
    "linear": lambda p: 1 - t,
    "negative": lambda p: -(t - 1),
    "power": lambda p: (1 - t) ** p,
    "polynomial": schedules.polynomial,
    "cosine": lambda p: schedules.cosine(p / 4000),
    "cosine squared": lambda p: schedules.cosine_squared(),
    "MD4": lambda p: schedules.cosine_md4(),
    "log-linear": lambda p: schedules.log_linear(p / 4000),
    "geometric": lambda p: schedules.geometric(p * 1e-4, 10 * p),
    "log-SNR": lambda p: schedules.from_log_snr(8 + p - (16 + 2 * p) * t),
    "learned": lambda p: moved(schedules.MonotoneNetwork(3), int(100 * p)),
    "at another time": lambda p: schedules.cosine()(t**p),
    "learned, at another time": lambda p: moved(schedules.MonotoneNetwork(2), int(100 * p))(
        schedules.sin(schedules.pi / 2 * t)
    ),
    "inverse": lambda p: (1 - t)(schedules.cosine().inverse((1 - t) ** p)),
}
RISING = {
    "complement": lambda p, signal: 1 - signal,
    "time": lambda p, signal: t,
    "root": lambda p, signal: schedules.sqrt(p * t),
    "sine": lambda p, signal: schedules.sin(schedules.pi / 2 * t),
    "logarithm": lambda p, signal: schedules.log(1 + p * t),
    "exponential": lambda p, signal: 1 - schedules.exp(-p * t),
    "ratio": lambda p, signal: t / (p + t),
    "learned": lambda p, signal: moved(schedules.MonotoneNetwork(2, rising=True), int(100 * p)),
}


def mixing(kind, entries):
    row = torch.tensor(entries, dtype=torch.float64)
    if kind == "mask":
        return nl.Absorbing(MASK, V)
    if kind == "all":
        return nl.Uniform(V)
    if kind == "set":
        return nl.Uniform(row > row.median())
    return nl.Unigram(row / row.sum())


def noise(kind, entries, more, signal):
    """The mixing of a noise."""
    if kind in ("blend", "turning blend", "nested blend"):
        first, second = mixing("row", entries), mixing("set", more)
        if kind == "nested blend":
            second = nl.mixing.Blend({second: 0.25, nl.Absorbing(MASK, V): schedules.LearnedConstant(1.5)})
        return nl.mixing.Blend(
            {first: 0.3, second: 2} if kind == "blend" else {first: signal, second: 1 - signal},
            support=torch.ones(V, dtype=torch.bool) if kind == "blend" else None,
        )
    return mixing(kind, entries)


def weight(signal, drawn, turning):
    name, p, scale, a, b, learned = drawn
    factor = schedules.LearnedConstant(scale) if learned else scale
    rising = factor * RISING[name](p, signal) ** a
    return rising if turning or b == 0 else rising * signal**b


NUMBERS = st.floats(1, 3)
ENTRIES = st.lists(st.floats(0.01, 1), min_size=V, max_size=V, unique=True)
MIXINGS = ["mask", "all", "set", "row", "blend", "turning blend", "nested blend"]


@st.composite
def composed(draw):
    """A function that makes a process: its shape checks use `random`, which hypothesis forbids inside a strategy."""
    signal = draw(st.sampled_from(sorted(SIGNALS))), draw(NUMBERS)
    kinds = st.tuples(st.sampled_from(MIXINGS), ENTRIES, ENTRIES)
    weights = st.tuples(
        st.sampled_from(sorted(RISING)),
        NUMBERS,
        st.floats(0.1, 3),
        st.floats(0.5, 2),
        st.sampled_from([0, 0.5, 1.0]),
        st.booleans(),
    )
    noises = draw(st.lists(st.tuples(kinds, weights), min_size=1, max_size=3))
    support = draw(st.sampled_from([None, [True] * MASK + [False], [True] * V, [True, True, False, True, True, False]]))
    domain = draw(st.sampled_from([(0.0, 1.0), (0.0, 1.0), (0.03, 0.97)]))
    clock = draw(st.one_of(st.none(), NUMBERS))

    def make():
        w0 = SIGNALS[signal[0]](signal[1])
        weights = {}
        for i, (drawn, amount) in enumerate(noises):
            name, p, scale, a, b, learned = amount
            turning = "turning" in drawn[0] or "nested" in drawn[0]
            first = (name, p, scale, a, 0 if i == 0 else b, learned)  # some noise is left at t = 1
            weights[noise(*drawn, w0)] = weight(w0, first, turning)
        try:
            made = nl.Interpolation(
                w0, weights, support=None if support is None else torch.tensor(support), domain=domain
            )
            return made if clock is None else ChangeOfTime(made, t**clock)
        except ValueError:  # no process: a power of the signal rounds to 0 too early, or is not small enough at t = 1
            reject()

    return make


def differences(one, other):
    """What differs between two processes: each number is compared bit by bit."""
    found = [] if repr(one) == repr(other) else ["repr"]
    if one.domain != other.domain or one.vocab_size != other.vocab_size:
        return [*found, "domain or size"]
    if not torch.equal(one.data_tokens(), other.data_tokens()) or (one.support is None) != (other.support is None):
        found.append("support")
    if len(list(one.parameters())) != len(list(other.parameters())):
        found.append("parameters that are shared")
    low, high = one.domain
    time = (low + (high - low) * torch.linspace(0, 1, 23, dtype=torch.float64))[:, None]
    tokens = torch.arange(one.vocab_size).expand(len(time), -1)
    with torch.no_grad():
        for name, values in (
            ("marginal", lambda p: p.marginal(tokens, time)),
            ("probability", lambda p: p.probability(tokens, tokens.flip(1), time)),
            ("likelihood", lambda p: p.likelihood(tokens, time)),
            ("draws", lambda p: p.corrupt(tokens, time, generator=torch.Generator().manual_seed(1))),
            ("prior", lambda p: p.prior(4, 9, generator=torch.Generator().manual_seed(2))),
        ):
            first, second = values(one), values(other)
            if first.dtype != second.dtype or not torch.equal(first, second):
                found.append(name)
    return found
