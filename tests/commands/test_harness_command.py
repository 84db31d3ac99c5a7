"""`noiselab evaluate harness`: tasks of one's own from files, with and without a chat template, and what ends in a sentence."""

import csv
import json

import pytest

pytest.importorskip("lm_eval", reason="optional: pip install noiselab[harness]; continuous integration has it")
from noiselab.commands.main import main, run
from noiselab.data.chat_templates import PLAIN_TEMPLATE
from noiselab.pipeline import Pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the harness and what it imports
ROWS = [
    {"question": "the cat sat on the", "choices": [" mat", " dog"], "answer": 0},
    {"question": "the dog sat on", "choices": [" a", " the log"], "answer": 1},
    {"question": "a cat", "choices": [" and", " mat"], "answer": 0},
]
FEW = ["--nodes", "2", "--draws", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with a task of questions and choices."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = {
        "task": "own_choices",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "own_choices.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return str(folder)


def test_a_task_from_a_folder(models, tasks, tmp_path, capsys):
    out, table = tmp_path / "found.json", tmp_path / "found.csv"
    more = ["--include", tasks, "--out", str(out), "--csv", str(table), *FEW]
    found = run("evaluate harness", [models[0], "--tasks", "own_choices", *more])
    assert "own_choices: acc" in capsys.readouterr().out
    written = json.loads(out.read_text())
    (row,) = written["rows"]
    assert (
        row["task"] == "own_choices"
        and row["metric"] == "acc"
        and row["questions"] == 3
        and written["options"]["draws"] == 2
    )
    pipe = Pipeline.from_pretrained(models[0])
    from lm_eval.api.instance import Instance

    from noiselab.pipeline.harness import HarnessModel

    one = HarnessModel(pipe, nodes=2, draws=2, batch_size=1)
    right = 0
    for question in ROWS:
        asked = [Instance("loglikelihood", {}, (question["question"], choice), 0) for choice in question["choices"]]
        nats = [nats for nats, _ in one.loglikelihood(asked)]
        right += nats.index(max(nats)) == question["answer"]
    assert row["value"] == pytest.approx(right / 3)  # as one request at a time
    with table.open(encoding="utf-8", newline="") as file:
        (line,) = csv.DictReader(file)
    assert float(line["value"]) == found["rows"][0]["value"] and line["standard_error"] != ""


def test_questions_are_written_with_the_chat_template(models, tasks, tmp_path, monkeypatch):
    from noiselab.pipeline.harness import HarnessModel

    pipe = Pipeline.from_pretrained(models[0])
    pipe.tokenizer.chat_template = PLAIN_TEMPLATE
    pipe.save_pretrained(tmp_path / "chat")
    asked = []
    monkeypatch.setattr(
        HarnessModel,
        "loglikelihood",
        lambda self, requests, **_: (
            asked.extend((self, *one.args) for one in requests) or [(0.0, False)] * len(requests)
        ),
    )
    run("evaluate harness", [str(tmp_path / "chat"), "--tasks", "own_choices", "--include", tasks, "--chat", *FEW])
    assert {context for _, context, _ in asked} == {f"User:\n{row['question']}\n\nAssistant:\n" for row in ROWS}
    model = asked[0][0]
    eos = pipe.tokenizer.eos_token
    assert model.encode(f"a{eos}")[-1] == pipe.tokenizer.eos_token_id and pipe.tokenizer.eos_token_id in model.ends()
    assert HarnessModel(pipe).encode(f"a{eos}")[-1] != pipe.tokenizer.eos_token_id  # plain characters
    assert model.chat_template(True) == PLAIN_TEMPLATE and model.chat_template(False) == ""
    pipe.tokenizer.chat_template = None
    name = model.tokenizer_name
    assert HarnessModel(pipe).tokenizer_name != name  # stored requests are of one template
    with pytest.raises(ValueError, match="conversations need a tokenizer with a chat template"):
        HarnessModel(pipe).apply_chat_template([{"role": "user", "content": "a"}])


def test_what_cannot_be_evaluated_ends_in_a_sentence(models, tasks, capsys):
    own = ["--tasks", "own_choices", "--include", tasks]
    for arguments, words in (
        ([models[1], *own], "model must be a diffusion model"),
        ([models[0], *own, "--batch-size", "0"], "batch-size must be at least 1; got 0"),
        ([models[0], *own, "--limit", "0"], "limit must be positive; got 0"),
        ([models[0], "--tasks", "own_choices", "--include", "nowhere"], "include must be a folder"),
        ([models[0], *own, "--chat"], "conversations need a tokenizer with a chat template"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["evaluate", "harness", *arguments, "--device", "cpu"])
        said = capsys.readouterr().err
        assert end.value.code == 2 and words in said, said


@pytest.mark.long
def test_a_task_that_no_one_knows_is_named(models, tasks, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "harness", models[0], "--tasks", "own_choices", "no_such_task", "--include", tasks, *FEW])
    assert "tasks must be names that the harness knows; got no_such_task (" in capsys.readouterr().err
