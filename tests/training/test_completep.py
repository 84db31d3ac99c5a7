"""CompleteP: activations and what a step changes in them keep their size over width and depth; LaProp by hand."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from noiselab.networks.published import GiddConfig, GiddForDiffusionLM
from noiselab.training import CompleteP, LaProp, Optimization, Run, block_matrices
from noiselab.training.checks import check_optimization
from noiselab.training.layout import Layout
from noiselab.training.optimizers import build_optimizer, hidden_matrices, set_learning_rate

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
V, LENGTH = 32, 16


def network(width, depth, scale):
    """A network of the scaling study with the multipliers and the deviations of `scale`."""
    torch.manual_seed(0)
    made = GiddForDiffusionLM(
        GiddConfig(
            vocab_size=V,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=depth,
            num_attention_heads=width // 16,
            max_position_embeddings=LENGTH,
            resid_scale=4 * depth * scale.residual,  # which the network divides by its depth
            head_scaling=64 * scale.output,
        )
    )
    matrices = hidden_matrices(made)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name in matrices:
                weight.normal_(std=0.4 * scale.deviation)
            elif "embed" in name:
                weight.normal_(std=0.02)
            else:
                weight.zero_()
    return made


def changes(width, depth, scale, steps=4, **settings):
    """The mean square of the states after the blocks at the start, and of what the steps change in states and logits."""
    made = network(width, depth, scale)
    x = torch.randint(V, (8, LENGTH), generator=torch.Generator().manual_seed(1))
    o = Optimization(steps, 8, optimizer="laprop", epsilon=1e-8, weight_decay=0.0, other_rate=0.02)
    factors = {"width_ratio": float(scale.width), "depth_ratio": float(scale.depth), **settings}
    optimizer = build_optimizer(made, Optimization(**{**vars(o), **factors}))
    set_learning_rate(optimizer, 0.3)

    def seen():
        found = []
        hook = made.model.norm.register_forward_pre_hook(lambda _, given: found.append(given[0]))
        logits = made(x)
        hook.remove()
        return found[0].detach().double(), logits

    first, logits = seen()
    before = logits.detach().double()
    for _ in range(steps):
        _, logits = seen()
        nn.functional.cross_entropy(logits.flatten(0, 1), x.roll(1, 1).flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    last, logits = seen()
    size = [part.square().mean().sqrt().item() for part in (first, last - first, logits.detach() - before)]
    return torch.tensor(size)


def largest_ratio(found):
    """The largest ratio of each measure between two sizes."""
    every = torch.stack(list(found))
    return every.amax(0) / every.amin(0)


WIDTHS, DEPTHS = (32, 64, 128), (2, 4, 8)


def test_sizes_keep_over_width_and_not_without():
    with_factors = largest_ratio(changes(width, 2, CompleteP(width, 2)) for width in WIDTHS)
    assert (with_factors < 1.7).all(), with_factors
    fixed = CompleteP(WIDTHS[0], 2)  # the settings of the smallest, unchanged
    without = largest_ratio(changes(width, 2, fixed) for width in WIDTHS)
    assert (without > 2).any(), without


def test_sizes_keep_over_depth_and_not_without():
    found = [changes(32, depth, CompleteP(32, depth)) for depth in DEPTHS]
    # At the start branches are independent: L of them, each divided by L, add up to less in deeper networks, never to more.
    assert sorted((part[0].item() for part in found), reverse=True) == [part[0].item() for part in found]
    assert (largest_ratio(found)[1:] < 1.7).all(), largest_ratio(found)
    without = largest_ratio(changes(32, depth, CompleteP(32, DEPTHS[0])) for depth in DEPTHS)
    assert (without > 2).any(), without


def test_factors_are_those_of_the_table():
    # Four times as wide and twice as deep: Dey et al. (2025), table 1 with alpha = 1.
    o = Optimization(1, 1, weight_decay=0.1, epsilon=1e-8, width_ratio=4.0, depth_ratio=2.0, other_rate=0.5)
    made = network(32, 2, CompleteP(4, 2))
    optimizer = build_optimizer(made, o)
    set_learning_rate(optimizer, 0.8)
    names = {id(weight): name for name, weight in made.named_parameters()}
    for group in optimizer.param_groups:
        found = {names[id(weight)] for weight in group["params"]}
        hidden = {name for name in found if name.endswith("_proj.weight")}
        assert hidden in (set(), found)
        assert group["lr"] == pytest.approx(0.8 / 4 if hidden else 0.8 * 0.5)
        assert group["weight_decay"] == pytest.approx(0.1 * 4 if hidden else 0.1)
        assert group["eps"] == pytest.approx(1e-8 / 8)
    matrices = {name for name in names.values() if name.endswith("_proj.weight")}
    assert hidden_matrices(made) == matrices and len(matrices) == 2 * 6
    biases = {f"model.layers.{i}.self_attn.{b}_bias" for i in (0, 1) for b in "kv"}
    assert biases < set(names.values()) and set(block_matrices(made)) == matrices  # a key and a value for each head
    assert CompleteP(4, 2).deviation == 0.5 and CompleteP() == CompleteP(1, 1)
    plain = build_optimizer(made, Optimization(1, 1))
    assert len(plain.param_groups) == 1 and plain.param_groups[0]["rate"] == 1


def test_settings_that_are_refused(tmp_path):
    def check(**settings):
        check_optimization(Optimization(1, 1, **settings), Run(tmp_path), Layout(torch.device("cpu")))

    for name in ("width_ratio", "depth_ratio"):
        with pytest.raises(ValueError, match=f"{name} must"):
            check(**{name: 0.0})
    with pytest.raises(ValueError, match=r"must be adamw or laprop for width_ratio.* got muon with 2, 1 and 1"):
        check(optimizer="muon", width_ratio=2.0)
    for ratios in ((0, 1), (1, -1), (math.nan, 1)):
        with pytest.raises(ValueError, match="must be"):
            CompleteP(*ratios)


@pytest.mark.parametrize("setting", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"eps": math.nan}, {"weight_decay": -0.1}])
def test_laprop_refuses_numbers_out_of_range(setting, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must"):
        LaProp([torch.nn.Parameter(torch.ones(2))], **setting)
    with pytest.raises(ValueError, match=r"betas must lie in \[0, 1\); got 1.0"):
        o = Optimization(1, 1, optimizer="laprop", betas=(0.9, 1.0))
        check_optimization(o, Run(tmp_path), Layout(torch.device("cpu")))


def test_laprop_by_hand():
    """Three steps of one weight, from the definition: averages without bias are sums of all gradients with falling weights."""
    rate, first, second, eps, decay = 0.1, 0.8, 0.9, 0.01, 0.5
    gradients, w = [1.0, -2.0, 0.5], nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = LaProp([w], rate, (first, second), eps, decay)
    value, directions = 3.0, []
    for step, g in enumerate(gradients, start=1):
        w.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        ages = [(step - k) for k in range(1, step + 1)]
        mean = sum((1 - second) * second**age * h**2 for age, h in zip(ages, gradients, strict=False)) / (
            1 - second**step
        )
        directions.append(g / (math.sqrt(mean) + eps))
        moment = sum((1 - first) * first**age * d for age, d in zip(ages, directions, strict=True)) / (1 - first**step)
        value -= rate * (moment + decay * value)
        assert w.item() == pytest.approx(value, rel=1e-12)


def test_laprop_does_not_depend_on_the_scale_of_gradients_and_differs_from_adam():
    def run(kind, scale):
        w = nn.Parameter(torch.ones(3))
        optimizer = kind([w], lr=0.1, betas=(0.9, 0.5), eps=0.0, weight_decay=0.0)
        for g in (1.0, 10.0, 0.1):
            w.grad = scale * g * torch.tensor([1.0, -1.0, 2.0])
            optimizer.step()
        return w.detach()

    assert torch.allclose(run(LaProp, 1.0), run(LaProp, 1e4))
    assert not torch.allclose(run(LaProp, 1.0), run(torch.optim.AdamW, 1.0), atol=1e-2)


def test_the_state_of_laprop_is_kept():
    def weights():
        torch.manual_seed(0)
        return nn.Parameter(torch.randn(4))

    w, gradients = weights(), torch.randn(6, 4)
    optimizer = LaProp([w], 0.1)
    for g in gradients:
        w.grad = g
        optimizer.step()
    half = weights()
    before = LaProp([half], 0.1)
    for g in gradients[:3]:
        half.grad = g
        before.step()
    after = LaProp([half], 0.1)
    after.load_state_dict(before.state_dict())
    for g in gradients[3:]:
        half.grad = g
        after.step()
    assert torch.equal(w, half)
    assert all(isinstance(value, torch.Tensor) for value in after.state[half].values())
    assert list(itertools.chain(optimizer.state[w])) == ["step", "exp_avg", "exp_avg_sq"]
