import errno
import json
import logging
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file, load_model
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.utils.data import IterableDataset
from toy_training import L, Rows, Stream, V, digest, flip, llama, make, network

import noiselab as nl
from noiselab.objectives import Clipped, elbo
from noiselab.training import Callback, Optimization, checkpoints, noised_loss
from noiselab.training.losses import causal_loss
from noiselab.training.optimizers import decayed_names, learning_rate


def test_settings_that_change_the_numbers_are_refused_and_others_are_not(tmp_path):
    make(tmp_path, steps=4, save_every=4).train()
    changes = {
        "optimization.learning_rate: 0.01 in the checkpoint, 0.02 now": {"learning_rate": 0.02},
        "optimization.steps: 4 in the checkpoint, 6 now": {"steps": 6},
        "optimization.batch: 8 in the checkpoint, 16 now": {"batch": 16},
        "optimization.seed: 1 in the checkpoint, 2 now": {"seed": 2},
        "optimization.ema: 0.9 in the checkpoint, None now": {"ema": None},
        "data.rows: 64 in the checkpoint, 48 now": {"data": Rows(48)},
        "data.contents": {"data": Rows(seed=3)},
        "process: 'Interpolation(": {"process": nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.1)},
        "objective: 'elbo' in the checkpoint, 'Clipped(2)' now": {"extra": {"objective": Clipped(2)}},
        "time_range": {"extra": {"time_range": (0.1, 0.9)}},
        "optimization.decay_all: False in the checkpoint, True now": {"decay_all": True},
        "optimization.precision: 'float32' in the checkpoint, 'bfloat16' now": {"precision": "bfloat16"},
        "mine: None in the checkpoint, {'deep': 3} now": {"extra": {"settings": {"mine": {"deep": 3}}}},
        "weights.vocab_embed.embedding": {"model": network(hidden_size=16)},
    }
    for message, change in changes.items():
        with pytest.raises(ValueError) as refused:
            make(tmp_path, **{"steps": 4, "save_every": 4, **change}).train()
        assert message in str(refused.value), str(refused.value)
    make(tmp_path, steps=4, save_every=3, log_every=1, keep=5, micro_batch=2).train()


def test_a_full_disk_leaves_the_last_good_checkpoint_and_a_clear_error(tmp_path, monkeypatch):
    clean = make(tmp_path / "clean")
    clean.train()
    original = HuggingFaceStorageWriter.write_data

    def full(self, plan, planner):
        if "checkpoint-8" in str(self.path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, plan, planner)

    run = make(tmp_path / "full")
    with monkeypatch.context() as patch:
        patch.setattr(HuggingFaceStorageWriter, "write_data", full)
        with pytest.raises(OSError, match="No space left on device") as failed:
            run.train()
    assert failed.value.errno == errno.ENOSPC
    assert "checkpoint-8 could not be written" in str(failed.value)
    assert f"the last good checkpoint is {tmp_path / 'full' / 'checkpoint-4'}" in str(failed.value)
    assert [f.name for f in checkpoints.checkpoints(tmp_path / "full")] == ["checkpoint-4"]
    again = make(tmp_path / "full")
    again.train()
    assert again.resumed.name == "checkpoint-4"
    assert digest(again) == digest(clean)


@pytest.mark.parametrize("each", [True, False])  # False: as on a GPU, where the loss is read only now and then
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path, each):
    process = nl.masked(vocab_size=V, mask_id=V - 1)

    def spoiled(model, batch, *, place, tokens):
        loss = noised_loss(model, batch, process=process, objective=elbo, place=place, tokens=tokens)
        return loss * (math.nan if (place.step, place.micro) == (5, 0) else 1)

    trainer = make(tmp_path, process=None, extra={"loss": spoiled})
    trainer.checks_each_step = each
    with pytest.raises(ValueError) as stopped:
        trainer.train()
    assert "the loss of optimizer step 6 is not finite" in str(stopped.value)
    assert str(tmp_path / "checkpoint-4") in str(stopped.value)
    assert checkpoints.last_intact(tmp_path).name == "checkpoint-4"
    assert len(checkpoints.checkpoints(tmp_path)) == 1
    assert all(p.isfinite().all() for p in trainer.network.parameters()) or not each


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Break(Callback):
        def on_step(self, trainer):
            if trainer.step == 8:
                with torch.no_grad():
                    trainer.network.output_layer.linear.bias[3] = math.inf

    with pytest.raises(ValueError, match=r"step 8 the weight output_layer.linear.bias .*checkpoint-4"):
        make(tmp_path, callbacks=[Break()]).train()
    assert [f.name for f in checkpoints.checkpoints(tmp_path)] == ["checkpoint-4"]


def test_which_checkpoint_is_resumed(tmp_path, caplog):
    make(tmp_path).train()
    with pytest.raises(ValueError, match=r"must use an empty folder: .* contains checkpoint-14"):
        make(tmp_path).train(resume=False)
    with pytest.raises(ValueError, match=r"must use an empty folder"):
        make(tmp_path, resume="never").train()
    explicit = make(tmp_path)
    explicit.train(resume=tmp_path / "checkpoint-12")
    assert sorted(explicit.losses_of_steps.seen) == [13, 14]
    flip(next((tmp_path / "checkpoint-14" / "state").iterdir()))
    with pytest.raises(ValueError, match=r"content of state/.*\.safetensors has changed"):
        make(tmp_path).train(resume=tmp_path / "checkpoint-14")
    with caplog.at_level(logging.WARNING):
        auto = make(tmp_path)
        auto.train()
    assert auto.resumed.name == "checkpoint-12"
    assert "ignored checkpoint" in caplog.text and ".safetensors has changed" in caplog.text
    assert digest(auto) == digest(explicit)


def test_a_finished_run_is_loaded_and_not_trained_further(tmp_path):
    first = make(tmp_path)
    first.train()
    again = make(tmp_path)
    output = again.train()
    assert output.step == 14 and not again.losses_of_steps.seen
    assert digest(again) == digest(first)


def test_checkpoints_hold_nothing_that_must_be_unpickled(tmp_path):
    make(tmp_path).train()
    folder = checkpoints.last_intact(tmp_path)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files - {"settings.json", "progress.json", "data-0.json", "manifest.json"} == {
        "state/shard-00001-model-00001-of-00001.safetensors"
    }
    names = set(load_file(next((folder / "state").iterdir())))
    assert {name.split(".")[0] for name in names} == {"model", "optimizer", "average"}
    assert json.loads((folder / "settings.json").read_text())["optimization"]["learning_rate"] == 0.01


def test_evaluation_uses_the_average_is_repeatable_and_does_not_influence_training(tmp_path):
    extra = {"eval_dataset": {"a": Rows(16, seed=5), "b": Rows(16, padded=False, seed=6)}}
    plain = make(tmp_path / "plain")
    plain.train()
    often = make(tmp_path / "often", evaluate_every=2, extra=extra)
    often.train()
    assert digest(often) == digest(plain)
    metrics = often.evaluate()
    assert metrics == often.evaluate()
    assert set(metrics) == {f"eval_{name}_{what}" for name in "ab" for what in ("loss", "perplexity")}
    assert digest(often) == digest(plain)
    with pytest.raises(ValueError, match="at least one row; got none"):
        often.evaluate([])


@pytest.mark.parametrize("padded", [True, False])
def test_evaluation_is_the_same_for_any_batch_size_and_counts_every_row(tmp_path, padded):
    data = Rows(13, padded=padded, seed=5)
    found = []
    for size in (1, 4, 13, 26):
        trainer = make(tmp_path, batch=52, micro_batch=size)
        found.append(trainer.evaluate(data)["eval_loss"])
    assert found == pytest.approx([found[0]] * 4, rel=1e-5)
    stream = Finite([data[i] for i in range(13)])
    assert trainer.evaluate(stream)["eval_loss"] == pytest.approx(found[0], rel=1e-5)
    worse = [{"input_ids": torch.zeros(L).long()} for _ in range(13)]
    ends = [data[i] for i in range(12)] + [worse[12]]  # another last row, which no full batch of 4 reaches
    assert trainer.evaluate(ends)["eval_loss"] != pytest.approx(found[0], rel=1e-3)


def test_evaluation_of_pure_noise_by_uniform_answers_is_known(tmp_path):
    """Each of 5 rows costs the logarithm of the number of data tokens for each token, whatever its batch."""
    model = network(0.0)
    with torch.no_grad():
        model.output_layer.linear.weight.zero_()
        model.output_layer.linear.bias.zero_()
    process = nl.masked(vocab_size=V, mask_id=V - 1)
    extra = {"time_range": (0.9998, 0.9999)}
    trainer = make(tmp_path, model=model, process=process, micro_batch=4, extra=extra)
    assert trainer.evaluate(Rows(5, seed=2))["eval_loss"] == pytest.approx(math.log(V - 1), rel=0.01)


def test_evaluation_spreads_times_over_all_rows_in_random_order(tmp_path):
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(V))

        def forward(self, input_ids, timesteps, attention_mask=None):
            seen.extend(timesteps.tolist())
            return self.logits.expand(*input_ids.shape, V)

    extra = {"time_range": (0.1, 0.9)}
    trainer = make(tmp_path, model=Watching(), batch=9, micro_batch=3, extra=extra)
    seen.clear()
    trainer.evaluate(Rows(16, seed=2))
    assert sorted(math.floor((t - 0.1) / 0.8 * 16) for t in seen) == list(range(16))
    assert seen != sorted(seen)


def test_evaluation_of_a_causal_model_is_the_mean_of_transformers_over_all_tokens(tmp_path):
    data, model = Rows(10, seed=4), llama()
    labels = torch.where(data.mask, data.ids, -100)
    with torch.no_grad():
        expected = model(input_ids=data.ids, attention_mask=data.mask, labels=labels).loss.item()
    trainer = make(tmp_path, model=model, process=None, ema=None, micro_batch=4, extra={"loss": causal_loss})
    assert trainer.evaluate(data)["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_finished_model_is_loaded_by_name_and_without_remote_code(tmp_path):
    trainer = make(tmp_path / "run")
    trainer.train()
    trainer.save_final(tmp_path / "final", settings={"preset": "toy"})
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "final")
    average = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "final" / "ema")
    for name, p in trainer.network.named_parameters():
        assert torch.equal(model.get_parameter(name), p)
    for p, shadow in zip(average.parameters(), trainer.average.ema.shadow_params, strict=True):
        assert torch.equal(p, shadow)
    assert json.loads((tmp_path / "final" / "settings.json").read_text())["preset"] == "toy"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final", "run"]


def test_a_network_of_ones_own_is_trained_saved_and_loaded(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(V, 4)
            self.head = nn.Linear(4, V, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, input_ids, timesteps, attention_mask=None):
            return self.head(self.embed(input_ids)) + timesteps[:, None, None]

    trainer = make(tmp_path / "run", model=Own(), steps=2, save_every=2)
    trainer.train()
    trainer.save_final(tmp_path / "final")
    other = Own()
    load_model(other, tmp_path / "final" / "model.safetensors")
    assert torch.equal(other.embed.weight, trainer.network.embed.weight)
    assert torch.equal(other.head.weight, trainer.network.embed.weight)


def test_an_autoregressive_model_is_trained_by_the_same_trainer(tmp_path):
    model = llama()
    data = Rows(padded=False)
    data.ids = (data.ids[:, :1] + torch.arange(L)) % (V - 2)  # each token follows from the one before
    trainer = make(
        tmp_path,
        model=model,
        process=None,
        data=data,
        steps=60,
        save_every=60,
        ema=None,
        extra={"loss": causal_loss, "eval_dataset": data},
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.5 < math.log(V)


def test_training_lowers_the_bound(tmp_path):
    data = Rows(padded=False)
    data.ids = (data.ids[:, :1] + torch.arange(L)) % (V - 2)
    model = network(hidden_size=32)
    trainer = make(tmp_path, model=model, data=data, steps=80, save_every=80, ema=None, extra={"eval_dataset": data})
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.2


def test_decay_reaches_all_weights_or_not_norms_and_biases(tmp_path):
    for model in (network(), llama()):
        every = {name for name, _ in model.named_parameters()}
        assert decayed_names(model, everything=True) == every
        flat = {name for name, weight in model.named_parameters() if weight.ndim == 1}  # biases and norms
        assert flat and decayed_names(model, everything=False) == every - flat


class Negative(nl.InterpolatingProcess):
    """Noise that falls: no Markov process."""

    def __init__(self):
        super().__init__(V)

    def alpha(self, t):
        return 1 - t

    def mixing(self, t):
        return torch.cat([t[..., None] ** 3 * 0.5, 1 - t[..., None] ** 3 * 0.5, torch.zeros(*t.shape, V - 2)], -1)


class Finite(IterableDataset):
    def __init__(self, rows=()):
        self.rows = rows or [Rows()[0]]

    def __iter__(self):
        return iter(self.rows)


def test_refusals_at_the_edge(tmp_path):
    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            make(tmp_path, **options)

    refused("a logit for each of 9; got fewer", model=network(vocab_size=8))
    refused("at most the model's 4 tokens; got one of 6", model=network(max_seq_len=4))
    refused("must never end", data=Finite())
    refused("either a process or a loss", process=None)
    refused("either a process or a loss", extra={"loss": causal_loss})
    refused(r"within \(0, 1\)", extra={"time_range": (0.0, 1.0)})
    refused("keep must be at least 2", keep=1)
    refused("steps must be at least 1", steps=0)
    refused("batch must be a multiple of micro_batch times the number of processes; got 8, 3 and 1", micro_batch=3)
    refused("learning_rate must", learning_rate=-1.0)
    refused("seed must", seed=-1)
    refused(r"shards must divide the number of processes, 1, or be 0 for all; got 2", shards=2)
    refused("float32; .* is torch.bfloat16", model=network().bfloat16())
    refused("must be finite; got the endless Stream", extra={"eval_dataset": Stream(Rows())})
    make(tmp_path, data=Stream(Rows()))


def test_a_process_that_is_none_is_refused(tmp_path):
    class Rising(nl.InterpolatingProcess):
        vocab_size = V

        def __init__(self):
            super().__init__()

        def alpha(self, t):
            return t

        def mixing(self, t):
            return torch.full((*t.shape, V), 1 / V, dtype=t.dtype)

    with pytest.raises(ValueError):
        make(tmp_path, process=Rising())


def test_a_run_that_began_with_other_weights_says_so(tmp_path):
    """Such as the fine-tuning of another base in the same folder: shapes and settings are equal."""
    make(tmp_path, steps=4).train()
    make(tmp_path, steps=4).train()  # the same weights: no warning
    other = network()
    with torch.no_grad():
        other.vocab_embed.embedding[0, 0] += 1e-3
    for steps in (4, 4):
        with pytest.warns(UserWarning, match=r"given with other weights .* choose another output folder"):
            make(tmp_path, model=other, steps=steps).train()


def test_the_learning_rate_is_that_of_transformers(tmp_path):
    """Warm-up and half a cosine down to a fraction, or constant."""
    for schedule, name, more in (
        ("cosine", "cosine_with_min_lr", {"scheduler_specific_kwargs": {"min_lr_rate": 0.1}}),
        ("constant", "constant_with_warmup", {}),
    ):
        settings = Optimization(steps=20, batch=1, learning_rate=0.3, warmup=4, schedule=schedule)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
        theirs = transformers.get_scheduler(name, optimizer, num_warmup_steps=4, num_training_steps=20, **more)
        for step in range(20):
            assert learning_rate(settings, step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
            optimizer.step()
            theirs.step()


def test_a_second_run_of_one_trainer_starts_again_from_its_weights(tmp_path):
    """Without checkpoints: step, optimizer and history begin anew, the weights do not."""
    once = make(tmp_path / "once", steps=4, save_every=0, log_every=1)
    once.train()
    weights = {name: p.detach().clone() for name, p in once.network.named_parameters()}
    assert once.train().step == 4 and [entry["step"] for entry in once.history] == [1, 2, 3, 4]
    model = network()
    model.load_state_dict(weights, strict=False)
    other = make(tmp_path / "other", model=model, steps=4, save_every=0)
    other.train()
    assert digest(other) == digest(once)
