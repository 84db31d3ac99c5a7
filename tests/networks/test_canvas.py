"""The denoiser of a prefix and a canvas: its prefixes, generation as published by the library's sampler, and its bound."""

import math

import pytest
import torch
from exact_worlds import INITIAL, TRANSITION
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
            for state in blocks.walk(
                torch.cat([ids, z], 1), torch.linspace(1, 0, steps + 1), generator=torch.Generator()
            ):
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


def test_what_follows_the_end_is_padding_before_it_is_read(network, monkeypatch):
    """As published: the next block is given the padded one."""
    prompt, seen, encode = FACTS["long.input_ids"], [], network.encode

    def noting(tokens, real=None, *, after=None):
        seen.append(tokens)
        return encode(tokens, real, after=after)

    monkeypatch.setattr(network, "encode", noting)

    def sample(around):
        blocks = around(sampler_of(CanvasDenoiser(network, given=11), 11))
        random = [torch.Generator().manual_seed(i) for i in range(2)]
        return nl.samplers.Prompted(blocks, prompt).sample((2, 11 + 24), steps=4, generator=random)

    plain = sample(lambda blocks: blocks)[:, 11:19]
    end = next(token for token in plain[0, :7].tolist() if token not in plain[1])
    where = plain[0].tolist().index(end)
    seen.clear()
    x = sample(lambda blocks: nl.samplers.EndToken(blocks, end, fill=PAD, prompt=11))
    assert torch.equal(x[0, 11 : 12 + where], plain[0, : where + 1]) and (x[0, 12 + where :] == PAD).all()
    assert torch.equal(seen[1], x[:, 11:19]) and torch.equal(x[1, 11:19], plain[1])


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
        weight = network.model.model.decoder.layers[0].mlp.gate_proj.weight
        kept = weight.clone()
        weight.mul_(-3)
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
        nl.samplers.Prompted(nl.AncestralSampler(PROCESS, denoiser), FACTS["short.input_ids"]).sample((2, 20), steps=2)
    z = torch.zeros(2, 8, dtype=torch.long)
    with pytest.raises(ValueError, match="the first 4, must not"):
        denoiser(z, TIME, rows=torch.ones_like(z, dtype=torch.bool))


@pytest.mark.long
def test_the_estimate_of_a_bound_is_its_expectation(network):
    """On canvases of one token all noisy tokens can be enumerated."""
    prompt, x = FACTS["short.input_ids"][:1], torch.arange(70)[:, None]
    one = CanvasDenoiser(network, given=4, block_size=1)
    every = torch.cat([prompt.expand(70, -1), x], 1)

    class After(nl.Denoiser):
        def forward(self, z, t):
            return one(torch.cat([prompt.expand(len(z), -1), z], 1), t)[:, 4:]

    after = After()
    after.predicts = "posterior"
    with torch.no_grad():
        exact = nl.likelihood.expected_bound(PROCESS, after, x, nodes=24, low=1e-4).total
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack(
        [
            canvas_bounds(PROCESS, network, every, given=4, block_size=1, nodes=24, generator=generator)[0].total
            for _ in range(12)
        ]
    )
    error = drawn.mean(1).std() / 12**0.5
    assert abs(drawn.mean() - exact.mean()) < 4 * error and error < 0.05 * exact.mean()


class Chain:
    """A network of a prefix and a canvas that knows the data: a Markov chain, seen through masks."""

    canvas_length, vocab_size = 2, 4
    process = nl.masked(vocab_size=4, mask_id=3)

    def __init__(self):
        self.prefixes = []

    def encode(self, tokens, real=None, *, after=None):
        return tokens if after is None else torch.cat([after, tokens], 1)

    def states(self, canvas, *, prefix):
        self.prefixes.append(prefix[0].tolist())
        last = prefix[0, -1] if prefix.shape[1] else None
        oracle = nl.MarkovOracle(INITIAL if last is None else TRANSITION[last], TRANSITION, self.process)
        return nl.denoisers.Posterior(oracle, self.process)(canvas, torch.full((len(canvas),), 0.5))

    def project(self, hidden):
        return hidden


@pytest.mark.parametrize(("given", "x"), [(0, [0, 2, 2, 1, 1]), (1, [2, 1, 0, 0]), (3, [0, 1, 0, 2, 2, 1])])
def test_blocks_of_known_data_cost_what_they_should(given, x):
    """With the exact prediction each bound is -log p of its block given the tokens before, and they add up."""
    want = [-(INITIAL[x[0]] if i == 0 else TRANSITION[x[i - 1]][x[i]]).log().item() for i in range(len(x))]
    many = torch.tensor(x).expand(2000, -1)
    generator = torch.Generator().manual_seed(0)
    network = Chain()
    terms = canvas_bounds(Chain.process, network, many, given=given, nodes=16, generator=generator)
    assert {len(prefix) for prefix in network.prefixes} == set(range(given, len(x), 2))
    assert all(prefix == x[: len(prefix)] for prefix in network.prefixes)
    assert len(terms) == -(-(len(x) - given) // 2)
    for k, block in enumerate(terms):
        wanted = sum(want[given + 2 * k : given + 2 * k + 2])
        assert abs(block.total.mean() - wanted) < 4 * block.total.std() / 2000**0.5 + 1e-3
    total = sum(block.total for block in terms)
    assert abs(total.mean() - sum(want[given:])) < 4 * total.std() / 2000**0.5 + 1e-3


def test_the_bounds_of_blocks_add_up_to_that_of_the_text(network):
    """Blocks of one token, each noised in its turn: the sum over blocks, and the bound along the path of all."""
    x = torch.tensor([[5, 11, 42, 7, 30, 2]]).expand(1000, -1)
    terms = canvas_bounds(
        PROCESS, network, x, given=3, block_size=1, nodes=12, low=0.05, generator=torch.Generator().manual_seed(0)
    )
    blocks = sum(block.total for block in terms)
    denoiser = CanvasDenoiser(network, given=3, block_size=1)
    path, weight = nl.times.block_times(1000, 3, 1, low=0.05, generator=torch.Generator().manual_seed(1))
    times = (torch.nn.functional.pad(path, (3, 0), value=0.05), torch.nn.functional.pad(weight, (3, 0), value=1.0))
    prompt = (torch.arange(6) >= 3).expand(1000, 6)
    with torch.no_grad():
        along = nl.continuous_bound(
            PROCESS, denoiser, x, times=times, real=prompt, low=0.05, generator=torch.Generator().manual_seed(2)
        ).total
    error = math.sqrt(blocks.var() / 1000 + along.var() / 1000)
    assert len(terms) == 3 and abs(blocks.mean() - along.mean()) < 4 * error and error < 0.1 * blocks.mean()
