"""Attention is open in every architecture that is listed, proved by gradients; what cannot be opened is refused in words."""

from pathlib import Path

import pytest
import torch
from tiny_models import CONFIGS, V, make
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from noiselab.networks import opening
from noiselab.networks.masked_lm import CAUSAL, MaskedLanguageModel
from noiselab.networks.opening import TESTED, check_open, influence

LENGTH = 7
CAUSAL_TESTED = [name for name in TESTED if name in CAUSAL]


def test_every_listed_architecture_has_a_tiny_model():
    assert set(TESTED) == set(CONFIGS)


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", TESTED)
def test_each_token_depends_on_every_other_by_gradients(name, attention):
    """The gradient of the logits of each token with respect to the embedding of every earlier and later one."""
    model = make(name, attention=attention)
    found = influence(MaskedLanguageModel(model), LENGTH)
    assert found.shape == (LENGTH, LENGTH) and found.min() > 1e-3
    assert all(p.grad is None for p in model.parameters())
    if name in CAUSAL_TESTED:  # the mistake: the model as it is sees the left only
        closed = influence(MaskedLanguageModel(model, bidirectional=False), LENGTH)
        assert (closed.triu(1) == 0).all() and (closed.diagonal() > 0).all()


@pytest.mark.parametrize("name", CAUSAL_TESTED)
def test_padding_on_the_right_is_hidden_in_all_layers(name):
    denoiser = MaskedLanguageModel(make(name))
    z = torch.randint(4, V, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    real = torch.arange(LENGTH)[None] < 4
    t = torch.ones(1)
    with torch.no_grad():
        alone = denoiser(z[:, :4], t)
        padded = MaskedLanguageModel(denoiser.model, attention_mask=real)(z, t)[:, :4]
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)


def test_influence_is_that_of_finite_differences():
    """One step of an embedding by hand: a Llama whose embedding is the input."""
    model = make("LlamaForCausalLM")
    denoiser = MaskedLanguageModel(model)
    weights = torch.randn(V, generator=torch.Generator().manual_seed(0)).double()
    z, t = torch.arange(4)[None], torch.full((1,), 0.5)

    def sums():
        with torch.no_grad():
            return denoiser(z, t)[0] @ weights

    slopes = torch.zeros(4, 4, 16, dtype=torch.float64)
    table = model.get_input_embeddings().weight
    for source in range(4):  # token j is at position j alone
        for part in range(16):
            with torch.no_grad():
                table[source, part] += 1e-4
                up = sums()
                table[source, part] -= 2e-4
                slopes[:, source, part] = (up - sums()) / 2e-4
                table[source, part] += 1e-4
    torch.testing.assert_close(influence(denoiser), slopes.norm(dim=-1), rtol=1e-3, atol=1e-3)


def test_modes_and_gradients_are_as_before():
    model = make("BertForMaskedLM").train()
    model.bert.eval()
    influence(MaskedLanguageModel(model))
    assert model.training and not model.bert.training and model.cls.training
    assert not model.get_input_embeddings()._forward_hooks
    with torch.no_grad():
        assert (influence(MaskedLanguageModel(model)) > 0).all()


SMALL = {"vocab_size": V, "hidden_size": 16}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BloomForCausalLM(BloomConfig(**SMALL, n_layer=1, n_head=2)), "BloomForCausalLM fails with ValueError"),
        (
            lambda: FalconForCausalLM(
                FalconConfig(**SMALL, num_hidden_layers=1, num_attention_heads=2, alibi=True, bos_token_id=2)
            ),
            None,
        ),
        (
            lambda: GPTNeoForCausalLM(
                GPTNeoConfig(**SMALL, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]])
            ),
            "in GPTNeoForCausalLM, that at position 0 does not depend on that at position 1",
        ),
        (
            lambda: MambaForCausalLM(MambaConfig(**SMALL, num_hidden_layers=1, state_size=4)),
            r"recurrent model cannot be .*OPENERS\['MambaForCausalLM'\]",
        ),
    ],
    ids=["bloom", "falcon with alibi", "gpt-neo", "mamba"],
)
def test_attention_that_does_not_open_is_refused_with_the_way_to_add_it(build, words):
    model = build().eval()
    if words is None:  # of a listed class, in a variant that is not: it is refused where the model is checked
        with pytest.raises(ValueError, match="FalconForCausalLM fails with"):
            check_open(MaskedLanguageModel(model))
        return
    with pytest.raises(ValueError, match=words):
        MaskedLanguageModel(model)
    MaskedLanguageModel(model, bidirectional=False)


def test_an_encoder_that_is_made_a_decoder_is_seen():
    config = BertConfig(**SMALL, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, is_decoder=True)
    with pytest.raises(ValueError, match="every token must attend to all others; in BertForMaskedLM"):
        check_open(MaskedLanguageModel(BertForMaskedLM(config)))


class Odd(LlamaForCausalLM):
    """A Llama that takes its attention mask under another name."""

    def forward(self, input_ids=None, sees=None, attention_mask=None, **kwargs):
        return super().forward(input_ids, attention_mask=sees, **kwargs)


def test_an_architecture_of_ones_own_is_added_to_the_openers(monkeypatch):
    model = Odd(make("LlamaForCausalLM").config)
    with pytest.raises(ValueError, match=r"in Odd, .*add a function to noiselab\.networks\.opening\.OPENERS\['Odd'\]"):
        MaskedLanguageModel(model)
    monkeypatch.setitem(
        opening.OPENERS, "Odd", lambda model, z, real: {"sees": opening.by_mask(model, z, real)["attention_mask"]}
    )
    assert (influence(MaskedLanguageModel(model)) > 0).all()


@pytest.mark.parametrize("name", ["RobertaForMaskedLM", "XLMRobertaForMaskedLM", "MPNetForMaskedLM"])
@torch.no_grad()
def test_positions_are_counted_by_position_where_noise_draws_the_padding_token(name):
    """A padding token (id 1) in the noise moves no other token: positions by hand, from that after the padding's."""
    model = make(name)
    z = torch.tensor([[5, 1, 7, 1, 9]])
    places = torch.arange(2, 7)[None]
    wanted = model(input_ids=z, attention_mask=torch.ones_like(z), position_ids=places).logits
    found = MaskedLanguageModel(model)(z, torch.ones(1))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert (found - model(input_ids=z).logits).abs().max() > 1e-3  # the mistake: counted by value


def test_the_guide_lists_these_architectures():
    page = (Path(__file__).parents[2] / "docs" / "guides" / "any_model.md").read_text(encoding="utf-8")
    table = page.split("| Causal models, opened | Masked models |")[1].split("\n\n")[0]
    cells = [cell.strip() for line in table.splitlines()[2:] for cell in line.strip("|").split("|")]
    assert sorted(name for cell in cells for name in cell.split(", ")) == sorted(TESTED.values())
