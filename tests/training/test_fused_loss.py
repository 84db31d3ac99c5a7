"""The loss that is fused with the projection: equal to the one of all logits, for every network, noise and prediction."""

import math
from functools import partial

import pytest
import torch
from test_adapting import data, settings_for, tokenizer
from tiny_models import make
from torch import nn
from toy_training import L, V, network

import noiselab as nl
from noiselab.data import TokenBlocks
from noiselab.elbo import fused
from noiselab.networks.adapters import add_adapter
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import HEADS, MaskedLanguageModel
from noiselab.networks.published import MDLM, MDLMConfig, PublishedDenoiser
from noiselab.objectives import Clipped, Dynamic, elbo, low_variance
from noiselab.pipeline import Pipeline
from noiselab.training import Optimization, Place, Run, Trainer, noised_loss, scoring, step_times
from noiselab.training.losses import call_denoiser, call_network

ROWS, PLACE = 6, Place(3, seed=5)
FREQUENT = torch.tensor([4.0, 3, 2, 1, 1, 1, 1, 1, 0])
PROCESSES = {
    "masked": nl.masked(vocab_size=V, mask_id=V - 1),
    "hybrid": nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2),
    "unigram": nl.processes.unigram(FREQUENT / FREQUENT.sum()),
    "three parts": nl.Interpolation(
        1 - nl.t,
        {
            nl.Absorbing(V - 1, V): nl.t,
            nl.Unigram(FREQUENT / FREQUENT.sum()): 0.3 * nl.t,
            nl.Uniform(torch.arange(V) < V - 1): 0.2 * nl.t**2,
        },
    ),
}


def batch(marked=True):
    ids = torch.randint(V - 2, (ROWS, L), generator=torch.Generator().manual_seed(2))
    labels, real = ids.clone(), torch.ones_like(ids, dtype=torch.bool)
    if marked:
        labels[:, :1], real[:2, -2:] = -100, False
    return {"input_ids": ids, "labels": labels, "attention_mask": real} if marked else {"input_ids": ids}


def encoder(name, **more):
    options = {"vocab_size": V + more.pop("extra", 0), "dtype": torch.float64}
    return MaskedLanguageModel(make(name, **options, **more), vocab_size=V)


def with_lora():
    peft = pytest.importorskip("peft", reason="optional: pip install noiselab[finetune]; continuous integration has it")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return MaskedLanguageModel(
        add_adapter(make("LlamaForCausalLM", vocab_size=V, dtype=torch.float64), config), vocab_size=V
    )


def published():
    torch.manual_seed(0)
    config = MDLMConfig(vocab_size=V, model_length=L, hidden_dim=8, cond_dim=8, n_blocks=1, n_heads=2)
    model = MDLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return PublishedDenoiser(model.eval(), PROCESSES["masked"])


class Own(nl.denoisers.ProjectedDenoiser):
    """A denoiser as a user writes it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(V, 6), nn.Linear(6, V + 3)

    def hidden(self, z, t):
        return self.embed(z) + self.embed(z).mean(1, keepdim=True) + t[:, None, None].to(self.out.weight)

    def project(self, hidden):
        return self.out(hidden)[..., :V]

    def linear_projection(self, hidden):
        return nl.denoisers.linear_projection(self.out, hidden)


NETWORKS = {
    "a denoiser of one's own": Own,
    "DiT": lambda: network(0.0),
    "DiT, rounded up": lambda: network(0.0, vocab_size=128),
    "DiT as a denoiser": lambda: TransformersDenoiser(network(0.0)),
    "decoder": lambda: encoder("LlamaForCausalLM"),
    "tied": lambda: encoder("LlamaForCausalLM", tie_word_embeddings=True),
    "tied and rounded up": lambda: encoder("GPT2LMHeadModel", extra=7),
    "BERT": lambda: encoder("BertForMaskedLM"),
    "RoBERTa": lambda: encoder("RobertaForMaskedLM", extra=2),
    "shifted": lambda: MaskedLanguageModel(make("Qwen2ForCausalLM", vocab_size=V, dtype=torch.float64), shifted=True),
    "low-rank updates": with_lora,
    "published": published,
}


@pytest.fixture
def fusions(monkeypatch):
    """Counts the losses that are fused."""
    seen = []

    def spy(*args, **kwargs):
        seen.append(args[1].shape[:-1].numel())
        return fused.nelbo_fused(*args, **kwargs)

    monkeypatch.setattr(scoring, "nelbo_fused", spy)
    return seen


def results(model, loss):
    """The loss and all gradients, 0 for what has none."""
    model.zero_grad(set_to_none=True)
    value = loss()
    value.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    return [value.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trained)]


def both(model, process, given=None, **options):
    """The loss as it is, and from all logits, as a function that noiselab does not know is called."""
    call = call_denoiser if isinstance(model, nl.Denoiser) else call_network
    known = {"process": process, "place": PLACE, "objective": elbo, **options}
    given = batch() if given is None else given
    return (
        results(model, lambda call=call: noised_loss(model, given, call=call, **known))
        for call in (call, lambda *a, right=call: right(*a)[..., : process.vocab_size])
    )


@pytest.mark.parametrize("predicts", ["leave_one_out", "posterior"])
@pytest.mark.parametrize("noise", PROCESSES)
@pytest.mark.parametrize("name", ["DiT, rounded up", "tied and rounded up", "BERT"])
def test_loss_and_gradients_are_those_of_all_logits(name, noise, predicts, fusions):
    model, process = NETWORKS[name]().double(), PROCESSES[noise]
    ours, theirs = both(model, process, predicts=predicts)
    assert len(fusions) == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert max(g.abs().max() for g in ours[1:]) > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_with_a_linear_projection_is_fused(name, fusions):
    model = NETWORKS[name]().double()
    ours, theirs = both(model, PROCESSES["hybrid" if name != "published" else "masked"])
    assert len(fusions) == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("objective", [Clipped(1.5), Dynamic(0.01), low_variance])
def test_any_objective_is_fused(objective, fusions):
    model = network(0.0).double()
    ours, theirs = both(model, PROCESSES["masked"], objective=objective)
    assert len(fusions) == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_the_number_of_rows_at_once_does_not_matter(rows, fusions):
    model = network(0.0).double()
    ours, theirs = both(model, PROCESSES["three parts"], rows=rows)
    assert len(fusions) == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_in_lower_precision_the_losses_agree(autocast, fusions):
    model = network(0.0)
    ours, theirs = both(model, PROCESSES["hybrid"], autocast=autocast)
    assert len(fusions) == 1 and ours[0].dtype == torch.float32
    tolerance = 1e-5 if autocast is None else 2e-2
    torch.testing.assert_close(ours[0], theirs[0], rtol=tolerance, atol=0)
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert (a - b).norm() <= tolerance * b.norm() + 1e-7


def test_all_tokens_count_without_masks(fusions):
    model = network(0.0).double()
    ours, theirs = both(model, PROCESSES["hybrid"], batch(marked=False))
    assert fusions == [ROWS * L]
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_masks_alone_are_projected_and_a_uniform_network_costs_the_log_of_the_vocabulary(fusions):
    """By hand: with logits 0, each mask costs log(V - 1) / t, and a visible token nothing."""
    model = DiT(DiTConfig(vocab_size=128, max_seq_len=L, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    process, seen = PROCESSES["masked"], []
    model.vocab_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    loss = noised_loss(model.double(), batch(marked=False), process=process, objective=elbo, place=PLACE)
    t = step_times(PLACE, ROWS, 1e-4, 1 - 1e-4, torch.device("cpu"))[:, None]
    masked = seen[0] == V - 1
    assert fusions == [int(masked.sum())] and 0 < masked.sum() < ROWS * L
    assert loss.item() == pytest.approx((masked.double() * math.log(V - 1) / t).sum().item() / (ROWS * L), rel=1e-12)


def test_a_batch_without_a_token_to_learn_costs_nothing(fusions):
    model, given = network(0.0), batch()
    given["labels"] = torch.full_like(given["labels"], -100)
    ours, theirs = both(model, PROCESSES["masked"], given)
    assert fusions == [0]
    assert all((part == 0).all() for part in (*ours, *theirs))


def test_nothing_frozen_gets_a_gradient_and_evaluation_computes_none(monkeypatch):
    model, needed = network(0.0), []
    monkeypatch.setattr(fused, "_blocks", lambda *a, right=fused._blocks: needed.append(a[-1]) or right(*a))
    loss = partial(noised_loss, model, batch(), process=PROCESSES["hybrid"], objective=elbo, place=PLACE)
    full = results(model, loss)
    model.output_layer.linear.weight.requires_grad_(False)
    part = results(model, loss)
    assert torch.equal(part[0], full[0]) and model.output_layer.linear.weight.grad is None
    torch.testing.assert_close(part[1], full[1])
    with torch.no_grad():
        assert torch.equal(loss(), full[0])
    assert needed == [(True, True, True), (True, False, True), (False, False, False)]


class Scaled(DiT):
    """Its logits are not those of the projection that it inherits."""

    def project(self, hidden):
        return 2 * super().project(hidden)


class Added(DiT):
    def forward(self, input_ids, timesteps, attention_mask=None, rows=None):
        output = super().forward(input_ids, timesteps, attention_mask, rows)
        output.logits = output.logits + 1
        return output


@pytest.mark.parametrize("kind", [Scaled, Added, "hook", "layer hook", "subclass of the layer"])
def test_a_network_that_changes_its_logits_is_not_fused(kind, fusions):
    model = network(0.0).double()
    if isinstance(kind, type):
        other = kind(model.config).double()
        other.load_state_dict(model.state_dict())
        model = other
    elif kind == "hook":
        model.register_forward_hook(lambda module, given, out: setattr(out, "logits", 3 * out.logits) or out)
    elif kind == "layer hook":
        model.output_layer.linear.register_forward_hook(lambda module, given, out: 3 * out)
    else:

        class Capped(nn.Linear):
            def forward(self, hidden):
                return torch.tanh(super().forward(hidden))

        model.output_layer.linear.__class__ = Capped
    ours, theirs = both(model, PROCESSES["masked"])
    assert not fusions
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_every_known_head_is_a_layer_of_transformed_states():
    for name in HEADS:
        model = encoder(name).eval()
        z, t = batch()["input_ids"], torch.full((ROWS,), 0.5)
        found = model.linear_projection(model.hidden(z, t))
        product = found.hidden @ found.weight[:V].T + (0 if found.bias is None else found.bias[:V])
        torch.testing.assert_close(product, model(z, t), rtol=1e-10, atol=1e-12)


def test_a_network_whose_vocabulary_is_rounded_up_is_trained_saved_and_opened(tmp_path):
    words = tokenizer(eos_token="w0")
    words.add_special_tokens({"mask_token": "[MASK]"})
    settings = settings_for(words)
    states, model = settings.process().vocab_size, network(0.0, vocab_size=128, max_seq_len=8)
    ids = data()
    optimization = Optimization(steps=2, batch=8, learning_rate=0.05)
    run = Run(tmp_path / "run", cpu=True, progress=False)
    blocks = TokenBlocks(ids, torch.full((len(ids),), ids.shape[1]), vocab_size=states)
    trainer = Trainer(model, optimization, run, train_dataset=blocks, eval_dataset=blocks, process=settings.process())
    trainer.train()
    trainer.save_final(tmp_path / "final", tokenizer=words, parts=[settings])
    pipe = Pipeline.from_pretrained(tmp_path / "final")
    z, t = ids[:2], torch.full((2,), 0.5)
    theirs, ours = pipe.denoiser(z, t), model.eval()(z, t).logits
    assert ours.shape[-1] == 128 and theirs.shape[-1] == states
    words_alone = theirs.isfinite()
    assert torch.equal(theirs[words_alone], ours[..., :states][words_alone]) and words_alone.sum() > z.numel()
    texts = pipe.generate(2, 4, length=6, generator=torch.Generator().manual_seed(0), show_progress=False)
    assert all(token < states for text in texts for token in text.tokens)
