"""`noiselab compare` and tables in CSV: two models on the same texts, or what was saved of them."""

import csv
import importlib
import json

import pytest
import torch

from noiselab.commands.main import COMMANDS, main, run
from noiselab.data import TokenBlocks, train_tokenizer, vocabulary_size
from noiselab.evaluation import validation_bound
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.pipeline import DiffusionPipeline, ModelSettings, Pipeline

TEXTS = ["the cat sat on the mat", "the dog sat on the log and the cat", "a cat and a dog", "the log " * 12]


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(file)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A model with another tokenizer."""
    words = train_tokenizer(["mat log"] * 10, vocab_size=262)
    size, folder = vocabulary_size(words), tmp_path_factory.mktemp("other") / "model"
    torch.manual_seed(1)
    network = DiT(
        DiTConfig(vocab_size=size, max_seq_len=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    noise = {"family": "masked", "vocab_size": size, "mask_id": words.mask_token_id}
    DiffusionPipeline(network.eval(), words, ModelSettings(noise)).save_pretrained(folder)
    return str(folder)


def test_a_model_does_not_differ_from_itself_and_saved_evaluations_give_the_same(
    models, other, texts, tmp_path, capsys
):
    few = ["--nodes", "3", "--repeats", "1", "--seed", "5", "--device", "cpu"]
    found = run("compare", [models[0], models[0], "--texts", texts, *few])
    assert found["difference"] == 0 and found["half"] == 0 and found["same_noise"] and found["unit"] == "nats per token"
    said = capsys.readouterr().out
    assert "the scores of all texts are equal" in said and "not certain" not in said
    saved = [str(tmp_path / f"{name}.json") for name in "ab"]
    for name, path in zip((models[0], other), saved, strict=True):
        run("evaluate bound", [name, texts, "--per-text", "--out", path, *few])
    outputs = {name: tmp_path / f"found.{name}" for name in ("json", "csv", "svg")}
    capsys.readouterr()
    more = ["--out", str(outputs["json"]), "--csv", str(outputs["csv"]), "--plot", str(outputs["svg"])]
    found = run("compare", [*saved, *more])
    said = capsys.readouterr().out
    assert "bits per byte (paired 95 % interval over texts)" in said and "bits per byte (bound)" in said
    again = run("compare", [models[0], other, "--texts", texts, *few])
    assert again["difference"] == found["difference"] and again["half"] == found["half"]
    rows = table(outputs["csv"])
    assert len(rows) == len(TEXTS) and [int(row["bytes"]) for row in rows] == [len(text) for text in TEXTS]
    each = [float(row["difference_bits_per_byte"]) for row in rows]
    assert sum(each) / 4 == pytest.approx(found["difference"])
    written = json.loads(outputs["json"].read_text())
    assert (
        written["version"]
        and written["options"]["a"] == saved[0]
        and "A - B, bits per byte" in outputs["svg"].read_text()
    )


def test_the_bound_of_a_text_is_the_sum_of_its_windows(models, texts, tmp_path):
    path = tmp_path / "rows.csv"
    found = run(
        "evaluate bound", [models[0], texts, "--per-text", "--nodes", "3", "--csv", str(path), "--device", "cpu"]
    )
    rows, pipe = table(path), Pipeline.from_pretrained(models[0])
    ids = pipe.encode(TEXTS[:3])
    assert [int(row["tokens"]) for row in rows[:3]] == [len(one) for one in ids]
    assert sum(float(row["bound_nats"]) for row in rows) == pytest.approx(found["nats"] * found["tokens"])
    assert [int(row["bytes"]) for row in rows] == [len(text) for text in TEXTS]
    windows = [(i, one[k : k + 16]) for i, one in enumerate(pipe.encode(TEXTS[:3])) for k in range(0, len(one), 16)]
    long = pipe.tokenizer(TEXTS[3], add_special_tokens=False)["input_ids"]
    windows += [(3, long[k : k + 16]) for k in range(0, len(long), 16)]
    assert len(windows) > len(TEXTS)  # the last text is longer than the context
    tokens = torch.tensor([one + [0] * (16 - len(one)) for _, one in windows])
    data = TokenBlocks(tokens, torch.tensor([len(one) for _, one in windows]), vocabulary_size(pipe.tokenizer))
    random = torch.Generator().manual_seed(0)
    bound = validation_bound(pipe.process, pipe.denoiser, data, nodes=3, repeats=4, generator=random)
    for i, row in enumerate(rows):
        wanted = sum(float(nats) for nats, (text, _) in zip(bound.nats, windows, strict=True) if text == i)
        assert float(row["bound_nats"]) == pytest.approx(wanted, rel=1e-5)


def test_exact_values_are_compared_with_bounds_and_said_to_be_exact(models, texts, capsys):
    found = run("compare", [models[0], models[1], "--texts", texts, "--nodes", "3", "--device", "cpu"])
    said = capsys.readouterr().out
    assert "(bound)" in said and "(exact)" in said and not found["same_noise"]
    assert found["a"]["tokens"] == found["b"]["tokens"]


def ended(arguments, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code, capsys.readouterr().err


def test_what_cannot_be_compared_ends_in_a_sentence(models, other, texts, samples, tmp_path, capsys):
    windows, mine, judged = (str(tmp_path / f"{name}.json") for name in ("windows", "mine", "judged"))
    few = ["--nodes", "1", "--repeats", "1", "--device", "cpu"]
    run("evaluate bound", [models[0], texts, "--out", windows, *few])
    run("evaluate bound", [other, texts, "--per-text", "--out", mine, *few])
    run("evaluate perplexity", [str(samples), "--judge", models[1], "--out", judged, "--device", "cpu"])
    for arguments, words in (
        ([windows, mine], "must be of the same texts"),
        ([windows, judged], "must be written by `noiselab evaluate bound --out`"),
        ([windows, str(tmp_path / "none.json")], "must be a JSON file"),
        ([models[0], models[0]], "texts must name at least one file"),
        ([windows, windows, "--csv", "x.txt"], "must end in .csv; got x.txt"),
    ):
        status, said = ended(["compare", *arguments], capsys)
        assert status == 2 and words in said and said.count("\n") == 1, said


def test_every_evaluation_writes_csv_whose_columns_say_the_unit_and_how_it_was_made(models, samples, tmp_path):
    few = ["--seeds", "2", "--samples", "2", "--sampling-steps", "2", "--steps", "2", "--temperatures", "0.3"]
    judged, grid = tmp_path / "judged.csv", tmp_path / "grid.csv"
    found = run("evaluate perplexity", [str(samples), "--judge", models[1], "--csv", str(judged), "--device", "cpu"])
    rows = table(judged)
    total, count = (sum(float(row[name]) for row in rows) for name in ("judge_nats", "judge_tokens"))
    assert total / count == pytest.approx(found["nats"]) and len(rows) == found["texts"]
    assert json.loads(rows[0]["options"])["judge"] == models[1] and rows[0]["command"] == "evaluate perplexity"
    found = run("evaluate correction", [models[0], "--judge", models[1], *few, "--csv", str(grid), "--device", "cpu"])
    rows = table(grid)
    assert [float(row["judge_nats_per_token_mean"]) for row in rows] == [row["nats"]["mean"] for row in found["rows"]]
    for command in COMMANDS:
        if command.startswith("evaluate") or command == "compare":
            module = importlib.import_module(f"noiselab.commands.{command.replace(' ', '_')}")
            assert {"csv", "out", "json"} <= set(module.Options.__dataclass_fields__)
