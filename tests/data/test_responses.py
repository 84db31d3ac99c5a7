"""Prompts and answers: what is learned and what is conditioned on, by hand; rows that are refused, with their place."""

import gzip
import json

import datasets
import pytest
import torch

import noiselab as nl
from noiselab.data import ResponseRows, TokenBlocks, character_tokenizer, token_frequencies, train_tokenizer
from noiselab.data.chat_templates import PLAIN_TEMPLATE, split_answers, with_chat_template
from noiselab.data.messages import PAIRS, parse_conversation
from noiselab.evaluation import validation_bound
from noiselab.objectives import elbo
from noiselab.training import Place, causal_loss, noised_loss
from noiselab.training.losses import call_denoiser

LETTERS = [chr(code) for code in range(32, 127)]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.strip() + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Writes an empty chain of thought into the last answer, as Qwen3's does, which its generation prompt omits.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if loop.last and m.role == 'assistant' %}{{ '<think></think>' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
WITHOUT_END = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": " yes"},
    {"role": "user", "content": "2+2"},
    {"role": "assistant", "content": "4"},
]


def tokenizer(template=PLAIN_TEMPLATE, padding=None):
    found = character_tokenizer([*LETTERS, "\n"])
    found.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    if padding is not None:
        found.pad_token = padding
    return with_chat_template(found, template) if template else found


def learned(data, index=0):
    """The text of each run of learned tokens of a row, and the text of its real tokens."""
    row, runs, before = data[index], [], False
    for token, label in zip(row["input_ids"].tolist(), row["labels"].tolist(), strict=True):
        if label != -100:
            assert label == token
            runs = [*runs, []] if not before else runs
            runs[-1].append(token)
        before = label != -100
    return [data.tokenizer.decode(run) for run in runs], data.tokenizer.decode(row["input_ids"][row["attention_mask"]])


@pytest.mark.parametrize(
    ("template", "answers"),
    [
        (PLAIN_TEMPLATE, [" yes<|endoftext|>", "4<|endoftext|>"]),
        (CHATML, ["yes<|im_end|>", "4<|im_end|>"]),
        (THINKING, [" yes<|im_end|>", "<think></think>4<|im_end|>"]),
        (LLAMA2, [" yes <|endoftext|>", " 4 <|endoftext|>"]),
        (WITHOUT_END, [" yes", "4<|endoftext|>"]),
    ],
)
def test_each_answer_and_its_end_are_learned_and_nothing_else(template, answers):
    data = ResponseRows([{"messages": TALK}], tokenizer(template), 200)
    runs, text = learned(data)
    assert runs == answers
    # A prompt has the tokens that it has when the model is used, and the row ends with its last answer.
    prompt = data.tokenizer.apply_chat_template(TALK[:3], tokenize=False, add_generation_prompt=True)
    assert text == prompt + answers[-1] or template == THINKING
    pieces = split_answers(data.tokenizer, TALK)
    assert [part for part, chosen in pieces if chosen] == answers and "".join(part for part, _ in pieces) == text


def test_what_the_plain_template_writes_and_that_it_is_said():
    with pytest.warns(UserWarning, match="has no chat template; conversations are written as 'User:'"):
        data = ResponseRows([{"messages": TALK}], tokenizer(None), 200)
    _, text = learned(data)
    assert text == (
        "User:\nhi\n\nAssistant:\n yes<|endoftext|>\nUser:\n2+2\n\nAssistant:\n4<|endoftext|>"
    ) and data.tokenizer.chat_template == PLAIN_TEMPLATE  # fmt: skip


def test_a_template_from_a_file_and_the_tokenizer_is_not_modified(tmp_path):
    (tmp_path / "own.jinja").write_text(WITHOUT_END)
    given = tokenizer(CHATML)
    data = ResponseRows([{"messages": TALK}], given, 200, template=tmp_path / "own.jinja")
    assert learned(data)[0] == [" yes", "4<|endoftext|>"] and given.chat_template == CHATML


@pytest.mark.parametrize(("prompt", "answer"), PAIRS)
def test_spellings_of_prompt_and_answer(prompt, answer):
    row = {prompt: "2+2", answer: "4", "id": 7, "text": None}
    assert parse_conversation(row, "row 0") == [TALK[2], TALK[3]]
    assert learned(ResponseRows([row], tokenizer(), 60))[0] == ["4<|endoftext|>"]


def test_the_input_of_an_instruction_is_part_of_the_prompt():
    row = {"instruction": "Add", "input": "2+2", "output": "4"}
    assert parse_conversation(row, "row 0")[0]["content"] == "Add\n\n2+2"
    assert parse_conversation({**row, "input": ""}, "row 0")[0]["content"] == "Add"


def test_a_text_is_learned_as_a_whole_and_its_special_tokens_are_characters():
    data = ResponseRows([{"text": "a [MASK]"}], tokenizer(), 60)
    row = data[0]
    assert learned(data)[0] == ["a [MASK]<|endoftext|>"] and data.tokenizer.mask_token_id not in row["input_ids"]


@pytest.mark.parametrize("padding", [None, "<|endoftext|>"])
def test_padding_is_known_by_position_and_ends_are_learned(padding):
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": "bcdef"}]
    data = ResponseRows(rows, tokenizer(padding=padding), 60)
    short, long = data[0], data[1]
    real = len("User:\na\n\nAssistant:\n") + 2  # the answer and its end
    assert data.width == len(long["input_ids"]) == real + 4 and bool(long["attention_mask"].all())
    assert short["attention_mask"].tolist() == [True] * real + [False] * 4
    assert (short["labels"] != -100).sum() == 2 and short["labels"][real - 1] == data.tokenizer.eos_token_id
    assert (short["input_ids"][real:] == data.tokenizer.pad_token_id).all()
    assert (short["labels"][real:] == -100).all()


def test_ends_are_repeated_as_far_as_there_is_room():
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": "b" * 30}]
    data = ResponseRows(rows, tokenizer(), 60, ends=100)
    size = len("User:\na\n\nAssistant:\n")
    assert data.width == 60
    assert learned(data, 0)[0] == ["b" + "<|endoftext|>" * (59 - size)]
    assert learned(data, 1)[0] == ["b" * 30 + "<|endoftext|>" * (30 - size)]


START = "User:\na\n\nAssistant:\n"
ANSWERS = ["b", "bcdef", "bc"]


@pytest.mark.parametrize("padding", [None, "<|endoftext|>"])
def test_each_conversation_is_a_row_with_one_end_and_one_filled_with_ends(padding):
    """By hand: the longest has 5 letters and an end, so that the others have 5 ends and 4 in their second row."""
    words = tokenizer(padding=padding)
    data = ResponseRows([{"prompt": "a", "response": text} for text in ANSWERS], words, 60)
    assert (len(data), data.conversations, data.width) == (6, 3, len(START) + 6)
    assert "rows=6, width=26, conversations=3" in repr(data)
    pad, end, before = words.pad_token_id, words.eos_token_id, words(START)["input_ids"]
    letters = dict(zip("bcdef", words("bcdef")["input_ids"], strict=True))
    for i, (text, ends) in enumerate(zip(ANSWERS, [5, 1, 4], strict=True)):
        answer = [letters[sign] for sign in text]
        single, filled = data[i], data[i + 3]
        assert single["input_ids"].tolist() == [*before, *answer, end, *[pad] * (ends - 1)]
        assert single["attention_mask"].tolist() == [True] * (len(before) + len(text) + 1) + [False] * (ends - 1)
        assert single["labels"].tolist() == [-100] * len(before) + [*answer, end] + [-100] * (ends - 1)
        assert filled["input_ids"].tolist() == [*before, *answer, *[end] * ends]
        assert filled["attention_mask"].all() and len(filled["attention_mask"]) == data.width
        assert filled["labels"].tolist() == [-100] * len(before) + [*answer, *[end] * ends]
    assert data.learned_tokens == 2 + 6 + 3 + 3 * 6
    assert torch.equal(data[-1]["labels"], data[5]["labels"])
    for index in (6, -7):
        with pytest.raises(IndexError, match=r"lie in \[-6, 6\)"):
            data[index]
    assert len(list(data)) == 6


def test_the_end_that_is_repeated_is_that_of_the_template():
    data = ResponseRows([{"messages": TALK}, {"messages": TALK[2:]}], tokenizer(CHATML), 200)
    assert learned(data, 1)[0] == ["4<|im_end|>"] and learned(data, 2)[0] == ["yes<|im_end|>", "4<|im_end|>"]
    room = data.width - int(data[1]["attention_mask"].sum())
    assert room > 9 and learned(data, 3)[0] == ["4" + "<|im_end|>" * (1 + room)]


def test_parts_have_both_kinds_of_rows_and_what_is_held_out_has_one_end():
    rows = [{"prompt": f"{i}", "response": f"{i}"} for i in range(40)]
    training, held_out = ResponseRows(rows, tokenizer(), 60).split(0.2)
    count = training.conversations
    assert len(training) == 2 * count and len(held_out) == held_out.conversations == 40 - count
    shown = [learned(training, i)[0][0] for i in range(2 * count)]
    ends = [text.count("<|endoftext|>") for text in shown]
    # The widest rows have a question and an answer of two digits; one of one digit has room for two tokens more.
    assert ends[:count] == [1] * count and ends[count:] == [3 if len(text) == 14 else 1 for text in shown[:count]]
    assert {learned(held_out, i)[0][0].count("<|endoftext|>") for i in range(len(held_out))} == {1}
    first = training.first(3)
    assert len(first) == 6 and [learned(first, i)[0] for i in (0, 3)] == [[shown[0]], [shown[count]]]
    whole = ResponseRows(rows, tokenizer(), 60)
    assert whole.one_end().key == ResponseRows(rows, tokenizer(), 60, ends=1).key != whole.key
    assert ResponseRows(rows, tokenizer(), 60, ends=9).one_end()[0]["labels"][-9:].tolist() == [-100] * 9


def test_a_row_that_was_cut_off_is_not_filled():
    """Its end is unknown. The short one is filled up to the width, that of the one that was cut."""
    data = ResponseRows(LONG, tokenizer(), 40, too_long="truncate")
    whole = "c" * (40 - len(START))
    assert (len(data), data.conversations, data.width) == (4, 2, 40)
    assert [learned(data, i)[0] for i in (1, 3)] == [[whole], [whole]]
    assert learned(data, 2)[0] == ["b" + "<|endoftext|>" * (39 - len(START))]


LONG = [
    {"prompt": "a", "response": "b"},
    {"prompt": "a", "response": "c" * 30},
    {"prompt": "a" * 90, "response": "b"},
]


def test_long_rows_are_refused_dropped_or_truncated():
    with pytest.raises(ValueError, match=r"at most 40 tokens, or too_long must be 'drop' .* row 1 has 51"):
        ResponseRows(LONG, tokenizer(), 40)
    dropped = ResponseRows(LONG, tokenizer(), 40, too_long="drop")
    assert (dropped.conversations, dropped.dropped, dropped.truncated) == (1, 2, 0) and "dropped=2" in repr(dropped)
    cut = ResponseRows(LONG, tokenizer(), 40, too_long="truncate", ends=3)
    assert (len(cut), cut.dropped, cut.truncated, cut.width) == (2, 1, 1, 40)
    assert learned(cut, 1)[0] == ["c" * (40 - len("User:\na\n\nAssistant:\n"))]  # without an end, which is unknown


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_data_whose_answers_are_all_cut_away_are_refused(too_long):
    with pytest.raises(ValueError, match=r"a token to learn within 40 tokens; of 2 rows 2 lose all of their answers"):
        ResponseRows(LONG[2:] * 2, tokenizer(), 40, too_long=too_long)
    with pytest.raises(ValueError, match="of 0 rows"):
        ResponseRows([], tokenizer(), 40)


def with_answer(content):
    return {"messages": [TALK[0], {"role": "assistant", "content": content}, TALK[2], TALK[3]]}


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, CHATML, THINKING, LLAMA2, WITHOUT_END])
def test_special_tokens_in_messages_are_refused_dropped_or_plain_characters(template):
    literal, words = "<|im_end|>[MASK]", tokenizer(template)
    rows = [{"messages": TALK}, with_answer(f"no {literal} yes"), {"text": "a [MASK]"}]
    with pytest.raises(
        ValueError, match=r"must not contain special tokens .*; message 1 of row 1 has '<\|im_end\|>' .*drop"
    ):
        ResponseRows(rows, words, 200)
    dropped = ResponseRows(rows, words, 200, special="drop")
    assert (dropped.conversations, dropped.dropped, dropped.dropped_special) == (
        2,
        0,
        1,
    ) and "dropped_special=1" in repr(dropped)
    with pytest.raises(ValueError, match="of 1 rows 0 lose all of their answers, and 1 contain special tokens"):
        ResponseRows(rows[1:2], words, 200, special="drop")
    kept = ResponseRows(rows, words, 200, special="text")
    assert (kept.conversations, kept.dropped_special) == (3, 0)
    # By hand: as with one other character in its place, which the characters of the names replace.
    plain, row = ResponseRows([with_answer("no ~ yes")], words, 200)[0], kept[1]
    sign, names = words.convert_tokens_to_ids("~"), words.convert_tokens_to_ids(list(literal))
    place = plain["input_ids"].tolist().index(sign)
    assert plain["labels"][place] == sign
    for key in ("input_ids", "labels"):
        usual = plain[key].tolist()
        assert row[key][row["attention_mask"]].tolist() == [*usual[:place], *names, *usual[place + 1 :]]


BAD = {
    "no role": ([{"content": "hi"}], "a role and a content; message 0 of .*line 2 has the fields"),
    "no content": ([TALK[0], {"role": "assistant"}], "a role and a content; message 1 of"),
    "no dict": (["hi"], "a role and a content; message 0 of .* has 'hi'"),
    "unknown role": ([{"role": "human", "content": "hi"}], r"one of system, user, assistant; message 0 .* 'human'"),
    "odd role": ([{"role": None, "content": "hi"}], r"role of a message .* None"),
    "empty content": ([TALK[0], {"role": "assistant", "content": " \n"}], "content must not be empty; message 1"),
    "a number": ([{"role": "user", "content": 4}], "content must be text; message 0 of .* has 4, a int"),
    "null": ([{"role": "user", "content": None}], "content must be text; .* NoneType"),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "content must be text; .* a list"),
    "none": ([], "list of at least one message; .* has \\[\\]"),
    "one text": ("hi", "list of at least one message; .* has 'hi'"),
    "no answer": (TALK[:1], "must have a message of the assistant"),
    "a special token": (
        [TALK[0], {"role": "assistant", "content": "a <|im_end|> b"}],
        "special tokens .* '<|im_end|>'",
    ),
    "the mask": ([TALK[0], {"role": "assistant", "content": "[MASK]"}], r"special tokens .* '\[MASK\]'"),
}


@pytest.mark.parametrize("name", BAD)
def test_messages_that_are_refused_with_file_and_line(name, tmp_path):
    messages, rule = BAD[name]
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in (TALK, messages)))
    with pytest.raises(ValueError, match=rule) as caught:
        ResponseRows(path, tokenizer(CHATML), 200)
    assert f"{path}, line 2" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"prompt": "a"}, r"a row must have the fields 'messages' .* has \['prompt'\]"),
        ({"prompt": "a", "response": ""}, "response must not be empty; .*line 1"),
        ({"prompt": ["a"], "response": "b"}, "prompt must be text; .*line 1"),
        ({"instruction": "a", "input": 3, "output": "b"}, "input must be text"),
        ({"text": ""}, "text must not be empty"),
        (["a"], r"a row must have the fields .*line 1 is a list"),
    ],
)
def test_rows_that_are_refused_with_file_and_line(row, rule, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=rule):
        ResponseRows(path, tokenizer(), 200)


def test_settings_that_are_refused(unchecked):
    rows = [{"prompt": "a", "response": "b"}]
    for more, rule in (
        ({"too_long": "cut"}, "too_long must be"),
        ({"special": "keep"}, "special must be 'refuse', 'drop' or 'text'"),
        ({"ends": 0}, "ends must be 'both' or a whole number that is at least 1; got 0"),
        ({"ends": True}, "ends must be 'both' .* got True"),
        ({"ends": "all"}, "ends must be 'both' .* got 'all'"),
    ):
        with pytest.raises(ValueError, match=rule):
            ResponseRows(rows, tokenizer(), 40, **more)
    with pytest.raises(ValueError, match="length must be at least 2"):
        ResponseRows(rows, tokenizer(), 1)
    with pytest.raises(
        ValueError, match=r"chat template must be able to write each conversation; row 0: .*system only"
    ):
        ResponseRows(rows, tokenizer("{{ raise_exception('system only') }}"), 40)
    with pytest.raises(ValueError, match=r"row 0: .*"):
        ResponseRows(rows, tokenizer("{% if %}"), 40)
    with pytest.raises(ValueError, match=r"must write every answer; it leaves out message 1 of row 0"):
        ResponseRows(rows, tokenizer("{{ messages[0].content }}"), 40)
    without = tokenizer()
    without.eos_token = None
    with pytest.raises(ValueError, match="must have an end-of-text token"):
        with_chat_template(without)
    with pytest.raises(ValueError, match="must have padding and end-of-text tokens"):
        ResponseRows(rows, without, 40)


def test_files_and_tables_give_the_same_rows(tmp_path):
    rows = [{"messages": TALK}, {"messages": TALK[2:]}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "c.json").write_text(json.dumps(rows))
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "d.parquet")
    want = ResponseRows(rows, tokenizer(), 200)
    for source in (*sorted(tmp_path.iterdir()), table, iter(rows)):
        found = ResponseRows(source, tokenizer(), 200)
        assert found.key == want.key and found.conversations == 2
    both = ResponseRows([tmp_path / "a.jsonl", tmp_path / "c.json"], tokenizer(), 200)
    assert both.conversations == 4 and both.key != want.key
    with pytest.raises(ValueError, match="in files that end in"):
        (tmp_path / "e.txt").write_text("hi")
        ResponseRows(tmp_path / "e.txt", tokenizer(), 200)


def test_a_split_is_by_content_and_never_empty():
    rows = [{"prompt": f"{i % 50}", "response": f"{i % 50}"} for i in range(100)]  # each twice
    training, held_out = ResponseRows(rows, tokenizer(), 60, ends=1).split(0.2)
    texts = [{learned(part, i)[1] for i in range(len(part))} for part in (training, held_out)]
    assert len(texts[0] | texts[1]) == 50 and not texts[0] & texts[1] and len(training) + len(held_out) == 100
    assert 2 <= len(texts[1]) <= 20 and training.key != held_out.key and training.width == held_out.width
    for share in (1e-9, 1 - 1e-9):
        parts = ResponseRows(rows[:3], tokenizer(), 60).split(share)
        assert min(map(len, parts)) >= 1
    assert len(training.first(3)) == 3 and learned(training.first(3), 2) == learned(training, 2)
    with pytest.raises(ValueError, match="two different conversations"):
        ResponseRows(rows[:1], tokenizer(), 60).split()
    with pytest.raises(ValueError, match="share must lie"):
        training.split(1)


def test_a_token_across_the_border_does_not_change_the_prompt():
    bpe = train_tokenizer(["ab ab ab ab cd cd"] * 9, vocab_size=262)
    assert len(bpe("ab")["input_ids"]) == 1
    joined = "{% for m in messages %}{{ m.content }}{% endfor %}"
    data = ResponseRows([{"prompt": "a", "response": "b ab"}], with_chat_template(bpe, joined), 60)
    ids, labels = data[0]["input_ids"].tolist(), data[0]["labels"].tolist()
    assert ids[:1] == bpe("a")["input_ids"] == [ids[0]] and labels[0] == -100  # as when the model is used
    assert ids[1:] == [*bpe("b ab")["input_ids"], bpe.eos_token_id] == labels[1:]


class Network(nl.Denoiser):
    """Logits that depend on all visible tokens, and record what was given."""

    takes_mask = True

    def __init__(self, states):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out, self.given = torch.nn.Embedding(states, 8), torch.nn.Linear(8, states), []

    def forward(self, z, t):
        self.given.append(z)
        real = self.real_tokens(z)
        real = torch.ones_like(z, dtype=torch.bool) if real is None else real
        hidden = self.embed(z) * real[..., None]
        return self.out(hidden + hidden.mean(1, keepdim=True))


def test_losses_and_bounds_are_those_of_the_answers_given_the_prompts():
    data = ResponseRows([{"prompt": "2+2", "response": "4"}, {"prompt": "7", "response": "14"}], tokenizer(), 60)
    states = data.vocab_size
    process, network = nl.masked(vocab_size=states, mask_id=data.tokenizer.mask_token_id), Network(states)
    batch = {name: torch.stack([data[i][name] for i in (0, 1)]) for name in data[0]}
    chosen = batch["labels"] != -100
    assert chosen.sum() == data.one_end().learned_tokens == 5
    noised_loss(network, batch, process=process, objective=elbo, place=Place(0), call=call_denoiser)
    bound = validation_bound(process, network, data, generator=torch.Generator().manual_seed(0))
    assert bound.tokens == 5 and bound.lengths.tolist() == [2, 3]
    for z in network.given:
        assert torch.equal(z[~chosen], batch["input_ids"][~chosen])
    # All logits equal: log V nats for each learned token, in the bound on average, and in a causal loss.
    network.out.weight.data.zero_(), network.out.bias.data.zero_()
    network.out.bias.data[data.tokenizer.mask_token_id] = -torch.inf
    bound = validation_bound(process, network, data, repeats=500, generator=torch.Generator().manual_seed(0))
    assert abs(bound.nelbo - torch.tensor(states - 1.0).log()) < 0.3

    class Causal(torch.nn.Module):
        def forward(self, input_ids, attention_mask=None):
            return torch.zeros(*input_ids.shape, states, requires_grad=True)

    assert abs(causal_loss(Causal(), batch, place=Place(0)) - torch.tensor(float(states)).log()) < 1e-5


def test_frequencies_are_those_of_the_answers():
    rows = [{"prompt": "7777", "response": "4"}, {"prompt": "7" * 20, "response": "4"}]
    data = ResponseRows(rows, tokenizer(), 60)
    row = token_frequencies(data, data.vocab_size)
    ends = data.tokenizer.eos_token_id
    assert row[data.tokenizer("4")["input_ids"][0]] == 0.5 == row[ends]
    blocks = TokenBlocks(torch.tensor([[1, 2, 3], [1, 0, 0]]), torch.tensor([3, 1]), vocab_size=5)
    assert token_frequencies(blocks, 5).tolist() == [0, 0.5, 0.25, 0.25, 0]


class Rows(torch.utils.data.Dataset):
    """A table as a data set of torch."""

    def __init__(self, table):
        self.table = table

    def __len__(self):
        return len(self.table)

    def __getitem__(self, index):
        return self.table[index]


def test_data_without_a_scored_token_have_no_bound():
    process = nl.masked(vocab_size=5, mask_id=4)
    rows = datasets.Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[-100, -100]]})
    with pytest.raises(ValueError, match="at least one scored token"):
        validation_bound(process, Network(5), Rows(rows))
