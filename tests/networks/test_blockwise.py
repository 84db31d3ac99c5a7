"""All blocks in one pass: equal to a pass for each block, exact for an exact network, and blind to what it must not see."""

import pytest
import torch
from one_pass_worlds import INITIAL, TRANSITION, ExactNetwork, SeparatePasses, generator, influences
from test_block_cache import network
from tiny_models import V, make

import noiselab as nl
from noiselab.denoisers import BlockDenoiser, Temperature, attending_to, blockwise, selected_sequences
from noiselab.evaluation import validation_bound
from noiselab.networks.attention_checks import check_attention
from noiselab.networks.block_cache import BlockCausal, CachedBlockCausal
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel

LENGTH, SIZE = 10, 4  # the last block is shorter
RATES = torch.tensor([0.5, 2.0, 1.0, 1.0], dtype=torch.float64)
SMALL = {
    "masked": nl.masked(vocab_size=4, mask_id=3),
    "hybrid": nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.2),
    "uniform": nl.uniform(vocab_size=3),
    "token rates": nl.processes.TokenRates(RATES, mask_id=3),
}


def noise(name, states):
    """The same noises for the vocabulary of a network."""
    kinds = {
        "masked": lambda: nl.masked(vocab_size=states, mask_id=states - 1),
        "hybrid": lambda: nl.gidd(vocab_size=states, mask_id=states - 1, p_uniform=0.2),
        "uniform": lambda: nl.uniform(vocab_size=states),
        "token rates": lambda: nl.processes.TokenRates(0.5 + torch.arange(states) % 3, mask_id=states - 1),
    }
    return kinds[name]()


NETWORKS = {
    "GPT-2": (lambda: MaskedLanguageModel(make("GPT2LMHeadModel")), 1e-10),
    "BERT": (lambda: MaskedLanguageModel(make("BertForMaskedLM")), 1e-10),
    "Llama": (lambda: MaskedLanguageModel(make("LlamaForCausalLM"), predicts="leave_one_out"), 2e-6),
    "shifted Qwen": (lambda: MaskedLanguageModel(make("Qwen2ForCausalLM"), shifted=True), 2e-6),
    "DiT": (lambda: TransformersDenoiser(network()), 1e-5),
}  # the norms of Llama, Qwen and DiT are computed in float32


def blocks_of(t):
    return t[:, torch.arange(LENGTH) // SIZE]


def text(states, batch=3, seed=0):
    x = torch.randint(4, states - 1, (batch, LENGTH), generator=generator(seed))
    return x, torch.arange(LENGTH) < torch.tensor([[LENGTH], [7], [4]])


def states_of(denoiser):
    return denoiser(torch.zeros(1, 1, dtype=torch.long), torch.full((1,), 0.5)).shape[-1]


# --- a pass for each block ---------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_a_pass_for_each_block(name, padded):
    inner, atol = NETWORKS[name][0](), NETWORKS[name][1]
    states = states_of(inner)
    process, (x, real) = noise("hybrid", states), text(states)
    real = real if padded else torch.ones_like(real)
    t = blocks_of(torch.rand(3, 3, generator=generator(1), dtype=torch.float64))
    z = process.corrupt(x, t, generator=generator(2))
    with attending_to(BlockDenoiser(inner, SIZE), real):  # without the clean text
        pass
    denoiser = BlockDenoiser(inner, SIZE)
    with attending_to(denoiser, real, clean=x):
        found = denoiser(z, t)
    wanted = SeparatePasses(inner, SIZE, x, real)(z, t)
    torch.testing.assert_close(found[real], wanted[real], rtol=0, atol=atol)
    assert found.isfinite().all()
    # Some sequences, and some rows of them.
    with attending_to(denoiser, real, clean=x), selected_sequences(denoiser, torch.tensor([2, 0])):
        rows = torch.rand(2, LENGTH, generator=generator(3)) < 0.5
        torch.testing.assert_close(denoiser(z[[2, 0]], t[[2, 0]], rows), found[[2, 0]][rows], rtol=0, atol=10 * atol)
    # Without the clean text the past is z.
    torch.testing.assert_close(
        denoiser(z, t)[:, :SIZE], SeparatePasses(inner, SIZE, z)(z, t)[:, :SIZE], rtol=0, atol=atol
    )
    assert (denoiser(z, t) - found)[:, SIZE:][real[:, SIZE:]].abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", ["masked", "hybrid", "uniform", "token rates"])
def test_every_bound_is_the_sum_of_the_bounds_of_blocks(name):
    """With equal noise: continuous at random times and nodes, discrete, by importance, over a data set with prompts."""
    inner, states = MaskedLanguageModel(make("GPT2LMHeadModel"), predicts="leave_one_out"), V
    process, (x, real) = noise(name, states), text(states)
    real[2] = True
    one, many = Temperature(BlockDenoiser(inner, SIZE), 2.0), Temperature(SeparatePasses(inner, SIZE, x), 2.0)

    def bounds(denoiser, **more):
        grid = torch.linspace(process.domain[1], process.domain[0], 4, dtype=torch.float64)
        numbers = generator(1)
        yield nl.continuous_bound(process, denoiser, x, generator=generator(0), **more)
        yield nl.continuous_bound(process, denoiser, x, nodes=3, low=0.05, generator=generator(0), **more)
        yield nl.discrete_bound(process, denoiser, x, grid, generator=generator(0), **more)
        yield nl.likelihood.importance_bound(process, denoiser, x, grid, draws=2, generator=generator(0), **more)
        times = nl.times.separate_block_times(3, LENGTH, SIZE, low=0.01, high=0.99, generator=numbers)
        pair = (times, torch.full_like(times, 0.98))
        yield nl.continuous_bound(process, denoiser, x, times=pair, low=0.01, high=0.99, generator=numbers, **more)

    for found, wanted in zip(bounds(one), bounds(many), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    for found, wanted in zip(bounds(one, real=real), bounds(many, real=real), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    wrong = next(bounds(Temperature(SeparatePasses(inner, SIZE, x.flip(1)), 2.0)))
    assert (wrong.total - next(bounds(one)).total).abs().max() > 1e-3


class TextRows(torch.utils.data.Dataset):
    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, i):
        return {
            name: part[i] for name, part in zip(("input_ids", "attention_mask", "scored"), self.columns, strict=True)
        }


@torch.no_grad()
def test_validation_bound_of_padded_rows_with_prompts():
    inner, process = MaskedLanguageModel(make("GPT2LMHeadModel"), predicts="leave_one_out"), noise("hybrid", V)
    x, real = text(V)
    scored = real.clone()
    scored[:, :3] = False
    rows = TextRows(x, real, scored)
    found = validation_bound(process, BlockDenoiser(inner, SIZE), rows, repeats=2, generator=generator())
    wanted = validation_bound(process, SeparatePasses(inner, SIZE, x, real), rows, repeats=2, generator=generator())
    torch.testing.assert_close(found.nats, wanted.nats, rtol=1e-10, atol=1e-10)
    assert found.tokens == int(scored.sum())


# --- the exact value ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_the_block_bound_of_an_exact_network_is_the_likelihood_of_each_block(name, size):
    """All noisy texts are enumerated, and time is integrated: -log p(x^b | x^<b), block by block."""
    process, length = SMALL[name], 3
    denoiser = BlockDenoiser(ExactNetwork(process, length), size)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, SMALL["masked"])
    nodes, weights = nl.likelihood.process_quadrature(process, 24, low=1e-12, high=process.domain[1])
    z = nl.likelihood.every_sequence(process.vocab_size, length)
    for x in torch.tensor([[0, 0, 1], [2, 1, 2]]):
        clean, token = x.expand(len(z), -1), torch.zeros(length, dtype=torch.float64)
        for t, weight in zip(nodes, weights, strict=True):
            time = t.expand(len(z))
            chance = process.probability(clean, z, time).prod(-1)
            some = chance > 0
            with attending_to(denoiser, clean=clean[some]):
                logits = denoiser(z[some], time[some])
            nats = nl.nelbo(process, logits, clean[some], z[some], time[some])
            token += weight * (chance[some, None] * nats).sum(0)
        known = [oracle.log_prob(x[None, :end]).item() if end else 0.0 for end in range(length + 1)]
        for start in range(0, length, size):
            end = min(start + size, length)
            assert token[start:end].sum().item() == pytest.approx(known[start] - known[end], abs=2e-4)


@torch.no_grad()
def test_with_its_own_clean_tokens_visible_the_same_sum_is_far_below_the_likelihood(monkeypatch):
    """The mistake that would flatter a model: a block reads itself."""
    process, x = SMALL["masked"], torch.tensor([[0, 2, 1]]).expand(2000, -1)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    denoiser = BlockDenoiser(ExactNetwork(process, 3), 2)
    wanted = -oracle.log_prob(x)[0]
    right = nl.continuous_bound(process, denoiser, x, generator=generator()).total
    assert abs(right.mean() - wanted) < 5 * right.std() / 2000**0.5
    monkeypatch.setattr(blockwise, "attended_pairs", sees_itself)
    wrong = nl.continuous_bound(process, denoiser, x, generator=generator()).total
    assert wrong.mean() < wanted - 1


@torch.no_grad()
def test_expected_bound_along_a_path_of_blocks_is_that_of_one_pass():
    """Block-causal attention with noisy later blocks, as samplers have it, by enumeration of another function."""
    process = SMALL["hybrid"]
    denoiser = BlockDenoiser(ExactNetwork(process, 4), 2)
    nodes, weights = nl.likelihood.process_quadrature(process, 16, low=1e-12, high=1.0)
    low, high, zero = torch.zeros(16, 2), torch.ones(16, 2), torch.zeros(16, 2)
    both = [tensor[:, None].expand(-1, 2) for tensor in (nodes, weights)]
    t = torch.cat([torch.cat((both[0], high), 1), torch.cat((low, both[0]), 1)])
    w = torch.cat([torch.cat((both[1], zero), 1), torch.cat((zero, both[1]), 1)])
    x = torch.tensor([[0, 1, 1, 2], [2, 2, 0, 0]])
    path = nl.likelihood.expected_bound(process, denoiser, x, times=(t, w))
    wanted = -nl.MarkovOracle(INITIAL, TRANSITION, process).log_prob(x)
    torch.testing.assert_close(path.total, wanted.double(), rtol=0, atol=1e-3)


# --- what a block must not see -----------------------------------------------------------------------------------

RIGHT = blockwise.attended_pairs


def sees_itself(block, noisy, *, one_pass):
    """Noisy tokens see the clean tokens of their own block."""
    pairs = RIGHT(block, noisy, one_pass=one_pass)
    if one_pass:
        pairs[:noisy, noisy:] |= block[noisy:] == block[:noisy, None]
    return pairs


def sees_later(block, noisy, *, one_pass):
    """Noisy tokens see the noisy tokens of later blocks."""
    pairs = RIGHT(block, noisy, one_pass=one_pass)
    pairs[:noisy, :noisy] |= block[:noisy] > block[:noisy, None]
    return pairs


def sees_later_clean(block, noisy, *, one_pass):
    """Clean tokens see later clean ones."""
    pairs = RIGHT(block, noisy, one_pass=one_pass)
    pairs[noisy:, noisy:] = True
    return pairs


def sees_noisy_past(block, noisy, *, one_pass):
    """Noisy tokens see the noisy tokens of earlier blocks, beside the clean ones."""
    pairs = RIGHT(block, noisy, one_pass=one_pass)
    pairs[:noisy, :noisy] |= block[:noisy] < block[:noisy, None]
    return pairs


def check_influences(name):
    """The gradient of a block with respect to all that it must not see is exactly 0, and to all else it is not."""
    inner = NETWORKS[name][0]()
    states = states_of(inner)
    embedding = inner.model.vocab_embed if name == "DiT" else inner.model.get_input_embeddings()
    x, t = text(states, batch=1)[0], blocks_of(torch.rand(1, 3, generator=generator(1), dtype=torch.float64))
    z = noise("hybrid", states).corrupt(x, t, generator=generator(2))
    found = influences(BlockDenoiser(inner, SIZE), embedding, z, t, x)
    block = torch.arange(LENGTH) // SIZE
    before = block - (torch.arange(LENGTH) % SIZE == 0).long() if name.startswith("shifted") else block
    before = before.clamp(min=0)
    past = block[: 2 * SIZE]
    own = (block == before[:, None]) & (before == block)[:, None]  # logits that are shifted are those of the past
    clean = torch.where((before == block)[:, None], past < block[:, None], past <= before[:, None])
    wanted = torch.cat((own, clean), 1)
    assert found.shape == wanted.shape == (LENGTH, LENGTH + 2 * SIZE)
    leaks = ((found != 0) & ~wanted).nonzero()
    assert not len(leaks), f"token {leaks[0][0]} must not depend on place {leaks[0][1]}"
    assert (found[wanted] > 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_a_block_vanish_for_later_tokens_and_its_own_clean_ones(name):
    check_influences(name)


@pytest.mark.parametrize("mistake", [sees_itself, sees_later, sees_later_clean, sees_noisy_past])
@pytest.mark.parametrize("name", ["GPT-2", "DiT"])
def test_each_wrong_mask_is_seen_by_gradients(name, mistake, monkeypatch):
    monkeypatch.setattr(blockwise, "attended_pairs", mistake)
    with pytest.raises(AssertionError, match="must not depend on place"):
        check_influences(name)


# --- sampling ----------------------------------------------------------------------------------------------------


class Recorder(nl.WrappedDenoiser):
    """Keeps the calls of a sampler and their logits."""

    def __init__(self, inner):
        super().__init__(inner)
        self.calls = []

    def forward(self, z, t, rows=None):
        logits = self.inner(z, t, rows)
        self.calls.append((z.clone(), t.clone(), rows, logits))
        return logits


@torch.no_grad()
@pytest.mark.parametrize("kind", [BlockCausal, CachedBlockCausal, BlockDenoiser])
def test_sampling_in_blocks_sees_the_logits_of_training(kind):
    """In each step of each block, those of one pass with the finished text as the clean one."""
    dit = network()
    inner = TransformersDenoiser(dit)
    process, length, states = noise("hybrid", 11), 12, 11
    recorder = Recorder(kind(inner if kind is BlockDenoiser else dit, SIZE))
    sampler = nl.samplers.BlockSampler(nl.AncestralSampler(process, recorder), SIZE, context="past")
    x = sampler.sample((2, length), steps=5, generator=generator())
    trained, seen = BlockDenoiser(inner, SIZE), set()
    for z, t, rows, logits in recorder.calls:
        known = z.shape[1]
        start = (known - 1) // SIZE * SIZE
        rows = torch.ones_like(z, dtype=torch.bool) if rows is None else rows
        asked = rows[:, start:]
        if not asked.any():
            continue
        whole = torch.randint(states, x.shape, generator=generator(1))  # other blocks are noise of any kind
        whole[:, start:known] = z[:, start:]
        time = torch.full(x.shape, 0.5, dtype=torch.float64)
        time[:, start:known] = t[:, start:]
        with attending_to(trained, clean=x):
            wanted = trained(whole, time)[:, start:known][asked]
        found = logits if logits.dim() == 2 else logits[rows]
        where = (torch.arange(known) >= start).expand(z.shape)[rows]
        torch.testing.assert_close(found[where], wanted, rtol=0, atol=2e-5)
        seen.add(start)
        with attending_to(trained, clean=(x + 1) % 10):
            other = trained(whole, time)[:, start:known][asked]
        assert start == 0 or (other - wanted).abs().max() > 1e-3
    assert seen == {0, 4, 8}


@torch.no_grad()
def test_samplers_read_the_size_of_blocks():
    """`BlockSampler` reads the block size from the denoiser, through wrappers."""
    denoiser = BlockDenoiser(MaskedLanguageModel(make("LlamaForCausalLM")), 4)
    sampler = nl.AncestralSampler(noise("masked", V), Temperature(denoiser, 1.0))
    with pytest.raises(ValueError, match="block_size must be a multiple of 4"):
        nl.samplers.BlockSampler(sampler, 3, context="past")
    x = nl.samplers.BlockSampler(sampler, 4, context="past").sample((2, 10), steps=3, generator=generator())
    assert x.shape == (2, 10) and (x < V - 1).all()


# --- the interface -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_documents_in_blocks():
    """A mask of pairs and positions around it hold for the clean copy, too: two texts in a row are as each is alone."""
    inner = MaskedLanguageModel(make("GPT2LMHeadModel"))
    denoiser, t = BlockDenoiser(inner, 2), torch.rand(1, 8, generator=generator(), dtype=torch.float64)
    x, z = (torch.randint(4, V, (1, 8), generator=generator(seed)) for seed in (1, 2))
    document, place = torch.tensor([[0] * 4 + [1] * 4]), torch.tensor([[0, 1, 2, 3] * 2])
    same = document[:, :, None] == document[:, None]
    with attending_to(denoiser, may_attend=same, positions=place, clean=x):
        both = denoiser(z, t)
    for part in (slice(0, 4), slice(4, 8)):
        with attending_to(denoiser, clean=x[:, part]):
            torch.testing.assert_close(both[:, part], denoiser(z[:, part], t[:, part]), rtol=0, atol=1e-10)


@torch.no_grad()
def test_one_block_is_the_network_itself():
    inner = TransformersDenoiser(network())
    z, t = torch.randint(11, (2, 6), generator=generator()), torch.rand(2, generator=generator())
    denoiser = BlockDenoiser(inner, 8)
    with attending_to(denoiser, clean=z.flip(0)):
        assert torch.equal(denoiser(z, t), inner(z, t))
    assert denoiser.linear_projection(denoiser.hidden(z, t)).weight is inner.model.output_layer.linear.weight


def test_what_cannot_be_in_blocks_is_refused():
    inner = TransformersDenoiser(network())
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, SMALL["masked"])
    own = TransformersDenoiser(network(), attention_mask=torch.ones(1, 8, dtype=torch.bool))
    for make_one, words in (
        (lambda: BlockDenoiser(oracle, 2), "separate hidden states and projection.*; got MarkovOracle"),
        (lambda: BlockDenoiser(Temperature(inner, 1.0), 2), "got Temperature"),
        (lambda: BlockDenoiser(BlockCausal(network(), 2), 2), "got BlockCausal"),
        (lambda: BlockDenoiser(MaskedLanguageModel(make("MPNetForMaskedLM")), 2), "in MPNetForMaskedLM"),
        (lambda: BlockDenoiser(own, 2), "must be given by attending_to"),
        (lambda: BlockDenoiser(inner, 0), "block_size must be"),
    ):
        with pytest.raises(ValueError, match=words):
            make_one()
    denoiser = BlockDenoiser(inner, 2)
    z = torch.zeros(1, 4, dtype=torch.long)
    with (
        pytest.raises(ValueError, match=r"the shape of the tokens, \[1, 4\]; got \[1, 3\]"),
        attending_to(denoiser, clean=z[:, :3]),
    ):
        denoiser(z, torch.ones(1))
    assert repr(BlockDenoiser(MaskedLanguageModel(make("GPT2LMHeadModel")), 4)).endswith(
        "bidirectional), block_size=4)"
    )
    check_attention(ExactNetwork(SMALL["hybrid"], 4))  # the reference itself honours masks and positions
