"""Odd arguments for the functions that judge texts, and for the encoding of texts: a sentence, or a right result."""

import functools
import inspect

import pytest
import torch
from fuzzing import COUNTS, NUMBERS, odd_tensors, verdict
from small import TEXTS, network, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from noiselab.data import vocabulary_size
from noiselab.evaluation import correction_grid, generative_perplexity, text_perplexity, token_nats
from noiselab.pipeline import DiffusionPipeline, ModelSettings

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.filterwarnings("ignore")]
ODD_TEXTS = (
    *("one text", "", [], [""], [" "], ["a", ""], [3], [None], ["a", None], None, 3, b"bytes", [b"bytes"], {"a": 1}),
    *(
        [["a"]],
        ("a", "the cat"),
        {"a"},
        iter(["a"]),
        ["\ud800"],
        ["\x00"],
        ["the cat " * 99],
        ["[MASK]" * 3],
        ["[PAD]"],
    ),
)
ODD = {
    "texts": ODD_TEXTS,
    "tokenizer": (),
    "judge": (),
    "process": (),
    "denoiser": (),
}
NAN_IS_DEFINED = ("generative_perplexity", "text_perplexity", "correction_grid")
"""The error of one sample, and the share of n-grams where there are none."""
FLOATS = ("end", "time")
BATCH = torch.tensor([[5, 6, 7], [8, 9, 4]])


@functools.lru_cache
def parts():
    words = tokenizer()
    size = vocabulary_size(words)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    judge = LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=16, **sizes)).eval()
    noise = {"family": "gidd", "vocab_size": size, "mask_id": words.mask_token_id, "p_uniform": 0.2}
    diffusion = DiffusionPipeline(network(size, num_hidden_layers=1), words, ModelSettings(noise)).eval()
    return diffusion, judge, words


def calls():
    """Each function with valid arguments."""
    diffusion, judge, words = parts()
    return {
        "DiffusionPipeline.encode": (diffusion.encode, {"texts": TEXTS[:2]}),
        "generative_perplexity": (
            generative_perplexity,
            {"judge": judge, "samples": BATCH, "attention_mask": BATCH > 4},
        ),
        "text_perplexity": (text_perplexity, {"judge": judge, "tokenizer": words, "texts": TEXTS[:2]}),
        "token_nats": (token_nats, {"judge": judge, "samples": BATCH, "start": 0}),
        "correction_grid": (
            correction_grid,
            {
                "process": diffusion.process,
                "denoiser": diffusion.denoiser,
                "judge": judge,
                "length": 4,
                "samples": 2,
                "sampling_steps": 2,
                "temperatures": (0.5,),
                "steps": (1,),
                "seeds": (0, 1),
                "cooler": (0.9,),
            },
        ),
    }


def odd_arguments(name, value, parameter):
    if name in ODD:
        return ODD[name]
    if isinstance(value, torch.Tensor):
        return odd_tensors(value)
    if isinstance(value, tuple):
        return [(), (-1,), (float("nan"),), (float("inf"),), (0,), (2.5,), (True,), ("x",)]
    if isinstance(parameter.default, bool):
        return ()
    return (*(NUMBERS if name in FLOATS else COUNTS), "x", [1])


@pytest.mark.long_for("correction_grid")
@pytest.mark.parametrize("label", calls())
def test_one_odd_argument(label):
    function, valid = calls()[label]
    wrong, count = [], 0
    assert verdict(function, valid) in ("right", *(("NaN",) if label in NAN_IS_DEFINED else ()))
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        for value in odd_arguments(name, valid.get(name), parameter):
            result = verdict(function, {**valid, name: value})
            count += 1
            if result == "NaN" and label in NAN_IS_DEFINED:
                continue
            if result not in ("right", "refused"):
                wrong.append(f"{name} = {str(value)[:60]!r}: {result}")
    print(f"{label}: {count} calls")
    assert not wrong, "\n".join([f"{label}, {len(wrong)} of {count} calls:", *wrong[:40]])
