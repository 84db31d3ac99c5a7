"""The experiment on mask-only models: its measures by hand, and the whole on tiny models."""

import json

import pytest
import torch
from test_recipes import load

import noiselab as nl
from noiselab.data import train_tokenizer, vocabulary_size
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.pipeline import DiffusionPipeline, ModelSettings


def test_detection_by_hand():
    detection = load("llada_uniform").measure_detection
    score = torch.tensor([[0.9, 0.8, 0.3], [0.3, 0.1, 0.2]])
    wrong = torch.tensor([[True, False, True], [False, False, False]])
    # Pairs (wrong, right): .9 wins all four, .3 wins two (.1, .2), ties one, loses one.
    assert detection(score, wrong)[0] == pytest.approx((4 + 2.5) / 8)
    many = torch.cat((torch.linspace(0, 1, 100), torch.tensor([0.945, 0.97, 0.5])))[None]
    found = detection(many, torch.arange(103)[None] >= 100)
    assert found[1] == pytest.approx(1 / 3)  # 5 of 100 right tokens lie above .9495


def test_the_whole_experiment(tmp_path, capsys):
    texts = tmp_path / "texts"
    texts.mkdir()
    lines = [f"In chapter {i} the reader learns that {i} and {i} are {2 * i}. " * 3 for i in range(400)]
    for i, text in enumerate(lines):
        (texts / f"{i}.txt").write_text(text)
    words = train_tokenizer(lines, vocab_size=300)
    size = vocabulary_size(words)
    for name, share in (("masks", 0.0), ("hybrid", 0.2)):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = DiT(DiTConfig(vocab_size=size, max_seq_len=16, **sizes)).eval()
        noise = {"family": "gidd", "vocab_size": size, "mask_id": words.mask_token_id, "p_uniform": share}
        DiffusionPipeline(model, words, ModelSettings(noise)).save_pretrained(tmp_path / name)
    recipe = load("llada_uniform")
    options = {"model": str(tmp_path / "masks"), "hybrid": str(tmp_path / "hybrid"), "texts": str(texts)}
    few = {"out": tmp_path / "found.json", "seeds": 2, "sequences": 3, "shares": (0.2,), "passes": 4}
    rows = recipe.main(recipe.Options(**options, **few))
    assert [(row["model"], row["way"]) for row in rows] == [
        (model, way) for model in ("masks", "hybrid") for way in ("as it is", "one by one")
    ]
    assert json.loads((tmp_path / "found.json").read_text())["rows"] == rows
    assert "| hybrid | one by one | 20% |" in capsys.readouterr().out
    for row in rows:
        # A network that knows nothing holds all tokens for equally likely: no detection, and nothing is put right but by luck.
        assert row["area"]["mean"] == pytest.approx(0.5, abs=0.01) and row["put_right"]["mean"] < 0.2
        assert row["evaluations"] <= 5 * (4 if row["way"] == "one by one" else 1)
    with pytest.raises(ValueError, match="at least two seeds"):
        recipe.main(recipe.Options(**options, **{**few, "seeds": 1}))
    with pytest.raises(ValueError, match="must fill 2000000 sequences"):
        recipe.main(recipe.Options(**options, **{**few, "sequences": 1_000_000}))


def small_pipeline(words, process):
    size = vocabulary_size(words)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = DiT(DiTConfig(vocab_size=size, max_seq_len=16, **sizes)).eval()
    return DiffusionPipeline(model, words, ModelSettings(process))


def test_the_mask_is_found_where_the_noise_is_composed_or_has_several_tokens():
    """Saved as a tree, noise has no `mask_id`."""
    mask_of = load("llada_uniform").mask_of
    words = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=280)
    size, mask = vocabulary_size(words), words.mask_token_id
    data = torch.arange(size) != mask
    masks, others = nl.Absorbing(mask, size), nl.Uniform(data)
    composed = nl.Interpolation((1 - nl.t) ** 2, {masks: nl.t, others: nl.t * (1 - nl.t)})
    pipe = small_pipeline(words, composed)
    assert "mask_id" not in pipe.settings.noise and mask_of(pipe, "composed") == mask
    # Of the two tokens that data lack, a class and the mask, one is the tokenizer's.
    parent = torch.full((size,), size - 1)
    parent[mask] = mask
    assert mask_of(small_pipeline(words, nl.processes.Coarse(parent, mask_id=mask)), "coarse") == mask
    with pytest.raises(ValueError, match=r"the noise of the model 'all' must have a mask token.*makes the tokens \[\]"):
        mask_of(small_pipeline(words, nl.uniform(vocab_size=size)), "all")
