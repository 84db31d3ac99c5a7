"""Kept keys and values, against evaluations that keep nothing."""

import math

import pytest
import torch

import noiselab as nl
from noiselab.denoisers.active_only import ActiveOnly
from noiselab.networks.approximate_cache import DualCache, PrefixCache
from noiselab.networks.block_cache import BlockCausal, CachedBlockCausal
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.process import as_token_times
from noiselab.samplers.wrappers.blocks import BlockSampler
from noiselab.samplers.wrappers.infilling import Infilling, Prompted
from noiselab.samplers.wrappers.stopping import EndToken

V, LENGTH, SIZE = 11, 12, 4
PROCESSES = {
    "masked": lambda: nl.masked(vocab_size=V, mask_id=V - 1),
    "gidd": lambda: nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0, scale=0.3, **settings):
    """A network without zero weights, so that everything in it has an effect."""
    sizes = {"max_seq_len": 16, "hidden_size": 24, "timestep_cond_dim": 8, "num_hidden_layers": 3}
    model = DiT(DiTConfig(vocab_size=V, num_attention_heads=2, **(sizes | settings))).eval()
    numbers = generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=numbers))
    return model


def random_input(batch=3, length=LENGTH, seed=1):
    numbers = generator(seed)
    z = torch.randint(V, (batch, length), generator=numbers)
    return z, torch.rand(batch, length, generator=numbers, dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# --- the hook in the network -------------------------------------------------------------------------------------


@torch.no_grad()
def test_some_positions_with_the_keys_of_the_others_give_the_same_states():
    model = network()
    z, t = random_input()
    kept = [{} for _ in model.blocks]

    def keep(store):
        return lambda key, value: store.setdefault("all", (key, value))

    whole = model.hidden(z, t.float(), memory=[keep(store) for store in kept])
    assert torch.equal(whole, model.hidden(z, t.float()))
    places = torch.tensor([2, 3, 9])

    def replace(store):
        return lambda key, value: tuple(
            old.index_copy(2, places, new) for old, new in zip(store["all"], (key, value), strict=True)
        )

    part = model.hidden(
        z[:, places], t[:, places].float(), positions=places[None], memory=[replace(store) for store in kept]
    )
    close(part, whole[:, places])
    with pytest.raises(ValueError, match="at most max_seq_len=16 tokens; got 17"):
        model.hidden(z[:, :1], t[:, :1].float(), positions=torch.tensor([[16]]), memory=[keep({}) for _ in kept])


@torch.no_grad()
def test_a_token_sees_its_block_and_those_before_it():
    model = network()
    z, t = random_input(batch=1)
    causal = BlockCausal(model, SIZE)
    logits = causal(z, t)
    for position in range(LENGTH):
        other, later = z.clone(), t.clone()
        other[0, position] = (other[0, position] + 1) % V
        later[0, position] = 1 - later[0, position]
        for changed in (causal(other, t), causal(z, later)):
            moved = (changed - logits).abs().amax(-1)[0] > 1e-6
            assert moved.tolist() == [i // SIZE >= position // SIZE for i in range(LENGTH)]
    # One block is the bidirectional network.
    close(BlockCausal(model, LENGTH)(z, t), model(z, t.float()).logits)
    # And sequences may be cut after a block.
    close(causal(z[:, :8], t[:, :8]), logits[:, :8])


@torch.no_grad()
def test_padding_before_a_prompt_changes_nothing():
    """Only differences of positions count, so that whole blocks of padding may precede a sequence."""
    model = network()
    z, t = random_input(length=8)
    junk, time = random_input(length=4, seed=2)
    mask = torch.cat([torch.zeros(3, 4), torch.ones(3, 8)], 1).bool()
    for kind in (BlockCausal, CachedBlockCausal):
        padded = kind(model, SIZE, attention_mask=mask)
        whole = torch.cat([junk, z], 1), torch.cat([time, t], 1)
        for _ in range(2):
            rows = torch.arange(12).expand(3, -1) >= 8
            close(padded(*whole)[:, 4:], kind(model, SIZE)(z, t))
            close(padded(*whole, rows), kind(model, SIZE)(z, t, rows[:, 4:]))
    plain = TransformersDenoiser(model, attention_mask=mask)
    for kind in (PrefixCache, DualCache):
        close(kind(model, attention_mask=mask)(*whole), plain(*whole))
    with pytest.raises(ValueError, match=r"attention_mask must fit tokens of shape \[3, 13\]; got \[3, 12\]"):
        BlockCausal(model, SIZE, attention_mask=mask)(*random_input(length=13))


# --- exact caches ------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_rows_in_any_order_are_those_without_a_cache(dtype):
    model = network().to(dtype)
    plain, cached = BlockCausal(model, SIZE), CachedBlockCausal(model, SIZE)
    numbers = generator(3)

    def below(n):
        return int(torch.randint(n, (), generator=numbers))

    z, t = random_input(length=14)
    for step in range(80):
        length = 14 if below(4) else 5 + below(10)
        what = below(6)
        if what == 0:
            z, t = random_input(batch=2 + below(2), length=14, seed=step)
        z, t = z.clone(), t.clone()
        z[below(len(z)), below(14)] = below(V)
        t[:, SIZE * below(4) :] *= 0.9
        rows = torch.rand(len(z), length, generator=numbers) < 0.3
        rows[:, : below(length)] = False
        rows = None if what == 1 else rows
        close(cached(z[:, :length], t[:, :length], rows), plain(z[:, :length], t[:, :length], rows))
    assert cached.evaluated < plain.evaluated
    # One time for the whole sequence as well.
    close(cached(z, t[:, 0]), plain(z, t[:, 0]))


@pytest.mark.long_for("gidd-all")
@pytest.mark.parametrize("context", ["all", "past"])
@pytest.mark.parametrize("name", PROCESSES)
def test_the_same_numbers_give_the_same_tokens_with_less_work(name, context):
    process, model = PROCESSES[name](), network()
    samples, work = [], []
    for denoiser in (BlockCausal(model, SIZE), CachedBlockCausal(model, SIZE)):
        assert denoiser.exact
        prompted = Prompted(nl.AncestralSampler(process, denoiser), torch.tensor([[1, 2], [3, 4], [5, 6]]))
        blocks = EndToken(BlockSampler(prompted, SIZE, context=context, given=0), 0, fill=9, prompt=2)
        samples.append(torch.stack([blocks.sample((3, 16), steps=16, generator=generator(7)) for _ in range(2)]))
        work.append(denoiser.evaluated)
    assert torch.equal(*samples) and torch.equal(samples[0][0], samples[0][1])
    assert work[1] < 0.6 * work[0]


@torch.no_grad()
@pytest.mark.parametrize("kind", [BlockCausal, CachedBlockCausal])
@pytest.mark.parametrize("length", [0, 1, 3, 4, 6])
def test_blocks_of_a_sampler_are_those_of_the_attention(kind, length):
    """After a prompt too: at each evaluation one block of the attention moves; earlier tokens are clean, later ones noise."""
    process, seen = PROCESSES["masked"](), []

    class Watching(nl.WrappedDenoiser):
        def forward(self, z, t, rows=None):
            seen.append(as_token_times(t, z)[0].tolist())
            return self.inner(z, t, rows)

    prompt = torch.randint(V - 1, (2, length), generator=generator(4))
    blocks = BlockSampler(nl.AncestralSampler(process, Watching(nl.Temperature(kind(network(), SIZE), 0.7))), SIZE)
    x = Prompted(blocks, prompt).sample((2, LENGTH), steps=3, generator=generator())
    assert torch.equal(x[:, :length], prompt) and (x < V - 1).all() and len(seen) > 3
    for times in seen:
        moving = [i // SIZE for i, time in enumerate(times) if 0 < time < 1]
        free = [time for i, time in enumerate(times) if i >= length]
        assert len(set(moving)) <= 1 and free == sorted(free)
        if moving:
            begin = max(moving[0] * SIZE, length)
            assert all(0 < time < 1 for time in times[begin : moving[0] * SIZE + SIZE])


def test_blocks_that_cannot_be_those_of_the_attention_are_refused():
    sampler = nl.AncestralSampler(PROCESSES["masked"](), nl.Temperature(BlockCausal(network(), SIZE), 0.7))
    with pytest.raises(ValueError, match=r"given must be a multiple of 4, .*; got 6"):
        BlockSampler(sampler, SIZE, given=6)
    with pytest.raises(ValueError, match=r"block_size must be a multiple of 4 with context='past', .*; got 6"):
        BlockSampler(EndToken(sampler, 0), 6, context="past")
    assert BlockSampler(sampler, 8, context="past", given=4).given == 4 and BlockSampler(sampler, 6).block_size == 6


class Everything(nl.WrappedSampler):
    """Asks about the whole block at each step, as a sampler by confidence does, and counts the steps."""

    def stages(self, z, t, s, *, generator=None):
        self.denoiser(z, t, as_token_times(s, z) < as_token_times(t, z))
        return self.inner.stages(z, t, s, generator=generator)


def test_a_step_costs_one_block_and_the_step_into_a_block_two():
    process, model, steps = PROCESSES["masked"](), network(), 5
    for kind, work in ((CachedBlockCausal, 4 * steps + 3), (BlockCausal, (1 + 2 + 3 + 4) * steps)):
        denoiser = kind(model, SIZE)
        asking = Everything(nl.AncestralSampler(process, nl.denoisers.CallCounter(denoiser)))
        asking.inner.denoiser = NoAnswer(process)
        BlockSampler(asking, SIZE).sample((3, 16), steps=steps, generator=generator())
        assert denoiser.evaluated == 3 * SIZE * work


class NoAnswer(nl.Denoiser):
    def __init__(self, process):
        super().__init__()
        self.vocab_size = process.vocab_size

    def forward(self, z, t, rows=None):
        return torch.zeros(*z.shape, self.vocab_size)[rows]


@torch.no_grad()
@pytest.mark.parametrize("how", ["in place", "data", "copied", "half"])
def test_changed_weights_are_seen(how):
    """In place at once; through `.data`, as averages of weights are put in, when a walk begins anew."""
    model = network()
    cached, plain = CachedBlockCausal(model, SIZE), BlockCausal(model, SIZE)
    z, t = random_input(length=16)
    begun = t.clone()
    rows = torch.arange(16).expand(3, -1) >= 12
    for done in (4, 8, 12):
        begun[:, :done] = 0
        cached(z, begun, rows)
    before = cached(z, begun, rows).clone()
    weight = model.blocks[0].attn_qkv.weight
    if how == "in place":
        weight.mul_(1.3)
    elif how == "data":
        weight.data.mul_(1.3)
        rows = torch.arange(16).expand(3, -1) >= 8
        begun[:, 8:] = 1  # the third block is walked again
    elif how == "copied":
        model.load_state_dict(network(seed=9).state_dict())
    else:
        model.bfloat16()
    after = cached(z, begun, rows)
    torch.testing.assert_close(after, plain(z, begun, rows), rtol=2e-2 if how == "half" else 1e-4, atol=1e-2)
    assert after.shape != before.shape or not torch.equal(after, before)


def test_where_gradients_are_recorded_nothing_is_kept():
    model = network()
    cached, plain = CachedBlockCausal(model, SIZE), BlockCausal(model, SIZE)
    z, t = random_input()
    with torch.no_grad():
        cached(z, t)
    gradients = []
    for denoiser in (cached, plain):
        model.zero_grad()
        denoiser(z, t, torch.arange(LENGTH).expand(3, -1) >= 8).logsumexp(-1).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        close(a, b)
    cached.project(cached.hidden(z, t)).sum().backward()
    assert cached._known is not None and not cached._known.layers[0][0].requires_grad


@torch.no_grad()
def test_dropout_keeps_nothing():
    model = network(attention_dropout=0.5).train()
    cached = CachedBlockCausal(model, SIZE)
    z, t = random_input()
    assert not torch.equal(cached(z, t), cached(z, t)) and cached._known is None


@torch.no_grad()
def test_autocast_has_a_cache_of_its_own():
    model = network()
    cached, plain = CachedBlockCausal(model, SIZE), BlockCausal(model, SIZE)
    z, t = random_input()
    rows = torch.arange(LENGTH).expand(3, -1) >= 8
    cached(z, t, rows)
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            a, b = cached(z, t, rows), plain(z, t, rows)
        assert a.dtype == torch.bfloat16 and (a - b).norm() < 0.02 * b.norm()
        close(cached(z, t, rows), plain(z, t, rows))


# --- approximate caches ------------------------------------------------------------------------------------------


def block_times(begin, end, now):
    t = torch.zeros(1, LENGTH, dtype=torch.float64)
    t[:, begin:end], t[:, end:] = now, 1
    return t.expand(3, -1).contiguous()


@torch.no_grad()
@pytest.mark.parametrize("kind", [PrefixCache, DualCache])
def test_the_first_answer_of_a_block_is_exact_and_later_ones_are_near(kind):
    model = network()
    cached, always, plain = kind(model), kind(model, refresh=1), TransformersDenoiser(model)
    assert not cached.exact and not kind.exact
    z, _ = random_input()
    rows = torch.zeros(3, LENGTH, dtype=torch.bool)
    for begin in (0, 4, 8):
        rows[:] = False
        rows[:, begin : begin + 4] = True
        worst, effect = 0.0, 0.0
        for step, now in enumerate((1.0, 0.8, 0.5, 0.2)):
            t, z = block_times(begin, begin + 4, now), z.clone()
            z[:, begin + step] = (z[:, begin + step] + 1) % V
            exact = plain(z, t, rows)
            close(always(z, t, rows), exact)
            error = (cached(z, t, rows) - exact).abs().max().item()
            if step == 0:
                close(cached(z, t, rows), exact)
                first = exact
            else:
                worst = max(worst, error)
                effect = max(effect, (exact - first).abs().max().item())
        # The prefix of the first block is empty, and its suffix is frozen by `DualCache` only.
        if begin == 0 and kind is PrefixCache:
            assert worst < 1e-4
        elif begin == 8 or kind is DualCache:
            assert 1e-4 < worst < 0.5 * effect
    work = cached.evaluated / plain_work(kind)
    assert 0.9 < work < 1.1, cached.evaluated


def plain_work(kind):
    """Tokens by hand: a whole evaluation where a block is entered, then the moving ones; 3 sequences."""
    first = 2 * LENGTH  # asked twice above
    later = {PrefixCache: 3 * (12 + 8 + 4), DualCache: 3 * (4 + 4 + 4)}[kind]
    return 3 * (3 * first + later)


@pytest.mark.long_for("gidd-*")
@pytest.mark.parametrize("kind", [PrefixCache, DualCache])
@pytest.mark.parametrize("name", PROCESSES)
def test_samples_by_an_approximate_cache(name, kind):
    process, model = PROCESSES[name](), network(scale=0.15)

    def sample(denoiser, **settings):
        blocks = BlockSampler(nl.AncestralSampler(process, denoiser), SIZE)
        return blocks.sample((8, LENGTH), steps=12, generator=generator(5), **settings)

    exact = sample(TransformersDenoiser(model))
    assert torch.equal(sample(kind(model, refresh=1)), exact)
    cached = kind(model)
    first = sample(cached)
    assert (first == exact).double().mean() > 0.6 and (first < V - 1).all()
    # A second walk knows nothing of the first, not even of one that was given up.
    assert torch.equal(sample(cached), first)
    blocks = BlockSampler(nl.AncestralSampler(process, cached), SIZE)
    for number, _ in enumerate(blocks.run((8, LENGTH), steps=12, generator=generator(6))):
        if number == 7:
            break
    assert torch.equal(sample(cached), first)
    # And what is frozen for one sequence does not depend on the others.
    numbers = [generator(i) for i in range(3)]
    together = blocks.sample((3, LENGTH), steps=6, generator=numbers)
    for i in range(3):
        assert torch.equal(blocks.sample((1, LENGTH), steps=6, generator=[generator(i)])[0], together[i])


@torch.no_grad()
def test_what_no_longer_holds_is_evaluated_anew():
    model = network()
    plain = TransformersDenoiser(model)
    rows = torch.zeros(3, LENGTH, dtype=torch.bool)
    rows[:, 4:8] = True
    z, _ = random_input()
    started, later = block_times(4, 8, 0.9), block_times(4, 8, 0.5)
    for kind in (PrefixCache, DualCache):

        def fresh(kind=kind):
            cached = kind(model)
            cached(z, started, rows)
            return cached

        past = z.clone()
        past[0, 0] = (past[0, 0] + 1) % V
        everywhere = rows.clone()
        everywhere[0, 0] = True
        close(fresh()(past, later, rows), plain(past, later, rows))  # a finished token has changed
        close(fresh()(z, later, everywhere), plain(z, later, everywhere))  # a finished token is evaluated
        close(fresh()(z, later), plain(z, later))
        close(fresh()(z[:2], later[:2], rows[:2]), plain(z[:2], later[:2], rows[:2]))
        other, back = z.clone(), block_times(4, 8, 0.95)
        other[:, 5] = (other[:, 5] + 1) % V
        close(fresh()(other, back, rows), plain(other, back, rows))  # another walk has begun
        cached, noise = kind(model), block_times(4, 8, 1.0)
        for tokens in (z, other):  # a walk was given up after its first evaluation
            close(cached(tokens, noise, rows), plain(tokens, noise, rows))
        with torch.enable_grad():
            close(fresh()(z, later, rows), plain(z, later, rows))
        cached = fresh()
        cached.reset()
        assert cached.evaluated == 0
        close(cached(z, later, rows), plain(z, later, rows))


def test_dual_caches_freeze_what_is_known_in_later_blocks():
    """Only the tokens that move are evaluated, wherever known ones are."""
    process, model = PROCESSES["masked"](), network()
    cached = DualCache(model)
    known = torch.arange(LENGTH)[None] % 5 == 3
    tokens = torch.full((1, LENGTH), 2)
    sampler = BlockSampler(Infilling(nl.AncestralSampler(process, cached), tokens, known), SIZE)
    x = sampler.sample((4, LENGTH), steps=12, generator=generator())
    assert (x[:, known[0]] == 2).all() and (x < V - 1).all()
    assert cached.evaluated < 4 * (3 * LENGTH + 11 * 3 * 4)


# --- the rest ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_nothing_asked_costs_nothing():
    model = network()
    z, t = random_input()
    for denoiser in (BlockCausal(model, 4), CachedBlockCausal(model, 4), PrefixCache(model), DualCache(model)):
        assert denoiser(z, t, torch.zeros_like(z, dtype=torch.bool)).shape == (0, V)
        assert denoiser(z[:0], t[:0]).shape == (0, LENGTH, V) and denoiser.evaluated == 0


@torch.no_grad()
def test_sequences_without_rows_are_not_evaluated():
    z, t = random_input()
    counting = nl.denoisers.CallCounter(TransformersDenoiser(network()))
    asked = ActiveOnly(counting)
    rows = torch.rand(z.shape, generator=generator()) < 0.5
    rows[1] = False
    close(asked(z, t, rows), counting.inner(z, t, rows))
    assert counting.sequences == 2
    close(asked(z, t[:, 0], rows), counting.inner(z, t[:, 0], rows))
    close(asked(z, t), counting.inner(z, t))
    assert asked(z, t, torch.zeros_like(rows)).shape == (0, V)
    assert "\n" not in repr(asked)


def test_settings_are_checked_and_printed():
    model = network()
    for wrong in (
        lambda: BlockCausal(model, 0),
        lambda: BlockCausal(torch.nn.Linear(2, 2), 4),
        lambda: CachedBlockCausal(model, 4, predicts="tokens"),
        lambda: DualCache(model, refresh=0),
        lambda: PrefixCache(model, domain=(1.0, 0.0)),
    ):
        with pytest.raises((ValueError, TypeError)):
            wrong()
    count = sum(math.prod(p.shape) for p in model.parameters())
    assert repr(CachedBlockCausal(model, 4)) == f"CachedBlockCausal(DiT({count:,} parameters), block_size=4)"
    assert "\n" not in repr(DualCache(model))
    assert not CachedBlockCausal(model, 4).state_dict().keys() - {f"model.{key}" for key in model.state_dict()}
