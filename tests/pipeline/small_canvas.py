"""Small block-diffusion models with tokenizers, for the tests of their pipelines."""

import shutil
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from noiselab.pipeline import Pipeline

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
