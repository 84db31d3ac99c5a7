"""Every law on every ready-made process, on random ones, and red for planted mistakes."""

import dataclasses

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from worlds import PROCESSES, V, processes

import noiselab as nl
from noiselab import process as process_module
from noiselab import testing as laws
from noiselab.elbo import streaming, tokens
from noiselab.testing import writing_laws


@pytest.mark.long_for(
    "gidd, gamma 2-draws_have_the_marginal_law",
    "gidd, gamma 2-bound_*",
    "gidd, gamma 2-reverse_move_has_the_posterior_law",
    "uniform on words-bound_*",
    "sparse unigram-bound_is_tight",
)
@pytest.mark.parametrize("law", laws.PROCESS_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", PROCESSES)
def test_ready_made(name, law):
    law(PROCESSES[name]())


IN_LAW = [
    laws.draws_have_the_marginal_law,
    laws.reverse_move_has_the_posterior_law,
    laws.other_draws_have_their_laws,
    laws.bound_is_tight,
]


@settings(max_examples=12, phases=[Phase.generate])
@given(processes())
def test_random_processes(make):
    laws.check_process(
        make(),
        [law for law in laws.PROCESS_LAWS if law not in IN_LAW],
    )


@settings(max_examples=5, phases=[Phase.generate])
@given(processes())
def test_random_processes_in_law(make):
    laws.check_process(make(), IN_LAW)


Process = nl.InterpolatingProcess


def wrong_jump(right):
    return lambda self, z, s, t: (right(self, z, s, t)[0], self.noise(process_module.as_token_times(t, z)).at(z))


def wrong_plan(index, value):
    def spoil(right):
        return lambda p, z, s, t, u: right(p, z, s, t, u.clone().index_fill_(-1, torch.tensor(index), value))

    return spoil


# name: (where, attribute, what takes its place, laws that must turn red)
MISTAKES = {
    "keep left out of the jump": (
        Process,
        "factored_transition",
        wrong_jump,
        {"two_jumps_are_one", "posterior_is_bayes"},
    ),
    "jump keeps the later signal": (
        Process,
        "factored_transition",
        lambda right: lambda self, z, s, t: (self.alpha(process_module.as_token_times(t, z)), right(self, z, s, t)[1]),
        {"two_jumps_are_one", "posterior_is_bayes"},
    ),
    "jump of swapped times": (
        Process,
        "factored_transition",
        lambda right: lambda self, z, s, t: tuple(v.abs() for v in right(self, z, t, s)),
        {"two_jumps_are_one"},
    ),
    "rate 10 % low": (
        Process,
        "rate_into",
        lambda right: lambda self, z, t: 0.9 * right(self, z, t),
        {"rate_is_the_slope_of_jump", "bound_is_tight"},
    ),
    "rate without the signal's slope": (
        Process,
        "rate_into",
        lambda right: lambda self, z, t: right(self, z, t) - self.noise(process_module.as_token_times(t, z)).at(z),
        {"rate_is_the_slope_of_jump", "bound_is_tight"},
    ),
    "weight over the noise, without the signal": (
        Process,
        "elbo_weight",
        lambda right: (
            lambda self, x, z, t: self.rate_into(z, t) / self.noise(process_module.as_token_times(t, z)).at(z)
        ),
        {"weight_is_rate_over_marginal"},
    ),
    "probability without the signal": (
        Process,
        "probability",
        lambda right: lambda self, x, z, t: self.noise(process_module.as_token_times(t, z)).at(z).expand(z.shape),
        {"one_law_in_three_forms"},
    ),
    "likelihood of the clean token's noise": (
        Process,
        "likelihood",
        lambda right: lambda self, z, t: self.marginal(z, t),
        {"one_law_in_three_forms"},
    ),
    "rate of half the time": (
        Process,
        "rate_into",
        lambda right: lambda self, z, t: right(self, z, t / 2),
        {"rate_is_the_slope_of_jump", "bound_does_not_depend_on_the_clock"},
    ),
    "posterior of the wrong time": (
        Process,
        "posterior",
        lambda right: lambda self, z, x, s, t: right(self, z, x, s, t + 0.02),
        {"posterior_is_bayes"},
    ),
    "marginal of a prediction without noise": (
        Process,
        "marginal",
        lambda right: (
            lambda self, x, t: self.alpha(t)[:, None, None] * x if x.is_floating_point() else right(self, x, t)
        ),
        {"two_jumps_are_one", "reverse_move_has_the_posterior_law"},
    ),
    "tokens corrupted a little too late": (
        Process,
        "corrupt",
        lambda right: lambda self, x, t, **k: right(self, x, t + 0.03, **k),
        {"draws_have_the_marginal_law"},
    ),
    "moves to x_hat too often": (Process, "plan_reverse", wrong_plan(1, 0.999), {"reverse_move_has_the_posterior_law"}),
    "moves too seldom": (Process, "plan_reverse", wrong_plan(0, 0.7), {"reverse_move_has_the_posterior_law"}),
    "always the same noise": (Process, "plan_reverse", wrong_plan(2, 0.1), {"reverse_move_has_the_posterior_law"}),
    "revealed tokens evaluated": (
        Process,
        "plan_reverse",
        lambda right: lambda *a: dataclasses.replace(right(*a), rows=torch.ones_like(right(*a).rows)),
        {"revealed_tokens_stay"},
    ),
    "every token is certain": (
        Process,
        "is_clean",
        lambda right: lambda self, z, t: torch.ones_like(z, dtype=torch.bool),
        {"revealed_tokens_are_certain"},
    ),
    "a law that loses mass": (
        Process,
        "marginal",
        lambda right: lambda self, x, t: 0.99 * right(self, x, t),
        {"rows_are_distributions"},
    ),
    "a clock that runs backwards": (
        Process,
        "signal_share",
        lambda right: lambda self, t: right(self, t)[::-1],
        {"signal_falls"},
    ),
    "noise added twice": (
        Process,
        "renoise",
        lambda right: lambda self, z, s, t, **k: right(self, right(self, z, s, t, **k), s, t, **k),
        {"other_draws_have_their_laws"},
    ),
    "the true reverse draw of a time between": (
        Process,
        "draw_posterior",
        lambda right: lambda self, x, z, s, t, **k: right(self, x, z, (s + t) / 2, t, **k),
        {"other_draws_have_their_laws"},
    ),
    "noise where the prediction is due": (
        Process,
        "plan_noisy",
        lambda right: lambda self, t, u: right(self, (t + 0.1).clamp(max=1), u),
        {"other_draws_have_their_laws"},
    ),
    "value lower where z = x": (
        tokens.TokenTerms,
        "value",
        lambda right: lambda self, *a: right(self, *a) - 0.1 * self.w * (self.z == self.x),
        {"bound_equals_definition", "bound_is_tight"},
    ),
    "the sum of the divergence dropped": (
        tokens.TokenTerms,
        "value",
        lambda right: lambda self, ends, lse, s: right(self, ends, lse, 0 * s),
        {"bound_equals_definition", "bound_is_tight"},
    ),
    "gradient at z forgotten": (
        tokens.TokenTerms,
        "corners",
        lambda right: lambda self, *a: (right(self, *a)[0], 0 * right(self, *a)[1]),
        {"bound_equals_definition"},
    ),
    "logarithms by pairs without their product": (
        streaming,
        "_sum_log1p",
        lambda right: lambda s, v: s.sum(-1).double() * 0.5,
        {"bound_equals_definition"},
    ),
    "at() off by one": (
        nl.Unigram,
        "at",
        lambda right: lambda self, z, t: right(self, (z + 1) % V, t),
        {"shortcuts_equal_definitions", "two_jumps_are_one"},
    ),
    "draws of a row off by one": (
        nl.Unigram,
        "choose",
        lambda right: lambda self, u, t: (right(self, u, t) + 1) % V,
        {"shortcuts_equal_definitions", "draws_have_the_marginal_law"},
    ),
    "uniform counts the mask": (
        nl.Uniform,
        "profile",
        lambda right: lambda self, support: 1 / V,
        {"shortcuts_equal_definitions", "bound_equals_definition"},
    ),
    "noise a little too weak": (
        nl.Interpolation,
        "noise",
        lambda right: lambda self, t: right(self, t)._replace(weights=0.98 * right(self, t).weights),
        {"noise_is_the_share_of_mixing"},
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_turn_laws_red(mistake, monkeypatch):
    where, name, wrong, expected = MISTAKES[mistake]
    subjects = [PROCESSES[key]() for key in ("gidd", "masked", "mask and unigram", "stranger")]
    monkeypatch.setattr(where, name, wrong(getattr(where, name)))
    for law in laws.PROCESS_LAWS:
        if law.__name__ in expected:
            with pytest.raises(AssertionError, match=law.__name__):
                for process in subjects:
                    laws.check_process(process, [law])


def test_every_law_has_a_mistake_that_turns_it_red():
    seen = set.union(*(expected for *_, expected in MISTAKES.values()))
    # Mistakes in `alpha`, `mixing` or an override are those of test_conformance.
    rest = {law.__name__ for law in laws.PROCESS_LAWS} - seen
    assert rest == {
        "positions_are_independent",
        "is_a_markov_process",
        "overrides_equal_definitions",
        "draws_follow_their_generator",
        *(law.__name__ for law in writing_laws.WRITING_LAWS),
    }


def test_a_process_that_ignores_the_shape_of_time_is_refused():
    class Flat(nl.InterpolatingProcess):
        def alpha(self, t):
            return 1 - t

        def mixing(self, t):
            rows = torch.softmax(torch.arange(3.0, dtype=torch.float64) * t[..., :1, None], -1)
            return rows.expand(*t.shape, 3)

    with pytest.raises(AssertionError, match="time_is_elementwise"):
        laws.check_process(Flat(), [laws.time_is_elementwise])


@settings(max_examples=10)
@given(st.floats(2.01, 4))
def test_a_falling_noise_is_no_markov_process(gamma):
    t, data = nl.t, torch.arange(V) != V - 1
    with pytest.raises(ValueError, match="rate into every token must be non-negative"):
        nl.Interpolation(1 - t, {nl.Absorbing(V - 1, V): t, nl.Uniform(data): (t * (1 - t)) ** (gamma / 2)})
