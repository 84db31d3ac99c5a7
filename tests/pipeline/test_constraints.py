"""Texts of a pipeline that satisfy a constraint."""

import json
import re

import pytest
import torch
from small import letters, pipeline, random

from noiselab.constraints import TokenAutomaton
from noiselab.data import regex_automaton
from noiselab.pipeline.constraining import automaton_of
from noiselab.samplers import AncestralSampler

QUIET = {"show_progress": False}
WORDS = "[a-z]+ (cat|dog)s?"


@pytest.mark.parametrize("family", ["gidd", "masked"])
@pytest.mark.parametrize("steps", [1, 4])
def test_every_text_matches(family, steps):
    pipe = pipeline(family)
    texts = pipe.generate(12, steps, length=10, constraint=WORDS, generator=random(), **QUIET)
    assert all(re.fullmatch(WORDS, text) for text in texts) and len(set(texts)) > 6
    assert any(pipe.tokenizer.eos_token_id in text.tokens for text in texts)  # cut at the end
    same = pipe.generate(
        12, steps, length=10, generator=random(), constraint=regex_automaton(WORDS, pipe.tokenizer), **QUIET
    )
    assert same == texts


def test_after_prompts_of_unlike_lengths():
    pipe = pipeline()
    prompts = ["the ", "a cat and a "]
    texts = pipe.generate(6, 3, prompts=prompts, length=16, constraint="(cat|dog)s{0,3}", generator=random(), **QUIET)
    for i, text in enumerate(texts):
        assert re.fullmatch(prompts[i // 6] + "(cat|dog)s{0,3}", text)


def test_json_of_a_schema():
    pipe = pipeline()
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    for text in pipe.generate(8, 3, constraint=schema, generator=random(), **QUIET):
        assert list(json.loads(text)) == ["a"]


def test_a_text_is_the_same_in_any_batch():
    pipe = pipeline()
    texts = [pipe.generate(5, 3, length=10, constraint=WORDS, seed=0, batch_size=n, **QUIET) for n in (1, 2, 5)]
    assert texts[0] == texts[1] == texts[2]


def test_texts_that_end_early_match():
    """After any step the rest is drawn together, too."""
    pipe = pipeline()
    for last in (1, 2, 3):
        stop = lambda state, last=last: state.step >= last  # noqa: E731
        texts = pipe.generate(6, 4, length=10, constraint=WORDS, callback=stop, generator=random(), **QUIET)
        assert all(re.fullmatch(WORDS, text) for text in texts)


def test_the_share_of_each_text_is_that_of_the_model_given_the_constraint():
    """One step of three letters: the product of the network's predictions for noise, over all texts that match."""
    pipe = letters("masked", length=4)
    z = torch.full((1, 4), pipe.tokenizer.mask_token_id)
    law = pipe.denoiser(z, torch.ones(1).double())[0].detach().softmax(-1)
    end = pipe.tokenizer.eos_token_id
    ids = {letter: pipe.tokenizer.convert_tokens_to_ids(letter) for letter in "abc"}
    want = {}
    for word in ("ab", "abb", "abbb"):
        mass = torch.stack([law[i, ids[letter]] for i, letter in enumerate(word)]).prod()
        want[word] = (mass * (law[len(word), end] if len(word) < 4 else 1)).item()
    total = sum(want.values())
    texts = pipe.generate(4000, 1, constraint="ab{1,3}", batch_size=4000, generator=random(), **QUIET)
    for word, mass in want.items():
        share = mass / total
        assert abs(sum(text == word for text in texts) / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_an_automaton_with_an_end_within_is_refused():
    """One token of any kind: a text that is the end token alone would be cut to none, which the automaton does not accept."""
    pipe = letters("masked", length=4)
    end, mask = pipe.tokenizer.eos_token_id, pipe.tokenizer.mask_token_id
    table = torch.full((2, pipe.process.vocab_size), -1)
    table[0] = 1
    table[0, mask] = -1
    with pytest.raises(ValueError, match="constraint must be on texts without an end"):
        pipe.generate(4, 2, constraint=TokenAutomaton(table, [1]), generator=random(), **QUIET)
    table[0, end] = -1
    texts = pipe.generate(20, 2, constraint=TokenAutomaton(table, [1]), generator=random(), **QUIET)
    assert all(len(text.tokens) == 2 and text.tokens[1] == end != text.tokens[0] for text in texts)


@pytest.mark.usefixtures("unchecked")
def test_what_is_refused():
    pipe = pipeline()

    def generate(**options):
        return pipe.generate(2, 3, **{"constraint": WORDS, "generator": random(), **QUIET, **options})

    for options, words in {
        ("constraint", 3): "constraint must be a regular expression, a JSON schema",
        ("constraint", "(a"): "pattern must be a regular expression",
        (
            "constraint",
            TokenAutomaton(torch.tensor([[0, 0]]), [0]),
        ): "tokens of the process, 290|may go on with the end",
        ("constraint", "a{40}"): "must accept a sequence of 16 tokens; it accepts none: the shortest has",
        ("sampler", AncestralSampler): "sampler must be None with a constraint",
        ("block_length", 4): "block_length must be None with a constraint",
        ("as_released", True): "as_released generates whole texts",
    }.items():
        with pytest.raises(ValueError, match=words):
            generate(**dict([options]))
    assert automaton_of(pipe, WORDS).vocab_size == pipe.process.vocab_size
