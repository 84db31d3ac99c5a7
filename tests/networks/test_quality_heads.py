"""Quality heads on models of transformers: what they read, what is trained, and how they come back with a pipeline."""

import pytest
import torch
from test_masked_lm import MASK, PAD, V, make
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.correctors import QualityDetector, SuspectCorrector
from noiselab.data import train_tokenizer, vocabulary_size
from noiselab.denoisers import QualityDenoiser, attending_to
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.networks.quality_files import load_quality_head, save_quality_head
from noiselab.pipeline import DiffusionPipeline, ModelSettings, Pipeline
from noiselab.training import Place, QualityLoss

NOISE = nl.masked(vocab_size=V, mask_id=MASK)
T = torch.tensor([0.3, 0.3])


def headed(inner):
    denoiser = QualityDenoiser(inner)
    with torch.no_grad():
        denoiser.head.weight.normal_(generator=torch.Generator().manual_seed(1))
        denoiser.head.bias.fill_(0.3)
    return denoiser.eval()


def tokens(seed=2):
    return torch.randint(2, MASK, (2, 7), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert"])
def test_of_an_encoder_it_is_the_head_on_the_last_states_of_the_model(name):
    model, z = make(name, dtype=torch.float32), tokens()
    denoiser = headed(MaskedLanguageModel(model))
    states = model.base_model(input_ids=z).last_hidden_state
    want = states @ denoiser.head.weight[0] + denoiser.head.bias
    torch.testing.assert_close(denoiser.quality(z, T), want)
    assert torch.equal(denoiser(z, T), denoiser.inner(z, T))


@pytest.mark.parametrize("shifted", [False, True])
def test_of_a_decoder_every_token_counts_on_both_sides_and_padding_none(shifted):
    """Each quality depends on each token, its own one too; that of a shifted model is read where its logits are."""
    denoiser, z = headed(MaskedLanguageModel(make("llama", dtype=torch.float32), shifted=shifted)), tokens()
    before = denoiser.quality(z, T)
    for place in range(z.shape[1]):
        changed = z.clone()
        changed[:, place] = (changed[:, place] - 1) % (MASK - 2) + 2
        assert ((denoiser.quality(changed, T) - before).abs() > 1e-4).all(), place
    real = torch.arange(9) < 7
    longer = torch.cat((z, torch.full((2, 2), PAD)), 1)
    with attending_to(denoiser, real.expand(2, -1)):
        torch.testing.assert_close(denoiser.quality(longer, T)[:, :7], before, rtol=1e-4, atol=1e-4)
    if shifted:
        plain = headed(MaskedLanguageModel(denoiser.inner.model)).quality(z, T)
        torch.testing.assert_close(before[:, 1:], plain[:, :-1])


@pytest.mark.parametrize("name", ["roberta", "gpt2", "qwen3"])
def test_a_head_is_trained_on_a_model_that_stays_as_it_is(name):
    """From chance to less, on the same masks; the frozen model gets no gradient."""
    denoiser = QualityDenoiser(MaskedLanguageModel(make(name, dtype=torch.float32)).requires_grad_(False))
    ids, loss = {"input_ids": torch.randint(2, MASK, (16, 7))}, QualityLoss(NOISE, revealed=2)
    first = loss(denoiser, ids, place=Place(0))
    optimizer = torch.optim.Adam(denoiser.head.parameters(), 0.05)
    for _ in range(20):
        optimizer.zero_grad()
        loss(denoiser, ids, place=Place(0)).backward()
        optimizer.step()
    assert loss(denoiser, ids, place=Place(0)) < first - 0.1
    assert all(weight.grad is None for weight in denoiser.inner.parameters())


def test_it_comes_back_beside_a_pipeline(tmp_path):
    """The folder is that of the model alone, with one file more; the head goes onto the denoiser in `pipe.denoiser`."""
    words = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=270)
    size = vocabulary_size(words)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=16, **sizes)).eval()
    noise = {"family": "masked", "vocab_size": size, "mask_id": words.mask_token_id}
    pipe = DiffusionPipeline(MaskedLanguageModel(model), words, ModelSettings(noise))
    denoiser = headed(pipe.denoiser.inner)
    with pytest.raises(ValueError, match=r"got Support \(pass its `inner`\)"):
        QualityDenoiser(pipe.denoiser)
    pipe.save_pretrained(tmp_path)
    save_quality_head(denoiser, tmp_path)
    again = Pipeline.from_pretrained(tmp_path)
    found = load_quality_head(again.denoiser.inner, tmp_path)
    z = torch.tensor([words("the cat sat")["input_ids"]])
    torch.testing.assert_close(found.quality(z, T[:1]), denoiser.quality(z, T[:1]))
    detector = QualityDetector(found, mask_id=words.mask_token_id)
    corrector = SuspectCorrector(again.process, found, detector, 2, temperature=0)
    after = corrector.step(z, T[:1])
    worst = detector(z)[0].topk(2).indices.tolist()
    assert [i for i in range(z.shape[1]) if i not in worst and after[0, i] != z[0, i]] == []
