"""The commands are the library's calls, and tell what is wrong in one line."""

import json
import re
import sys

import pytest
import torch

from noiselab.commands.common import text_generators
from noiselab.commands.main import COMMANDS, main, run
from noiselab.data import pack
from noiselab.evaluation import generative_perplexity, text_perplexity, validation_bound
from noiselab.pipeline import Pipeline

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog"] * 10
LENGTH = 16
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_generate_is_the_pipeline_with_that_seed(models, samples, tmp_path, capsys):
    pipe = Pipeline.from_pretrained(models[0])
    texts = pipe.generate(3, 4, generator=text_generators(7, 3), show_progress=False)
    found = records(samples)
    assert [tuple(record["tokens"]) for record in found] == [text.tokens for text in texts]
    assert [record["text"] for record in found] == texts and found[0]["model"] == models[0]
    run(
        "generate",
        [
            models[0],
            "--num-samples",
            "1",
            "--steps",
            "2",
            "--prompt",
            "a cat",
            "--prompt",
            "the dog",
            "--device",
            "cpu",
        ],
    )
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [record["prompt"] for record in printed] == ["a cat", "the dog"]
    assert all(record["text"].startswith(record["prompt"]) for record in printed)
    by = run(
        "generate", [models[0], "--num-samples", "1", "--steps", "9", "--sampler", "tau-leaping", "--device", "cpu"]
    )
    assert len(by) == 1
    assert len(run("generate", [models[1], "--num-samples", "2", "--length", "5", "--device", "cpu"])[0]["tokens"]) == 5


def test_generated_texts_satisfy_a_regular_expression_or_a_schema(models, tmp_path):
    """Each of them, by Python's `re` and `json`; the same texts as from the pipeline, whatever the batches."""
    few = [models[0], "--num-samples", "3", "--steps", "2", "--seed", "5", "--device", "cpu"]
    pattern = "(cat|dog)s?( and (cat|dog)s?)*"
    found = run("generate", [*few, "--regex", pattern, "--prompt", "the ", "--batch-size", "2"])
    assert all(re.fullmatch("the " + pattern, record["text"]) for record in found)
    pipe = Pipeline.from_pretrained(models[0])
    settings = {"prompts": ["the "] * 3, "constraint": pattern, "show_progress": False}
    assert pipe.generate(1, 2, generator=text_generators(5, 3), **settings) == [record["text"] for record in found]
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    for record in run("generate", [*few, "--json-schema", str(file)]):
        assert isinstance(json.loads(record["text"])["a"], int)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--regex", "a", "--json-schema", "SCHEMA"], "only one of regex and json-schema must be given"),
        (["--regex", "("], "pattern must be a regular expression"),
        (["--regex", "a{40}"], "the constraint must accept a sequence"),
        (["--regex", "a", "--sampler", "threshold"], "sampler must be None with a constraint"),
        (["--regex", "a", "--block-length", "4"], "block_length must be None with a constraint"),
        (["--json-schema", "NONE"], "json-schema must be a JSON file; got .*No such file"),
        (["--json-schema", "TEXT"], "json-schema must be a JSON file; got .*Expecting"),
        (["--json-schema", "LIST"], "json-schema must be a file with a JSON schema, an object"),
        (["--json-schema", "SCHEMA"], "minimum would be left out"),
        (["--json-schema", "SCHEMA", "--out", "SCHEMA"], "out must be another file"),
    ],
)
def test_constraints_that_do_not_fit_are_refused(models, tmp_path, capsys, words, why):
    files = {"SCHEMA": '{"type": "integer", "minimum": 3}', "TEXT": "a", "LIST": "[1]"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    words = [str(tmp_path / word) if word in (*files, "NONE") else word for word in words]
    status, said = ended(["generate", models[0], "--steps", "2", "--device", "cpu", *words], capsys)
    assert status == 2 and re.search(why, said), said
    assert (tmp_path / "SCHEMA").read_text() == files["SCHEMA"]


def test_a_constraint_is_for_models_of_whole_texts(models, capsys):
    status, said = ended(["generate", models[1], "--regex", "a", "--device", "cpu"], capsys)
    assert status == 2 and "regex and json-schema require a diffusion model of whole texts" in said


def test_correct_starts_from_the_tokens_that_were_drawn(models, samples, tmp_path):
    out = tmp_path / "corrected.jsonl"
    run(
        "correct",
        [models[0], str(samples), "--steps", "6", "--temperature", "0.4", "--out", str(out), "--device", "cpu"],
    )
    pipe = Pipeline.from_pretrained(models[0])
    texts = pipe.generate(3, 4, generator=text_generators(7, 3), show_progress=False)
    corrected = pipe.self_correction(texts, 6, 0.4, generator=text_generators(0, 3), show_progress=False)
    for record, old, new in zip(records(out), texts, corrected, strict=True):
        assert tuple(record["tokens"]) == new.tokens and record["before"] == old
        assert record["changed"] == sum(a != b for a, b in zip(old.tokens, new.tokens, strict=True)) / LENGTH
    plain = tmp_path / "some.txt"
    plain.write_text("the cat sat\n\nthe log\n")
    assert len(run("correct", [models[0], str(plain), "--steps", "1", "--device", "cpu"])) == 2


@pytest.mark.parametrize("sampler", ["ancestral", "tau-leaping", "path-planning"])
def test_the_batch_size_changes_no_text(models, tmp_path, sampler):
    """Nor does the number of texts change the first ones; another seed changes all."""

    def texts(count, size, seed=3):
        few = [
            "--num-samples",
            str(count),
            "--steps",
            "4",
            "--sampler",
            sampler,
            "--seed",
            str(seed),
            "--batch-size",
            str(size),
        ]
        return [record["tokens"] for record in run("generate", [models[0], *few, "--prompt", "a", "--device", "cpu"])]

    found = texts(5, 1)
    assert found == texts(5, 2) == texts(5, 16) == texts(7, 3)[:5]
    assert not any(a == b for a, b in zip(found, texts(5, 2, seed=4), strict=True))


def test_the_batch_size_changes_no_correction(models, tmp_path):
    plain = tmp_path / "some.txt"
    plain.write_text("the cat sat on the mat\n\nthe log\n\na dog and a cat\n\na\n")
    arguments = [models[0], str(plain), "--steps", "4", "--temperature", "0.5", "--device", "cpu", "--batch-size"]
    found = [[record["tokens"] for record in run("correct", [*arguments, size])] for size in ("1", "2", "3", "16")]
    assert found[0] == found[1] == found[2] == found[3]


def test_correct_takes_a_method(models, tmp_path):
    plain = tmp_path / "some.txt"
    plain.write_text("the cat sat on the mat\n\nthe log\n")
    arguments = [models[0], str(plain), "--steps", "5", "--device", "cpu"]
    found = run("correct", [*arguments, "--method", "balanced"])
    pipe = Pipeline.from_pretrained(models[0])
    texts = ["the cat sat on the mat", "the log"]
    wanted = pipe.self_correction(texts, 5, method="balanced", generator=text_generators(0, 2), show_progress=False)
    assert [tuple(record["tokens"]) for record in found] == [text.tokens for text in wanted]
    with pytest.raises(ValueError, match="method must be one of 'gidd', 'balanced'"):
        run("correct", [*arguments, "--method", "best"])


def test_the_bound_is_that_of_the_evaluation(models, tmp_path):
    file = tmp_path / "some.txt"
    file.write_text(" ".join(TEXTS))
    found = run("evaluate bound", [models[0], str(file), "--repeats", "2", "--seed", "3", "--device", "cpu"])
    pipe = Pipeline.from_pretrained(models[0])
    blocks = pack([file.read_text()], pipe.tokenizer, LENGTH)
    random = torch.Generator().manual_seed(3)
    bound = validation_bound(pipe.process, pipe.denoiser, blocks, repeats=2, generator=random)
    assert found["nats"] == bound.nelbo and found["error"] == bound.error and found["tokens"] == bound.tokens
    total = bound.nelbo * bound.tokens / torch.log(torch.tensor(2.0, dtype=torch.float64))
    assert found["bits_per_character"] == pytest.approx(float(total) / len(file.read_text()))
    exact = run("evaluate bound", [models[1], str(file), "--device", "cpu", "--out", str(tmp_path / "found.json")])
    real = torch.arange(LENGTH) < blocks.real.long()[:, None]
    judge = Pipeline.from_pretrained(models[1])
    judged = generative_perplexity(judge.network, blocks.tokens.long(), attention_mask=real)
    assert exact["nats"] == pytest.approx(judged.nats, rel=1e-6) and not exact["bound"]
    assert json.loads((tmp_path / "found.json").read_text()) == exact


def test_perplexity_reads_the_tokens_that_were_drawn_or_says_that_it_does_not(models, samples, tmp_path):
    found = run("evaluate perplexity", [str(samples), "--judge", models[1], "--device", "cpu"])
    judge, x = Pipeline.from_pretrained(models[1]), torch.tensor([record["tokens"] for record in records(samples)])
    start = judge.tokenizer.bos_token_id
    assert found["nats"] == pytest.approx(generative_perplexity(judge.network, x, start=start).nats, rel=1e-6)
    assert not found["retokenized"]
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"text": "the cat sat"}\n{"text": "a dog"}\n')
    other = run("evaluate perplexity", [str(plain), "--judge", models[1], "--device", "cpu"])
    texts = ["the cat sat", "a dog"]
    assert other["retokenized"]
    assert other["nats"] == pytest.approx(
        text_perplexity(judge.network, judge.tokenizer, texts, start=start).nats, rel=1e-6
    )
    # Tokens that do not spell the text are not believed.
    plain.write_text('{"text": "the cat sat", "tokens": [3, 4]}\n')
    assert run("evaluate perplexity", [str(plain), "--judge", models[1], "--device", "cpu"])["retokenized"]


def test_mauve_where_it_is_installed(models, samples, tmp_path, monkeypatch, capsys):
    given = {}

    def compute_mauve(p_text, q_text, verbose):
        given.update(p=p_text, q=q_text)
        return type("Found", (), {"mauve": 0.5})

    reference = tmp_path / "reference.txt"
    reference.write_text("the cat\n\nthe dog")
    arguments = [str(samples), "--judge", models[1], "--device", "cpu", "--reference", str(reference)]
    monkeypatch.setitem(sys.modules, "mauve", None)
    assert "pip install mauve-text" in ended(["evaluate", "perplexity", *arguments], capsys)[1]
    monkeypatch.setitem(sys.modules, "mauve", type("Module", (), {"compute_mauve": staticmethod(compute_mauve)}))
    assert run("evaluate perplexity", arguments)["mauve"] == 0.5
    assert given == {"p": ["the cat", "the dog"], "q": [record["text"] for record in records(samples)]}


def test_correction_prints_a_table_and_draws(models, tmp_path, capsys):
    plot, few = tmp_path / "plot.svg", ["--seeds", "2", "--samples", "2", "--sampling-steps", "2"]
    found = run(
        "evaluate correction",
        [
            models[0],
            "--judge",
            models[1],
            *few,
            "--steps",
            "2",
            "4",
            "--temperatures",
            "0.3",
            "--plot",
            str(plot),
            "--device",
            "cpu",
        ],
    )
    assert "| self-correction | 0.3 | 4 |" in capsys.readouterr().out and plot.read_text().startswith("<?xml")
    assert {row["tokens_per_step"] for row in found["rows"]} == {1}


def test_inspect_says_what_it_is_and_draws(models, tmp_path, capsys):
    plot, page = tmp_path / "noise.svg", tmp_path / "walk.html"
    run("inspect", [models[0], "--plot", str(plot), "--denoising", str(page), "--steps", "3", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "Interpolation(1 - t, {Absorbing(2): t" in printed and "leave_one_out" in printed
    assert plot.read_text().startswith("<?xml") and "<html" in page.read_text()
    run("inspect", [models[1], "--json", "--device", "cpu"])
    assert json.loads(capsys.readouterr().out)["network"] == "LlamaForCausalLM"


def ended(arguments, capsys):
    """The status and what was said."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr()
    return end.value.code, said.out + said.err


def test_errors_are_one_line(models, tmp_path, capsys):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\nnonsense\n')
    for arguments, words in (
        (["snow"], "a command must be one of: train, tokenize, generate, correct, evaluate bound, evaluate perplexity"),
        (["evaluate", "snow"], "evaluate harness, compare, inspect; got 'evaluate snow'"),
        (["generate", "./nowhere"], "there is no folder"),
        (["correct", models[0], "nowhere.txt"], "nothing found at nowhere.txt"),
        (["correct", models[0], str(empty)], "at least one"),
        (["correct", models[0], str(bad)], "line 2"),
        (["correct", models[1], str(bad)], "line 2"),
        (["generate", models[0], "--dtype", "snow"], "dtype must be"),
        (["generate", models[1], "--steps", "3"], "require a diffusion model"),
        (["evaluate", "bound", models[0], "nowhere.txt"], "nowhere.txt"),
        (["evaluate", "correction", models[0], "--judge", models[0]], "judge a causal one"),
        (["inspect", models[1], "--plot", "x.svg"], "require a diffusion model"),
        (["train", "nothing"], "nothing found at"),
    ):
        status, said = ended(arguments, capsys)
        assert status == 2 and words in said and said.startswith("error: ") and said.count("\n") == 1, said


def test_help_lists_every_command_and_option(capsys):
    status, said = ended(["--help"], capsys)
    assert status == 0 and all(name in said for name in COMMANDS)
    for name in COMMANDS:
        status, said = ended([*name.split(), "--help"], capsys)
        assert status == 0 and "usage: noiselab" in said
    assert ended([], capsys)[0] == 2


def test_train_runs_a_script_with_what_follows(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.py").write_text("import sys, beside\nprint('ran', sys.argv[1:], beside.VALUE)\n")
    (tmp_path / "recipes" / "beside.py").write_text("VALUE = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    run("train", ["mine", "demo", "--steps", "4"])
    assert capsys.readouterr().out == "ran ['demo', '--steps', '4'] 3\n"
