"""What a pipeline costs beside its network: `make bench`.

The published small network (170 million weights), float32, two threads. Texts of 2 x 128 tokens in 32 steps against 32 bare
forward passes; the memory that loading takes against the size of the file. A ratio that misses its limit is marked, and the
exit status says so.
"""

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from core import report
from measure import peak_memory, time_in_turns

LENGTH, STEPS = 128, 32


def save_pipeline(folder: Path) -> None:
    """The published small network with random weights, and a tokenizer of the same size, as a saved pipeline."""
    from noiselab.data import train_tokenizer
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.pipeline import DiffusionPipeline, ModelSettings

    words = train_tokenizer([" ".join(map(str, range(2000)))], vocab_size=1000)
    words.add_tokens([f"<{i}>" for i in range(50_258 - len(words))])
    torch.manual_seed(0)
    model = DiT(DiTConfig(max_seq_len=512)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if (weight == 0).all():
                weight.normal_(std=0.02)
    noise = {"family": "gidd", "vocab_size": 50_258, "mask_id": words.mask_token_id, "p_uniform": 0.1}
    DiffusionPipeline(model, words, ModelSettings(noise)).save_pretrained(folder)


def prepare_loading(folder: str) -> Callable[[], object]:
    """Loads the network; the tokenizer's files and libraries are no part of the figure."""
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.pipeline.loading import load_model

    def piece() -> object:
        return load_model(folder)

    def warm() -> None:
        with tempfile.TemporaryDirectory() as small:
            sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_seq_len": 8}
            DiT(DiTConfig(vocab_size=99, **sizes)).save_pretrained(small)
            load_model(small)

    piece.warm = warm  # type: ignore[attr-defined]
    return piece


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each piece; the best counts")
    options = parser.parse_args()
    import transformers

    from noiselab.pipeline import Pipeline

    torch.set_num_threads(2)
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads. Best of {options.rounds} rounds, in turns.\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        save_pipeline(folder)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        peak = peak_memory(functools.partial(prepare_loading, str(folder)))
        pipe = Pipeline.from_pretrained(folder)
        z, t = torch.randint(0, 50_257, (2, LENGTH)), torch.full((2,), 0.5)

        def generate() -> None:
            pipe.generate(2, STEPS, length=LENGTH, generator=torch.Generator().manual_seed(0), show_progress=False)

        @torch.no_grad()
        def bare() -> None:
            for _ in range(STEPS):
                pipe.network(z, t)

        time = time_in_turns({"generate": generate, "bare": bare}, options.rounds)
    print(f"  a file of {size / 1e6:.0f} MB; {STEPS} forward passes in {time['bare']:.1f} s\n")
    missed = report(
        "pipeline",
        [
            (
                f"generate 2 x {LENGTH} tokens in {STEPS} steps / {STEPS} forward passes",
                time["generate"] / time["bare"],
                1.15,
                False,
            ),
            ("memory at the peak of loading / size of the file", peak / size, 1.2, False),
        ],
    )
    return min(missed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
