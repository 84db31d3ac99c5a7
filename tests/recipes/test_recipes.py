import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

import noiselab as nl
from noiselab.data import vocabulary_size
from noiselab.networks.dit import DiT
from noiselab.pipeline import Pipeline
from noiselab.training.options import Data
from noiselab.training.texts import corpora, load_data

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))  # as for scripts: a recipe may import another
SMALL = (
    "--steps 4 --warmup 1 --batch 8 --micro-batch 4 --length 16 --layers 1 --width 16 --heads 2 --vocab-size 300 "
    "--log-every 2 --evaluate-every 2 --save-every 2 --validation-sequences 8 --cpu True"
).split()


def load(name):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where the help is looked up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i}.txt").write_text(f"In chapter {i} the reader learns that {i} and {i} are {2 * i}. " * 3)
    return ["--corpus", str(folder), "--validation", "0.25"]


@pytest.mark.parametrize("name", ["gidd_plus", "masked", "uniform", "autoregressive"])
def test_a_recipe_trains_writes_a_model_and_does_nothing_when_started_again(tmp_path, texts, name, capsys):
    recipe = load(name)
    arguments = ["demo", *SMALL, *texts, "--output", str(tmp_path / "run")]
    trainer = recipe.main(arguments)
    assert trainer.step == 4
    evaluated = [entry["eval_loss"] for entry in trainer.history if "eval_loss" in entry]
    assert len(evaluated) == 2 and evaluated[0] == pytest.approx(math.log(300), rel=0.4)
    auto = transformers.AutoModelForCausalLM if name == "autoregressive" else transformers.AutoModelForMaskedLM
    final = tmp_path / "run" / "final"
    model = auto.from_pretrained(final)
    for p, q in zip(model.parameters(), trainer.network.parameters(), strict=True):
        assert torch.equal(p, q)
    auto.from_pretrained(final / "ema")
    pipe = Pipeline.from_pretrained(final / "ema")  # and knows by itself which noise it undoes
    assert name == "autoregressive" or repr(pipe.process) == repr(trainer.loss.keywords["process"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(final)
    assert tokenizer.decode(tokenizer("chapter 3")["input_ids"]) == "chapter 3"
    settings = json.loads((final / "settings.json").read_text())
    assert settings["step"] == 4 and settings["options"]["optimization"]["batch"] == 8
    said = capsys.readouterr()
    rate = settings["options"]["optimization"]["learning_rate"]
    assert f"learning_rate: {rate}" in said.out and "trained 4 steps to step 4" in said.err

    again = recipe.main(arguments)
    assert again.step == 4
    assert "trained" not in capsys.readouterr().err
    with pytest.raises(ValueError, match=rf"learning_rate: {rate} in the checkpoint, 0.1 now"):
        recipe.main([*arguments, "--learning-rate", "0.1"])
    assert f"learning_rate: {rate}" in (tmp_path / "run" / "options.yaml").read_text()
    with pytest.raises(ValueError, match=r"another --output.*\n  vocab_size: 300 then, 310 now"):
        recipe.main([*arguments, "--vocab-size", "310"])
    recipe.main([*arguments, "--log-every", "1", "--keep", "4"])


def test_gidd_plus_records_its_noise_and_samples(tmp_path, texts):
    recipe = load("gidd_plus")
    trainer = recipe.main(["demo", *SMALL, *texts, "--output", str(tmp_path / "run"), "--p-uniform", "0.1"])
    model = DiT.from_pretrained(tmp_path / "run" / "final")
    assert model.config.p_uniform == 0.1 and model.config.t_eps == 1e-4
    assert repr(trainer.loss.keywords["objective"]).startswith("Dynamic(")
    assert trainer.loss.keywords["process"].support.sum() == model.config.vocab_size - 1


def test_unigram_noise_has_the_frequencies_of_the_training_data_and_is_restored(tmp_path, texts):
    recipe, final = load("gidd_plus"), tmp_path / "run" / "final"
    arguments = ["demo", *SMALL, *texts, "--output", str(tmp_path / "run"), "--noise", "unigram"]
    with pytest.raises(ValueError, match=r"--weights must be clipped or elbo .* got dynamic"):
        recipe.main(arguments)
    trainer = recipe.main([*arguments, "--weights", "clipped"])
    blocks = trainer.train_dataset
    counts = torch.bincount(torch.cat([row[:n] for row, n in zip(blocks.tokens.long(), blocks.real, strict=True)]))
    counts = torch.nn.functional.pad(counts, (0, blocks.vocab_size - len(counts))).double()
    process, restored = trainer.loss.keywords["process"], Pipeline.from_pretrained(final).process
    for found in (process, restored):
        (row,) = (mixing.row for mixing in found.noise(torch.tensor([[0.5]])).parts if hasattr(mixing, "row"))
        assert torch.allclose(row.double(), counts / counts.sum(), atol=1e-15)
    middle = torch.tensor([0.5], dtype=torch.float64)
    assert torch.equal(process.alpha(middle), restored.alpha(middle))


def test_published_presets():
    for name, layers, width, heads in (("small", 12, 768, 12), ("base", 24, 1024, 16)):
        options = load("gidd_plus").PRESETS[name][1]
        o = options.optimization
        assert (options.layers, options.width, options.heads, options.data.length) == (layers, width, heads, 512)
        assert (o.steps, o.batch, o.learning_rate, o.betas, o.epsilon) == (500_000, 512, 5e-4, (0.9, 0.99), 1e-9)
        assert (o.weight_decay, o.clip, o.warmup, o.schedule, o.final_learning_rate) == (
            0.02,
            1.0,
            10_000,
            "cosine",
            0.1,
        )
        assert (o.precision, o.ema, options.weights, options.max_weight) == ("bfloat16", None, "dynamic", 2.0)
        assert o.steps * o.batch * options.data.length == pytest.approx(131e9, rel=0.01)
        nl.objectives.Dynamic.gidd(vocab_size=50258, p_uniform=options.p_uniform, max_weight=options.max_weight)


def test_one_text_file_is_enough(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("\n".join(f"In chapter {i} the reader learns that {i} is {i}.\n" for i in range(300)))
    data = Data(corpus=str(file), vocab_size=300, length=16, validation=0.2)
    training, held_out = corpora(data)
    assert sorted("".join([*training, *held_out])) == sorted(file.read_text())
    assert 0.1 < sum(map(len, held_out)) / len(file.read_text()) < 0.3
    _, train, validation = load_data(data, tmp_path / "tokenizer", 1)
    assert len(train) > len(validation) > 16
    file.write_text("word " * 3000)  # one line
    training, held_out = corpora(data)
    assert list(training)


def test_a_tokenizer_of_other_texts_is_trained_anew_until_a_run_has_used_it(tmp_path, texts):
    data = Data(corpus=texts[1], vocab_size=300, length=16, validation=0.25)
    load_data(data, tmp_path / "tokenizer", 1)
    first = (tmp_path / "tokenizer" / "tokenizer.json").stat().st_mtime_ns
    load_data(data, tmp_path / "tokenizer", 1)
    assert (tmp_path / "tokenizer" / "tokenizer.json").stat().st_mtime_ns == first
    tokenizer, _, _ = load_data(replace(data, vocab_size=320), tmp_path / "tokenizer", 1)
    assert vocabulary_size(tokenizer) == 320


def test_evaluation_data_need_not_fill_a_batch(tmp_path, texts):
    run = ["demo", *SMALL, *texts, "--output", str(tmp_path / "run"), "--validation-sequences", "2"]
    trainer = load("masked").main(run)
    assert len(trainer.eval_dataset) == 2 and 0 < trainer.evaluate()["eval_loss"] < math.inf


def test_the_study_of_corrections_compares_treatments_of_the_same_samples(tmp_path, texts):
    tokenizer = ["--tokenizer", str(tmp_path / "hybrid" / "tokenizer")]
    load("gidd_plus").main(["demo", *SMALL, *texts, "--output", str(tmp_path / "hybrid")])
    load("masked").main(["demo", *SMALL, *texts, *tokenizer, "--output", str(tmp_path / "masked")])
    load("autoregressive").main(["demo", *SMALL, *texts, *tokenizer, "--output", str(tmp_path / "judge")])
    study = load("corrections")
    hybrid, masked, judge = (tmp_path / name / "final" for name in ("hybrid", "masked", "judge"))
    few = {"models": (hybrid, masked), "judge": judge, "out": tmp_path / "found.json", "samples": 3, "steps": 4}
    rows = study.main(study.Options(**few, seeds=2, correction_steps=(2, 4)))
    assert len(rows) == 2 * 2 * (1 + 1 + 2 + 2 + 5) and (tmp_path / "found.json").is_file()
    by_name = {(row["model"], row["end"], row["treatment"]): row for row in rows}
    for model in (hybrid, masked):
        assert by_name[str(model), 0.0, "before"]["gain"]["mean"] == 0
    # Without noise on data tokens a jump has nothing to change.
    assert by_name[str(masked), 0.0, "one jump"]["gain"]["mean"] == 0
    with pytest.raises(ValueError, match="at least two seeds"):
        study.main(study.Options(**few, seeds=1))
