"""Loads folders of adapted models in a process of its own, and writes their logits and samples: run by `test_fresh_process`.

python fresh_process.py FOLDER...
"""

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

from noiselab.pipeline import Pipeline


def answers(pipe, z):
    """Logits and samples of a pipeline."""
    with torch.no_grad():
        logits = pipe.denoiser(z, torch.full((len(z),), 0.5))
    texts = pipe.generate(2, 4, length=6, generator=torch.Generator().manual_seed(1), show_progress=False)
    return {"logits": logits, "samples": torch.tensor([text.tokens for text in texts])}


def loaded_by_transformers(folder):
    """The class of transformers that an Auto class loads, with head and without; its weights are those of the file."""
    config = transformers.AutoConfig.from_pretrained(folder)
    masked = config.architectures[0].endswith("ForMaskedLM")
    kind = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == config.architectures[0]
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    weights, own = load_file(folder / "model.safetensors"), model.state_dict()
    assert all(torch.equal(own[name], weight) for name, weight in weights.items())
    transformers.AutoModel.from_pretrained(folder)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    for place in map(Path, sys.argv[1:]):
        z = load_file(place / "asked.safetensors")["z"]
        for name in ("whole", "adapter"):
            base = place / "base" if name == "adapter" else None
            save_file(answers(Pipeline.from_pretrained(place / name, base=base), z), place / f"{name}.safetensors")
        loaded_by_transformers(place / "whole")
