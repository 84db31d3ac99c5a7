"""A network, data and a trainer small enough to train in a fraction of a second."""

import hashlib
from pathlib import Path

import torch
import transformers
from torch.utils.data import Dataset

from noiselab.training import Callback

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

V, L = 9, 6  # the last token is the mask, the one before it fills up


class Rows(Dataset):
    def __init__(self, count=64, padded=True, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(V - 2, (count, L), generator=generator)
        real = torch.randint(1, L + 1, (count, 1), generator=generator) if padded else torch.full((count, 1), L)
        self.mask = torch.arange(L) < real
        self.ids = torch.where(self.mask, self.ids, V - 2)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "attention_mask": self.mask[i]}


class Stream(torch.utils.data.IterableDataset):
    endless = True

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        done = 0
        while True:
            order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(done))
            yield from (self.rows[int(i)] for i in order)
            done += 1


def network(dropout=0.1, **sizes):
    from noiselab.networks.dit import DiT, DiTConfig

    torch.manual_seed(0)
    config = {"vocab_size": V, "max_seq_len": L, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = DiT(
        DiTConfig(**config, timestep_cond_dim=8, attention_dropout=dropout)
        if not sizes
        else DiTConfig(**{**config, **sizes})
    )
    with torch.no_grad():
        for p in model.parameters():  # the published start, zeros, would hide much
            p.add_(0.1 * torch.randn(p.shape))
    return model


def llama():
    """A small causal model."""
    config = transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=L,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


class Losses(Callback):
    """The exact loss of each step made, in memory and, if wanted, in a file."""

    def __init__(self, file=None):
        self.file, self.seen = file, {}

    def on_step(self, trainer):
        self.seen[trainer.step] = float(trainer.step_loss).hex()
        if self.file is not None:
            with open(self.file, "a") as file:
                file.write(f"{trainer.step} {self.seen[trainer.step]}\n")


SETTINGS = {"steps": 14, "batch": 8, "micro_batch": 4, "learning_rate": 1e-2, "warmup": 3, "ema": 0.9, "seed": 1}
SETTINGS |= {
    "weight_decay": 0.0,
    "betas": (0.9, 0.999),
    "epsilon": 1e-8,
    "final_learning_rate": 0.0,
    "decay_all": False,
}
RUN = {"save_every": 4, "log_every": 5, "evaluate_every": 0, "progress": False, "cpu": True}


def make(
    folder, *, data=None, model=None, dropout=0.1, process="gidd", file=None, callbacks=(), extra=None, **settings
):
    import noiselab as nl
    from noiselab.training import Optimization, Run, Trainer

    run = {name: settings.pop(name) for name in [*settings] if name in Run.__dataclass_fields__}
    losses = Losses(file)
    if process == "gidd":
        process = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
    trainer = Trainer(
        network(dropout) if model is None else model,
        Optimization(**{**SETTINGS, **settings}),
        Run(**{"output": Path(folder), **RUN, **run}),
        train_dataset=Rows() if data is None else data,
        process=process,
        callbacks=[losses, *callbacks],
        **(extra or {}),
    )
    trainer.losses_of_steps = losses
    return trainer


def digest(trainer):
    """A hash of the weights and one of their average."""
    result = {}
    shadows = [] if trainer.average is None else trainer.average.ema.shadow_params
    for name, tensors in (("weights", trainer.network.parameters()), ("average", shadows)):
        total = hashlib.sha256()
        for tensor in tensors:
            total.update(tensor.detach().numpy().tobytes())
        result[name] = total.hexdigest()
    return result


def flip(path):
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(path).write_bytes(content)
