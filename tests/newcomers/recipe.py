"""A recipe of one's own, as in docs/guides/training.md: random tokens follow the frequencies of the training texts.

It trains for a few steps in a temporary folder, and the saved model is loaded again with its noise.
"""

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes"))  # a recipe lies in this folder

from common import DEMO, DEMO_NETWORK, DEMO_TEXT, DiffusionTraining, prepare, train_diffusion
from noiselab import Pipeline
from noiselab.data import token_frequencies, token_support
from noiselab.training.options import Run, command_line

PRESETS = {"demo": ("unigram noise", DiffusionTraining(DEMO, DEMO_TEXT, Run(Path("runs/unigram")), **DEMO_NETWORK))}
rows = []


def main(arguments=None):
    options = command_line(PRESETS, arguments)
    data = prepare(options)
    support = token_support(data.tokenizer)
    row = token_frequencies(data.train, data.vocab_size, smoothing=1.0, support=support)
    rows.append(row)
    return train_diffusion(
        options, data, {"family": "unigram", "frequencies": row.tolist(), "support": support.tolist()}
    )


with tempfile.TemporaryDirectory() as folder:
    texts = Path(folder) / "texts"
    texts.mkdir()
    for a in range(40):
        (texts / f"{a}.txt").write_text(" ".join(f"{a} plus {b} is {a + b}." for b in range(20)))
    run = Path(folder) / "run"
    flags = f"--corpus {texts} --vocab-size 280 --length 16 --layers 1 --width 32 --heads 2 --time-width 32 --steps 3 --batch 4"
    main(["demo", *flags.split(), "--cpu", "True", "--output", str(run)])
    pipe = Pipeline.from_pretrained(run / "final" / "ema")

print(pipe.process)
(row,) = rows
torch.testing.assert_close(pipe.process.mixing(torch.tensor(0.5)).flatten(), row, check_dtype=False)
letters = {word: pipe.tokenizer(word, add_special_tokens=False)["input_ids"] for word in (".", "z")}
assert row[letters["."][0]] > 10 * row[letters["z"][0]] > 0  # full stops are frequent, a z never occurs
assert row[pipe.tokenizer.pad_token_id] == 0
x = pipe.process.prior(2000, 16, generator=torch.Generator().manual_seed(0))
found = torch.bincount(x.flatten(), minlength=len(row)) / x.numel()
assert ((found - row).abs() < 5 * (row * (1 - row) / x.numel()).sqrt() + 1e-3).all()
