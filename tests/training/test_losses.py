import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import default_collate
from toy_training import L, Rows, V, network

import noiselab as nl
from noiselab.objectives import elbo
from noiselab.training import (
    Place,
    causal_loss,
    noised_loss,
    predicted_tokens,
    real_tokens,
    row_generators,
    step_times,
)
from noiselab.training.losses import call_denoiser


@pytest.fixture
def process():
    return nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)


@pytest.fixture
def batch():
    return default_collate([Rows()[i] for i in range(8)])


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(V, V, generator=generator))

    def forward(self, input_ids, attention_mask=None):
        return self.table[input_ids]


@pytest.mark.parametrize(("world", "accumulation", "rows"), [(1, 1, 16), (2, 1, 8), (1, 4, 4), (2, 2, 4)])
def test_times_and_noise_of_a_row_depend_on_its_number_in_the_step_only(process, world, accumulation, rows):
    x = torch.randint(V - 2, (16, L), generator=torch.Generator().manual_seed(1))
    times, noisy = torch.zeros(16, dtype=torch.float64), torch.zeros_like(x)
    for micro in range(accumulation):
        for rank in range(world):
            place = Place(3, micro, accumulation, rank, world, seed=7)
            t = step_times(place, rows, 0.0, 1.0, x.device)
            numbers = list(place.numbers(rows))
            noisy[numbers] = process.corrupt(x[numbers], t, generator=row_generators(place, rows, x.device))
            times[numbers] = t
    whole = Place(3, seed=7)
    t = step_times(whole, 16, 0.0, 1.0, x.device)
    assert torch.equal(times, t)
    assert torch.equal(noisy, process.corrupt(x, t, generator=row_generators(whole, 16, x.device)))
    assert torch.equal((t.sort().values * 16).floor(), torch.arange(16.0, dtype=torch.float64))


def test_rows_are_dealt_to_processes_in_turn_or_contiguous():
    """By hand: two processes, two micro-batches of three rows each."""
    numbers = [[list(Place(0, m, 2, r, 2).numbers(3)) for r in (0, 1)] for m in (0, 1)]
    assert numbers == [[[0, 2, 4], [1, 3, 5]], [[6, 8, 10], [7, 9, 11]]]
    assert list(Place(0, 1, 2, 1, 2, contiguous=True).numbers(3)) == [9, 10, 11]
    assert list(Place(0, 1, 2, 1, 2, row=4, rows=9).numbers(3)) == [4, 5, 6]


class Records(nn.Module):
    """Logits of zero, and the times it is called with."""

    def __init__(self):
        super().__init__()
        self.seen, self.shift = [], nn.Parameter(torch.zeros(V))

    def forward(self, input_ids, timesteps):
        self.seen.append((input_ids, timesteps))
        return self.shift.expand(*input_ids.shape, V)


@pytest.mark.parametrize("world", [1, 2])
def test_times_of_tokens_are_those_of_the_step_and_weights_multiply_the_losses(world):
    """Blocks of two: by hand, masks of the active block cost (number of blocks) log(V - 1) / t each, others nothing."""
    process, model = nl.masked(vocab_size=V, mask_id=V - 1), Records()

    def times(rows, length, generator):
        return nl.times.block_times(rows, length, 2, low=0.01, high=0.99, generator=generator)

    ids = torch.randint(V - 1, (8, L), generator=torch.Generator().manual_seed(1))
    shares = []
    for rank in range(world):
        place = Place(4, rank=rank, world=world, seed=3)
        given = {"input_ids": ids[rank::world]}
        shares.append(noised_loss(model, given, process=process, objective=elbo, place=place, times=times))
    z, t = torch.empty_like(ids), torch.empty(8, L)
    for rank, (seen, when) in enumerate(model.seen):
        z[rank::world], t[rank::world] = seen, when
    active = (t > 0.0101) & (t < 0.9899)
    assert (active.sum(-1) == 2).all() and active.view(8, 3, 2).any(-1).sum(0).max() <= 3  # strata: each block in turn
    expected = 0.98 * 3 * math.log(V - 1) * (active & (z == V - 1)).double() / t
    assert sum(shares).item() / world == pytest.approx(expected.sum().item() / (8 * L), rel=1e-5)


def test_times_are_any_function_of_the_step_and_are_shuffled_in_evaluation():
    process, model = nl.masked(vocab_size=V, mask_id=V - 1), Records()
    options = {"process": process, "objective": elbo, "times": lambda n, length, generator: torch.linspace(0.1, 0.8, n)}
    for place in (Place(0), Place(0, row=2, rows=8), Place(0, row=5, rows=8)):
        noised_loss(model, {"input_ids": torch.zeros(3, L).long()}, place=place, **options)
    whole, first, second = (set(t.tolist()) for _, t in model.seen)
    assert whole == set(torch.linspace(0.1, 0.8, 3).tolist())
    assert len(first | second) == 6 and first | second <= set(torch.linspace(0.1, 0.8, 8).tolist())
    for wrong in (torch.zeros(2), (torch.full((3,), 0.5), torch.ones(3, L))):
        options["times"] = lambda n, length, generator, wrong=wrong: wrong
        with pytest.raises(
            ValueError, match=rf"times must be \[3\] or \[3, {L}\], and weights have the same shape; got"
        ):
            noised_loss(model, {"input_ids": torch.zeros(3, L).long()}, place=Place(0), **options)


def test_noise_differs_between_rows_steps_and_seeds_and_leaves_the_global_generator_alone(process):
    state = torch.random.get_rng_state()
    places = [Place(s, micro, 2, 0, 1, seed) for s in (0, 1) for micro in (0, 1) for seed in (0, 1)]
    device = torch.device("cpu")
    drawn = [torch.rand(3, generator=g) for p in places for g in row_generators(p, 5, device)]
    assert len({tuple(d.tolist()) for d in drawn}) == len(drawn)
    assert len({float(step_times(p, 5, 0.0, 1.0, device)[0]) for p in places}) == len(places)
    noised_loss(network(), {"input_ids": torch.zeros(2, L).long()}, process=process, objective=elbo, place=places[0])
    torch.random.set_rng_state(state)
    network(0.0)(torch.zeros(2, L).long(), torch.ones(2))  # nothing random in it without dropout
    model = network(0.0)
    state = torch.random.get_rng_state()
    noised_loss(model, {"input_ids": torch.zeros(2, L).long()}, process=process, objective=elbo, place=places[0])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_times_stay_in_the_range():
    t = step_times(Place(0, seed=3), 1000, 0.2, 0.4, torch.device("cpu"))
    assert 0.2 <= t.min() < 0.2003 and 0.3997 < t.max() < 0.4


@pytest.mark.parametrize("fill", [0, V - 2, V - 1])  # also the mask, which the process never starts from
def test_padding_changes_neither_the_loss_nor_its_gradient(process, batch, fill):
    model = network(0.0)
    place = Place(0, seed=1)
    ids = torch.where(batch["attention_mask"], batch["input_ids"], fill)
    given = ids.clone()
    losses, gradients = [], []
    for other in (ids, torch.where(batch["attention_mask"], ids, 1)):
        model.zero_grad()
        noisy = {"input_ids": other, "attention_mask": batch["attention_mask"]}
        loss = noised_loss(model, noisy, process=process, objective=elbo, place=place)
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(*gradients, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert torch.equal(ids, given)


def test_the_loss_is_the_mean_over_real_tokens(process, batch):
    model, place = network(0.0), Place(0, seed=1)
    loss = noised_loss(model, batch, process=process, objective=elbo, place=place, time_range=(0.1, 0.9))
    t = step_times(place, 8, 0.1, 0.9, torch.device("cpu"))
    z = process.corrupt(batch["input_ids"], t, generator=row_generators(place, 8, torch.device("cpu")))
    z = torch.where(batch["attention_mask"], z, batch["input_ids"])
    logits = model(z, t.float(), attention_mask=batch["attention_mask"]).logits
    each = nl.nelbo(process, logits, batch["input_ids"], z, t)
    torch.testing.assert_close(loss, each[batch["attention_mask"]].mean())


def test_micro_steps_and_processes_add_up_to_the_mean_of_the_step(process, batch):
    model = network(0.0)
    whole = noised_loss(model, batch, process=process, objective=elbo, place=Place(5, seed=1))
    tokens = real_tokens(batch).sum()
    shares = [
        noised_loss(
            model,
            {name: v[m * 4 + r : m * 4 + 4 : 2] for name, v in batch.items()},
            process=process,
            objective=elbo,
            place=Place(5, m, 2, r, 2, seed=1),
            tokens=tokens,
        )
        for m in (0, 1)
        for r in (0, 1)
    ]
    torch.testing.assert_close(sum(shares) / 2, whole)  # data-parallel training divides by the processes


def test_autocast_keeps_the_bound_in_float32(process):
    batch = {"input_ids": torch.zeros(2, L).long()}
    model, place = network(0.0), Place(0, seed=1)
    exact = noised_loss(model, batch, process=process, objective=elbo, place=place)
    rough = noised_loss(model, batch, process=process, objective=elbo, place=place, autocast=torch.bfloat16)
    assert rough.dtype == torch.float32
    assert rough.item() != exact.item()
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)


def test_a_denoiser_is_called_as_one(process):
    from noiselab.training.losses import call_denoiser

    class Table(nl.Denoiser):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(V))

        def forward(self, z, t, rows=None):
            assert t.dtype == torch.float64
            return self.logits.expand(*z.shape, -1)

    model = Table()
    batch = {"input_ids": torch.zeros(4, L).long()}
    noised_loss(model, batch, process=process, objective=elbo, place=Place(0), call=call_denoiser).backward()
    assert model.logits.grad[0] < 0 < model.logits.grad[1]


@pytest.mark.parametrize("predicts", ["leave_one_out", "posterior", "score"])
def test_any_prediction_of_any_process_is_trained(predicts):
    """At the exact answer, in whichever form, the mean loss has no gradient."""
    from noiselab.processes import TokenRates
    from noiselab.training.losses import call_denoiser

    noise = TokenRates(torch.tensor([0.5, 1.0, 2.0, 1.0]), mask_id=3)
    law = torch.tensor([0.5, 0.3, 0.2, 0.0])

    class Exact(nl.Denoiser):
        """The law of independent tokens, as the prediction it says it makes; a parameter is added to its log."""

        def __init__(self):
            super().__init__()
            self.predicts = predicts
            self.shift = nn.Parameter(torch.zeros(4))

        def forward(self, z, t):
            rows, times = z.flatten(), t[:, None].expand(z.shape).flatten()
            exact = law.log().expand(len(rows), -1) + self.shift
            if predicts == "posterior":
                exact = (
                    nl.parametrization.to_posterior(noise, law.log().expand(len(rows), -1), rows, times) + self.shift
                )
            elif predicts == "score":
                exact = nl.parametrization.to_score(noise, law.log().expand(len(rows), -1), rows, times) + self.shift
            return exact.view(*z.shape, 4)

    model = Exact()
    x = torch.multinomial(law, 40_000, replacement=True, generator=torch.Generator().manual_seed(0)).view(-1, 8)
    batch = {"input_ids": x}
    loss = noised_loss(
        model,
        batch,
        process=noise,
        objective=elbo,
        place=Place(0),
        time_range=(0.05, 0.95),
        call=call_denoiser,
        predicts=predicts,
    )
    loss.backward()
    assert loss.isfinite() and model.shift.grad.abs().max() < 0.03
    wrong = {"leave_one_out": "posterior", "posterior": "leave_one_out", "score": "leave_one_out"}[predicts]
    model.shift.grad = None
    noised_loss(
        model,
        batch,
        process=noise,
        objective=elbo,
        place=Place(0),
        time_range=(0.05, 0.95),
        call=call_denoiser,
        predicts=wrong,
    ).backward()
    assert not model.shift.grad.abs().max() < 0.06


def test_causal_loss_scores_real_tokens_that_follow_one(batch):
    model = Causal()
    loss = causal_loss(model, batch, place=Place(0))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    each = [
        F.cross_entropy(model.table[ids[i, j - 1]], ids[i, j])
        for i in range(len(ids))
        for j in range(1, L)
        if mask[i, j]
    ]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    assert predicted_tokens(batch).sum() == len(each)


class Projected(nl.denoisers.ProjectedDenoiser):
    """Counts the rows that are projected onto the vocabulary."""

    takes_mask = True

    def __init__(self, predicts):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out, self.predicts, self.count = nn.Embedding(V, 6), nn.Linear(6, V), predicts, 0

    def hidden(self, z, t):
        real = self.real_tokens(z)
        hidden = self.embed(z) * (1 if real is None else real[..., None])
        return hidden + hidden.mean(1, keepdim=True) + t[:, None, None].float()

    def project(self, hidden):
        self.count += hidden.shape[:-1].numel()
        return self.out(hidden)


@pytest.mark.parametrize("predicts", ["leave_one_out", "posterior"])
@pytest.mark.parametrize("objective", [elbo, nl.objectives.Clipped(1.5)])
@pytest.mark.parametrize("noise", ["masked", "gidd", "by token"])
def test_only_tokens_with_a_loss_are_projected_and_the_loss_is_that_of_all(noise, objective, predicts):
    masked = nl.masked(vocab_size=V, mask_id=V - 1)
    hybrid = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
    by_token = nl.processes.TokenRates(torch.linspace(1, 2, V), mask_id=V - 1)
    process = {"masked": masked, "gidd": hybrid, "by token": by_token}[noise]
    if noise == "by token" and (objective is not elbo or predicts == "posterior"):
        pytest.skip(
            "noise by token has no single weight for a token, so its loss is the bound of leave-one-out predictions"
        )
    ids = torch.randint(V - 2, (6, L), generator=torch.Generator().manual_seed(2))
    labels, real = ids.clone(), torch.ones_like(ids, dtype=torch.bool)
    labels[:, : L // 3], real[:2, -2:] = -100, False
    batch = {"input_ids": ids, "labels": labels, "attention_mask": real}
    losses, gradients = [], []
    model = Projected(predicts)
    for call in (call_denoiser, lambda *given: call_denoiser(*given)):  # the second one computes all logits
        model.zero_grad()
        model.count, place = 0, Place(2, seed=5)
        loss = noised_loss(
            model, batch, process=process, objective=objective, place=place, call=call, predicts=predicts
        )
        loss.backward()
        losses.append(loss.detach()), gradients.append(model.out.weight.grad.clone())
        if call is call_denoiser:
            chosen, t = real & (labels != -100), step_times(place, 6, 1e-4, 1 - 1e-4, ids.device)
            z = process.corrupt(ids, t, generator=row_generators(place, 6, ids.device))
            expected = chosen & (z == V - 1) if noise == "masked" else chosen
            assert 0 < expected.sum() == model.count < ids.numel()
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])
