import sys

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from noiselab.autoregressive import Probe

V = 12


def llama(tied=False, layers=2, width=16, seed=0):
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(vocab_size=V, initializer_range=0.4, tie_word_embeddings=tied, attention_dropout=0.3, **sizes)
    return LlamaForCausalLM(config)


def rows(count=64, length=6, seed=0):
    return torch.randint(V, (count, length), generator=torch.Generator().manual_seed(seed))


def fit(probe, ids, labels, steps=150, rate=0.05):
    adam = torch.optim.Adam([p for p in probe.parameters() if p.requires_grad], rate)
    for _ in range(steps):
        adam.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(probe(ids), labels.float()).backward()
        adam.step()
    return ((probe(ids) > 0) == labels).double().mean().item()


@pytest.mark.parametrize("ranks", [(0, 0), (3, 0), (0, 2), (3, 2)])
@pytest.mark.parametrize("tied", [False, True])
def test_training_changes_the_probe_and_never_the_network(ranks, tied):
    network, ids = llama(tied), rows()
    before = {name: p.clone() for name, p in network.state_dict().items()}
    answers = network.eval()(input_ids=ids).logits
    probe = Probe(network, *ranks).train()
    frozen = {name: p.clone() for name, p in probe.named_parameters() if not p.requires_grad}
    fit(probe, ids, ids[:, -1] < 4, steps=3)
    for name, p in probe.named_parameters():
        own = name.startswith("head") or "lora" in name
        assert p.requires_grad == own and (p.grad is not None) == own
        assert own or torch.equal(p, frozen[name])
    assert sum("lora" in name for name in dict(probe.named_parameters())) == 2 * (ranks[0] > 0) + 8 * (ranks[1] > 0)
    assert all(torch.equal(p, before[name]) for name, p in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters()) and torch.equal(network(input_ids=ids).logits, answers)
    width = network.config.hidden_size
    assert probe.trained_size == ranks[0] * (V + width) + ranks[1] * 2 * 2 * (width + width) + width + 1


def test_an_untrained_probe_reads_the_networks_own_hidden_state():
    network, ids = llama(), rows(4)
    probe = Probe(network, 3, 2).train()  # in training too: the frozen model has no dropout
    hidden = network.eval().model(input_ids=ids).last_hidden_state
    expected = probe.head(hidden)[..., 0]
    everywhere = probe(ids, places=torch.arange(6).expand(4, -1))
    assert torch.allclose(everywhere, expected, atol=1e-6) and torch.equal(probe(ids), everywhere[:, -1])
    one = probe(ids, places=torch.tensor([0, 5, 2, 3]))
    assert torch.equal(one, everywhere[torch.arange(4), torch.tensor([0, 5, 2, 3])])


def test_a_row_is_read_at_its_last_real_token_whatever_the_padding():
    probe, ids, lengths = Probe(llama(), 2, 1), rows(4), [6, 3, 1, 5]
    with torch.no_grad():
        for p in probe.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * p.requires_grad)
    alone = torch.cat([probe(ids[i : i + 1, :n]) for i, n in enumerate(lengths)])
    mask = (torch.arange(6) < torch.tensor(lengths)[:, None]).long()
    for filler in (0, 7):
        assert torch.allclose(probe(ids.where(mask.bool(), filler), mask), alone, atol=1e-6)


def test_what_is_there_linearly_is_read_without_an_error():
    """The hidden state of a model without layers is the normed embedding: with all directions its own, any set is linear."""
    network = llama(layers=0, width=16)
    with torch.no_grad():
        network.model.embed_tokens.weight.copy_(torch.eye(V, 16))
    ids, other = rows(200), rows(200, seed=1)
    chosen = torch.tensor([True, False, False, True, True, False, True, False, False, False, True, True])
    probe = Probe(network, 0)
    assert fit(probe, ids, chosen[ids[:, -1]]) == 1
    assert ((probe(other) > 0) == chosen[other[:, -1]]).all()  # on rows that it has not seen


def test_an_update_of_the_embedding_adds_what_the_network_cannot_tell_apart():
    network = llama(layers=0)
    with torch.no_grad():
        network.model.embed_tokens.weight.copy_(torch.randn(1, 16).expand(V, -1))
    ids = rows(200)
    labels = ids[:, -1] % 2 == 0
    assert fit(Probe(network, 0), ids, labels) == max(labels.double().mean(), 1 - labels.double().mean())
    assert fit(Probe(network, 1), ids, labels) == 1


def test_a_probe_refuses_what_it_cannot_read(monkeypatch):
    with pytest.raises(ValueError, match="ranks must be non-negative"):
        Probe(llama(), -1)
    with pytest.raises(ValueError, match="model of transformers"):
        Probe(torch.nn.Linear(2, 2))
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=8, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="q_proj and v_proj"):
        Probe(gpt, 2, 1)
    assert Probe(gpt, 2)(rows(3)).shape == (3,)  # an embedding it has
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"noiselab\[finetune\]"):
        Probe(llama(), 2)
    Probe(llama(), 0)  # a head alone needs no peft
