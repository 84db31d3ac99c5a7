"""The default length of texts is a setting of the model: in a fresh process texts are as long as those of training."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from small import letters, rows
from small_canvas import canvas_pipeline
from transformers import GPT2Config, GPT2LMHeadModel

from noiselab.pipeline import AutoregressivePipeline, GenerationSettings, ModelSettings, Pipeline
from noiselab.pipeline.base import Text

QUIET = {"show_progress": False}
TEMPLATE = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
ASKED = [[{"role": "user", "content": "cab"}]]
PROGRAM = """
import json, sys
from noiselab.pipeline import Pipeline
pipe = Pipeline.from_pretrained(sys.argv[1])
asked = [[{"role": "user", "content": "cab"}]]
print(json.dumps([list(text.tokens) for text in pipe.generate(3, 4, prompts=asked, seed=0, show_progress=False)]))
"""


def made(length, family="gidd"):
    pipe = letters(family).float()
    pipe.tokenizer.chat_template = TEMPLATE
    return type(pipe)(pipe.model, pipe.tokenizer, replace(pipe.settings, generation=GenerationSettings(length=length)))


@pytest.mark.parametrize("family", ["gidd", "masked"])
def test_texts_have_the_length_of_the_settings_unless_another_is_given(family):
    pipe = made(7, family)
    assert [len(text.tokens) for text in pipe.generate(2, 3, seed=0, **QUIET)] == [7, 7]
    assert [len(text.tokens) for text in pipe.generate(1, 3, length=9, seed=0, **QUIET)] == [9]
    assert [len(text.tokens) for text in made(None, family).generate(1, 3, seed=0, **QUIET)] == [16]
    auto = rows(pipe.generate(8, 3, length="auto", seed=0, **QUIET))
    assert auto == rows(pipe.generate(8, 3, length=7, stop=True, seed=0, **QUIET)) and max(map(len, auto)) <= 7
    assert [state.tokens.shape[1] for state in pipe.stream(2, 3, seed=0)] == [7, 7, 7]


def test_answers_are_right_in_a_fresh_process(tmp_path):
    """`length` is not given: conversation and answer have 7 tokens together, not the 16 of the context."""
    made(7).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "noiselab.json").read_text())["generation"]["length"] == 7
    ran = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout.splitlines()[-1])
    whole = rows(made(None).generate(3, 4, prompts=ASKED, length=7, seed=0, **QUIET))
    assert found == whole and max(map(len, found)) <= 3
    assert "7 tokens" in (tmp_path / "README.md").read_text()


def test_a_file_without_it_means_the_context(tmp_path):
    made(7).save_pretrained(tmp_path)
    file = tmp_path / "noiselab.json"
    content = json.loads(file.read_text())
    del content["generation"]["length"]
    file.write_text(json.dumps(content))
    pipe = Pipeline.from_pretrained(tmp_path)
    assert pipe.generation.length is None
    assert len(pipe.generate(1, 2, seed=0, **QUIET)[0].tokens) == 16


@pytest.mark.parametrize(
    ("length", "words"), [(17, r"fit the context of 16 tokens; got 17"), (0, "length must"), (True, "length must")]
)
def test_lengths_that_are_refused_when_the_folder_is_opened(tmp_path, length, words):
    made(7).save_pretrained(tmp_path)
    file = tmp_path / "noiselab.json"
    content = json.loads(file.read_text())
    content["generation"]["length"] = length
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        Pipeline.from_pretrained(tmp_path)


def test_a_prompt_that_does_not_fit_names_the_argument():
    pipe = made(4)
    with pytest.raises(ValueError, match=r"prompts must fit 4 tokens; got one of 4 \(length= sets their number\)"):
        pipe.generate(1, 2, prompts=ASKED, **QUIET)
    assert pipe.generate(1, 2, prompts=ASKED, length=6, seed=0, **QUIET)


def test_autoregressive_models_have_it_too():
    words = letters("masked").tokenizer
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 24}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **sizes)).eval()
    pipe = AutoregressivePipeline(model, words, ModelSettings(generation=GenerationSettings(length=7)))
    given = Text.of("", [3, 4], words)
    assert [len(text.tokens) for text in pipe.generate(2, prompts=[given], seed=0)] == [7, 7]
    assert [len(text.tokens) for text in pipe.generate(1, prompts=[given], length=5, seed=0)] == [5]
    with pytest.raises(ValueError, match="fit the context of 24 tokens; got 25"):
        AutoregressivePipeline(model, words, ModelSettings(generation=GenerationSettings(length=25)))


def test_block_diffusion_models_have_a_length_of_their_own(tmp_path):
    pipe = canvas_pipeline(tmp_path)
    with pytest.raises(
        ValueError, match=r"must be set as CanvasSettings\(length=...\).* got GenerationSettings\(length=8\)"
    ):
        type(pipe)(pipe.model, pipe.tokenizer, replace(pipe.settings, generation=GenerationSettings(length=8)))
