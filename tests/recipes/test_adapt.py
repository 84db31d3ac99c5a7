"""The recipe that adapts models: conversations and texts, noises and curricula, loss and bound, the saved model."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import transformers

from noiselab.data import train_tokenizer, vocabulary_size
from noiselab.pipeline import DiffusionPipeline, Pipeline

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))
TALKS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {a} plus 1?"},
            {"role": "assistant", "content": f"It is {a + 1}."},
        ]
    }
    for a in range(40)
]
QUICK = (
    "--steps 3 --warmup 1 --batch 4 --micro-batch 4 --length 64 --log-every 1 --evaluate-every 0 --save-every 100 "
    "--validation 0.2 --validation-sequences 4 --repeats 2 --cpu True"
).split()


def load(name):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a tiny Llama and its tokenizer, without a mask, and files of conversations and texts."""
    folder = tmp_path_factory.mktemp("adapt")
    tokenizer = train_tokenizer([str(row) for row in TALKS], vocab_size=300)
    tokenizer.mask_token = None
    torch.manual_seed(0)
    size = vocabulary_size(tokenizer)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=size, max_position_embeddings=64, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    (folder / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TALKS))
    (folder / "texts.jsonl").write_text(
        "".join(json.dumps({"text": f"{a} and {a} are {2 * a}. " * 9}) + "\n" for a in range(60))
    )
    return folder


def run(made, output, *more, data="talks.jsonl"):
    arguments = ["demo", "--model", made / "llama", "--data", made / data, "--output", output, *QUICK, *more]
    return load("adapt").main(list(map(str, arguments)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_conversations_with_a_curriculum_from_masks_to_hybrid_noise(made, tmp_path, capsys):
    table = run(made, tmp_path / "run", "--noise", "masked", "gidd", "--shares", "2", "1")
    said = capsys.readouterr().out
    names = [row["name"] for row in table["rows"]]
    assert names == ["before: autoregressive", "opened, without training", "after training"]
    before, opened, after = table["rows"]
    # The same tokens in all rows: the answers and their ends, of which a random model knows nothing.
    assert before["tokens"] == opened["tokens"] == after["tokens"] and len(after["each"]) == 4
    assert min(after["tokens"]) >= 2 and sum(after["each"]) / sum(after["tokens"]) == pytest.approx(after["mean"])
    assert before["mean"] == pytest.approx(math.log(300), rel=0.2) and not before["bound"]
    assert opened["mean"] == pytest.approx(math.log(300), rel=0.3) and after["bound"]
    assert "2 steps:  Interpolation(1 - t, {Absorbing" in said and "1 steps:  Interpolation" in said
    for name in ("| before: autoregressive |", "written:", "filled:", "damaged:", "corrected:"):
        assert name in said
    assert said.index("A row of the training data:") < said.index(
        "A row that is held out, whose facts training has not seen:"
    )
    assert said.count("written:") == 2
    pipe = Pipeline.from_pretrained(tmp_path / "run" / "final")
    assert isinstance(pipe, DiffusionPipeline) and "Uniform" in repr(pipe.process)
    assert f"width={pipe.generation.length}, conversations=" in said
    assert "[MASK]" not in pipe.generate(2, 4, length=20, show_progress=False)[0]
    assert "Assistant:" in pipe.tokenizer.apply_chat_template(TALKS[0]["messages"], tokenize=False)
    assert json.loads((tmp_path / "run" / "table.json").read_text()) == table
    assert (
        run(made, tmp_path / "run", "--noise", "masked", "gidd", "--shares", "2", "1") == table
    )  # finished: not repeated


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("noise", ["uniform", "unigram", "mask_and_unigram", "own.json"])
def test_texts_with_any_noise_and_low_rank_updates(made, tmp_path, noise):
    if noise == "own.json":
        tokenizer = transformers.AutoTokenizer.from_pretrained(made / "llama")
        mask = tokenizer.convert_tokens_to_ids("[MASK]")
        own = {"family": "masked", "vocab_size": vocabulary_size(tokenizer), "mask_id": mask, "signal": "cosine"}
        (tmp_path / noise).write_text(json.dumps(own))
        noise = str(tmp_path / noise)
    pytest.importorskip("peft", reason="optional: pip install noiselab[finetune]; continuous integration has it")
    run(made, tmp_path / "run", "--noise", noise, "--lora", "2", "--merge", "True", data="texts.jsonl")
    pipe = Pipeline.from_pretrained(tmp_path / "run" / "final")
    assert isinstance(pipe, DiffusionPipeline) and (tmp_path / "run" / "final" / "config.json").is_file()


def test_what_is_refused(made, tmp_path):
    recipe = load("adapt")
    with pytest.raises(ValueError, match="--model must be given"):
        recipe.main(["demo"])
    for more, rule in (
        (["--noise", "odd"], "--noise must be among masked, gidd"),
        (["--noise", "masked", "--shares", "1", "2"], "one positive share for each"),
        (["--noise", "masked", "--shares", "0"], "one positive share for each"),
    ):
        with pytest.raises(ValueError, match=rule), pytest.warns(UserWarning):
            run(made, tmp_path / "run", *more)
    (tmp_path / "own.json").write_text(json.dumps({"family": "masked", "vocab_size": 9, "mask_id": 8}))
    with pytest.raises(ValueError, match=r"tokens of the tokenizer; .*own.json has 9"), pytest.warns(UserWarning):
        run(made, tmp_path / "run", "--noise", tmp_path / "own.json")
    with pytest.raises(ValueError, match="--lora must be 0"):
        run(made, tmp_path / "run", "--fresh", "True", "--lora", "2")
    with pytest.raises(ValueError, match="one file, folder or pattern of texts"), pytest.warns(UserWarning):
        recipe.main(
            ["demo", "--model", str(made / "llama"), "--data", "a.txt", "b.txt", "--output", str(tmp_path / "run")]
        )
