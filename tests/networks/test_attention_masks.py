"""Masks of pairs of tokens and positions that repeat: honoured, or refused in words."""

import pytest
import torch
from test_block_cache import V, network, random_input
from tiny_models import make
from torch import nn
from torch.nn.parallel import DataParallel
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.denoisers import Temperature, attending_to, selected_sequences
from noiselab.denoisers.one_by_one import OneByOne
from noiselab.networks.approximate_cache import PrefixCache
from noiselab.networks.attention_checks import PAIRS, check_attention
from noiselab.networks.block_cache import BlockCausal
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.networks.opening import TESTED
from noiselab.networks.published import MDLM, MDLMConfig, PublishedDenoiser


def close(a, b, atol=2e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def closure(may_attend, layers=3):
    """Which tokens reach which through the layers of the network."""
    one = may_attend.float() + torch.eye(may_attend.shape[-1])
    return torch.linalg.matrix_power(one, layers) > 0


# --- the DiT -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_two_texts_side_by_side_are_two_texts():
    """Within the mask of documents, with positions that start again, each document is as it is alone."""
    model = network()
    z, t = random_input(length=10)
    document = torch.tensor([[0] * 6 + [1] * 4])
    place = torch.tensor([[*range(6), *range(4)]])
    pairs = document[:, :, None] == document[:, None, :]
    both = model(z, t.float(), may_attend=pairs, positions=place).logits
    close(both[:, :6], model(z[:, :6], t[:, :6].float()).logits)
    close(both[:, 6:], model(z[:, 6:], t[:, 6:].float()).logits)
    # The mistakes: a mask or positions that are dropped.
    assert (model(z, t.float(), positions=place).logits - both).abs().max() > 1e-2
    shifted = model(z, t.float(), may_attend=pairs, positions=place + place.flip(1)).logits
    assert (shifted - both).abs().max() > 1e-2


@pytest.mark.parametrize("seed", range(3))
def test_gradients_follow_a_random_mask_and_padding(seed):
    """A mask for each sequence: exactly the tokens that a path of attention reaches have an effect, padding has none."""
    model, numbers = network(seed), torch.Generator().manual_seed(seed)
    z, t = random_input(batch=2, length=6, seed=seed)
    pairs = torch.rand(2, 6, 6, generator=numbers) < 0.3
    real = torch.arange(6) < torch.tensor([[6], [4]])
    leaf = []
    handle = model.vocab_embed.register_forward_hook(
        lambda _m, _i, out: leaf.append(out.detach().requires_grad_()) or leaf[-1]
    )
    logits = model(z, t.float(), real, may_attend=pairs | torch.eye(6, dtype=torch.bool)).logits
    handle.remove()
    for row in range(2):
        wanted = closure((pairs[row] | torch.eye(6, dtype=torch.bool)) & (real[row] | torch.eye(6, dtype=torch.bool)))
        for token in range(6):
            slope = torch.autograd.grad(logits[row, token].sum(), leaf[0], retain_graph=True)[0]
            assert torch.equal(slope[row].norm(dim=-1) > 0, wanted[token])
            assert (slope[1 - row] == 0).all()
    assert logits.isfinite().all()


@torch.no_grad()
def test_a_token_that_attends_to_padding_only_has_finite_logits():
    model = network()
    z, t = random_input(batch=1, length=4)
    real = torch.tensor([[False, False, True, True]])
    pairs = torch.eye(4, dtype=torch.bool)[None]
    logits = model(z, t.float(), real, may_attend=pairs).logits
    assert logits.isfinite().all()
    close(logits[:, 3], model(z[:, 3:], t[:, 3:].float(), positions=torch.tensor([[3]])).logits[:, 0])


def test_masks_and_positions_of_other_shapes_are_refused():
    model = network()
    z, t = random_input(batch=2, length=4)
    for pairs in (torch.ones(1, 4, 4), torch.ones(1, 4, 3, dtype=torch.bool), torch.ones(3, 4, 4, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"may_attend must be Bool \[2 or 1, 4, 4\]"):
            nl.denoisers.attended.check_pairs(pairs, z)
    with pytest.raises(ValueError, match="at most max_seq_len=16 tokens; got 17"):
        model(z, t.float(), positions=torch.tensor([[0, 1, 2, 16]]))
    denoiser = TransformersDenoiser(model)
    with (
        pytest.raises(ValueError, match="positions must be integers of the shape"),
        attending_to(denoiser, positions=torch.arange(5)[None]),
    ):
        denoiser(z, t)


# --- through denoisers -------------------------------------------------------------------------------------------


def earlier(length, size):
    block = torch.arange(length) // size
    return (block <= block[:, None])[None]


@torch.no_grad()
@pytest.mark.parametrize("parallel", [False, True])
def test_block_causal_attention_of_the_network_is_that_of_a_mask(parallel):
    model = network()
    z, t = random_input()
    wanted = BlockCausal(model, 4)(z, t)
    denoiser = Temperature(TransformersDenoiser(DataParallel(model) if parallel else model), 1.0)
    with attending_to(denoiser, may_attend=earlier(12, 4)):
        close(denoiser(z, t), wanted)
    with attending_to(denoiser, may_attend=earlier(12, 4), positions=torch.arange(12)[None]):
        close(denoiser(z, t), wanted)
    assert (denoiser(z, t) - wanted).abs().max() > 1e-2
    # Masks within masks: all must hold.
    with attending_to(denoiser, may_attend=earlier(12, 2)), attending_to(denoiser, may_attend=earlier(12, 4)):
        close(denoiser(z, t), BlockCausal(model, 2)(z, t))


@torch.no_grad()
def test_masks_and_positions_follow_the_sequences():
    denoiser = TransformersDenoiser(network())
    z, t = random_input()
    pairs = torch.cat([earlier(12, size) for size in (2, 3, 4)])
    places = torch.stack([torch.arange(12), torch.arange(12).flip(0), torch.arange(12)])
    with attending_to(denoiser, may_attend=pairs, positions=places):
        whole = denoiser(z, t)
        with selected_sequences(denoiser, torch.tensor([2, 1])):
            close(denoiser(z[[2, 1]], t[[2, 1]]), whole[[2, 1]])


@pytest.mark.parametrize("name", sorted(set(TESTED) - {"MPNetForMaskedLM", "ModernBertForMaskedLM"}))
def test_architectures_of_transformers_honour_masks_and_positions(name):
    """The check passes, and two documents with padding between them are as each is alone."""
    denoiser = MaskedLanguageModel(make(name))
    z = torch.randint(4, 20, (2, 9), generator=torch.Generator().manual_seed(1))
    t, real = torch.full((2,), 0.5), torch.ones(2, 9, dtype=torch.bool)
    real[0, 4] = False
    document = torch.tensor([[0] * 5 + [1] * 4])
    place = torch.tensor([[*range(5), *range(4)]])
    pairs = document[:, :, None] == document[:, None, :]
    with torch.no_grad(), attending_to(denoiser, real, may_attend=pairs, positions=place):
        both = denoiser(z, t)
    assert both.isfinite().all()
    with torch.no_grad(), attending_to(denoiser, real[:, :5]):
        close(both[:, :5][real[:, :5]], denoiser(z[:, :5], t)[real[:, :5]])
    with torch.no_grad():
        close(both[:, 5:], denoiser(z[:, 5:], t))


@torch.no_grad()
def test_shifted_logits_are_those_of_the_token_before_in_the_text():
    """A noisy block before its clean past: its first token has the logits of the last clean one before it."""
    model = make("LlamaForCausalLM")
    denoiser, plain = (MaskedLanguageModel(model, shifted=shifted) for shifted in (True, False))
    z, t = torch.tensor([[5, 6, 7, 8, 9, 10]]), torch.ones(1)
    pairs = torch.tensor(PAIRS).repeat_interleave(2, 0).repeat_interleave(2, 1).bool()[None]
    place = torch.tensor([[0, 1, 2, 3, 0, 1]])
    with attending_to(denoiser, may_attend=pairs, positions=place):
        moved = denoiser(z, t)
    with attending_to(plain, may_attend=pairs, positions=place):
        close(moved, plain(z, t)[:, [0, 0, 5, 2, 4, 4]])
    # In the plain order, with the clean block first.
    with attending_to(denoiser, may_attend=earlier(4, 2)):
        close(moved[:, 2:4], denoiser(z[:, [4, 5, 2, 3]], t)[:, 2:])


# --- what does not honour them -----------------------------------------------------------------------------------


class Plain(nn.Module):
    """A network that a user writes: attention over embeddings and positions, each input of which may be dropped."""

    def __init__(self, drops="", window=None):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(V, 8), nn.Linear(8, V)
        self.drops, self.window = drops, window
        self.config = type("Config", (), {"sliding_window": window})()

    def forward(self, input_ids, timesteps, attention_mask=None, may_attend=None, positions=None):
        length = input_ids.shape[1]
        n = torch.arange(length)[None] if positions is None or self.drops == "positions" else positions
        x = self.embed(input_ids) + torch.sin(n[..., None] / torch.arange(1, 9))
        mask = torch.ones(1, length, length, dtype=torch.bool) if may_attend is None else may_attend
        if self.drops == "mask":
            mask = torch.ones_like(mask)
        if self.drops == "later tokens":
            mask = mask.tril()
        if self.window is not None and self.drops == "distance":
            mask = mask.tril(self.window) & mask.triu(-self.window)
        return self.out(nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask))


def test_a_network_of_a_user_that_honours_both_passes():
    denoiser = TransformersDenoiser(Plain(window=20))
    denoiser.require_attention()
    assert denoiser.attends


@pytest.mark.parametrize(
    ("drops", "words"),
    [
        ("mask", "in Plain the token at place 0 must not attend to that at place 2, and depends on it"),
        ("later tokens", "place 0 must be able to attend to that at place 1, and does not depend on it"),
        ("distance", "does not attend to one 21 places away"),
        ("positions", "in Plain the logits of a block after its past differ"),
    ],
)
def test_a_network_that_drops_a_part_is_refused(drops, words):
    denoiser = TransformersDenoiser(Plain(drops, window=20))
    for _ in range(2):
        with pytest.raises(ValueError, match=words), attending_to(denoiser, may_attend=torch.ones(1, 4, 4).bool()):
            raise AssertionError("inside")


def test_fresh_networks_whose_logits_are_constant_are_tried_with_random_weights():
    plain = Plain("mask")
    nn.init.zeros_(plain.out.weight)
    with pytest.raises(ValueError, match="must not attend"):
        check_attention(TransformersDenoiser(plain))
    assert (plain.out.weight == 0).all()


class Sharp(nn.Module):
    """A network of a user with such large weights that softmax gives most tokens the weight 0 by rounding."""

    def __init__(self, seed, drops=""):
        super().__init__()
        self.inner, self.drops = network(seed), drops
        with torch.no_grad():
            for weight in self.inner.parameters():
                weight.mul_(10)

    def forward(self, input_ids, timesteps, attention_mask=None, may_attend=None, positions=None):
        if self.drops == "mask":
            may_attend = None
        if self.drops == "later tokens" and may_attend is not None:
            may_attend = may_attend.tril()
        return self.inner(input_ids, timesteps, attention_mask, may_attend=may_attend, positions=positions).logits


@pytest.mark.parametrize("seed", range(4))
def test_sharp_attention_is_no_reason_to_refuse(seed):
    denoiser = TransformersDenoiser(Sharp(seed))
    denoiser.require_attention()
    assert denoiser.attends
    with pytest.raises(ValueError, match="must not attend"):
        TransformersDenoiser(Sharp(seed, "mask")).require_attention()
    with pytest.raises(ValueError, match="must be able to attend"):
        TransformersDenoiser(Sharp(seed, "later tokens")).require_attention()


def test_networks_without_such_inputs_are_refused_by_name():
    class Two(nn.Module):
        def forward(self, input_ids, timesteps):
            return torch.zeros(*input_ids.shape, V)

    process = nl.masked(vocab_size=V, mask_id=V - 1)
    config = MDLMConfig(vocab_size=V, model_length=8, hidden_dim=8, cond_dim=8, n_blocks=1, n_heads=2)
    llama = LlamaForCausalLM(
        LlamaConfig(vocab_size=V, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.eye(2), nl.masked(vocab_size=3, mask_id=2))
    good = TransformersDenoiser(network())
    for denoiser, words in (
        (TransformersDenoiser(Two()), "Two takes no may_attend and no positions"),
        (PublishedDenoiser(MDLM(config), process), "PublishedDenoiser does not"),
        (OneByOne(oracle, 2, 1), "MarkovOracle does not"),
        (nl.denoisers.ClassifierFreeGuidance(good, PublishedDenoiser(MDLM(config), process), 1.0), "PublishedDenoiser"),
        (MaskedLanguageModel(llama, bidirectional=False), "LlamaForCausalLM with bidirectional=False"),
        (MaskedLanguageModel(make("MPNetForMaskedLM")), "must use the given positions; in MPNetForMaskedLM"),
        (
            MaskedLanguageModel(make("ModernBertForMaskedLM")),
            "ModernBertForMaskedLM a mask replaces attention of its own",
        ),
        (PrefixCache(network()), "PrefixCache does not"),
    ):
        with pytest.raises(ValueError, match=words), attending_to(denoiser, positions=torch.arange(4)[None]):
            raise AssertionError("inside")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_low_precision_are_not_refused(dtype):
    """A small influence is one, where rounding is coarse."""
    model = make("LlamaForCausalLM", dtype=dtype)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(0.05)
    denoiser = MaskedLanguageModel(model)
    denoiser.require_attention()
    assert denoiser.attends
