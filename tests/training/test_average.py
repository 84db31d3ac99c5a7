import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from noiselab.training.ema import Average


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


def walk(model, average, steps=10):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(torch.randn(p.shape, generator=generator))
        average()


def test_agrees_with_the_average_of_torch_and_with_the_recursion():
    model = nn.Linear(4, 3)
    ours = Average(model, decay=0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(model)  # its first call only copies
    expected = model.weight.detach().clone()

    def update():
        ours.update()
        theirs.update_parameters(model)
        expected.mul_(0.9).add_(model.weight.detach(), alpha=0.1)

    walk(model, update)
    trained = model.weight.detach().clone()
    with ours.applied():
        torch.testing.assert_close(model.weight, theirs.module.weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(model.weight, expected, rtol=0, atol=1e-6)
    assert torch.equal(model.weight, trained)


def test_weights_return_after_an_error():
    model = nn.Linear(2, 2)
    average = Average(model, decay=0.5)
    walk(model, average.update)
    trained = model.weight.detach().clone()
    with pytest.raises(KeyError), average.applied():
        assert not torch.equal(model.weight, trained)
        raise KeyError
    assert torch.equal(model.weight, trained)


def test_saved_by_name_and_read_back_bit_for_bit(tmp_path):
    model = Tied()
    average = Average(model, decay=0.5)
    walk(model, average.update)
    average.save(tmp_path / "ema.safetensors")
    other = Average(model, decay=0.5)
    other.load(tmp_path / "ema.safetensors")
    assert set(other.parameters) == {"embed.weight", "head.bias"}
    assert all(torch.equal(a, b) for a, b in zip(average.ema.shadow_params, other.ema.shadow_params, strict=True))
    with pytest.raises(ValueError, match="is in one of them only"):
        Average(nn.Linear(3, 5), decay=0.5).load(tmp_path / "ema.safetensors")
    (tmp_path / "ema.safetensors").write_bytes(b"12")
    with pytest.raises(ValueError, match="must hold an average"):
        other.load(tmp_path / "ema.safetensors")


def test_refusals():
    with pytest.raises(ValueError, match=r"weight is torch.bfloat16"):
        Average(nn.Linear(2, 2).bfloat16(), decay=0.9)
    with pytest.raises(ValueError, match=r"\[0, 1\); got 1.5"):
        Average(nn.Linear(2, 2), decay=1.5)
