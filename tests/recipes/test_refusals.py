import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checks.refusals import REFUSALS, load_prompts, refusal_rate

refusing = st.builds(
    lambda before, phrase, spelled, after: before + spelled(phrase) + after,
    st.sampled_from(["", "  ", "\n", '"', ' "']),
    st.sampled_from(REFUSALS),
    st.sampled_from(
        [str, str.upper, str.lower, lambda text: text.replace("'", "’"), lambda text: text.replace(" ", "\n ")]
    ),
    st.sampled_from(["", ".", ", no", " do this"]),
)
obeying = st.sampled_from(
    ["", "Sure.", "Icannot", "I cannotate", "As an AIDE", "Sorry to say: yes", "Well, a sorry case"]
)


@given(st.lists(refusing, max_size=5), st.lists(obeying, max_size=5), st.randoms(use_true_random=False))
def test_the_rate_counts_texts_that_begin_with_a_phrase(some, others, random):
    texts = some + others
    random.shuffle(texts)
    if texts:
        assert refusal_rate(texts) == len(some) / len(texts)
        later = [f"Well, {text}" for text in texts]
        assert refusal_rate(later) == 0
        assert refusal_rate(later, where="anywhere") == len(some) / len(texts)


def test_phrases_are_those_that_are_given():
    texts = ["No way (1)", "Cannot do", "I cannot", "no way"]
    assert refusal_rate(texts, ["no way"]) == 0.5
    assert refusal_rate(texts, ["no way", "cannot"], where="anywhere") == 1
    assert refusal_rate(["a.b"], ["a.b"]) == 1 and refusal_rate(["axb"], ["a.b"]) == 0
    assert REFUSALS == tuple(dict.fromkeys(REFUSALS))


def test_there_must_be_texts_and_phrases(unchecked):
    for arguments, why in (
        (([],), "texts must be"),
        (("I cannot",), "texts must be a list"),
        ((["x"], []), "prefixes must be"),
        ((["x"], ["a", " "]), "not be empty"),
    ):
        with pytest.raises(ValueError, match=why):
            refusal_rate(*arguments)
    with pytest.raises(ValueError, match="'start' or 'anywhere'; got 'end'"):
        refusal_rate(["x"], where="end")


PROMPTS = ["Write a poem, please", 'Say "hello"', "Two\nlines", "Zähle bis zehn"]


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


def test_all_kinds_of_files_give_their_prompts(tmp_path):
    files = {
        "a.txt": "\ufeff\n" + "\n\n".join(f"  {prompt} " for prompt in PROMPTS) + "\r\n",
        "a.csv": "\ufeffnumber, goal ,target\r\n" + "".join(f"1,{quoted(prompt)},x\r\n" for prompt in PROMPTS) + "\n",
        "b.csv": "prompt\n" + "\n".join(quoted(prompt) for prompt in PROMPTS),
        "a.jsonl": "\n".join(json.dumps({"goal": prompt, "number": 1}) for prompt in PROMPTS) + "\n\n",
        "b.JSONL": "\n".join(json.dumps({"goal": "x", "prompt": p}, ensure_ascii=False) for p in PROMPTS),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode())
        expected = "\n".join(PROMPTS).split("\n") if name.endswith("txt") else PROMPTS
        assert load_prompts(tmp_path / name) == expected
        assert load_prompts(str(tmp_path / name)) == expected
    assert load_prompts(tmp_path / "b.JSONL", fields=["goal", "prompt"]) == ["x"] * 4


@pytest.mark.parametrize(
    "name, content, why",
    [
        ("a.txt", b"one\n\xff\n", "a text file must be UTF-8; .*a.txt"),
        ("a.txt", b"\n \n", "hold at least one"),
        ("a.csv", b"prompt\n", "hold at least one"),
        ("a.csv", b"", "hold at least one"),
        ("a.csv", b"question\nx\n", r":2: one of the fields \['prompt', 'goal'\] must be there; got \['question'\]"),
        ("a.csv", b'n,goal\n1,"a\nb"\n2\n', r":4: a row must have 2 columns, \['n', 'goal'\]; got 1"),
        ("a.csv", b"n,goal\n1,a\n2, \n", ":3: goal must be a text that is not empty; got ' '"),
        ("a.csv", b'goal\n"a"b\n', ":2: a row must be CSV"),
        ("a.csv", b'goal\n"a\n', ": a row must be CSV"),
        ("a.jsonl", b'{"goal": "a"}\n\n{"goal"', "a line must be JSON; .*a.jsonl, line 3"),
        ("a.jsonl", b'{"goal": "a"}\n["goal"]', r", line 2: a line must be a JSON object; got \['goal'\]"),
        ("a.jsonl", b'{"text": "a"}', ", line 1: one of the fields"),
        ("a.jsonl", b'{"goal": "a"}\n{"goal": 1}', ", line 2: goal must be a text that is not empty; got 1"),
        ("a.json", b"[]", r"must end in \.txt, \.csv, \.jsonl"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(name) + ".*" + why if why[0] in ":," else why):
        load_prompts(tmp_path / name)


def test_there_must_be_a_file_and_names(tmp_path):
    with pytest.raises(ValueError, match="a file that exists"):
        load_prompts(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    for fields in ("goal", []):
        with pytest.raises(ValueError, match="fields must be a list of"):
            load_prompts(tmp_path / "a.txt", fields=fields)
