"""The denoiser of a prefix and a canvas: its prefixes, generation as published by the library's sampler, and its bound."""

import math

import pytest
import torch
from published_generate import CALLS, FOLDER, PAD, given, settings, stored
from torch.testing import assert_close

import noiselab as nl
from noiselab.denoisers import attending_to
from noiselab.networks import load_network
from noiselab.networks.canvas import CanvasDenoiser, canvas_bounds

NEAR = {"rtol": 0, "atol": 1e-4}
FACTS = stored()
PROCESS = nl.uniform(vocab_size=70)
TIME = torch.full((2,), 0.5)


@pytest.fixture(scope="module")
def network():
    return load_network(FOLDER).requires_grad_(False)


@pytest.fixture
def counted(network, monkeypatch):
    """The network, and the number of tokens of each call of its encoder."""
    read, encode = [], network.encode

    def counting(tokens, real=None, *, after=None):
        read.append(tokens.shape[1])
        return encode(tokens, real, after=after)

    monkeypatch.setattr(network, "encode", counting)
    return network, read


class Injected(nl.samplers.RenoisingSampler):
    """With torch's global draws, in the order and the shapes of the published code."""

    def candidates(self, log_probs, u, rows):
        count = rows[:, -self.canvas :].numel()
        numbers = torch.empty(count, log_probs.shape[-1]).exponential_()
        self.noise = torch.randint(0, log_probs.shape[-1], (len(rows), self.canvas))
        return (log_probs.exp() / numbers[rows[:, -self.canvas :].flatten()]).argmax(-1)

    def renoised(self, z, s, u):
        return torch.cat([z[:, : -self.canvas], self.noise], 1)


@pytest.mark.parametrize("name", CALLS)
def test_the_sampler_visits_the_published_canvases(network, name):
    """Each block with the recorded draws; of a stopped sequence we keep the most probable tokens, they the canvas."""
    call, inputs, size = settings(name), given(FACTS, name), network.canvas_length
    ids, steps = inputs["input_ids"], call["max_denoising_steps"]
    real = inputs.get("attention_mask", torch.ones_like(ids, dtype=torch.bool))
    facts = {key: FACTS[f"generate.{name}.{key}"] for key in ("canvas_before_step", "argmax_after_step")}
    finished = FACTS[f"generate.{name}.finished_after_step"]
    denoiser, k = CanvasDenoiser(network, given=ids.shape[1]), 0
    torch.manual_seed(call["seed"])
    while ids.shape[1] < FACTS[f"generate.{name}.sequences"].shape[1]:
        denoiser.given = length = ids.shape[1]
        z = torch.randint(0, 70, (len(ids), size))
        if k == 0 and "decoder_input_ids" in inputs:
            z = inputs["decoder_input_ids"]
        assert torch.equal(z, facts["canvas_before_step"][k])
        sampler = Injected(
            PROCESS, denoiser, call["entropy_bound"], temperature=call["t_min"] + (call["t_max"] - call["t_min"]) * nl.t,
            stability=call["stability_threshold"], confidence=call["confidence_threshold"],
        )  # fmt: skip
        sampler.canvas = size
        blocks = nl.samplers.BlockSampler(sampler, size, given=length, context="past")
        with attending_to(denoiser, torch.cat([real, torch.ones_like(z, dtype=torch.bool)], 1)):
            for state in blocks.walk(torch.cat([ids, z], 1), torch.linspace(1, 0, steps + 1)):
                best, over, k = facts["argmax_after_step"][k], finished[k], k + 1
                last = torch.equal(state[:, length:], best)
                if not last:
                    wanted = torch.where(over[:, None], best, facts["canvas_before_step"][k])
                    assert torch.equal(state[:, length:], wanted)
        assert last
        ids = FACTS[f"generate.{name}.sequences"][:, : length + size]
        new = ids[:, length:]
        assert ((new == best) | (new == PAD)).all()
        real = torch.cat([real, torch.ones_like(new, dtype=torch.bool)], 1)
    assert k == len(finished)


def test_logits_of_each_block_given_those_before(network):
    """Three blocks of sizes 8, 8 and 3 after a prompt of 5, padded on the left."""
    x = torch.randint(70, (2, 24), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(x, dtype=torch.bool)
    real[0, :2] = False
    denoiser = CanvasDenoiser(network, given=5)
    for mask in (None, real):
        with attending_to(denoiser, mask):
            logits = denoiser(x, TIME)
        assert (logits[:, :5] == 0).all() and logits.shape == (2, 24, 70)
        for start, end in ((5, 13), (13, 21), (21, 24)):
            options = {} if mask is None else {"attention_mask": mask[:, :start]}
            fresh = network(x[:, start:end], prefix=x[:, :start], **options)
            assert_close(logits[:, start:end], fresh, **NEAR)
            rows = torch.zeros_like(x, dtype=torch.bool)
            rows[0, start] = rows[1, end - 1] = True
            with torch.no_grad(), attending_to(denoiser, mask):
                assert_close(denoiser(x, TIME, rows), torch.stack([fresh[0, 0], fresh[1, -1]]), **NEAR)


def sampler_of(denoiser, length, **options):
    steps = nl.samplers.RenoisingSampler(PROCESS, denoiser, 1.0, temperature=0.4 + 0.4 * nl.t, stability=1, **options)
    return nl.samplers.BlockSampler(steps, 8, given=length, context="past")


def test_each_token_is_read_once(counted):
    network, read = counted
    denoiser, prompt = CanvasDenoiser(network, given=11), FACTS["long.input_ids"]
    blocks = nl.samplers.Prompted(sampler_of(denoiser, 11), prompt)
    for seed in range(2):
        blocks.sample((2, 11 + 24), steps=4, generator=torch.Generator().manual_seed(seed))
    # The prompt of the second walk is known.
    assert read == [11, 8, 8, 8, 8]
    blocks = nl.samplers.Prompted(sampler_of(denoiser, 11), prompt.flip(0))
    blocks.sample((2, 11 + 8), steps=4)
    assert read[5:] == [11]


def test_with_and_without_known_prefixes(network):
    class Forgetful(CanvasDenoiser):
        def _prefix(self, tokens, real):
            self.reset()
            return super()._prefix(tokens, real)

    prompt = FACTS["long.input_ids"]

    def sample(kind):
        blocks = nl.samplers.Prompted(sampler_of(kind(network, given=11), 11), prompt)
        return blocks.sample((2, 11 + 24), steps=5, generator=torch.Generator().manual_seed(3))

    assert torch.equal(sample(CanvasDenoiser), sample(Forgetful))


def test_changed_weights_are_noticed(network):
    prompt, canvas = FACTS["long.input_ids"], FACTS["canvas"]
    denoiser, z = CanvasDenoiser(network, given=11), torch.cat([prompt, canvas], 1)
    with torch.no_grad():
        before = denoiser(z, TIME)
        weight = network.model.model.decoder.layers[0].self_attn.k_proj.weight
        kept = weight.clone()
        weight.mul_(2)
        after = denoiser(z, TIME)
        assert_close(after[:, 11:], network(canvas, prefix=prompt), **NEAR)
        weight.copy_(kept)
    assert not torch.allclose(before, after, atol=0.01)


def test_self_conditioning_matters_and_can_be_left_out(network):
    prompt = FACTS["long.input_ids"]
    found = []
    for on in (True, False):
        denoiser = CanvasDenoiser(network, given=11, self_conditioning=on)
        blocks = nl.samplers.Prompted(sampler_of(denoiser, 11), prompt)
        found.append(blocks.sample((2, 11 + 8), steps=4, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(*found)


def test_sequences_do_not_depend_on_their_batch(network):
    prompt = FACTS["long.input_ids"]

    def sample(rows, generators):
        blocks = nl.samplers.Prompted(sampler_of(CanvasDenoiser(network, given=11), 11, confidence=2.5), prompt[rows])
        return blocks.sample((len(rows), 11 + 16), steps=5, generator=generators)

    def random(i):
        return torch.Generator().manual_seed(i)

    together = sample([0, 1], [random(0), random(1)])
    assert torch.equal(together, torch.cat([sample([i], [random(i)]) for i in range(2)]))


def test_blocks_that_are_not_finished_are_no_prefix(network):
    denoiser = CanvasDenoiser(network, given=4)
    with pytest.raises(ValueError, match=r"one block of 8 tokens.*got tokens of 2 blocks: use BlockSampler"):
        nl.AncestralSampler(PROCESS, denoiser).sample((2, 20), steps=2)
    z = torch.zeros(2, 8, dtype=torch.long)
    with pytest.raises(ValueError, match="the first 4, must not"):
        denoiser(z, TIME, rows=torch.ones_like(z, dtype=torch.bool))


def flat(network, prompt, x, nodes=40):
    """The mean over t of the cross-entropy on a canvas of one token: by enumeration of the noisy token, t = 1/80, 3/80..."""
    nats = network(torch.arange(70)[:, None], prefix=prompt.expand(70, -1))[:, 0].double().log_softmax(-1)
    total = 0
    for k in range(nodes):
        t = (k + 0.5) / nodes
        total = total + ((1 - t) * -nats.diagonal() - t * nats.mean(0)) / nodes
    return total[x[:, 0]]


def test_the_bound_is_one_and_the_flat_cross_entropy_is_none(network):
    """On canvases of one token: exp(-nats) of all 70 tokens sum to at most 1 for a bound on -log p; for the flat loss of
    the exact posterior given uniform data they sum to more.
    """
    prompt, x = FACTS["short.input_ids"][:1], torch.arange(70)[:, None]
    one = CanvasDenoiser(network, given=4, block_size=1)
    every = torch.cat([prompt.expand(70, -1), x], 1)

    class After(nl.Denoiser):
        predicts = "posterior"

        def forward(self, z, t):
            return one(torch.cat([prompt.expand(len(z), -1), z], 1), t)[:, 4:]

    with torch.no_grad():
        exact = nl.likelihood.expected_bound(PROCESS, After(), x, nodes=24).total
    assert 0.01 < exact.neg().exp().sum() <= 1 + 1e-6
    drawn = sum(
        canvas_bounds(
            PROCESS, network, every, given=4, block_size=1, nodes=24, generator=torch.Generator().manual_seed(k)
        )[0].total.mean()
        for k in range(8)
    )
    assert abs(drawn / 8 - exact.mean()) < 0.25 * exact.std()
    assert (flat(network, prompt, x) - exact).abs().max() > 0.1


def test_the_bounds_of_blocks_add_up_to_that_of_the_text(network):
    """Blocks of one token, each noised in its turn: the sum over blocks, and the bound along the path of all."""
    x = torch.tensor([[5, 11, 42, 7, 30, 2]]).expand(400, -1)
    terms = canvas_bounds(
        PROCESS, network, x, given=3, block_size=1, nodes=12, generator=torch.Generator().manual_seed(0)
    )
    blocks = sum(block.total for block in terms)
    denoiser = CanvasDenoiser(network, given=3, block_size=1)
    path, weight = nl.times.block_times(400, 3, 1, low=1e-4, generator=torch.Generator().manual_seed(1))
    times = (torch.nn.functional.pad(path, (3, 0)), torch.nn.functional.pad(weight, (3, 0)))
    prompt = (torch.arange(6) >= 3).expand(400, 6)
    with torch.no_grad():
        along = nl.continuous_bound(
            PROCESS, denoiser, x, times=times, real=prompt, low=1e-4, generator=torch.Generator().manual_seed(2)
        ).total
    error = math.sqrt(blocks.var() / 400 + along.var() / 400)
    assert len(terms) == 3 and abs(blocks.mean() - along.mean()) < 4 * error and error < 0.1 * blocks.mean()
