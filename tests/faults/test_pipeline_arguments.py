"""Odd arguments of pipelines are refused in words; the methods share one check."""

import inspect

import numpy as np
import pytest
import torch
from small import letters

import noiselab as nl
from noiselab.pipeline import GenerationSettings

pytestmark = pytest.mark.usefixtures("unchecked")
ODD = {
    "dtype": ["float32", 3, [], "", torch.int64],
    "generator": ["ab", b"ab", 3],
    "callback": [3, "stop"],
    "as_released": [None, "x", []],
    "early_stopping": [None, 0, "x", []],
    "early_stopping_patience": [2**70, 0, True],
    "stop": [None, 1],
    "num_samples": [2**70, 2.5],
    "sampler": [nl.Uniform, torch.nn.Linear, dict, len, nl.Sampler, lambda: 3],
}
METHODS = {
    "generate": ((2, 2), {}),
    "infill": ((["a[MASK]b"], 2), {}),
    "self_correction": ((["abc", "cab"], 2), {}),
}


@pytest.fixture(scope="module")
def pipe():
    return letters("gidd")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ODD)
def test_odd_arguments(pipe, method, name):
    if name not in inspect.signature(getattr(pipe, method)).parameters:
        return
    arguments, options = METHODS[method]
    if name == "num_samples":
        arguments = arguments[2:]
    texts = [text.replace("[MASK]", pipe.tokenizer.mask_token) for text in arguments[0]] if method == "infill" else None
    arguments = (texts, *arguments[1:]) if texts else arguments
    for value in ODD[name]:
        for call in (getattr(pipe, method), lambda *a, **k: list(pipe.stream(*a, method=method, **k))):
            with pytest.raises(ValueError, match=r"must|needed"):
                call(*arguments, **options, **{name: value}, show_progress=False)


@pytest.mark.parametrize(
    "tokens",
    [
        None,
        3,
        "ab",
        [3],
        [[-1]],
        [[2**70]],
        [[1.5]],
        [[True]],
        torch.tensor(3),
        torch.zeros(1, 1, 1).long(),
        torch.zeros(1, 2),
        {},
        b"ab",
    ],
)
def test_odd_tokens(pipe, tokens):
    with pytest.raises(ValueError, match=r"tokens? .*must"):
        pipe.decode(tokens)


def test_tokens_are_decoded_without_special_ones(pipe):
    ids = [*pipe.encode(["ab"])[0], pipe.tokenizer.eos_token_id]
    assert pipe.decode([ids]) == ["ab"] == pipe.decode(torch.tensor([ids]))


@pytest.mark.parametrize("true", [True, np.True_, torch.tensor(True)])
def test_a_callback_may_answer_as_numpy_and_torch_do(pipe, true):
    seen = []
    pipe.generate(1, 8, callback=lambda state: (seen.append(state.step), true)[1], seed=0, show_progress=False)
    assert seen == [1]
    seen.clear()
    pipe.generate(1, 4, callback=lambda state: (seen.append(state.step), not true)[1], seed=0, show_progress=False)
    assert seen == [1, 2, 3, 4]


def test_a_small_minimum_of_probabilities_is_a_setting():
    assert GenerationSettings(min_p=0.05).min_p == 0.05
