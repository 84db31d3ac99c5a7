"""The recipe of the scaling study: its times, prompts and weights, its sizes, and two steps."""

import importlib.util
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch

import noiselab as nl
from noiselab.denoisers import attending_to
from noiselab.pipeline import Pipeline
from noiselab.training import Place, PromptedTimes, TimesPerToken, noised_loss
from noiselab.training.losses import call_denoiser
from noiselab.training.noise import drawn_times

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))
spec = importlib.util.spec_from_file_location("scaling_recipe", RECIPES / "scaling.py")
scaling = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scaling)
V, MASK = 11, 10
NOISE = {"family": "log_snr_hybrid", "vocab_size": V, "mask_id": MASK, "shift": 0.0, "log_snr": [-9.0, 9.0]}


def random():
    return torch.Generator().manual_seed(0)


def small(layers=2, width=16):
    data = scaling.Data(length=12)
    options = scaling.Scaling(scaling.PUBLISHED, data, scaling.Run("x"), layers, width, 2)
    network = scaling.build_network(options, V)
    with torch.no_grad():
        network.lm_head.weight.normal_(generator=random())
    return scaling.PromptedDenoiser(network, nl.processes.process_from(NOISE)).eval()


def test_prompts_are_of_the_published_distribution():
    length = 101
    times = PromptedTimes(TimesPerToken(share=0.5), share=0.2)
    t, weight = times(20_000, length, generator=random())
    prompt = t == times.PROMPT_TIME
    assert torch.equal(prompt, weight == 0)
    assert (prompt.int().diff(dim=1) <= 0).all()  # a prefix
    has = prompt.any(1)
    assert abs(has.double().mean() - 0.2) < 0.01 and prompt[has, 0].all()
    # f = arccos(1 - 2u) / pi has the distribution function (1 - cos(pi f)) / 2.
    fractions = (prompt[has].sum(1) - 1) / (length - 1)
    for f in (0.1, 0.25, 0.5, 0.75, 0.9):
        expected = (1 - math.cos(math.pi * f)) / 2
        assert abs((fractions < f).double().mean() - expected) < 0.02
    assert weight.mean().item() == pytest.approx(1) and weight[~prompt].unique().numel() == 1
    none, ones = PromptedTimes(TimesPerToken(share=0.5), share=0)(64, length, generator=random())
    assert (ones == 1).all() and (none > times.PROMPT_TIME).all()
    inner = TimesPerToken(share=0.5)(20_000, length, generator=random())
    assert torch.equal(t[~prompt], inner[~prompt])
    every, weights = PromptedTimes(TimesPerToken(share=1.0), share=1)(3, 1, generator=random())
    assert (every == times.PROMPT_TIME).all() and (weights == 0).all()  # sequences of one token: nothing is learned
    with pytest.raises(ValueError, match="share"):
        PromptedTimes(TimesPerToken(), share=1.5)


@pytest.mark.parametrize("contiguous", [False, True])
def test_prompts_do_not_depend_on_the_number_of_processes(contiguous):
    times = PromptedTimes(scaling.SignalTimes(0.5, 9.0), 0.5)
    whole, weights = drawn_times(Place(7, seed=3), 16, 8, times, torch.device("cpu"))
    for world, micro in ((2, 4), (4, 2)):
        for rank in range(world):
            for number in range(16 // world // micro):
                place = Place(7, number, 16 // world // micro, rank, world, 3, contiguous=contiguous)
                t, weight = drawn_times(place, micro, 8, times, torch.device("cpu"))
                rows = list(place.numbers(micro))
                assert torch.equal(t, whole[rows]) and torch.equal(weight, weights[rows])


def test_the_signal_is_uniform_and_half_of_the_sequences_have_independent_times():
    process = nl.processes.process_from(NOISE)
    t = scaling.SignalTimes(0.5, 9.0)(2000, 20, generator=random())
    alpha = process.alpha(t.flatten()).view(t.shape)
    independent = (t != t[:, :1]).any(1)
    assert abs(independent.double().mean() - 0.5) < 0.05
    for part in (alpha[independent].flatten(), alpha[~independent][:, 0]):
        ordered = part.sort().values
        uniform = (torch.arange(len(part), dtype=torch.float64) + 0.5) / len(part)
        assert (ordered - uniform).abs().max() < 1.63 / math.sqrt(len(part))  # Kolmogorov-Smirnov, 1 %


@pytest.mark.parametrize("shift", [-1000.0, 0.0, 2.0, 1000.0])
def test_weights_are_those_of_the_paper(shift):
    process = nl.processes.process_from({**NOISE, "shift": shift})
    t = torch.tensor([[0.1, 0.3, 0.5, 0.7, 0.9]], dtype=torch.float64)
    snr = 9 - 18 * t
    for x, z in ((1, MASK), (1, 2), (1, 1)):
        if (z == MASK and shift > 100) or (z == 2 and shift < -100):
            continue  # impossible
        xs, zs = (torch.full(t.shape, token) for token in (x, z))
        share = torch.sigmoid(snr + shift)
        slope = share * (1 - share)
        pi, prime = (1 - share, -slope) if z == MASK else (share / (V - 1), slope / (V - 1))
        expected = (pi - prime) / (pi + snr.exp() * (x == z))
        found = scaling.WeightPerLogSNR(9.0, 1e3)(process, xs, zs, t)
        assert torch.allclose(found, expected, rtol=1e-9)
    assert scaling.WeightPerLogSNR(9.0, 0.5)(process, xs, zs, t).max() <= 0.5


def test_prompts_attend_to_themselves_alone():
    denoiser = small()
    z = torch.randint(V - 1, (2, 12), generator=random())
    t = torch.full((2, 12), 0.5, dtype=torch.float64)
    t[:, :5] = PromptedTimes.PROMPT_TIME
    other = z.clone()
    other[:, 8] = (z[:, 8] + 1) % (V - 1)
    a, b = denoiser(z, t), denoiser(other, t)
    assert torch.equal(a[:, :5], b[:, :5]) and not torch.allclose(a[:, 5:8], b[:, 5:8])
    changed = z.clone()
    changed[:, 2] = (z[:, 2] + 1) % (V - 1)
    assert not torch.allclose(a[:, 5:], denoiser(changed, t)[:, 5:])
    everywhere = torch.full_like(t, 0.5)
    assert torch.allclose(
        denoiser(z, everywhere), denoiser(z, everywhere[:, 0]), atol=1e-6
    )  # without a prompt as usual


@torch.no_grad()
def test_padding_is_not_seen_by_prompts_or_answers():
    """Texts of one length in a padded row have the logits that they have alone, whether times belong to tokens or not."""
    denoiser = small()
    x = torch.randint(V - 1, (3, 12), generator=random())
    real = torch.arange(12).expand(3, 12) < 7
    each = torch.full((3, 12), 0.5, dtype=torch.float64)
    each[:, :4] = PromptedTimes.PROMPT_TIME
    for t in (each, each[:, -1]):
        with attending_to(denoiser, real):
            padded = denoiser(x, t)[:, :7, : V - 1]
        alone = denoiser(x[:, :7], t if t.dim() == 1 else t[:, :7])[..., : V - 1]
        assert (padded - alone).abs().max() < 1e-4 * alone.abs().max()


def test_prompts_are_not_scored():
    denoiser, process = small(), nl.processes.process_from(NOISE)
    x = torch.randint(V - 1, (4, 12), generator=random())
    own = {
        "process": process,
        "objective": scaling.WeightPerLogSNR(9.0, 1e3),
        "place": Place(0, seed=1),
        "call": call_denoiser,
    }

    class Half:
        def __call__(self, batch, length, *, generator):
            t = torch.full((batch, length), 0.5, dtype=torch.float64)
            t[:, :6] = PromptedTimes.PROMPT_TIME
            return t, (torch.arange(length) >= 6).double().expand(batch, length) * 2

    loss = noised_loss(denoiser, {"input_ids": x}, times=Half(), **own)
    scored = {"input_ids": x, "scored": torch.arange(12).expand(4, 12) >= 6}

    class Same(Half):
        def __call__(self, batch, length, *, generator):
            return super().__call__(batch, length, generator=generator)[0]

    assert torch.allclose(loss, noised_loss(denoiser, scored, times=Same(), **own), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("25m", 25.2), ("49m", 49.2), ("85m", 85.1), ("202m", 201.6), ("567m", 566.662656), ("10b", 8700)],
)
def test_sizes_are_those_of_the_paper(name, millions):
    """Weights without embeddings: the numbers of the paper, one of them exact in notebooks/critical_batch_size2.ipynb."""
    layers, width, heads = scaling.SIZES[name]
    config = scaling.GiddConfig(
        vocab_size=8,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    with torch.device("meta"):
        network = scaling.GiddForDiffusionLM(config)
    count = sum(w.numel() for name, w in network.named_parameters() if "embed" not in name and "lm_head" not in name)
    if (
        name == "567m"
    ):  # their formula counts the biases of the MLP twice, 5 widths, and not the key and value, 2 widths
        count += layers * 3 * width
    assert count == pytest.approx(millions * 1e6, rel={"567m": 1e-9, "10b": 6e-3}.get(name, 2e-3))


def test_weights_at_the_start():
    options = scaling.PRESETS["25m"][1]
    network = scaling.build_network(scaling.replace(options, layers=2), 512)
    sizes = {name: weight.std().item() for name, weight in network.named_parameters() if weight.dim() > 1}
    assert sizes["model.layers.1.mlp.down_proj.weight"] == pytest.approx(0.4 / 512**0.5, rel=0.01)
    assert sizes["model.embed_tokens.weight"] == pytest.approx(0.02, rel=0.01)
    assert sizes["lm_head.weight"] == sizes["model.layers.0.self_attn.k_bias"] == 0
    assert network.lm_head.scale == 1 and network.model.layers[0].residual == 2  # 512 / width, 4 / layers


@pytest.mark.parametrize("preset", ["demo", "25m", "10b"])
def test_two_steps(tmp_path, preset):
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(40):
        (texts / f"{i:02}.txt").write_text(f"In chapter {i} the reader learns that {i} is {i}. " * (1 + i % 4))
    tiny = (
        "--steps 2 --warmup 1 --batch 4 --micro-batch 2 --length 16 --layers 2 --width 16 --heads 2 --tokenizer train "
        "--vocab-size 300 --validation-sequences 8 --held-out last:5 --log-every 1 --evaluate-every 2 --save-every 1 "
        "--cpu True --progress False --precision float32"
    ).split()
    arguments = [preset, *tiny, "--corpus", str(texts), "--output", str(tmp_path / "run")]
    trainer = scaling.main(arguments)
    assert trainer.step == 2 and all(math.isfinite(entry.get("loss", 0)) for entry in trainer.history)
    assert [entry["learning_rate"] for entry in trainer.history if "loss" in entry] == [0.0, 0.3]  # without factors
    rates = {group["rate"] for group in trainer.optimizer.param_groups}
    assert rates == {1 / 16, 0.02} and trainer.optimizer.param_groups[0]["eps"] == pytest.approx(1e-8 / 32)
    pipe = Pipeline.from_pretrained(tmp_path / "run" / "final")
    x = trainer.eval_dataset[0]["input_ids"][None]
    assert torch.equal(pipe.denoiser(x, torch.full((1,), 0.5)), trainer.network.eval()(x, torch.full((1,), 0.5)))
    assert repr(pipe.process) == repr(trainer.loss.keywords["process"])
    shutil.rmtree(
        tmp_path / "run" / "checkpoint-2"
    )  # and resumed, without a limit of the gradient, which JSON does not have
    again = scaling.main(arguments)
    assert all(torch.equal(p, q) for p, q in zip(again.network.parameters(), trainer.network.parameters(), strict=True))
    assert len(pipe.generate(num_samples=1, num_inference_steps=2, show_progress=False)) == 1
