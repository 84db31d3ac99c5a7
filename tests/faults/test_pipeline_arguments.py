"""Odd arguments of pipelines are refused in words; the methods share one check."""

import inspect
import math
from pathlib import Path

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
    "num_inference_steps": [math.nan, math.inf, -1, 0, 2.5, "8", True, 2**70, []],
    "temperature": [math.nan, -1, 0, math.inf, "1", True, []],
    "t0": [math.nan, -1, 2, "1", None],
    "top_k": [math.nan, -1, 0, 2.5, "1", True],
    "top_p": [math.nan, -1, 0, 2, "1", True],
    "min_p": [math.nan, -1, 2, "1", True],
    "tokens_per_step": [math.nan, -1, 0, 2.5, "1", None],
    "batch_size": [math.nan, -1, 0, 2.5, "1", None],
    "length": [math.nan, -1, 0, 2.5, "x", 2**70, True],
    "block_length": [math.nan, -1, 0, 2.5, "x", True],
    "seed": [math.nan, -1, 2.5, "1", 2**70],
    "seeds": [math.nan, 3, "ab", [None], [2.5], [-1]],
    "prompts": [3, "ab", [], [None], [3], [""], [math.nan], {}, b"ab", Path("a")],
    "texts": [None, 3, "ab", [], [None], [3], [""], [math.nan], {}, b"ab", Path("a")],
    "sampler": [nl.Uniform, torch.nn.Linear, dict, len, nl.Sampler, lambda: 3],
}
METHODS = {
    "generate": {"num_samples": 2, "num_inference_steps": 2},
    "infill": {"texts": ["a[MASK]b"], "num_inference_steps": 2},
    "self_correction": {"texts": ["abc", "cab"], "num_inference_steps": 2},
}


@pytest.fixture(scope="module")
def pipe():
    return letters("gidd")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ODD)
def test_odd_arguments(pipe, method, name):
    if name not in inspect.signature(getattr(pipe, method)).parameters:
        return
    arguments = METHODS[method] | {"show_progress": False}
    if method == "infill":
        arguments["texts"] = [text.replace("[MASK]", pipe.tokenizer.mask_token) for text in arguments["texts"]]
    for value in ODD[name]:
        for call in (getattr(pipe, method), lambda **more: list(pipe.stream(method=method, **more))):
            with pytest.raises(ValueError, match=r"must|needed"):
                call(**(arguments | {name: value}))


@pytest.mark.parametrize("method", [None, 3, math.nan, "", "infil", [], {}, b"infill", ["infill"]])
def test_odd_methods_of_a_stream(pipe, method):
    with pytest.raises(ValueError, match="method must be one of generate, infill, self_correction; got"):
        pipe.stream(method=method)


@pytest.mark.parametrize("folder", [None, 3, -1, math.nan, "", b"model", True, [], ["model"], {}])
def test_odd_folders_are_not_written(pipe, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the output must be a path that is not empty, as text or a"):
        pipe.save_pretrained(folder)
    assert not list(tmp_path.iterdir())


def test_files_in_the_way_of_a_folder_are_kept(pipe, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in ("file", "file/model", "a\0b"):
        with pytest.raises(ValueError, match="the output must be a folder that can be written"):
            pipe.save_pretrained(f"{tmp_path}/{folder}")
    for merge in (None, 1, "yes", math.nan, []):
        with pytest.raises(ValueError, match="merge must be True or False"):
            pipe.save_pretrained(tmp_path / "model", merge=merge)
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_gaps_need_a_tokenizer_with_a_mask_token():
    pipe = letters("uniform")
    pipe.tokenizer.mask_token = None
    for call in (pipe.infill, lambda *a, **k: list(pipe.stream(*a, method="infill", **k))):
        with pytest.raises(ValueError, match="the tokenizer must have a mask token, by which a text marks its gaps"):
            call(["ab"], 2, show_progress=False)


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
