"""Processes and exactly known data that several tests share."""

import copy
import functools

import torch
from family import gather, row
from hypothesis import strategies as st

import noiselab as nl
from noiselab import t

V = 5
DATA = torch.arange(V) != V - 1


INITIAL = row(0.5, 0.3, 0.15, 0.05)
TRANSITION = torch.tensor(
    [[0.7, 0.1, 0.1, 0.1], [0.05, 0.8, 0.1, 0.05], [0.3, 0.3, 0.3, 0.1], [0.1, 0.1, 0.1, 0.7]], dtype=torch.float64
)


class Stranger(nl.InterpolatingProcess):
    """What a user writes: alpha = 1 - t^2, and noise that turns from one row into another. Nothing else."""

    def alpha(self, t):
        return 1 - t**2

    def mixing(self, t):
        share = torch.cos(1.2 * t)[..., None] ** 2
        return share * row(0.1, 0.2, 0.3, 0.1, 0.3) + (1 - share) / V


class FixedRow(nl.InterpolatingProcess):
    """A user's mixing may also be one row for all times, in float32."""

    def alpha(self, t):
        return torch.cos(torch.pi * t / 2)

    def mixing(self, t):
        return torch.tensor([0.25, 0.25, 0.125, 0.125, 0.25])


class Learned(nl.Schedule):
    def __init__(self):
        super().__init__()
        self.power = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, t):
        return t ** self.power.exp()


def copies(made):
    """Makes each process once and hands out copies: checking that it is one, as it is made, takes longer than a copy."""

    def copies_of(make):
        once = functools.cache(make)
        return lambda: copy.deepcopy(once())

    return {name: copies_of(make) for name, make in made.items()}


_MADE = {
    **gather("WORLDS"),
    "mask and unigram": lambda: nl.Interpolation(
        1 - t, {nl.Absorbing(V - 1, V): t, nl.Unigram(row(0.4, 0.3, 0.2, 0.1, 0)): t * t}
    ),
    "learned": lambda: nl.Interpolation(1 - t, {nl.Absorbing(V - 1, V): Learned(), nl.Uniform(DATA): 0.3 * t}),
    "stranger": Stranger,
    "fixed row": FixedRow,
}
PROCESSES = copies(_MADE)


@st.composite
def processes(draw):
    """Any number of noises on masks, sets or rows with power-law weights; or the same as a user's dense blend.

    Weights c t^a with a <= 1 beside a signal 1 - t, and any a for the first, are Markov processes: b / alpha grows.
    """

    def weight(powers):
        return draw(st.floats(0.05, 3)) * t ** draw(powers) * (1 - t) ** draw(st.sampled_from([0.0, 0.5, 1.0]))

    def mixing(kinds):
        kind = draw(st.sampled_from(kinds))
        if kind == "mask":
            return nl.Absorbing(V - 1, V)
        if kind == "uniform":
            return nl.Uniform(draw(st.sampled_from([torch.ones(V, dtype=torch.bool), DATA])))
        entries = torch.tensor(draw(st.lists(st.floats(0.01, 1), min_size=V, max_size=V)), dtype=torch.float64)
        if kind == "sparse":
            entries[draw(st.integers(0, V - 1))] = 0
        return nl.Unigram(entries / entries.sum())

    noises = {mixing(["uniform", "row"]): draw(st.floats(0.1, 3)) * t}
    for _ in range(draw(st.integers(0, 3))):
        noises[mixing(["mask", "uniform", "row", "sparse"])] = weight(st.floats(0.5, 3))
    support, dense = draw(st.sampled_from([None, DATA])), draw(st.booleans())

    def make():
        composed = nl.Interpolation(1 - t, noises, support=support)
        return Dense(composed) if dense else composed

    # Made outside the strategy: the shape checks use `random`, which hypothesis forbids inside.
    return make


class Dense(nl.InterpolatingProcess):
    """A process stripped of its factors: two methods, as a user would write them."""

    def __init__(self, inner):
        super().__init__(inner.support)
        self.inner = inner

    def alpha(self, t):
        return self.inner.alpha(t)

    def mixing(self, t):
        return self.inner.mixing(t)
