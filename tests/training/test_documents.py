"""Laws of attention within documents: a row of several documents is what its documents are in rows of their own."""

import itertools
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import CONFIGS, V, make
from torch import nn

import noiselab as nl
from noiselab.data import TokenShards, TokenStream, pack, train_tokenizer, vocabulary_size, write_shards
from noiselab.data import rows as rows_module
from noiselab.data.rows import document_positions, predicted_tokens, stack_rows
from noiselab.denoisers import CallCounter
from noiselab.evaluation import validation_bound
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.objectives import elbo
from noiselab.training import Optimization, Place, Run, Trainer, causal_loss, draw_noise, noised_loss, noisy_loss
from noiselab.training.losses import call_denoiser, call_network
from noiselab.training.options import Data
from noiselab.training.scoring import in_blocks
from noiselab.training.texts import load_data

LENGTH = 12
SIZES = ((5, 4, 3), (1, 6, 2), (12,), (2, 1, 1, 1, 7), (3, 3))  # the last row has padding
PROCESSES = {
    "masks": nl.masked(vocab_size=V, mask_id=V - 1),
    "hybrid": nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2),
}


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:  # else logits are so large that small ones do not count
                weight.copy_(torch.randn(weight.shape, generator=random, dtype=torch.float64) / len(weight[0]) ** 0.5)
    return network.eval()


def dit(length=LENGTH) -> nn.Module:
    torch.manual_seed(0)  # for what is not randomized
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return randomized(DiT(DiTConfig(vocab_size=V, max_seq_len=length, **sizes)).double())


NETWORKS = {
    "DiT": (dit, call_network),
    "a denoiser of DiT": (lambda: TransformersDenoiser(dit()), call_denoiser),
    "a wrapped denoiser": (lambda: CallCounter(TransformersDenoiser(dit())), call_denoiser),
    "BERT": (lambda: MaskedLanguageModel(make("BertForMaskedLM")), call_denoiser),
    "RoBERTa": (lambda: MaskedLanguageModel(make("RobertaForMaskedLM")), call_denoiser),
    "Llama": (lambda: MaskedLanguageModel(make("LlamaForCausalLM")), call_denoiser),
    "shifted Llama": (lambda: MaskedLanguageModel(make("LlamaForCausalLM"), shifted=True), call_denoiser),
}


def batch() -> dict[str, torch.Tensor]:
    """Rows of several documents, one with padding."""
    ids = torch.randint(V - 2, (len(SIZES), LENGTH), generator=torch.Generator().manual_seed(1))
    documents = [[number for number, size in enumerate(sizes) for _ in range(size)] for sizes in SIZES]
    real = torch.tensor([[1] * len(row) + [0] * (LENGTH - len(row)) for row in documents])
    padded = torch.tensor(
        [row + [len(sizes)] * (LENGTH - len(row)) for row, sizes in zip(documents, SIZES, strict=True)]
    )
    return {"input_ids": ids, "attention_mask": real, "documents": padded}


def places() -> list[tuple[int, int, int]]:
    """The row, the first token and the size of each document."""
    return [(row, sum(sizes[:number]), size) for row, sizes in enumerate(SIZES) for number, size in enumerate(sizes)]


def alone(part: torch.Tensor, fill: float = 0) -> torch.Tensor:
    """Each document of a batch in a row of its own, with padding after it."""
    found = torch.full((len(places()), LENGTH), fill, dtype=part.dtype)
    for number, (row, first, size) in enumerate(places()):
        found[number, :size] = part[row, first : first + size]
    return found


def noisy_batches(process):
    """A batch with noise, and its documents in rows of their own, with the same noise."""
    packed = draw_noise(batch(), process=process, objective=elbo, place=Place(0, seed=3), select=0)
    t = packed.times[:, None].expand(-1, LENGTH)
    separate = packed._replace(
        seen=alone(packed.seen),
        times=torch.stack([packed.times[row] for row, _, _ in places()]),
        mask=alone(torch.ones_like(packed.seen)),
        documents=None,
        clean=alone(packed.clean),
        t=torch.stack([t[row, 0] for row, _, _ in places()]),
        **{name: alone(getattr(packed, name)) for name in ("x", "z", "weight", "scale")},
    )
    return packed, separate


def losses(name, process):
    network, call = NETWORKS[name]
    model = network()
    with torch.no_grad():
        return [float(noisy_loss(model, part, process=process, call=call)) for part in noisy_batches(process)]


@pytest.mark.long_for("hybrid-BERT", "masks-*erta", "masks-*ama", "masks-a *")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("noise", PROCESSES)
def test_a_row_of_documents_has_the_loss_of_separate_rows(noise, name):
    packed, separate = losses(name, PROCESSES[noise])
    assert packed == pytest.approx(separate, rel=1e-9) and separate > 1


@pytest.mark.parametrize("name", ["DiT", "Llama"])
def test_blocks_of_a_document_see_its_earlier_blocks_alone(name, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SIZES", ((4, 8), (8, 4), (12,), (4, 4, 4), (8,)))
    network, _ = NETWORKS[name]
    process = PROCESSES["hybrid"]
    model = in_blocks(network(), 4, process, "leave_one_out")
    with torch.no_grad():
        packed, separate = (
            float(noisy_loss(model, part, process=process, call=call_denoiser)) for part in noisy_batches(process)
        )
    assert packed == pytest.approx(separate, rel=1e-9) and separate > 1
    assert packed != pytest.approx(losses(name, process)[0], rel=1e-6)


def wrong_masks():
    right = rows_module.same_document

    def next_too(documents):
        return right(documents) | (documents[:, :, None] == documents[:, None, :] + 1)

    return {
        "all": lambda documents: torch.ones_like(right(documents)),
        "the one before": next_too,
        "without itself": lambda documents: right(documents).tril(),
    }


@pytest.mark.parametrize("name", ["DiT", "shifted Llama"])
@pytest.mark.parametrize("mistake", wrong_masks())
def test_a_wrong_mask_is_seen(mistake, name, monkeypatch):
    monkeypatch.setattr(rows_module, "same_document", wrong_masks()[mistake])
    packed, separate = losses(name, PROCESSES["hybrid"])
    assert abs(packed / separate - 1) > 1e-4


@pytest.mark.long
def test_the_loss_of_rows_of_documents_is_one_graph():
    """Also at the first call, in which the network is checked; one that drops the mask is refused."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parents[1]), str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(here / "documents_as_graph.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.split("\n") == ["one graph"] * 4 + ["refused", ""], done.stdout + done.stderr[-2000:]


def test_wrong_positions_are_seen_where_they_are_absolute(monkeypatch):
    monkeypatch.setattr(
        rows_module, "document_positions", lambda documents: torch.arange(LENGTH).expand(documents.shape)
    )
    packed, separate = losses("DiT", PROCESSES["hybrid"])
    assert packed == pytest.approx(separate, rel=1e-6)  # rotary: relative
    packed, separate = losses("BERT", PROCESSES["hybrid"])
    assert abs(packed / separate - 1) > 1e-4


def embedding_gradients(model: nn.Module, loss) -> torch.Tensor:
    """The size of the gradient with respect to the embedding of each token."""
    tables = [part for part in model.modules() if "Embed" in type(part).__name__]
    embedding = next(part for part in tables if any(weight.shape[0] == V for weight in part.parameters(recurse=False)))
    seen = []

    def keep(module, inputs, output):
        if output.requires_grad:  # not of the check
            output.retain_grad()
            seen.append(output)

    with torch.enable_grad():
        handle = embedding.register_forward_hook(keep)
        loss().backward()
        handle.remove()
    return seen[-1].grad.abs().sum(-1)


@pytest.mark.parametrize("name", ["DiT", "BERT", "Llama"])
def test_a_loss_does_not_depend_on_other_documents(name):
    network, call = NETWORKS[name]
    model, process = network(), PROCESSES["hybrid"]
    packed, _ = noisy_batches(process)
    for row, first, size in places()[:5]:
        own = torch.zeros(len(SIZES), LENGTH, dtype=torch.bool)
        own[row, first : first + size] = True
        one = packed._replace(scale=packed.scale * own)
        found = embedding_gradients(model, lambda one=one: noisy_loss(model, one, process=process, call=call))
        assert found[own].all() and not found[~own].any()


CAUSAL = ["LlamaForCausalLM", "GPT2LMHeadModel", "Qwen3ForCausalLM", "GPTNeoXForCausalLM"]


def separate_rows() -> dict[str, torch.Tensor]:
    return {"input_ids": alone(batch()["input_ids"]), "attention_mask": alone(torch.ones(len(SIZES), LENGTH)).long()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CAUSAL)
def test_causal_models_learn_each_document_alone(name, attention):
    model = make(name, attention=attention)
    packed, separate = (float(causal_loss(model, part, place=Place(0)).detach()) for part in (batch(), separate_rows()))
    assert packed == pytest.approx(separate, rel=1e-6) and separate > 1
    assert predicted_tokens(batch()).sum() == sum(size - 1 for sizes in SIZES for size in sizes)
    without = {name: part for name, part in batch().items() if name != "documents"}
    assert abs(float(causal_loss(model, without, place=Place(0)).detach()) / separate - 1) > 1e-3
    one = {**batch(), "scored": (batch()["documents"] == 1).long()}
    found = embedding_gradients(model, lambda: causal_loss(model, one, place=Place(0)))
    assert found[batch()["documents"] != 1].sum() == 0 and found[1, 1:6].all()


class Counts(nn.Module):
    """A causal network that takes no mask: its logits depend on all tokens so far."""

    def __init__(self, takes):
        super().__init__()
        self.table, self.takes = nn.Embedding(V, V), takes

    def forward(self, input_ids, **more):
        if more and not self.takes:
            raise TypeError("got an unexpected keyword argument 'attention_mask'")
        return self.table(input_ids).cumsum(1)


def test_networks_that_cannot_keep_documents_apart_are_refused():
    for model, words in (
        (Counts(True), "attend by the given mask and positions; in Counts the logits of two documents"),
        (Counts(False), "an attention_mask of four axes and position_ids; Counts fails with TypeError"),
        (make("MistralForCausalLM"), "MistralForCausalLM has a window of 3, and rows have 12 tokens"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            causal_loss(model, batch(), place=Place(0))
    flash = make("LlamaForCausalLM")
    flash.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="'sdpa' or 'eager'; got 'flash_attention_2'"):
        causal_loss(flash, batch(), place=Place(0))

    class Plain(nn.Module):
        def forward(self, input_ids, timesteps, attention_mask=None):
            return torch.zeros(*input_ids.shape, V)

    def loss(model, **more):
        return noised_loss(model, batch(), process=PROCESSES["masks"], objective=elbo, place=Place(0), **more)

    with pytest.raises(ValueError, match="must take may_attend and positions, as DiT does; Plain takes no may_attend"):
        loss(Plain())
    with pytest.raises(ValueError, match="documents need a network that is called by call_network or call_denoiser"):
        loss(dit(), call=lambda model, z, t, mask: torch.zeros(*z.shape, V))
    oracle = nl.MarkovOracle(torch.full((V,), 1 / V), torch.full((V, V), 1 / V), PROCESSES["masks"])
    with pytest.raises(ValueError, match="need a network that takes both; MarkovOracle does not"):
        loss(oracle, call=call_denoiser)
    with pytest.raises(ValueError, match="bidirectional=False"):
        loss(MaskedLanguageModel(make("LlamaForCausalLM"), bidirectional=False, shifted=True), call=call_denoiser)


def test_positions_begin_anew_in_each_document():
    documents = batch()["documents"]
    expected = [
        [place for _, group in itertools.groupby(row.tolist()) for place, _ in enumerate(group)] for row in documents
    ]
    assert document_positions(documents).tolist() == expected


TEXTS = [f"{number} is a number" + "." * (number % 7) for number in range(60)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=270)


def trainer(folder, model, tokenizer, separate, loss=None, steps=4):
    data = pack(TEXTS, tokenizer, 16, separate=separate)
    end = tokenizer.mask_token_id
    own = {"loss": loss} if loss else {"process": nl.masked(vocab_size=vocabulary_size(tokenizer), mask_id=end)}
    run = Run(folder, cpu=True, progress=False, save_every=2, log_every=1, evaluate_every=0)
    return Trainer(model, Optimization(steps=steps, batch=4), run, train_dataset=data, eval_dataset=data, **own)


def small(tokenizer) -> nn.Module:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    return DiT(DiTConfig(vocab_size=vocabulary_size(tokenizer), max_seq_len=16, **size))


def test_the_trainer_keeps_documents_apart(tokenizer, tmp_path, monkeypatch):
    seen, hidden = [], DiT.hidden

    def spy(self, *arguments, may_attend=None, positions=None, **more):
        seen.append((may_attend, positions))
        return hidden(self, *arguments, may_attend=may_attend, positions=positions, **more)

    monkeypatch.setattr(DiT, "hidden", spy)
    whole = trainer(tmp_path / "whole", small(tokenizer), tokenizer, True)
    seen.clear()
    whole.train()
    whole.evaluate()
    validation_bound(whole.evaluation_loss.keywords["process"], TransformersDenoiser(whole.network), whole.eval_dataset)
    rows = stack_rows([whole.eval_dataset[n] for n in range(len(whole.eval_dataset))])["documents"]
    assert len(seen) > 10 and all(pairs is not None and positions is not None for pairs, positions in seen)
    assert torch.equal(seen[-1][0], rows_module.same_document(rows)[-len(seen[-1][0]) :])
    assert torch.equal(seen[-1][1], document_positions(rows)[-len(seen[-1][1]) :])
    plain = trainer(tmp_path / "plain", small(tokenizer), tokenizer, False)
    seen.clear()
    plain.train()
    assert seen == [(None, None)] * len(seen)
    assert whole.history[-1]["eval_loss"] != plain.evaluate()["eval_loss"]
    with pytest.raises(ValueError, match="contents"):  # other rows are other data
        trainer(tmp_path / "whole", small(tokenizer), tokenizer, False).train()


def test_the_trainer_refuses_a_network_that_cannot_before_it_starts(tokenizer, tmp_path):
    llama = make("MistralForCausalLM", vocab_size=vocabulary_size(tokenizer), dtype=torch.float32)
    trainer(
        tmp_path / "causal",
        make("LlamaForCausalLM", vocabulary_size(tokenizer), dtype=torch.float32),
        tokenizer,
        True,
        loss=causal_loss,
    ).train()
    with pytest.raises(ValueError, match="documents need a network whose tokens attend by the given mask"):
        trainer(tmp_path / "window", llama, tokenizer, True, loss=causal_loss).train()

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(vocabulary_size(tokenizer), vocabulary_size(tokenizer))

        def forward(self, input_ids, timesteps, attention_mask=None):
            return self.table(input_ids)

    with pytest.raises(ValueError, match="Plain takes no may_attend"):
        trainer(tmp_path / "plain", Plain(), tokenizer, True)


def test_settings_keep_documents_apart(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number:02}.txt").write_text(text)
    data = Data(str(tmp_path / "texts"), tokenizer=str(tmp_path / "tokenizer"), length=16, validation=0.3)
    for side, share in (("train", TEXTS[:40]), ("validation", TEXTS[40:])):
        write_shards(share, tokenizer, tmp_path / "shards" / side, 16)
    shards = replace(data, corpus=f"shards:{tmp_path / 'shards'}")
    for settings, kind in ((data, None), (replace(data, stream=True), TokenStream), (shards, TokenShards)):
        _, train, held_out = load_data(replace(settings, separate_documents=True), tmp_path / "unused", seed=1)
        assert kind is None or isinstance(train, kind)
        for row in (next(iter(train)), held_out[0]):
            ends = (row["input_ids"] == tokenizer.eos_token_id).long()
            assert row["documents"].equal(ends.cumsum(0) - ends) and row["documents"].max() > 0
        _, train, held_out = load_data(settings, tmp_path / "unused", seed=1)
        assert "documents" not in next(iter(train)) and "documents" not in held_out[0]
    with pytest.raises(ValueError, match="with 'concatenate'; got packing='document'"):
        load_data(replace(shards, packing="document"), tmp_path / "unused", seed=1)
    with pytest.raises(ValueError, match="packing='concatenate'; got packing='crop'"):
        load_data(replace(data, separate_documents=True, packing="crop"), tmp_path / "unused", seed=1)


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_is_right_or_refused(name):
    config, _ = CONFIGS[name]
    model = make(name)
    if (hasattr(model, "generate") and "Causal" in name) or "LMHead" in name:
        try:
            found = float(causal_loss(model, batch(), place=Place(0)).detach())
        except ValueError as error:
            assert "documents need a network" in str(error), config
            return
        assert found == pytest.approx(float(causal_loss(model, separate_rows(), place=Place(0)).detach()), rel=1e-6)
