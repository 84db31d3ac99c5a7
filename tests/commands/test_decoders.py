"""The decoders of `noiselab generate` are the samplers of these names, with the numbers that were given."""

import functools
import json
import re

import pytest
import torch
from test_commands import ended

import noiselab as nl
from noiselab.commands.common import text_generators
from noiselab.commands.decoders import SAMPLERS, TAKES
from noiselab.commands.main import run
from noiselab.networks.dit import DiT
from noiselab.pipeline import DiffusionPipeline, ModelSettings, Pipeline
from noiselab.samplers import (
    CommittingSampler,
    ConfidenceThreshold,
    DraftSampler,
    JointThresholdSampler,
    SlidingBlockSampler,
    ThresholdSampler,
)

FEW = ["--num-samples", "2", "--steps", "6", "--length", "12", "--seed", "5", "--device", "cpu"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    """The model under hybrid noise, and the same network under masks, both sure of something."""
    pipe, place = Pipeline.from_pretrained(models[0]), tmp_path_factory.mktemp("decoders")
    assert isinstance(pipe.network, DiT)
    with torch.no_grad():
        pipe.network.output_layer.linear.weight.mul_(20)
    size, mask = len(pipe.support), pipe.tokenizer.mask_token_id
    for name, more in (("gidd", {"p_uniform": 0.2}), ("masked", {})):
        noise = {"family": name, "vocab_size": size, "mask_id": mask, **more}
        DiffusionPipeline(pipe.network, pipe.tokenizer, ModelSettings(noise)).save_pretrained(place / name)
    return {name: str(place / name) for name in ("gidd", "masked")}


def sure(threshold, minimum=1):
    return ConfidenceThreshold(threshold, minimum=minimum)


def sliding(process, denoiser):
    return SlidingBlockSampler(ThresholdSampler(process, denoiser, sure(0.2, 2)), 4)


CASES = {
    "threshold": ("masked", ["--threshold", "0.2"], lambda p, d: ThresholdSampler(p, d, sure(0.2)), None),
    "minimum": (
        "masked",
        ["--minimum", "3", "--block-length", "6"],
        lambda p, d: ThresholdSampler(p, d, sure(0.9, 3)),
        6,
    ),
    "sliding": ("masked", ["--threshold", "0.2", "--minimum", "2", "--block-length", "4"], sliding, None),
    "draft": (
        "masked",
        ["--threshold", "0.3", "--block-length", "4"],
        lambda p, d: DraftSampler(p, d, sure(0.3), block_size=4),
        None,
    ),
    "joint-threshold": (
        "gidd",
        ["--threshold", "0.3", "--edit", "0.2", "--minimum", "2"],
        functools.partial(JointThresholdSampler, threshold=0.3, edit=0.2, minimum=2),
        None,
    ),
    "joint, as published": ("gidd", [], JointThresholdSampler, None),
    "joint, masks alone": ("masked", [], functools.partial(JointThresholdSampler, edit=None), None),
    "committing": (
        "gidd",
        ["--threshold", "0.3", "--edit", "0.1"],
        functools.partial(CommittingSampler, threshold=0.3, edit=0.1),
        None,
    ),
}


def name_of(case):
    return {"minimum": "threshold"}.get(case, "joint-threshold" if case.startswith("joint") else case)


@pytest.mark.parametrize("case", CASES)
def test_a_decoder_is_the_sampler_with_these_numbers(folders, case):
    model, words, build, block = CASES[case]
    found = run("generate", [folders[model], "--sampler", name_of(case), *words, *FEW])
    pipe = Pipeline.from_pretrained(folders[model])
    texts = pipe.generate(
        2, 6, length=12, sampler=build, block_length=block, generator=text_generators(5, 2), show_progress=False
    )
    assert [tuple(record["tokens"]) for record in found] == [text.tokens for text in texts]
    if words[:1] == ["--threshold"]:
        more = ["--block-length", words[-1]] if "--block-length" in words else []
        plain = run("generate", [folders[model], "--sampler", name_of(case), *more, *FEW])
        assert [record["tokens"] for record in plain] != [record["tokens"] for record in found]


def test_every_name_is_a_sampler():
    assert all(issubclass(getattr(nl.samplers, name), nl.Sampler) for name in SAMPLERS.values())
    assert set(TAKES) < set(SAMPLERS)


@pytest.mark.parametrize(
    ("model", "words", "why"),
    [
        (
            "masked",
            ["--threshold", "0.5"],
            r"threshold must be left out unless .* committing, draft, .*; got 0\.5 with auto",
        ),
        (
            "masked",
            ["--sampler", "ancestral", "--minimum", "2"],
            "minimum must be left out unless .* one of draft, .*; got 2 with ancestral",
        ),
        (
            "masked",
            ["--sampler", "threshold", "--edit", "0.5"],
            "edit must be left out unless .* one of committing, joint-threshold; got",
        ),
        ("masked", ["--sampler", "sliding"], "sliding requires block-length"),
        ("masked", ["--sampler", "threshold", "--threshold", "1.5"], "threshold must"),
        ("masked", ["--sampler", "draft", "--minimum", "0"], "minimum must"),
        ("masked", ["--sampler", "joint-threshold", "--edit", "0.5"], "edit must be None under noise that never"),
        ("gidd", ["--sampler", "sliding", "--block-length", "4"], "Use JointThresholdSampler"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(folders, capsys, model, words, why):
    status, said = ended(["generate", folders[model], *words, *FEW], capsys)
    assert status == 2 and re.search(why, said), said


def test_they_are_written_as_json_lines(folders, tmp_path):
    out = tmp_path / "texts.jsonl"
    run("generate", [folders["masked"], "--sampler", "threshold", "--threshold", "0.5", "--out", str(out), *FEW])
    assert len([json.loads(line) for line in out.read_text().splitlines()]) == 2
