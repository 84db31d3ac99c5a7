"""Peak memory of loading a model, relative to its file: `python benchmarks/loading.py [KIND ...]`.

Writes a model of each kind with random weights in two sizes, loads it in a fresh process, and prints the growth of the
resident memory at its peak (VmHWM, mapped pages included) divided by the size of the files of weights. What a process needs
once, such as modules that are imported at the first use, is loaded before with a tiny model of the same kind. "of each MB" is
the slope between the two sizes, which differ in their layers; "fixed" is what does not grow with these: the tokenizer, the
noise, and copies of embeddings if there are any. Pipelines have a tokenizer of 32,000 tokens; networks alone have none. The
exit status is 1 if more than 1.2 times a further MB is needed.
"""

import argparse
import copy
import functools
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from measure import peak_memory

LIMIT = 1.2
VOCAB = 32_000


@functools.cache
def tokenizer() -> Any:
    """A byte-level BPE tokenizer with merges learned from random words."""
    from noiselab.data import train_tokenizer

    letters, draw = "etaoinshrdlucmfwypvbgkjqxz", random.Random(0)
    lines = [" ".join("".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(1000)) for _ in range(200)]
    return train_tokenizer(lines, vocab_size=VOCAB)


def write_masked(folder: Path, width: int, layers: int, *, kind: str, tied: bool, dtype: torch.dtype) -> None:
    """A pipeline of a model of transformers with masks: a `MaskedLanguageModel`."""
    from noiselab.networks.masked_lm import MaskedLanguageModel
    from noiselab.pipeline import DiffusionPipeline, ModelSettings

    network = getattr(transformers, kind)(_config(kind, width, layers, tied)).to(dtype).eval()
    noise = {"family": "masked", "vocab_size": VOCAB, "mask_id": tokenizer().mask_token_id}
    model = MaskedLanguageModel(network, predicts="leave_one_out")
    DiffusionPipeline(model, tokenizer(), ModelSettings(noise)).save_pretrained(folder)


def write_adapters(folder: Path, width: int, layers: int, *, mask: str | None, rows: int, tied: bool) -> None:
    """A Llama with so many rows, and low-rank updates for it; `mask` is a token that its tokenizer lacks."""
    from noiselab.data import vocabulary_size
    from noiselab.pipeline import DiffusionPipeline, ModelSettings
    from noiselab.training import adapt

    config = _config("LlamaForCausalLM", width, layers, tied)
    config.vocab_size = rows
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "base")
    llama = transformers.LlamaForCausalLM.from_pretrained(folder / "base", dtype="auto")
    words = copy.deepcopy(tokenizer())
    if mask is not None:
        words.mask_token = None
    denoiser, words = adapt(llama, words, mask_token=mask, lora=8)
    noise = {"family": "masked", "vocab_size": vocabulary_size(words), "mask_id": words.mask_token_id}
    DiffusionPipeline(denoiser.eval(), words, ModelSettings(noise)).save_pretrained(folder)


def write_published(folder: Path, width: int, layers: int, *, kind: str) -> None:
    """A network of `load_network` in bfloat16."""
    from noiselab.networks import published
    from noiselab.networks.published import a2d

    heads = {"num_attention_heads": width // 64, "num_hidden_layers": layers, "hidden_size": width}
    network: Any
    if kind == "gidd":
        sizes = heads | {"vocab_size": 16384, "intermediate_size": 4 * width}
        network = published.GiddForDiffusionLM(published.GiddConfig(**sizes))
    elif kind == "udlm":
        network = published.UDLM(published.UDLMConfig(hidden_dim=width, n_blocks=layers, n_heads=width // 64))
    elif kind == "llada2_moe":
        sizes = heads | {"vocab_size": 16384, "intermediate_size": 2 * width, "num_experts": 32, "n_group": 4}
        sizes |= {"topk_group": 2, "moe_intermediate_size": width // 2, "num_key_value_heads": 2}
        network = published.LLaDA2MoeModelLM(published.LLaDA2MoeConfig(**sizes))
    else:
        network = a2d.A2DQwen3LMHeadModel(_config("Qwen3ForCausalLM", width, layers, make=a2d.A2DQwen3Config))
    network.to(torch.bfloat16).save_pretrained(folder)


def _config(kind: str, width: int, layers: int, tied: bool = False, make: Any = None) -> Any:
    make = make or getattr(transformers, kind).config_class
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": width // 64}
    if "Bert" not in kind:
        heads |= {"num_key_value_heads": width // 64, "head_dim": 64}
    return make(vocab_size=VOCAB, tie_word_embeddings=tied, **sizes, **heads)


def load_pipeline(folder: str) -> object:
    """A pipeline: model, tokenizer and settings."""
    from noiselab.pipeline import Pipeline

    base = Path(folder) / "base"
    return Pipeline.from_pretrained(folder, base=base) if base.exists() else Pipeline.from_pretrained(folder)


def load_published(folder: str) -> object:
    """A network alone."""
    from noiselab.networks import load_network

    return load_network(folder)


Write = Callable[[Path, int, int], None]
Load = Callable[[str], object]


def masked(kind: str, tied: bool, dtype: torch.dtype = torch.bfloat16) -> Write:
    """Writes a pipeline of this class of transformers."""
    return functools.partial(write_masked, kind=kind, tied=tied, dtype=dtype)


def adapters(mask: str | None, rows: int = VOCAB, tied: bool = False) -> Write:
    """Writes adapters and their base."""
    return functools.partial(write_adapters, mask=mask, rows=rows, tied=tied)


# How it is written and loaded, its width, and the numbers of layers of the two sizes.
KINDS: dict[str, tuple[Write, Load, int, tuple[int, int]]] = {
    "GIDD at scale": (functools.partial(write_published, kind="gidd"), load_published, 1024, (4, 12)),
    "UDLM": (functools.partial(write_published, kind="udlm"), load_published, 768, (4, 24)),
    "LLaDA2": (functools.partial(write_published, kind="llada2_moe"), load_published, 512, (6, 18)),
    "A2D": (functools.partial(write_published, kind="a2d"), load_published, 1024, (4, 12)),
    "Llama": (masked("LlamaForCausalLM", False), load_pipeline, 1024, (2, 12)),
    "Qwen3, tied": (masked("Qwen3ForCausalLM", True), load_pipeline, 1024, (4, 16)),
    "BERT, float32": (masked("BertForMaskedLM", True, torch.float32), load_pipeline, 768, (4, 12)),
    "adapters": (adapters(None), load_pipeline, 1024, (2, 12)),
    "adapters, mask token in a spare row": (adapters("<mask>", VOCAB + 64), load_pipeline, 1024, (2, 12)),
    "adapters, mask token in a new row": (adapters("<mask>"), load_pipeline, 1024, (2, 12)),
    "adapters, new row, tied": (adapters("<mask>", tied=True), load_pipeline, 1024, (4, 16)),
}


def prepare(load: Callable[[str], object], folder: str, tiny: str) -> Callable[[], object]:
    """Loads a folder; a tiny model of the same kind first."""

    def piece() -> object:
        return load(folder)

    piece.warm = lambda: load(tiny)  # type: ignore[attr-defined]
    return piece


def size_of(folder: Path) -> int:
    """Bytes of all weights."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=f"which: {', '.join(KINDS)}; by default all")
    options = parser.parse_args()
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    missed = 0
    print("| kind | file, MB | peak / file | file, MB | peak / file | of each MB | fixed, MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in options.kinds or KINDS:
        write, load, width, counts = KINDS[name]
        found = []
        with tempfile.TemporaryDirectory() as place:
            write(tiny := Path(place) / "tiny", 64, 1)
            for layers in counts:
                write(folder := Path(place) / str(layers), width, layers)
                peak = peak_memory(functools.partial(prepare, load, str(folder), str(tiny)))
                found.append((size_of(folder) / 1e6, peak / 1e6))
        (small, first), (large, second) = found
        slope = (second - first) / (large - small)
        cells = (f"{small:.0f}", f"{first / small:.2f}", f"{large:.0f}", f"{second / large:.2f}", f"{slope:.2f}")
        print(f"| {name} | {' | '.join(cells)} | {first - slope * small:.0f} |", flush=True)
        missed += slope > LIMIT
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
