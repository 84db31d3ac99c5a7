"""Muon for matrices of blocks, AdamW for the rest, as one optimizer whose state resumes."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.data import TokenBlocks
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.training import Callback, MuonWithAdamW, Optimization, Run, Trainer, block_matrices
from noiselab.training.muon import orthogonal


def steps(optimizer, weights, count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for p in weights:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def test_without_orthogonal_groups_it_is_adamw():
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]
    theirs = copy.deepcopy(mine)
    options = {"lr": 0.01, "betas": (0.9, 0.97), "eps": 1e-8, "weight_decay": 0.1}
    steps(MuonWithAdamW([{"params": mine}], **options), mine)
    steps(torch.optim.AdamW(theirs, **options), theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b)


def test_a_step_of_a_matrix_has_the_stated_size():
    p = torch.nn.Parameter(torch.zeros(16, 64))
    steps(MuonWithAdamW([{"params": [p], "orthogonal": True}], lr=0.5), [p], count=1)
    # An orthogonal factor of 16 rows has 16 singular values of about 1: the norm of the step is 0.5 * 0.2 * 8 * 4.
    assert p.norm().item() == pytest.approx(0.5 * 0.2 * 8 * 4, rel=0.2)


def test_matrices_move_as_torch_moves_them():
    """Up to torch's bfloat16."""
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(16, 24)), torch.nn.Parameter(torch.randn(24, 8))]
    theirs = copy.deepcopy(mine)
    before = [p.detach().clone() for p in mine]
    steps(MuonWithAdamW([{"params": mine, "orthogonal": True}], lr=0.01, weight_decay=0.1), mine, count=4)
    torch_muon = torch.optim.Muon(theirs, 0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    steps(torch_muon, theirs, count=4)
    for a, b, start in zip(mine, theirs, before, strict=True):
        assert (a - b).norm() < 0.03 * (b - start).norm()


@pytest.mark.parametrize("together", [1, 2 * 6 * 4, 2**24])
def test_matrices_move_together_as_they_do_alone(monkeypatch, together):
    monkeypatch.setattr("noiselab.training.muon.MAX_STACKED", together)
    torch.manual_seed(0)
    shapes = [(6, 4), (4, 6), (6, 4), (6, 4), (5, 5)]
    start = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    moved = []
    for optimizers in (1, len(start)):  # one for all, or each with its own
        weights = copy.deepcopy(start)
        groups = [weights] if optimizers == 1 else [[p] for p in weights]
        muons = [MuonWithAdamW([{"params": g, "orthogonal": True}], lr=0.1, weight_decay=0.1) for g in groups]
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            for p in weights:
                p.grad = torch.randn(p.shape, generator=generator)
            weights[2].grad = None
            for muon in muons:
                muon.step()
        moved.append(weights)
    for place, (a, b) in enumerate(zip(*moved, strict=True)):
        assert (a - b).abs().max() < 1e-6 and torch.equal(a, start[place]) == (place == 2)


@pytest.mark.parametrize("shape", [(8, 8), (8, 32), (32, 8)])
def test_the_orthogonal_factor(shape):
    """The singular vectors stay, the singular values come near 1."""
    torch.manual_seed(0)
    left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    found = orthogonal(left @ torch.diag(values) @ right)
    inner = left.T @ found @ right.T
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-3
    assert inner.diagonal().min() > 0.6 and inner.diagonal().max() < 1.3


def test_its_state_resumes():
    torch.manual_seed(0)
    start = [torch.nn.Parameter(torch.randn(4, 6)), torch.nn.Parameter(torch.randn(5))]

    def build(weights):
        return MuonWithAdamW([{"params": weights[:1], "orthogonal": True}, {"params": weights[1:]}], lr=0.01)

    whole, parts = copy.deepcopy(start), copy.deepcopy(start)
    optimizer = build(whole)
    steps(optimizer, whole, 5)
    steps(optimizer, whole, 5, seed=1)
    first = build(parts)
    steps(first, parts, 5)
    second = build(parts)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(second, parts, 5, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_matrices_are_those_of_blocks():
    dit = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    llama = LlamaForCausalLM(
        LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    assert {name.split(".")[2] for name in block_matrices(dit)} == {"attn_qkv", "attn_out", "mlp"}
    assert len(block_matrices(llama)) == 7 and not any("embed" in n or "head" in n for n in block_matrices(llama))
    with pytest.raises(ValueError, match="2D"):
        MuonWithAdamW([{"params": [torch.nn.Parameter(torch.zeros(3))], "orthogonal": True}])


def test_the_trainer_uses_it_and_resumes_with_it(tmp_path):
    blocks = TokenBlocks(torch.randint(8, (64, 4), generator=torch.Generator().manual_seed(0)), torch.full((64,), 4), 9)

    def train(folder, stop=None):
        torch.manual_seed(0)
        model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
        optimization = Optimization(steps=6, batch=4, learning_rate=0.01, optimizer="muon")
        run = Run(folder, save_every=3, cpu=True, progress=False)
        process = nl.gidd(vocab_size=9, mask_id=8, p_uniform=0.2)
        callbacks = [] if stop is None else [stop()]
        trainer = Trainer(model, optimization, run, train_dataset=blocks, process=process, callbacks=callbacks)
        trainer.train()
        assert type(trainer.optimizer) is MuonWithAdamW
        return trainer

    class StopAtThree(Callback):
        def on_step(self, trainer):
            if trainer.step == 3:
                trainer.stop()

    whole = train(tmp_path / "whole").network.state_dict()
    assert train(tmp_path / "parts", StopAtThree).step == 3
    resumed = train(tmp_path / "parts").network.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
