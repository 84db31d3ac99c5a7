"""Bounds and judgements of several processes are those of one, bit for bit, whatever their shares."""

import dataclasses

import pytest
import torch
from several_processes import in_threads

import noiselab as nl
from noiselab.data import train_tokenizer
from noiselab.distributed import ProcessError
from noiselab.evaluation import (
    canvas_validation_bound,
    correction_grid,
    generative_perplexity,
    text_perplexity,
    token_nats,
    validation_bound,
)
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser

V, LENGTH = 11, 7
WORLDS = pytest.mark.parametrize("world", [2, 3, 5])  # 4 batches: two each, an uneven share, none for one process


def denoiser():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = DiT(DiTConfig(vocab_size=V, max_seq_len=LENGTH, **sizes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2)
    return TransformersDenoiser(model)


class Judge(torch.nn.Module):
    """A causal model in float32, whose numbers depend on what is evaluated at once."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.out = torch.nn.Embedding(300, 16), torch.nn.Linear(16, 300)

    def forward(self, input_ids, attention_mask):
        return self.out(self.embed(input_ids).cumsum(1).tanh())


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(count=13):
    return torch.randint(V - 1, (count, LENGTH), generator=random(1))


class Data(list, torch.utils.data.Dataset):
    """Rows as a data set."""


def padded_rows():
    """Rows of different lengths, with a prompt that is not scored."""
    x = rows()
    real = torch.arange(LENGTH) < torch.arange(13)[:, None] % 5 + 3
    labels = torch.where(real & (torch.arange(LENGTH) > 0), x, -100)
    return Data(
        {"input_ids": a, "attention_mask": b.long(), "labels": c} for a, b, c in zip(x, real, labels, strict=True)
    )


def same(a, b):
    """Whether results are equal in all numbers and bits."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def check(world, call):
    """`call(processes)` of several processes is that of one, in each of them."""
    alone = call(None)
    for found in in_threads(world, call):
        assert not isinstance(found, Exception), found
        assert same(found, alone)
    return alone


@WORLDS
@pytest.mark.parametrize("how", [{}, {"nodes": 3}, {"steps": 5}, {"repeats": 3}])
@pytest.mark.parametrize("data", ["tensor", "rows"])
def test_the_bound_is_that_of_one_process(world, how, data):
    process, model = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2), denoiser()
    x = rows() if data == "tensor" else padded_rows()

    def call(own):
        options = {"batch_size": 4, "generator": random(3), "processes": own, **how}
        return validation_bound(process, model, x, **options)

    found = check(world, call)
    assert len(found.nats) == 13 and len(found.nats.unique()) == 13  # no sequence has the noise of another


def test_times_are_spread_over_the_whole_data_set(monkeypatch):
    """One in each of 12 intervals over both processes."""
    process, model, seen = nl.masked(vocab_size=V, mask_id=V - 1), denoiser(), []
    from noiselab.evaluation import bound as module

    original = module.sine_clock

    def record(tau, **ends):
        seen.extend(tau.tolist())
        return original(tau, **ends)

    monkeypatch.setattr(module, "sine_clock", record)
    in_threads(
        2,
        lambda own: validation_bound(process, model, rows(12), batch_size=2, generator=random(), processes=own),
    )
    assert sorted(int(12 * tau) for tau in seen) == list(range(12))


@WORLDS
def test_the_bound_of_canvases_is_that_of_one_process(world):
    from noiselab.networks.canvas import CanvasNetwork

    class Network(torch.nn.Module):
        """Hidden states from the tokens before and in a canvas."""

        canvas_length, vocab_size = 3, V

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.out = torch.nn.Embedding(V, 8), torch.nn.Linear(8, V)

        def encode(self, tokens, real=None, *, after=None):
            return tokens if after is None else torch.cat([after, tokens], 1)

        def states(self, canvas, *, prefix, **previous):
            before = self.embed(prefix).sum(1, keepdim=True) if prefix.shape[1] else 0
            return (self.embed(canvas).cumsum(1) + before).tanh()

        def project(self, hidden):
            return self.out(hidden)

    assert isinstance(Network(), CanvasNetwork)
    process, network = nl.uniform(vocab_size=V), Network()
    texts = [row[: 3 + i % 4].tolist() for i, row in enumerate(rows())]  # of four lengths: six batches
    given = [i % 2 for i in range(13)]
    for how in ({}, {"nodes": 2, "repeats": 2}):

        def call(own, how=how):
            options = {"given": given, "batch_size": 2, "generator": random(2), "processes": own, **how}
            return canvas_validation_bound(process, network, texts, **options)

        assert len(check(world, call).nats.unique()) == 13


@WORLDS
def test_judgements_are_those_of_one_process(world):
    judge = Judge()
    x = torch.randint(290, (13, 9), generator=random())
    real = torch.arange(9) < torch.arange(13)[:, None] % 7 + 2
    check(world, lambda own: generative_perplexity(judge, x, attention_mask=real, batch_size=4, processes=own))
    check(world, lambda own: token_nats(judge, x, start=0, batch_size=4, processes=own))
    words = train_tokenizer(["the cat sat on the mat"] * 3, vocab_size=280)
    texts = ["the cat", "a", "on the mat the cat sat", "", "mat", "cat sat", "the the the"]
    check(world, lambda own: text_perplexity(judge, words, texts, start=0, batch_size=2, processes=own))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_a_grid_of_corrections_is_that_of_one_process(world):
    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)

    class Chain(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return oracle.transition.log()[input_ids]

    settings = {"samples": 6, "sampling_steps": 3, "steps": (1, 3), "seeds": range(3)}
    check(
        world,
        lambda own: correction_grid(process, oracle, Chain(), 8, **settings, processes=own),
    )


@pytest.mark.parametrize("differs", ["seed", "data"])
def test_processes_with_different_seeds_or_data_are_refused(differs):
    process, model = nl.masked(vocab_size=V, mask_id=V - 1), denoiser()

    def call(own):
        other = own.rank == 1
        x = rows(12 if other and differs == "data" else 13)
        seed = random(int(other and differs == "seed"))
        return validation_bound(process, model, x, batch_size=4, generator=seed, processes=own)

    for error in in_threads(2, call):
        assert isinstance(error, ValueError) and "same data and seeds" in str(error)


def test_a_row_that_one_process_cannot_read_is_an_error_of_all():
    process, model = nl.masked(vocab_size=V, mask_id=V - 1), denoiser()
    data = padded_rows()
    data[5]["labels"] = data[5]["labels"][:3]  # in the second batch, that of process 1

    def call(own):
        return validation_bound(process, model, data, batch_size=4, generator=random(), processes=own)

    first, second = in_threads(2, call)
    assert type(second) is ValueError and isinstance(first, ProcessError)
    assert str(first) == f"process 1 failed with ValueError: {second}"
