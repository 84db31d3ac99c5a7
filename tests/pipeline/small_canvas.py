"""Small block-diffusion models with tokenizers, for the tests of their pipelines."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import torch
from exact_worlds import INITIAL, TRANSITION
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import noiselab as nl
from noiselab.pipeline import CanvasPipeline, ModelSettings, Pipeline

FOLDER = Path(__file__).parents[1] / "fixtures" / "formats" / "tiny-diffusion-gemma"
SPECIAL = ["<pad>", "<eos>", "<bos>", "<mask>"]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,.:"  # 66
QUIET = {"show_progress": False}


def tokenizer(letters=LETTERS, *, opening=False, eos="<eos>"):
    """One token for each character after four special ones, with the ids of the small network: padding, end, beginning."""
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*SPECIAL, *letters])}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    if opening:
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "mask_token": "<mask>"} | ({"eos_token": eos} if eos else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)


def folder_of(place, words=None):
    """The small published folder, with a tokenizer."""
    place.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copyfile(FOLDER / name, place / name)
    (words or tokenizer()).save_pretrained(place)
    return place


def canvas_pipeline(place, words=None, **options):
    return Pipeline.from_pretrained(folder_of(place, words), **options)


def rows(texts):
    return [list(text.tokens) for text in texts]


def random(seed=0):
    return torch.Generator().manual_seed(seed)


class Chain(torch.nn.Module):
    """A network of a prefix and a canvas that knows the data: a Markov chain of three tokens, seen through masks."""

    canvas_length, vocab_size = 2, 4
    process = nl.masked(vocab_size=4, mask_id=3)

    def encode(self, tokens, real=None, *, after=None):
        return SimpleNamespace(tokens=tokens if after is None else torch.cat([after.tokens, tokens], 1), real=None)

    def states(self, canvas, *, prefix, **previous):
        made = torch.zeros(*canvas.shape, 4, dtype=torch.float64)
        last = prefix.tokens[:, -1] if prefix.tokens.shape[1] else torch.full((len(canvas),), -1)
        for one in last.unique():
            oracle = nl.MarkovOracle(INITIAL if one < 0 else TRANSITION[one], TRANSITION, self.process)
            posterior = nl.denoisers.Posterior(oracle, self.process)
            made[last == one] = posterior(canvas[last == one], torch.full((int((last == one).sum()),), 0.5)).double()
        return made

    def project(self, hidden):
        return hidden


def chain_pipeline():
    """That network with a token for each letter and a mask, in canvases of two tokens."""
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "<mask>": 3}, unk_token="a"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>")
    return CanvasPipeline(Chain(), words, ModelSettings(Chain.process))
