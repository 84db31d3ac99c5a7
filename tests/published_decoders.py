"""The runs of published decoders in tests/fixtures/reference: their network, and the canvas at each forward of ours."""

from pathlib import Path

import torch
from safetensors.torch import load_file

import noiselab as nl

FOLDER = Path(__file__).parent / "fixtures" / "reference"
RUNS, LAWS = (load_file(FOLDER / f"{name}.safetensors") for name in ("decoders", "laws"))


class PublishedNetwork(nl.Denoiser):
    """The network of the README beside the numbers; it keeps the tokens of each call."""

    def __init__(self, numbers, mask=None):
        super().__init__()
        self.emb, self.pos, self.k, self.out = (numbers[name].double() for name in ("emb", "pos", "k", "out"))
        self.mask, self.seen = mask, []

    def forward(self, z, t):
        self.seen.append(z.clone())
        h, length = self.emb[z] + self.pos[: z.shape[1]], z.shape[1]
        y = torch.zeros_like(h)
        for o in range(-3, 4):
            to, origin = slice(max(o, 0), length + min(o, 0)), slice(max(-o, 0), length - max(o, 0))
            if length > abs(o):
                y[:, to] += h[:, origin] @ self.k[o + 3]
        logits = y.tanh() @ self.out
        if self.mask is not None:
            logits[..., self.mask] = -200
        return logits


def settings(case, numbers=RUNS):
    """The fields of a case."""
    found = {name.removeprefix(f"{case}."): value for name, value in numbers.items() if name.startswith(f"{case}.")}
    return {name: value.item() if value.dim() == 0 else value.long() for name, value in found.items()}


def canvases(network, length, mask):
    """The whole canvas at each call: what was cut off are masks."""
    return [torch.nn.functional.pad(z, (0, length - z.shape[1]), value=mask) for z in network.seen]


def without_idle(trace):
    """A trace without the forwards that changed nothing."""
    return [row for k, row in enumerate(trace) if k == 0 or not torch.equal(row, trace[k - 1])]
