"""A denoiser around a denoiser predicts what the inner one predicts, and says so, or is refused."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from worlds import INITIAL, TRANSITION, V

import noiselab as nl
from noiselab.denoisers import base, conversions
from noiselab.denoisers.one_by_one import OneByOne

PROCESS = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.1)
ORACLE = nl.MarkovOracle(INITIAL, TRANSITION, PROCESS)
POSTERIOR, SCORE = (convert(ORACLE, PROCESS) for convert in (nl.denoisers.Posterior, nl.denoisers.Score))
ARGUMENTS = {
    "ActiveOnly": (),
    "CallCounter": (),
    "Checked": (PROCESS,),
    "ClassifierFreeGuidance": (POSTERIOR, 0.5),
    "ClassifierGuidance": (lambda z, t, rows: torch.zeros(()),),
    "CopyObserved": (PROCESS,),
    "MinP": (0.1,),
    "Constrained": (nl.constraints.TokenAutomaton(torch.zeros(1, V, dtype=torch.long), [0]), PROCESS),
    "Credit": (),
    "EarliestTime": (0.01,),
    "NeighbourPenalty": (0.5,),
    "OneByOne": (V - 1, 2),
    "Perturbed": (0.5,),
    "Support": (torch.ones(V, dtype=torch.bool),),
    "Suppress": ([0],),
    "Temperature": (0.5,),
    "TopK": (2,),
    "TopP": (0.5,),
    "WrappedDenoiser": (),
}
INNER = {"EarliestTime": ORACLE}
"""Denoisers of the prediction that a wrapper asks for; others take any."""
OPTIONS = {"Perturbed": {"vocab_size": V}}


def every_wrapper():
    """The wrappers of the library that can be made, conversions aside."""
    for module in pkgutil.iter_modules(nl.denoisers.__path__, "noiselab.denoisers."):
        importlib.import_module(module.name)
    left = [base.WrappedDenoiser]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        conversion = issubclass(kind, conversions._Conversion)
        if kind.__module__.startswith("noiselab.denoisers") and not inspect.isabstract(kind) and not conversion:
            yield kind


WRAPPERS = {kind.__name__: kind for kind in every_wrapper()}


def make(name, inner):
    return WRAPPERS[name](inner, *ARGUMENTS[name], **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_predicts_what_it_wraps_and_prints_it(name):
    inner = INNER.get(name, POSTERIOR)
    wrapper = make(name, inner)
    assert wrapper.predicts == ("leave_one_out" if isinstance(wrapper, OneByOne) else inner.predicts)
    # What samplers put around every denoiser prints as the denoiser.
    start = f"{inner}" if name == "Checked" else f"{name}({inner}"
    assert repr(wrapper).startswith(start) and "\n" not in repr(wrapper)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_without_a_denoiser_is_refused(name, unchecked):
    for what in (torch.nn.Linear(2, 2), None):
        with pytest.raises(ValueError, match=f"{name} needs a noiselab.Denoiser; got {type(what).__name__}"):
            make(name, what)


@pytest.mark.parametrize("name", WRAPPERS)
def test_scores_are_wrapped_or_refused(name):
    if WRAPPERS[name].accepts_scores:
        assert make(name, SCORE).predicts == "score"
        return
    with pytest.raises(ValueError, match=f"{name} needs logits of clean tokens; got a denoiser that predicts scores"):
        make(name, SCORE)


class Silent(nl.Denoiser):
    """What a user writes: around a denoiser, and without a word about what it predicts."""

    def __init__(self, **held):
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, z, t):
        return POSTERIOR(z, t)


@pytest.mark.parametrize(
    "held",
    [
        {"inner": POSTERIOR},
        {"members": [POSTERIOR, POSTERIOR]},
        {"by_topic": {"news": POSTERIOR}},
        {"members": torch.nn.ModuleList([POSTERIOR])},
    ],
)
def test_a_silent_denoiser_around_a_denoiser_is_refused_where_it_is_used(held):
    for use in (nl.AncestralSampler, nl.GibbsCorrector):
        with pytest.raises(ValueError, match="must declare what it predicts; got Silent, which does not"):
            use(PROCESS, Silent(**held))
    with pytest.raises(ValueError, match="must declare what it predicts"):
        nl.Temperature(Silent(**held), 0.5)
    said = Silent(**held)
    said.predicts = "posterior"
    assert nl.AncestralSampler(PROCESS, said).denoiser.predicts == "leave_one_out"


def test_a_network_that_holds_none_is_taken_for_one_of_the_bound():
    assert Silent(layers=torch.nn.Linear(2, 2)).predicts == "leave_one_out"


def test_a_wrapper_of_ones_own_is_converted():
    """In three lines, around a posterior denoiser: the same law as without it."""

    class Mine(nl.WrappedDenoiser):
        def forward(self, z, t, rows=None):
            return self.inner(z, t, rows)

    z, t = torch.tensor([[0, 4, 2, 1]]), torch.tensor([0.4], dtype=torch.float64)
    mine, plain = (nl.AncestralSampler(PROCESS, d).denoiser(z, t).softmax(-1) for d in (Mine(POSTERIOR), ORACLE))
    torch.testing.assert_close(mine[..., :4], plain[..., :4])


class AllRows(nl.WrappedDenoiser):
    """Takes `rows` and returns all logits."""

    def forward(self, z, t, rows=None):
        return self.inner(z, t)


def test_a_forward_that_ignores_rows_is_refused():
    z, t = torch.zeros(2, 3, dtype=torch.long), torch.tensor([0.5, 0.5])
    rows = torch.tensor([[True, False, True], [False, False, True]])
    assert AllRows(ORACLE)(z, t).shape == (2, 3, V)
    with pytest.raises(ValueError, match=r"\[rows, state\]; AllRows returned \[2, 3, 5\]"):
        AllRows(ORACLE)(z, t, rows)
