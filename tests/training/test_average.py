import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from noiselab.training.ema import Average


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


def test_refusals():
    with pytest.raises(ValueError, match=r"weight is torch.bfloat16"):
        Average(nn.Linear(2, 2).bfloat16(), decay=0.9)
    with pytest.raises(ValueError, match=r"\[0, 1\); got 1.5"):
        Average(nn.Linear(2, 2), decay=1.5)
