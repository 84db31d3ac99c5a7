"""Block diffusion in one pass against a pass for each block, forward and backward, as ratios of one run.

A plain Llama without a head (4 layers of width 256), one text of 256 tokens in blocks of 16, two threads.
"""

import argparse

import torch
import transformers

from measure import time_in_turns
from noiselab.denoisers import attending_to
from noiselab.denoisers.blockwise import BlockDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel

STATES, LENGTH = 512, 256


def build() -> MaskedLanguageModel:
    """A Llama with random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 680, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=STATES, max_position_embeddings=LENGTH, use_cache=False, **sizes)
    return MaskedLanguageModel(transformers.LlamaForCausalLM(config))


def one_pass(model: MaskedLanguageModel, z: torch.Tensor, x: torch.Tensor, size: int) -> torch.Tensor:
    """The logits of all blocks in one pass."""
    denoiser = BlockDenoiser(model, size)
    with attending_to(denoiser, clean=x):
        return denoiser(z, torch.full((len(z),), 0.5))


def separate_passes(model: MaskedLanguageModel, z: torch.Tensor, x: torch.Tensor, size: int) -> torch.Tensor:
    """The logits of each block in a pass of its own, after the clean blocks before it."""
    found, t = [], torch.full((len(z),), 0.5)
    for start in range(0, z.shape[1], size):
        tokens = torch.cat((x[:, :start], z[:, start : start + size]), 1)
        block = torch.arange(tokens.shape[1]) // size
        with attending_to(model, may_attend=(block <= block[:, None])[None]):
            found.append(model(tokens, t)[:, start:])
    return torch.cat(found, 1)


def whole(model: MaskedLanguageModel, z: torch.Tensor, x: torch.Tensor, size: int) -> torch.Tensor:
    """The logits of the text as one block: ordinary diffusion."""
    return model(z, torch.full((len(z),), 0.5))


def main() -> None:
    """Print times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each piece; the best counts")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32], help="tokens in a block")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, random = build(), torch.Generator().manual_seed(0)
    x, z = (torch.randint(STATES, (options.batch, LENGTH), generator=random) for _ in range(2))
    for size in options.sizes:
        found, wanted = (call(model, z, x, size) for call in (one_pass, separate_passes))
        difference = float((found - wanted).detach().abs().max())
        pieces = {
            call.__name__: lambda call=call, size=size: call(model, z, x, size).square().mean().backward()
            for call in (one_pass, separate_passes, whole)
        }
        times = time_in_turns(pieces, options.rounds)
        one, many, plain = (times[name] for name in ("one_pass", "separate_passes", "whole"))
        print(
            f"blocks of {size}: one pass {1e3 * one:.0f} ms, a pass for each {1e3 * many:.0f} ms, ratio {many / one:.1f}; "
            f"{one / plain:.2f} of a pass without blocks; largest difference of logits {difference:.0e}"
        )


if __name__ == "__main__":
    main()
