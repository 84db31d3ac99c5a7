"""Defaults of pipelines, as released or as documented, and models without a limit of length."""

import dataclasses
import inspect
from types import SimpleNamespace

import pytest
import torch
from small import letters, pipeline, random

import noiselab as nl
from noiselab.data import character_tokenizer
from noiselab.pipeline import AutoregressivePipeline, DiffusionPipeline, ModelSettings


def test_corrections_are_those_released_by_default():
    """dvruette/gidd, README: up to 128 steps at temperature 0.1; its code has t0 = 0.01 and a patience of 32."""
    parameters = inspect.signature(DiffusionPipeline.self_correction).parameters
    wanted = {"num_inference_steps": 128, "temperature": 0.1, "t0": 0.01, "early_stopping_patience": 32}
    assert {name: parameters[name].default for name in wanted} == wanted


def test_one_text_is_generated_by_default():
    assert len(pipeline().generate(num_inference_steps=1, generator=random(), show_progress=False)) == 1
    assert inspect.signature(AutoregressivePipeline.generate).parameters["num_samples"].default == 1


def test_the_support_is_no_weight():
    pipe = pipeline()
    assert pipe.support.any() and "support" not in pipe.state_dict()


def test_settings_cannot_be_assigned():
    settings = ModelSettings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.predicts = "posterior"
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.generation.steps = 3


def test_gaps_are_filled_from_pure_noise_to_clean_tokens():
    """Not on the shorter grid of `as_released`: the steps of a sampler that keeps the other tokens."""
    pipe = letters("gidd")
    mask = pipe.tokenizer.mask_token_id
    ids = torch.tensor([pipe.encode(["abcabc"])[0]])
    ids[0, 2:5] = mask
    (text,) = pipe.infill([f"ab{3 * pipe.tokenizer.mask_token}c"], 4, generator=random(), show_progress=False)
    known = nl.Infilling(nl.AncestralSampler(pipe.process, pipe.denoiser), ids, ids != mask, times="sequence")
    with torch.no_grad():
        times = torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64)
        x = known.sample(tuple(ids.shape), times=times, generator=random())
    assert list(text.tokens) == x[0].tolist()


def test_a_mask_beyond_the_tokenizer_belongs_to_the_noise(tmp_path):
    config = SimpleNamespace(vocab_size=20, mask_token_id=11)
    model = SimpleNamespace(model=SimpleNamespace(config=config))
    settings = DiffusionPipeline.default_settings(tmp_path, model, character_tokenizer(["abc"]))
    assert settings.noise == {"family": "masked", "vocab_size": 12, "mask_id": 11}


def test_without_a_limit_texts_are_padded_to_the_longest():
    pipe = letters("masked")
    pipe.network.config.max_seq_len = None
    pipe.tokenizer.model_max_length = 10**30
    assert pipe.length is None
    assert [len(ids) for ids in pipe.encode_as_released(["ab", "abcabca"])] == [7, 7]


def test_the_harness_has_the_documented_number_of_evaluations():
    """docs/guides/pipeline.md: 16 times with 8 draws each."""
    pytest.importorskip("lm_eval", reason="optional: pip install noiselab[harness]; continuous integration has it")
    from noiselab.pipeline.harness import HarnessModel

    parameters = inspect.signature(HarnessModel.__init__).parameters
    assert (parameters["nodes"].default, parameters["draws"].default) == (16, 8)
