"""Conversations at the command line: the template, the answers and their contexts are those of the pipeline."""

import json

import pytest

from noiselab.commands.common import text_generators
from noiselab.commands.main import run
from noiselab.data.samples import read_questions, read_samples
from noiselab.pipeline import Pipeline

TEMPLATE = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
ASKED = [{"role": "user", "content": "the cat"}]
LONGER = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "dog"}, {"role": "user", "content": "sat"}]
ANSWER = {"role": "assistant", "content": "the mat"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:all answers are empty:UserWarning")


@pytest.fixture(scope="module", params=[0, 1], ids=["diffusion", "autoregressive"])
def model(models, request, tmp_path_factory):
    """The model with a chat template."""
    pipe = Pipeline.from_pretrained(models[request.param])
    pipe.tokenizer.chat_template = TEMPLATE
    folder = tmp_path_factory.mktemp("chat") / "model"
    pipe.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def chats(tmp_path):
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps({"messages": [*asked, ANSWER], "id": 1}) + "\n" for asked in (ASKED, LONGER)))
    return file


def written(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_questions_and_files_are_answered_as_by_the_pipeline(model, chats, tmp_path):
    pipe = Pipeline.from_pretrained(model)
    steps = ["--steps", "3"] if pipe.tag == "diffusion" else []
    options = ["--num-samples", "2", *steps, "--seed", "5", "--device", "cpu"]
    more = {"num_inference_steps": 3, "show_progress": False} if steps else {}
    for asked, given in ((([ASKED]), ["--chat", "the cat"]), ([ASKED, LONGER], ["--chats", str(chats)])):
        seeds = text_generators(5, 2 * len(asked))
        wanted = pipe.generate(2, prompts=asked, generator=seeds, **more)
        out = tmp_path / "out.jsonl"
        run("generate", [model, *given, *options, "--out", str(out)])
        found = written(out)
        assert [tuple(record["tokens"]) for record in found] == [text.tokens for text in wanted]
        assert [record["text"] for record in found] == list(wanted)
        for i, record in enumerate(found):
            answer = {"role": "assistant", "content": wanted[i]}
            assert record["messages"] == [*asked[i // 2], answer] and "prompt" not in record


def test_the_last_answers_are_corrected_in_their_conversations(model, chats, tmp_path, capsys):
    pipe = Pipeline.from_pretrained(model)
    if pipe.tag == "autoregressive":
        with pytest.raises(ValueError, match="must be a diffusion model"):
            run("correct", [model, str(chats), "--device", "cpu"])
        return
    talks = [[*asked, ANSWER] for asked in (ASKED, LONGER)]
    wanted = pipe.self_correction(talks, 4, 2.0, generator=text_generators(0, 2), show_progress=False)
    out = tmp_path / "out.jsonl"
    options = ["--steps", "4", "--temperature", "2.0", "--device", "cpu"]
    run("correct", [model, str(chats), *options, "--out", str(out)])
    before = pipe.tokenizer(ANSWER["content"])["input_ids"]
    for record, talk, new in zip(written(out), talks, wanted, strict=True):
        assert tuple(record["tokens"]) == new.tokens and record["text"] == new and record["before"] == "the mat"
        assert record["messages"] == [*talk[:-1], {"role": "assistant", "content": new}]
        assert record["changed"] == sum(a != b for a, b in zip(before, new.tokens, strict=True)) / len(before)
    assert any(record["changed"] for record in written(out))
    # What generate wrote is corrected with the tokens that were drawn, and the end that was drawn.
    drawn, again = tmp_path / "drawn.jsonl", tmp_path / "again.jsonl"
    run(
        "generate",
        [model, "--chat", "the cat", "--steps", "3", "--num-samples", "3", "--out", str(drawn), "--device", "cpu"],
    )
    whole = [record for record in written(drawn) if record["text"].strip()]
    assert whole
    drawn.write_text("".join(json.dumps(record) + "\n" for record in whole))
    run("correct", [model, str(drawn), *options, "--out", str(again)])
    assert [len(a["tokens"]) for a in written(again)] == [len(b["tokens"]) for b in whole]
    assert f"{len(whole)} with the tokens of the file" in capsys.readouterr().out
    with pytest.raises(ValueError, match="as-released corrects texts, not conversations"):
        run("correct", [model, str(chats), "--as-released", "--device", "cpu"])


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ([{"text": "a"}], "a line must have the field 'messages'; .*line 1 has the fields"),
        (["a"], "a line must have the field 'messages'; .*line 1 has a str"),
        ([{"messages": []}], "list of at least one message; .*line 1"),
        ([{"messages": [ANSWER]}], "must have a message to answer; .*line 1 has none"),
        ([{"messages": ASKED}, {"messages": [{"role": "user"}]}], "message 0 of .*line 2 has the fields"),
        ([], "at least one conversation"),
    ],
)
def test_questions_that_are_refused(tmp_path, rows, rule):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=rule):
        read_questions(file)


def test_answers_that_are_refused(tmp_path):
    file = tmp_path / "rows.jsonl"
    for rows, rule in (
        ([{"messages": ASKED}], "must end with an answer; the last message of .*line 1 is by 'user'"),
        ([{"messages": [*ASKED, ANSWER]}, {"text": "a"}], "all rows must have the field 'messages', or none"),
        ([{"messages": [*ASKED, ANSWER], "tokens": "a"}], "the field 'tokens' must be a list"),
    ):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(ValueError, match=rule):
            read_samples(file, chats=True)
    with pytest.raises(ValueError, match="must have the field 'text'"):
        read_samples(file)
    with pytest.raises(ValueError, match=r"in a file that ends in .*; got .*no\.txt"):
        read_questions(tmp_path / "no.txt")


def test_one_kind_of_beginning_at_a_time(models):
    with pytest.raises(ValueError, match="only one of prompt, chat and chats"):
        run("generate", [models[0], "--chat", "a", "--prompt", "b", "--device", "cpu"])
