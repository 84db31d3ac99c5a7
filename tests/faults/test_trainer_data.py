"""Data sets and models as people bring them to the trainer: trained on as they are meant, or refused in words."""

import datasets
import pytest
import torch
import transformers
from torch import nn
from torch.utils.data import TensorDataset
from toy_training import L, V, llama, make, network

import noiselab as nl
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.objectives import elbo
from noiselab.training import EditLoss, Place, causal_loss, noised_loss, noised_tokens, predicted_tokens

X = torch.randint(V - 2, (8, L), generator=torch.Generator().manual_seed(0))
GIDD = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
PLACE = Place(0, seed=1)


def trained(tmp_path, data, **options):
    trainer = make(tmp_path, data=data, steps=1, save_every=9, log_every=1, **options)
    trainer.train()
    return trainer.history[0]["loss"]


def test_a_table_of_datasets_trains_as_tensors_do(tmp_path):
    table = datasets.Dataset.from_dict({"input_ids": X.tolist()})
    losses = {
        name: trained(tmp_path / name, data)
        for name, data in {
            "tensors": [{"input_ids": row} for row in X],
            "table": table,
            "with torch": table.with_format("torch"),
        }.items()
    }
    assert len(set(losses.values())) == 1


LONGER = torch.nn.functional.pad(X, (0, 1))
REFUSED = {
    "a table with texts": (datasets.Dataset.from_dict({"input_ids": X.tolist(), "text": ["x"] * 8}), "'text' of row 0"),
    "tensors alone": (TensorDataset(X), "must be dicts with input_ids"),
    "one tensor": (X, "must be dicts with input_ids"),
    "several splits": ({"train": X}, r"one data set; got a dict of \['train'\]"),
    "an iterator": (iter(X), "a data set with a length and rows"),
    "nothing": ([], "at least one row; got none"),
    "too long": ([{"input_ids": row} for row in LONGER], "at most the model's 6 tokens; got one of 7"),
    "beyond the vocabulary": ([{"input_ids": row + V} for row in X], "ids must lie between 0 and 8, .*; got 1"),
    "-100 among the ids": ([{"input_ids": row - 100} for row in X], r"-100 is for labels\); got -9"),
    "labels of the next token": ([{"input_ids": row, "labels": (row + 1) % 7} for row in X], "labels must be the token"),
    "labels of the sequence": ([{"input_ids": row, "labels": 1} for row in X], "labels must have the shape of input_ids"),
    "masks": ([{"input_ids": row.index_fill(0, torch.tensor([2]), V - 1)} for row in X], "clean data .* got 8 at position 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_on_is_refused_before_training(tmp_path, name):
    data, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        make(tmp_path, data=data)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"input_ids": X[0, :4]}, "must have one length"),
        ({"input_ids": X[0] + V}, "ids must lie between 0 and 8"),
        ({"input_ids": torch.full((L,), V - 1)}, "clean data must hold tokens of the process's support"),
    ],
)
def test_and_in_a_later_row_too(tmp_path, last, words):
    data = [{"input_ids": row} for row in X[:7]] + [last]
    with pytest.raises(ValueError, match=words):
        trained(tmp_path, data)


def test_evaluation_data_are_checked_too(tmp_path):
    for data, words in (
        (TensorDataset(X), "must be dicts"),
        ([], "at least one row"),
        ({"a": [{"ids": 1}]}, "column input_ids"),
    ):
        with pytest.raises(ValueError, match=words):
            make(tmp_path, extra={"eval_dataset": data})


def test_masks_may_be_where_nothing_is_learned(tmp_path):
    """At padding, in a prompt, and for a loss without a process."""
    masked = X.clone()
    masked[:, 1] = V - 1
    learned = torch.arange(L) != 1
    for name, more in {
        "labels": {"labels": torch.where(learned, X, -100)},
        "scored": {"scored": learned},
        "attention_mask": {"attention_mask": learned},
    }.items():
        data = [
            {"input_ids": row} | {k: v[i] if v.dim() > 1 else v for k, v in more.items()}
            for i, row in enumerate(masked)
        ]
        assert trained(tmp_path / name, data) > 0


def test_a_loss_of_ones_own_may_do_what_it_wants_with_ids_and_labels(tmp_path):
    """It may map them to others before they reach the network."""
    seen = []

    def loss(model, batch, *, place, tokens=None):
        seen.append(batch["labels"])
        return noised_loss(model, {"input_ids": batch["input_ids"] - V}, process=GIDD, objective=elbo, place=place)

    data = [{"input_ids": row + V, "labels": 3} for row in X]
    assert trained(tmp_path, data, process=None, extra={"loss": loss}) > 0
    assert seen[0].tolist() == [3] * 4


# Labels of -100.


def test_labels_choose_the_tokens_that_are_learned():
    learned = torch.rand(X.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    real = torch.arange(L).expand(X.shape) < 5
    labels = torch.where(learned, X, -100)
    by_labels, by_scored = {"input_ids": X, "labels": labels}, {"input_ids": X, "scored": learned}
    assert torch.equal(noised_tokens({**by_labels, "attention_mask": real}), learned & real)
    assert torch.equal(predicted_tokens({**by_labels, "attention_mask": real}), (learned & real)[:, 1:] & real[:, :-1])
    model = network(0.0)
    a, b, c = (
        noised_loss(model, batch, process=GIDD, objective=elbo, place=PLACE)
        for batch in (by_labels, by_scored, {"input_ids": X})
    )
    assert a == b != c


def test_tokens_that_are_not_learned_are_neither_noised_nor_scored():
    seen = []

    class Watching(nn.Module):
        def forward(self, input_ids, timesteps):
            seen.append(input_ids)
            return torch.zeros(*input_ids.shape, V)

    learned = torch.arange(L).expand(X.shape) > 2
    masks = nl.masked(vocab_size=V, mask_id=V - 1)
    loss = noised_loss(
        Watching(),
        {"input_ids": X, "labels": torch.where(learned, X, -100)},
        process=masks,
        objective=elbo,
        place=PLACE,
        time_range=(0.999, 0.9999),
    )
    (z,) = seen
    assert torch.equal(z[:, :3], X[:, :3]) and (z[:, 3:] == V - 1).float().mean() > 0.9
    # Uniform answers over the 8 tokens of data: each mask costs log 8 / t, over all tokens that are learned.
    assert loss.item() == pytest.approx(torch.tensor(8.0).log().item(), rel=0.05)


def test_labels_of_a_causal_model_are_those_of_transformers(tmp_path):
    """The mean is that of transformers' own loss, which shifts labels and skips -100."""
    model = llama()
    labels = torch.where(torch.rand(X.shape, generator=torch.Generator().manual_seed(3)) < 0.5, X, -100)
    with torch.no_grad():
        expected = model(input_ids=X, labels=labels).loss
        found = causal_loss(model, {"input_ids": X, "labels": labels}, place=PLACE)
    torch.testing.assert_close(found, expected)
    data = [{"input_ids": row, "labels": label} for row, label in zip(X, labels, strict=True)]
    trainer = make(tmp_path, model=model, data=data, process=None, extra={"loss": causal_loss, "eval_dataset": data})
    trainer.average = None
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_mean_of_a_run_is_over_the_tokens_that_are_learned(tmp_path):
    """With uniform logits and pure noise every learned token costs the same, however few are learned."""
    model = network(0.0)
    with torch.no_grad():
        model.output_layer.linear.weight.zero_()
        model.output_layer.linear.bias.zero_()
    masks = nl.masked(vocab_size=V, mask_id=V - 1)
    labels = X.clone()
    labels[:, :4] = -100
    data = [{"input_ids": row, "labels": label} for row, label in zip(X, labels, strict=True)]
    extra = {"time_range": (0.9998, 0.9999)}
    loss = trained(tmp_path, data, model=model, process=masks, extra=extra)
    assert loss == pytest.approx(torch.tensor(8.0).log().item(), rel=0.01)


def test_a_step_in_which_nothing_is_learned_costs_nothing():
    batch = {"input_ids": X, "labels": torch.full_like(X, -100)}
    assert noised_loss(network(0.0), batch, process=GIDD, objective=elbo, place=PLACE) == 0


def test_an_edit_loss_learns_whole_texts_only():
    from noiselab.autoregressive import RandomTokenBackspace, UniformTokens

    edits = RandomTokenBackspace(vocab_size=V, backspace=V - 1, rate=0.1, wrong=UniformTokens(V - 1))
    loss = EditLoss(edits, start=0)
    labels = X.index_fill(1, torch.tensor([0]), -100)
    with pytest.raises(ValueError, match="learns all real tokens"):
        loss(llama(), {"input_ids": X, "labels": labels}, place=PLACE)
    with pytest.raises(ValueError, match="learns each row as one text"):
        loss(llama(), {"input_ids": X, "documents": torch.zeros_like(X)}, place=PLACE)
    assert loss(llama(), {"input_ids": X, "labels": X}, place=PLACE) > 0


# Models of the wrong kind for the loss.


def bert():
    config = transformers.BertConfig(
        vocab_size=V, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    return transformers.BertForMaskedLM(config)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, V)

    def forward(self, input_ids, timesteps):
        return self.embed(input_ids)


class Untimed(Own):
    def forward(self, input_ids):
        return self.embed(input_ids)


def test_models_that_do_not_fit_the_loss_are_refused(tmp_path):
    for name, model, words in (
        ("causal", llama(), "MaskedLanguageModel .*LlamaForCausalLM, in which a token attends to earlier tokens only"),
        ("masked", bert(), "MaskedLanguageModel .*BertForMaskedLM, in which no time is passed"),
        ("untimed", Untimed(), r"input_ids and timesteps .* Untimed.forward takes \['input_ids'\]"),
    ):
        with pytest.raises(ValueError, match=words):
            make(tmp_path / name, model=model)
    for name, model, words in (
        ("bert", bert(), "BertForMaskedLM sees the token that it must predict"),
        ("dit", network(0.0), "called with input_ids alone"),
    ):
        with pytest.raises(ValueError, match=words):
            make(tmp_path / name, model=model, process=None, extra={"loss": causal_loss})
    make(tmp_path / "fits", model=MaskedLanguageModel(llama(), vocab_size=V))


# Padding of a denoiser.


def padded_loss(model, value, call):
    real = torch.arange(L) < torch.tensor([[3], [5], [6], [2], [4], [6], [1], [3]])
    batch = {"input_ids": torch.where(real, X, value), "attention_mask": real.long()}
    return noised_loss(model, batch, process=GIDD, objective=elbo, place=PLACE, call=call).item()


@pytest.mark.parametrize("kind", ["DiT", "masked language model"])
def test_a_denoiser_is_trained_without_seeing_its_padding(kind):
    from noiselab.training.losses import call_denoiser, call_network

    if kind == "DiT":
        model = TransformersDenoiser(network(0.0))
        assert padded_loss(model, 1, call_denoiser) == padded_loss(model.model, 1, call_network)
    else:
        model = MaskedLanguageModel(llama(), vocab_size=V)
    assert padded_loss(model, 1, call_denoiser) == pytest.approx(padded_loss(model, 4, call_denoiser), rel=1e-5)


def test_networks_that_take_no_mask_are_named_at_the_first_padded_batch(tmp_path):
    class Blind(nl.Denoiser):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(V, V)

        def forward(self, z, t, rows=None):
            return nl.denoisers.select(self.embed(z), rows)

    real = torch.arange(L) < 4
    data = [{"input_ids": row, "attention_mask": real} for row in X]
    with pytest.warns(UserWarning, match="Blind takes no attention mask, so that it is trained with padding visible"):
        trained(tmp_path / "denoiser", data, model=Blind())
    with pytest.raises(ValueError, match="Own does not"):
        trained(tmp_path / "network", data, model=Own())
    full = [{"input_ids": row} for row in X]
    assert trained(tmp_path / "full", full, model=Own()) > 0
