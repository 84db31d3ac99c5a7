import pytest
import torch
from networks import Table
from transformers import LlamaConfig, LlamaForCausalLM

from noiselab.autoregressive import (
    RandomTokenBackspace,
    StepBackspace,
    UniformTokens,
    committed_law,
    stream_log_probability,
)
from noiselab.training import EditLoss, Place, causal_loss, row_generators

EDITS = {
    "tokens": RandomTokenBackspace(9, 8, 0.3, UniformTokens(8)),
    "spans": RandomTokenBackspace(9, 8, 0.3, UniformTokens(8), span=2),
    "steps": StepBackspace(9, 8, 0.3, UniformTokens(7), boundary=[7], size=2),
}
X = torch.tensor([[1, 7, 3, 0, 5, 2], [4, 4, 7, 1, 7, 6]])


@pytest.mark.parametrize("semantics", ["visible", "erasing"])
@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("network", ["table", "llama"])
def test_the_loss_is_that_of_streams_one_by_one(semantics, kind, network):
    """A batch with trees of all sizes in one pass, against each stream by itself."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=9, initializer_range=0.3, **sizes)).eval()
    model = Table(9, seed=1) if network == "table" else llama
    edits, place = EDITS[kind], Place(step=3, seed=1)
    deep = kind == "spans"
    loss = EditLoss(edits, start=0, semantics=semantics, deep=deep)(model, {"input_ids": X}, place=place)
    total = 0.0
    for x, random in zip(X, row_generators(place, 2, torch.device("cpu")), strict=True):
        z = edits.corrupt(x, generator=random)
        total -= stream_log_probability(model, edits, z, start=0, semantics=semantics, deep=deep, ends=True)
    assert loss.item() == pytest.approx(total.item() / X.numel(), rel=1e-5)


def test_one_pass_over_the_tree_is_a_pass_for_each_text():
    """The rows of the tree against a model that is given each text by itself, without any mask."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=9, initializer_range=0.3, **sizes)).double().eval()
    edits = EDITS["spans"]
    z = edits.corrupt(X[0], generator=torch.Generator().manual_seed(2))
    total, text = 0.0, []
    for entry in z.tolist():
        logits = llama(input_ids=torch.tensor([[0, *text]])).logits[0, -1]
        if not text:
            logits[8] = -torch.inf
        total += logits.log_softmax(-1)[entry]
        text = text[:-1] if entry == 8 else [*text, entry]
    assert int((z == 8).sum()) > 2
    found = stream_log_probability(llama, edits, z, start=0, semantics="erasing", ends=True)
    assert found.item() == pytest.approx(total.item(), rel=1e-9)


def test_without_noise_it_is_the_loss_of_a_plain_model():
    model, edits = Table(9, seed=1), RandomTokenBackspace(9, 8, 0, UniformTokens(8))
    model.dislike -= 1e3  # it never backtracks
    batch = {"input_ids": torch.cat([torch.zeros(2, 1, dtype=torch.long), X], 1)}
    plain = causal_loss(model, batch, place=Place(step=0))
    for semantics in ("visible", "erasing"):
        for mistakes in ("scored", "unscored"):
            loss = EditLoss(edits, start=0, semantics=semantics, mistakes=mistakes)
            torch.testing.assert_close(loss(model, {"input_ids": X}, place=Place(step=0)), plain)


def test_mistakes_are_scored_or_not():
    model, edits, place = Table(9, seed=1), EDITS["tokens"], Place(step=3, seed=1)
    losses = {
        how: EditLoss(edits, start=0, mistakes=how)(model, {"input_ids": X}, place=place).item()
        for how in ("scored", "unscored", "unmarked")
    }
    # By hand: the terms of wrong tokens, one by one.
    wrong = 0.0
    for x, random in zip(X, row_generators(place, 2, torch.device("cpu")), strict=True):
        z = edits.corrupt(x, generator=random)
        rows = model(torch.cat([torch.tensor([0]), z])[None])[0, :-1].clone()
        rows[edits.tree(z).nodes == 0, 8] = -torch.inf
        wrong -= rows.log_softmax(-1).gather(-1, z[:, None])[edits.wrong(z)].sum()
    assert losses["scored"] - losses["unscored"] == pytest.approx(wrong.item() / X.numel(), rel=1e-5)
    assert losses["unmarked"] not in (losses["scored"], losses["unscored"])
    with pytest.raises(ValueError, match="unmarked mistakes"):
        EditLoss(edits, start=0, semantics="erasing", mistakes="unmarked")


@pytest.mark.long_for("unscored")
@pytest.mark.parametrize("mistakes", ["scored", "unscored"])
def test_the_trained_optimum_is_that_of_the_formulas(mistakes, unchecked):
    """One token, any law: a table of logits is trained to the end, and keeps P, or the sharpened law."""
    law, rate, size = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64), 0.3, 4
    edits = RandomTokenBackspace(size + 1, size, rate, UniformTokens(size))

    class Free(torch.nn.Module):
        """Any logits after the start, and any after each token in each place."""

        def __init__(self):
            super().__init__()
            self.first = torch.nn.Parameter(torch.zeros(size + 1, dtype=torch.float64))
            self.then = torch.nn.Parameter(torch.zeros(3, size + 1, size + 1, dtype=torch.float64))

        def forward(self, input_ids, attention_mask=None, position_ids=None):
            first = (position_ids == 0)[..., None]
            return torch.where(first, self.first, self.then[position_ids, input_ids])

    model, loss = Free(), EditLoss(edits, start=0, semantics="erasing", deep=False, mistakes=mistakes)
    # Two tokens, the second always 0, so that there is something that follows the first if it is kept.
    counts = (law * 100).round().long()
    x = torch.stack([torch.arange(size).repeat_interleave(counts), torch.zeros(100, dtype=torch.long)], -1)
    adam = torch.optim.Adam(model.parameters(), 0.1)
    for step in range(200):
        adam.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        adam.zero_grad()
        loss(model, {"input_ids": x}, place=Place(step=step)).backward()
        adam.step()
    with torch.no_grad():
        proposal = model.first[:size].log_softmax(-1)
        erased = model.then[1, :size].log_softmax(-1)[:, size]
    kept = committed_law(proposal, erased).exp()
    nu = (1 - torch.eye(size, dtype=torch.float64)) / (size - 1)
    mixed = (1 - rate) * law + rate * law @ nu
    want = law if mistakes == "scored" else law**2 / mixed / (law**2 / mixed).sum()
    assert (kept - want).abs().max() < 0.03
    if mistakes == "unscored":
        assert (kept - law).abs().max() > 0.03
