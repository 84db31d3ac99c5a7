"""A run on a stream of texts resumes exactly, with and without loader workers."""

import pytest
from toy_training import L, digest, make

from noiselab.data import TextCorpus, TokenStream, character_tokenizer

LETTERS = "abcd"


def stream():
    corpus = TextCorpus(LETTERS[n % 4] * (n % 5 + 1) + LETTERS[n % 3] for n in range(30))
    return TokenStream(corpus, character_tokenizer([LETTERS]), L, seed=1, rank=0, world_size=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_a_stream_of_texts_resumes_exactly(tmp_path, workers):
    options = {"dataloader_num_workers": workers, "save_steps": 3}
    whole = make(tmp_path / "whole", data=stream(), max_steps=6, **options)
    whole.train()
    (tmp_path / "whole" / "checkpoint-6").rename(tmp_path / "other")
    again = make(tmp_path / "whole", data=stream(), max_steps=6, **options)
    again.train()
    assert again.resumed.name == "checkpoint-3" and digest(again) == digest(whole)
