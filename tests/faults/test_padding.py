"""Padding is known by its position: where its token also ends texts, real ends are never taken for padding."""

import json

import pytest
import torch
from small import TEXTS, network, tokenizer

from noiselab.commands import correct
from noiselab.data import TokenBlocks, vocabulary_size
from noiselab.denoisers import attending_to
from noiselab.evaluation import validation_bound
from noiselab.pipeline import DiffusionPipeline, ModelSettings
from noiselab.pipeline.base import Text


def random(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=["own padding token", "padding is end of text"])
def pipe(request):
    words = tokenizer()
    if request.param == "padding is end of text":
        words.pad_token = words.eos_token
    size = vocabulary_size(words)
    noise = {"family": "gidd", "vocab_size": size, "mask_id": words.mask_token_id, "p_uniform": 0.2}
    return DiffusionPipeline(network(size).double(), words, ModelSettings(noise)).eval()


@pytest.fixture(scope="module")
def texts(pipe):
    """Texts of 4 to 9 tokens that end twice, as packed windows do."""
    end = pipe.tokenizer.eos_token_id
    rows = [[*a, end, *b, end] for a, b in (([5, 6, 7], [8]), ([9], [9]), ([4, 5, 6, 7], [8, 9, 10]))]
    return [Text.of(pipe.tokenizer.decode(row, skip_special_tokens=True), row, pipe.tokenizer) for row in rows]


def test_self_correction_keeps_the_number_of_tokens(pipe, texts):
    after = pipe.self_correction(texts, 1, generator=random(), show_progress=False)
    for old, new in zip(texts, after, strict=True):
        assert len(new.tokens) == len(old.tokens)
        assert sum(a != b for a, b in zip(old.tokens, new.tokens, strict=True)) <= 1


def test_self_correction_is_that_of_each_text_alone(pipe, texts):
    together = pipe.self_correction(texts, 6, 0.3, generator=[random(i) for i in range(3)], show_progress=False)
    for i, text in enumerate(texts):
        alone = pipe.self_correction([text], 6, 0.3, generator=[random(i)], show_progress=False)
        assert together[i].tokens == alone[0].tokens


def test_the_bound_of_full_windows_sees_every_end(pipe):
    """A window without padding has the same bound, whether or not its ends could be taken for padding."""
    end = pipe.tokenizer.eos_token_id
    full = torch.tensor([[5, 6, end, 7, 8, 9, end, 4], [end, 5, end, 6, 7, end, 8, end]])
    blocks = TokenBlocks(full, torch.tensor([8, 8]), pipe.process.vocab_size)
    a, b = (validation_bound(pipe.process, pipe.denoiser, x, nodes=8, generator=random()).nelbo for x in (full, blocks))
    assert a == b


def test_padding_of_any_value_is_not_seen(pipe):
    full = torch.tensor([[5, 6, pipe.tokenizer.eos_token_id, 7], [4, 5, 6, 7]])
    padded, t = torch.cat([full, torch.tensor([[4], [5]])], 1), torch.full((2,), 0.3, dtype=torch.float64)
    denoiser = pipe.denoiser
    with torch.no_grad(), attending_to(denoiser, (torch.arange(5) < 4).expand(2, 5)):
        torch.testing.assert_close(denoiser(padded, t)[:, :4], pipe.denoiser(full, t))


def test_the_command_counts_changes_by_position(pipe, texts, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps({"text": str(t), "tokens": list(t.tokens)}) + "\n" for t in texts))
    found = correct.main(
        correct.Options(str(tmp_path / "model"), file, steps=1, device="cpu", out=tmp_path / "out.jsonl")
    )
    for text, record in zip(texts, found, strict=True):
        assert len(record["tokens"]) == len(text.tokens) and record["changed"] in (0, 1 / len(text.tokens))


def test_the_command_counts_changes_of_texts_that_are_encoded_again(pipe, tmp_path):
    """As released: padded to the context, with padding that may change."""
    pipe.save_pretrained(tmp_path / "model")
    file = tmp_path / "samples.txt"
    file.write_text("the cat sat\n\nthe mat\n")
    found = correct.main(
        correct.Options(str(tmp_path / "model"), file, steps=3, temperature=1.0, as_released=True, device="cpu")
    )
    for text, record in zip(["the cat sat", "the mat"], found, strict=True):
        ids = pipe.tokenizer(text)["input_ids"]
        start = [*ids, *[pipe.tokenizer.pad_token_id] * (16 - len(ids))]
        assert record["changed"] == sum(a != b for a, b in zip(start, record["tokens"], strict=True)) / 16 > 0


def test_a_network_that_accepts_no_mask_is_refused_in_words(pipe):
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = type("Config", (), {"vocab_size": pipe.process.vocab_size, "max_seq_len": 16})()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, input_ids, timesteps):
            return self.scale * torch.arange(float(self.config.vocab_size)).expand(*input_ids.shape, -1)

    plain = DiffusionPipeline(Plain(), pipe.tokenizer, pipe.settings)
    with pytest.raises(ValueError, match=r"accepts attention_mask; correct them one by one .*got \d+ to \d+ tokens"):
        plain.self_correction(TEXTS[:3], 1, show_progress=False)
    assert len(plain.self_correction(TEXTS[:3], 1, batch_size=1, generator=random(), show_progress=False)) == 3
