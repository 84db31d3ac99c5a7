"""The commands on the folder of a block-diffusion model."""

import json
import sys
from pathlib import Path

import pytest
import torch

from noiselab.commands.common import text_generators
from noiselab.commands.main import run
from noiselab.data import pack
from noiselab.evaluation import canvas_validation_bound
from noiselab.pipeline import Pipeline

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
from small_canvas import QUIET, folder_of, rows, tokenizer

import noiselab as nl

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(folder_of(tmp_path_factory.mktemp("canvas"), tokenizer(opening=True)))


@pytest.fixture(scope="module")
def pipe(folder):
    return Pipeline.from_pretrained(folder)


def test_generate_is_the_pipeline_with_that_seed(folder, pipe, tmp_path):
    few = [folder, "--num-samples", "2", "--steps", "3", "--seed", "5", "--device", "cpu"]
    found = run("generate", [*few, "--prompt", "the cat", "--prompt", "a", "--length", "9"])
    options = {"generator": text_generators(5, 4), **QUIET}
    texts = pipe.generate(2, 3, prompts=["the cat", "a"], length=9, **options)
    assert [record["tokens"] for record in found] == [one.tokens for one in texts]
    assert [record["prompt"] for record in found] == ["the cat", "the cat", "a", "a"]
    found = run("generate", [*few, "--sampler", "ancestral", "--temperature", "0.5", "--batch-size", "1"])
    texts = pipe.generate(2, 3, sampler=nl.AncestralSampler, temperature=0.5, generator=text_generators(5, 2), **QUIET)
    assert [list(record["tokens"]) for record in found] == rows(texts)
    assert [record["text"] for record in found] == texts
    found = run(
        "generate", [*few, "--temperature", "9", "--length", "120", "--num-samples", "6"]
    )  # which ends at an end of text
    texts = pipe.generate(6, 3, temperature=9.0, length=120, generator=text_generators(5, 6), **QUIET)
    assert [list(record["tokens"]) for record in found] == rows(texts)
    assert any(ids[-1] == 1 and len(ids) < 121 for ids in rows(texts))


@pytest.mark.parametrize("options", [["--as-released"], ["--block-length", "4"]])
def test_what_does_not_apply_is_refused(folder, options):
    with pytest.raises(ValueError, match="not for block-diffusion models"):
        run("generate", [folder, *options, "--device", "cpu"])


def test_the_bound_is_that_of_the_evaluation(folder, pipe, tmp_path):
    file = tmp_path / "some.txt"
    file.write_text("the cat sat on the mat. a dog and a cat sat on the log. " * 4)
    few = [folder, str(file), "--length", "20", "--nodes", "3", "--repeats", "2", "--seed", "3", "--device", "cpu"]
    found = run("evaluate bound", few)
    blocks = pack([file.read_text()], pipe.tokenizer, 20)
    texts = [[2, *row[:size].tolist()] for row, size in zip(blocks.tokens, blocks.real.tolist(), strict=True)]
    bound = canvas_validation_bound(
        pipe.process, pipe.network, texts, given=[1] * len(texts), nodes=3, repeats=2, generator=random(3)
    )
    assert found["nats"] == pytest.approx(bound.nelbo) and found["error"] == pytest.approx(bound.error)
    assert found["bound"] and found["tokens"] == bound.tokens == sum(map(len, texts)) - len(texts)
    assert found["nats"] == pytest.approx(found["diffusion"] + found["reconstruction"] + found["prior"])
    # By default the context but for the beginning of text.
    assert run("evaluate bound", [folder, str(file), "--repeats", "1", "--device", "cpu"])["length"] == 127


def test_correct_starts_from_the_tokens_that_were_drawn(folder, pipe, tmp_path):
    file = tmp_path / "samples.jsonl"
    run("generate", [folder, "--num-samples", "2", "--steps", "2", "--out", str(file), "--device", "cpu"])
    found = run("correct", [folder, str(file), "--steps", "3", "--temperature", "0.5", "--device", "cpu"])
    texts = pipe.generate(2, 2, generator=text_generators(0, 2), **QUIET)
    fixed = pipe.self_correction(texts, 3, 0.5, generator=text_generators(0, 2), **QUIET)
    assert [record["tokens"] for record in found] == rows(fixed)
    for record, old, new in zip(found, rows(texts), rows(fixed), strict=True):
        assert record["changed"] == sum(a != b for a, b in zip(old, new, strict=True)) / len(old)
    plain = tmp_path / "some.txt"
    plain.write_text("the cat sat\n\nthe log\n")
    assert len(run("correct", [folder, str(plain), "--steps", "1", "--device", "cpu"])) == 2
    with pytest.raises(ValueError, match="not for block-diffusion models"):
        run("correct", [folder, str(plain), "--as-released", "--device", "cpu"])
    with pytest.raises(ValueError, match="method must be gidd for block-diffusion models; got balanced"):
        run("correct", [folder, str(plain), "--method", "balanced", "--device", "cpu"])


def random(seed):
    return torch.Generator().manual_seed(seed)


def test_inspect_describes_it(folder, tmp_path):
    page, plot, out = tmp_path / "walk.html", tmp_path / "noise.svg", tmp_path / "facts.json"
    few = ["--denoising", str(page), "--plot", str(plot), "--steps", "4", "--out", str(out), "--device", "cpu"]
    found = run("inspect", [folder, *few])
    assert (
        found["network"] == "DiffusionGemma" and found["vocabulary"] == "70 tokens" and found["context"] == "128 tokens"
    )
    assert "6 steps" in found["sampled by default"] and "canvases of 8 tokens" in found["sampled by default"]
    assert json.loads(out.read_text()) == found and plot.stat().st_size > 1000 and page.stat().st_size > 1000
