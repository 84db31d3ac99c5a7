"""Sampling in blocks with cached keys and values against whole passes, as ratios of one run.

A Llama with random weights (4 layers of width 256), two texts in blocks of 16, two threads: the time of the whole sampler,
and the number of tokens that the network evaluates.
"""

import argparse

import torch
import transformers

import noiselab as nl
from measure import time_in_turns
from noiselab.networks.block_cache import BlockCausal, CachedBlockCausal
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.samplers import AncestralSampler, BlockSampler

STATES = 512


def build(length: int) -> MaskedLanguageModel:
    """A Llama with random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 680, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=STATES, max_position_embeddings=length, **sizes)
    return MaskedLanguageModel(transformers.LlamaForCausalLM(config).eval())


def main() -> None:
    """Print times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each piece; the best counts")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help="steps of each block")
    parser.add_argument("--size", type=int, default=16, help="tokens in a block")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512], help="tokens of a text")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    process = nl.masked(vocab_size=STATES, mask_id=STATES - 1)
    for length in options.lengths:
        inner = build(length)
        denoisers = {kind.__name__: kind(inner, options.size) for kind in (CachedBlockCausal, BlockCausal)}
        texts, work = {}, {}

        def sample(name: str, length: int = length, denoisers: dict = denoisers, texts: dict = texts) -> None:
            denoisers[name].reset()
            blocks = BlockSampler(AncestralSampler(process, denoisers[name]), options.size, context="past")
            random = torch.Generator().manual_seed(0)
            texts[name] = blocks.sample((options.batch, length), steps=options.steps, generator=random)

        times = time_in_turns({name: lambda name=name: sample(name) for name in denoisers}, options.rounds)
        work = {name: denoiser.evaluated / (options.batch * length) for name, denoiser in denoisers.items()}
        (cached, whole), (few, many) = times.values(), work.values()
        same = (texts["CachedBlockCausal"] == texts["BlockCausal"]).float().mean()
        print(
            f"{length} tokens in blocks of {options.size}, {options.steps} steps each: {cached:.2f} s with a cache, "
            f"{whole:.2f} s without, ratio {whole / cached:.1f}; evaluations of a token {few:.1f} and {many:.1f}; "
            f"equal tokens {same:.0%}"
        )


if __name__ == "__main__":
    main()
