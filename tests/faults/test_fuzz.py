"""Odd values at the public edge: a sentence, or a right result; without shape checks, as users call it.

Each function is called with valid arguments, then with odd values for one of them (all of these) or for two at a time
(drawn). A `ValueError` of the library is right, a traceback of torch, NaN from numbers and a token that does not exist
are not.
"""

import warnings

import pytest
import torch
from fuzzing import STATES, finite, odd_values, overrides, pool, public, random, signature, valid_call, verdict
from hypothesis import given, settings
from hypothesis import strategies as st

import noiselab as nl

pytestmark = pytest.mark.usefixtures("unchecked")

PROCESSES = {
    "gidd": nl.gidd(vocab_size=STATES, mask_id=3, p_uniform=0.2),
    "masked": nl.masked(vocab_size=STATES, mask_id=3),
    "token rates": nl.processes.TokenRates(torch.tensor([1.0, 2.0]), mask_id=3, classes=torch.tensor([0, 1, 1, 0])),
}
TARGETS = dict(public())
NOT_CALLED = {
    *(
        "Pipeline",
        "GiddPipeline",
        "generative_perplexity",
        "text_perplexity",
        "token_bytes",
        "token_nats",
        "correction_grid",
    ),
    *("BestGuessReviser", "InfillingReviser", "ClassifierGuidance", "Function"),
    *("plot_trace", "trace", "linear_projection", "canvas_validation_bound", "BlockDenoiser"),
}
"""Functions that need a network with a tokenizer, a trace or a function of the user; their own tests try them."""
NAN_IS_DEFINED = (
    *("process.posterior", "noiselab.objectives.mean_over_tokens"),
    *("noiselab.evaluation.judge.distinct", "noiselab.evaluation.judge.token_entropy"),
)
"""Where z is impossible, and without texts or tokens."""
PASS_NAN_ON = ("noiselab.elbo.", "noiselab.objectives.", "noiselab.parametrization.", "noiselab.schedules.")
"""NaN for logits that are not finite, and for tokens x that cannot have become z, of which hybrid noise has none."""


def call_of(label, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return valid_call(label, TARGETS[label], PROCESSES[name])


def accepted(label, name, result, values):
    if result == "NaN" and label in NAN_IS_DEFINED:
        return True
    if result == "NaN" and label.startswith(PASS_NAN_ON):
        return name != "gidd" or any(isinstance(value, torch.Tensor) and not finite(value) for value in values)
    return result in ("right", "refused")


def arguments(label, name, function, given_values):
    values = pool(PROCESSES[name]) | overrides(PROCESSES[name]).get(label.rpartition(".")[2], {})
    for argument, parameter in signature(function).items():
        if argument not in ("self", "generator", "device"):
            odd = odd_values(parameter, given_values.get(argument, values.get(argument, parameter.default)))
            if odd:
                yield argument, odd


def show(value):
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)} {value.flatten()[:4].tolist()}"
    return repr(value)


def test_what_is_not_called_is_named():
    missing = {label.rpartition(".")[2] for label in TARGETS if call_of(label, "gidd") is None}
    assert missing == NOT_CALLED


@pytest.mark.filterwarnings("ignore")
@pytest.mark.long_for("*-masked", "*-token rates")
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("label", TARGETS)
def test_one_odd_value(label, name):
    call = call_of(label, name)
    if call is None:
        assert label.rpartition(".")[2] in NOT_CALLED
        return
    function, values = call
    wrong = []
    for argument, odd in arguments(label, name, function, values):
        for value in odd:
            fresh = {"generator": random()} if "generator" in values else {}
            result = verdict(function, {**values, argument: value, **fresh})
            if not accepted(label, name, result, [value]):
                wrong.append(f"{argument} = {show(value)}: {result}")
    assert not wrong, "\n".join([f"{label}, {len(wrong)} values:", *wrong[:20]])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.long
@pytest.mark.parametrize("label", TARGETS)
@settings(max_examples=100)
@given(data=st.data())
def test_two_odd_values(label, data):
    name = data.draw(st.sampled_from(sorted(PROCESSES)))
    call = call_of(label, name)
    if call is None:
        return
    function, values = call
    choices = dict(arguments(label, name, function, values))
    if not choices:
        return
    some = data.draw(st.lists(st.sampled_from(sorted(choices)), min_size=1, max_size=2, unique=True))
    odd = {argument: data.draw(st.sampled_from(choices[argument])) for argument in some}
    result = verdict(function, {**values, **odd})
    assert accepted(label, name, result, odd.values()), f"{label}, { ({k: show(v) for k, v in odd.items()}) }: {result}"
