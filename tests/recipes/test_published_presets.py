"""Every published preset runs on a tiny corpus with a tiny network, and its model is loaded again."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from noiselab.data.rows import real_tokens, stack_rows
from noiselab.pipeline import Pipeline

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))  # as for scripts: a recipe may import another
PRESETS = [
    *(("gidd_plus", name) for name in ("small", "base")),
    *(("masked", name) for name in ("small", "gidd-small", "gidd-base")),
    *(("autoregressive", name) for name in ("small", "base")),
    ("uniform", "small"),
]
TINY = (
    "--steps 2 --warmup 1 --batch 4 --micro-batch 2 --length 24 --layers 1 --width 16 --heads 2 --tokenizer train "
    "--vocab-size 300 --validation-sequences 8 --held-out last:5 --log-every 1 --evaluate-every 2 --save-every 2 --cpu True "
    "--progress False --precision float32"
).split()


def load(name):
    spec = importlib.util.spec_from_file_location(f"published_{name}", RECIPES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for i in range(40):
        (folder / f"{i:02}.txt").write_text(f"In chapter {i} the reader learns that {i} is {i}. " * (1 + i % 4))
    return ["--corpus", str(folder)]


@pytest.mark.parametrize(("recipe", "preset"), PRESETS)
def test_two_steps(tmp_path, texts, recipe, preset):
    module = load(recipe)
    own = module.PRESETS[preset][1].data
    assert own.held_out == "last:100000" and own.stream
    trainer = module.main([preset, *TINY, *texts, "--output", str(tmp_path / "run")])
    assert trainer.step == 2 and all(entry["loss"] < 12 for entry in trainer.history if "loss" in entry)
    stream = trainer.train_dataset
    assert (stream.mode, stream.learn_padding) == (own.packing, own.learn_padding)
    batch = stack_rows([row for row, _ in zip(stream, range(64), strict=False)])
    ids, start = batch["input_ids"], stream.tokenizer.bos_token_id
    padded = (ids == stream.tokenizer.pad_token_id).any()
    if own.packing == "wrap":
        assert (ids[:, 0] == start).all() and (ids[:, -1] == start).all() and not padded
    else:  # padding is real where it is learned
        assert padded and bool(real_tokens(batch).all()) == own.learn_padding
        assert (ids[(ids == stream.tokenizer.pad_token_id).any(1), 0] == start).all()
    pipe = Pipeline.from_pretrained(tmp_path / "run" / "final")
    x = trainer.eval_dataset[0]["input_ids"][None]
    if recipe == "autoregressive":
        assert torch.equal(pipe.network(x).logits, trainer.network.eval()(x).logits)
        return
    half = torch.full((1,), 0.5)
    network = trainer.network.eval()
    if preset == "small" and recipe == "masked":  # MDLM's network has no time
        late = torch.full((1,), 0.9)
        assert torch.equal(network(x, half), network(x, late)) and pipe.network.config.model_type == "mdlm"
        assert torch.equal(pipe.denoiser(x, half), network(x, half))
    else:
        assert torch.equal(pipe.network(x, half).logits, network(x, half).logits)
    assert repr(pipe.process) == repr(trainer.loss.keywords["process"])


def test_the_autoregressive_baseline_has_the_sizes_of_its_configuration():
    module = load("autoregressive")
    build = module.build_llama  # hidden layers of 4 times the width, as in the published code; the small one on meta
    for preset, inner in (("small", 4 * 768), ("base", 4 * 1024)):
        options = module.PRESETS[preset][1]
        assert (options.inner, options.optimization.steps) == (inner, 1_000_000)
    with torch.device("meta"):
        o = load("autoregressive").PRESETS["small"][1]
        sizes = {"layers": o.layers, "width": o.width, "heads": o.heads, "length": 512, "start": 0}
        network = build(50_259, **sizes, inner=o.inner)
    # Three matrices of the hidden layer and four of attention in each of 12 blocks; two embeddings, 25 norms.
    assert network.num_parameters() == 12 * (3 * 3072 * 768 + 4 * 768**2) + 2 * 50_259 * 768 + 25 * 768
