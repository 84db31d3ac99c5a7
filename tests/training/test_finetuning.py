import random
import sys
from functools import partial

import pytest
import torch
import transformers
from safetensors.torch import load_file

from common import build_llama, load_or_train
from noiselab.autoregressive import Probe
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.tasks.igsm import Words, draw_small
from noiselab.training import (
    Callback,
    Optimization,
    Place,
    Run,
    Trainer,
    causal_loss,
    labelled,
    load_probe,
    merged,
    predicted_tokens,
    probe_loss,
    save_probe,
    with_lora,
)
from problems.streams import CanNextStream

V, L = 12, 8
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def llama(tied=False):
    torch.manual_seed(0)
    network = build_llama(V, layers=2, width=16, heads=2, length=L, start=0)
    if tied:
        network.config.tie_word_embeddings = True
        network = transformers.LlamaForCausalLM(network.config)
    return network.eval()


class Rows(torch.utils.data.Dataset):
    ids = torch.randint(V, (32, L), generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i]}


def trainer_of(network, folder, steps, ema=None, callbacks=()):
    optimization = Optimization(steps, batch=8, learning_rate=0.05, weight_decay=0.0, ema=ema)
    run = Run(folder, save_every=3, log_every=3, cpu=True, progress=False)
    return Trainer(
        network, optimization, run, train_dataset=Rows(), loss=causal_loss, count=predicted_tokens, callbacks=callbacks
    )


def close(one, two):
    return torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_only_updates_are_trained_and_merging_changes_no_answer(tmp_path, tied):
    network = llama(tied)
    before = {name: p.clone() for name, p in network.state_dict().items()}
    adapted = with_lora(network, 2, scale=2)
    assert torch.equal(adapted(input_ids=Rows.ids).logits, network(input_ids=Rows.ids).logits)
    base = {name: p.clone() for name, p in adapted.named_parameters() if not p.requires_grad}
    trainer_of(adapted, tmp_path, 6).train()
    adapted.eval()
    for name, p in adapted.named_parameters():
        assert p.requires_grad == ("lora" in name)
        assert p.requires_grad or torch.equal(p, base[name])
    assert all(torch.equal(p, before[name]) for name, p in network.state_dict().items())
    trained = adapted(input_ids=Rows.ids).logits
    assert not close(trained, network(input_ids=Rows.ids).logits)
    plain = merged(adapted)
    assert type(plain) is transformers.LlamaForCausalLM and close(plain(input_ids=Rows.ids).logits, trained)
    assert plain.state_dict().keys() == llama().state_dict().keys()
    assert torch.equal(adapted(input_ids=Rows.ids).logits, trained)  # merged is a copy
    changed = {name for name, p in plain.state_dict().items() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "q_proj" in name or "v_proj" in name or "embed_tokens" in name}


def test_ranks_are_those_of_the_changes():
    adapted = with_lora(llama(), 1, embedding_rank=3)
    for name, p in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(len(name)))
    before, after = llama().state_dict(), merged(adapted).state_dict()
    for name, rank in (("model.embed_tokens", 3), ("model.layers.1.self_attn.q_proj", 1)):
        assert torch.linalg.matrix_rank(after[f"{name}.weight"] - before[f"{name}.weight"], rtol=1e-4) == rank
    twice = [p.shape for name, p in with_lora(llama(), 2).named_parameters() if "embedding_A" in name]
    assert twice == [(4, V)]
    none = [name for name, _ in with_lora(llama(), 2, embedding_rank=0).named_parameters() if "embedding_A" in name]
    assert not none


@pytest.mark.parametrize("ema", [None, 0.5])
def test_what_the_trainer_writes_loads_as_a_plain_model(tmp_path, ema):
    adapted = with_lora(llama(), 2)
    trainer = None

    def build():
        nonlocal trainer
        trainer = trainer_of(adapted, tmp_path, 4, ema)
        return trainer

    found = load_or_train(tmp_path, build, averaged=ema is not None, cpu=True)
    if ema is not None:
        with trainer.average.applied():
            expected = adapted.eval()(input_ids=Rows.ids).logits
        assert not close(expected, adapted(input_ids=Rows.ids).logits)
    else:
        expected = adapted.eval()(input_ids=Rows.ids).logits
    assert type(found) is transformers.LlamaForCausalLM and close(found(input_ids=Rows.ids).logits, expected)


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    whole, part, rest = (with_lora(llama(), 2) for _ in range(3))
    for one in (part, rest):
        one.load_state_dict(whole.state_dict())
    trainer_of(whole, tmp_path / "whole", 6).train()

    class Stop(Callback):
        def on_step(self, trainer):
            if trainer.step == 3:
                trainer.stop()

    first = trainer_of(part, tmp_path / "part", 6, callbacks=[Stop()])
    first.train()
    second = trainer_of(rest, tmp_path / "part", 6)
    second.train()
    assert first.step == 3 and second.step == 6
    for (name, one), other in zip(whole.named_parameters(), rest.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_network_whose_embedding_is_not_found_is_refused():
    dit = DiT(DiTConfig(vocab_size=V, max_seq_len=L, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    for more in ({}, {"embedding_rank": 0}):
        with pytest.raises(ValueError, match=r"must be a causal model of transformers .* got a DiT"):
            with_lora(dit, rank=2, **more)


def test_finetuning_refuses_what_it_cannot_do(monkeypatch):
    for settings in ({"rank": 0}, {"rank": 1, "embedding_rank": -1}, {"rank": 1, "scale": 0.0}):
        with pytest.raises(ValueError, match="must be positive"):
            with_lora(llama(), **settings)
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=V, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="q_proj and v_proj"):
        with_lora(gpt, 1)
    with pytest.raises(ValueError, match="from with_lora"):
        merged(llama())
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"noiselab\[finetune\]"):
        with_lora(llama(), 1)


# Probes.


def test_the_loss_of_a_probe_is_that_of_its_rows_alone():
    probe, lengths = Probe(llama(), 2), torch.tensor([8, 3, 5, 3])
    ids, label = Rows.ids[:4], torch.tensor([1, 0, 0, 1])
    mask = (torch.arange(L) < lengths[:, None]).long()
    logits = torch.stack([probe(ids[i : i + 1, :n])[0] for i, n in enumerate(lengths)])
    p = torch.where(label.bool(), logits.sigmoid(), 1 - logits.sigmoid())
    batch = {"input_ids": ids, "attention_mask": mask, "label": label}
    assert close(probe_loss(probe, batch, place=Place(step=0)), -p.log().mean())
    halves = [{name: part[i : i + 2] for name, part in batch.items()} for i in (0, 2)]
    shares = [probe_loss(probe, half, place=Place(step=0), tokens=labelled(batch).sum()) for half in halves]
    assert close(shares[0] + shares[1], -p.log().mean())
    several = {"input_ids": ids, "places": torch.tensor([[2, 7]] * 4), "label": torch.stack([label, 1 - label], -1)}
    found = probe(ids, places=several["places"]).sigmoid()
    expected = torch.where(several["label"].bool(), found, 1 - found).log().mean()
    assert close(probe_loss(probe, several, place=Place(step=0)), -expected)


def test_the_stream_of_a_probe_is_trained_on_and_its_file_gives_it_back(tmp_path):
    words = Words("micro")
    stream = CanNextStream(partial(draw_small, level="micro"), words, 64, batch=8, seed=1)
    torch.manual_seed(0)
    network = build_llama(words.size, layers=2, width=16, heads=2, length=64, start=words.start)
    probe = Probe(network, 4, 1)
    optimization = Optimization(steps=4, batch=8, learning_rate=0.05)
    run = Run(tmp_path / "run", cpu=True, progress=False)
    Trainer(probe, optimization, run, train_dataset=stream, loss=probe_loss, count=labelled).train()
    ids = next(iter(stream))["input_ids"][None]
    assert not close(probe(ids), Probe(network, 4, 1)(ids))
    file = tmp_path / "probe.safetensors"
    save_probe(probe, file)
    assert torch.equal(load_probe(network, file)(ids), probe(ids))
    saved = load_file(file)
    assert sum(part.numel() for part in saved.values()) == probe.trained_size
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["probe.safetensors"]


def test_rows_of_the_stream_are_examples_of_its_problems():
    words, numbers = Words("logic"), random.Random(0)
    problems = {}

    def draw(generator):
        problem = draw_small(generator, level="logic", split="train")
        problems[problem.question] = problem
        return problem

    def words_of(row):
        return words.decode(row["input_ids"][row["attention_mask"].bool()])

    rows = iter(CanNextStream(draw, words, 60, batch=4, seed=numbers.randrange(9)))
    lengths = []
    for _ in range(40):
        row = next(rows)
        said = words_of(row)
        lengths.append(len(said))
        asked = next(end for end in range(len(said)) if said[1 : end + 1] in problems)
        problem, solution = problems[said[1 : asked + 1]], said[asked + 1 :]
        known = [solution[i + 1] for i, word in enumerate(solution) if word == "D"]
        assert solution[-3:] == ("D", known[-1], "as")
        assert bool(row["label"]) == (known[-1] in problem.ready(known[:-1]))
        assert len(row["input_ids"]) == 60 and (row["input_ids"][len(said) :] == words.padding).all()
    batches = [lengths[i : i + 4] for i in range(0, 40, 4)]
    assert sum(max(b) - min(b) for b in batches) < 0.2 * sum(max(lengths) - min(lengths) for b in batches)
    again = CanNextStream(draw, words, 60, batch=4, seed=1)
    assert all(words_of(a) == words_of(b) for a, b, _ in zip(again, again, range(9), strict=False))


def test_probes_of_other_networks_and_other_files_are_refused(tmp_path):
    save_probe(Probe(llama(), 2), tmp_path / "probe.safetensors")
    other = llama()
    other.model.norm.weight.data += 1
    with pytest.raises(ValueError, match="probe of this network"):
        load_probe(other, tmp_path / "probe.safetensors")
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="must contain a probe"):
        load_probe(llama(), tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="must contain a probe"):
        load_probe(llama(), tmp_path / "missing.safetensors")
    words = Words("nano")
    with pytest.raises(ValueError, match="must be positive"):
        CanNextStream(partial(draw_small, level="nano"), words, 60, batch=0)
    with pytest.raises(ValueError, match="must fit the length"):
        next(iter(CanNextStream(partial(draw_small, level="nano"), words, 5, batch=1)))
