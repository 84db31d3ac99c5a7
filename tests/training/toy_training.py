"""A network, data and a trainer small enough to train in a fraction of a second."""

import hashlib
from pathlib import Path

import torch
import transformers
from torch.utils.data import Dataset

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


class Losses(transformers.TrainerCallback):
    """The exact loss of each step made, in memory and, if wanted, in a file."""

    def __init__(self, file=None):
        self.file, self.seen, self.trainer = file, {}, None

    def on_step_end(self, args, state, control, **_):
        self.seen[state.global_step] = float(self.trainer.step_loss).hex()
        if self.file is not None:
            with open(self.file, "a") as file:
                file.write(f"{state.global_step} {self.seen[state.global_step]}\n")


def make(
    folder, *, data=None, model=None, dropout=0.1, ema=0.9, process="gidd", file=None, callbacks=(), extra=None, **args
):
    import noiselab as nl
    from noiselab.training import Trainer, training_arguments

    args = {
        "max_steps": 14,
        "save_steps": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 3,
        "logging_steps": 5,
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 1,
        "dataloader_pin_memory": False,
        **args,
    }
    losses = Losses(file)
    if process == "gidd":
        process = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
    trainer = Trainer(
        network(dropout) if model is None else model,
        training_arguments(folder, **args),
        train_dataset=Rows() if data is None else data,
        process=process,
        ema=ema,
        callbacks=[losses, *callbacks],
        **(extra or {}),
    )
    losses.trainer = trainer
    trainer.losses = losses
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    return trainer


def digest(trainer):
    """A hash of the weights and one of their average."""
    result = {}
    shadows = [] if trainer.average is None else trainer.average.ema.shadow_params
    for name, tensors in (("weights", trainer.model.parameters()), ("average", shadows)):
        total = hashlib.sha256()
        for tensor in tensors:
            total.update(tensor.detach().numpy().tobytes())
        result[name] = total.hexdigest()
    return result


def flip(path):
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(path).write_bytes(content)
