"""What a constraint costs: a step with a JSON schema at the vocabulary of GPT-2, against the network's evaluation.

Times are ratios to one evaluation of a small network in the same run, on the CPU.
"""

import random
import string
import time

import torch

import noiselab as nl
from noiselab.constraints.automaton import as_start
from noiselab.data import json_automaton
from noiselab.denoisers.constrained import constrained_law
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser

STATES, BATCH, LENGTH = 50_257, 2, 128
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "age", "tags", "ok"],
}


def tokenizer():
    """Bytes, and random words in place of those of GPT-2, which is not at hand without a network connection."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    dice, words = random.Random(0), {"<|endoftext|>": 0, "[MASK]": 1}
    for byte in pre_tokenizers.ByteLevel.alphabet():
        words[byte] = len(words)
    while len(words) < STATES:
        letters = string.ascii_letters + string.digits + string.punctuation
        often = [
            dice.choice(letters if dice.random() < 0.1 else string.ascii_lowercase) for _ in range(dice.randint(2, 8))
        ]
        words.setdefault(dice.choice(["", "Ġ"]) + "".join(often), len(words))
    backend = Tokenizer(models.BPE(words, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", mask_token="[MASK]")


def seconds(call, repeats=3):
    call()
    return min(_once(call) for _ in range(repeats))


def _once(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.no_grad()
def main():
    words = tokenizer()
    start = time.perf_counter()
    automaton = json_automaton(SCHEMA, words).ending(0, fill="any")
    print(f"{automaton}: made in {time.perf_counter() - start:.1f} s")
    process = nl.gidd(vocab_size=STATES, mask_id=1, p_uniform=0.1)
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "max_seq_len": LENGTH}
    denoiser = TransformersDenoiser(DiT(DiTConfig(vocab_size=STATES, **sizes)).eval(), "leave_one_out")
    z = process.prior(BATCH, LENGTH)
    t, noisy = torch.full((BATCH, LENGTH), 0.9, dtype=torch.float64), torch.ones_like(z, dtype=torch.bool)
    logits = denoiser(z, t[:, 0]).flatten(0, 1)
    law = constrained_law(automaton, process, logits, z, t, noisy, as_start(0, z))
    u = torch.rand(BATCH, LENGTH, dtype=torch.float64)
    plain = nl.AncestralSampler(process, denoiser)
    joint = nl.samplers.ConstrainedSampler(process, denoiser, automaton)
    now, then = t[:, 0], t[:, 0] - 0.1
    one = seconds(lambda: denoiser(z, t[:, 0]))
    print(f"network, {BATCH} x {LENGTH} tokens of {STATES}: {one:.2f} s = 1")
    for name, call in {
        "masses of classes, backward messages": lambda: constrained_law(
            automaton, process, logits, z, t, noisy, as_start(0, z)
        ),
        "factors of the marginals": law.log_factors,
        "draw of classes": lambda: law.draw_classes(u),
        "ancestral step, network included": lambda: plain.step(z, now, then),
        "constrained step, network included": lambda: joint.step(z, now, then),
    }.items():
        print(f"{name}: {seconds(call) / one:.3f}")


if __name__ == "__main__":
    main()
