"""Conversations as prompts: what the template makes of them is the prompt, the answer alone comes back or changes."""

import pytest
import torch
from small import letters, rows

import noiselab as nl
from noiselab.pipeline.base import Text

pytestmark = pytest.mark.filterwarnings("ignore:all answers are empty:UserWarning")
QUIET = {"show_progress": False}
END = 0
TEMPLATE = (
    "{% for m in messages %}{{ 'a' if m.role == 'user' else 'b' }}{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}b{% endif %}"
)
A, B, C = 3, 4, 5  # the letters


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


ASKED = [[user("c")], [user("cc"), assistant("ca"), user("b")]]
ASKED_TOKENS = [[A, C, END, B], [A, C, C, END, B, C, A, END, A, B, END, B]]
ANSWERED = [[user("c"), assistant("abc")], [user("a"), assistant("a"), user("bc"), assistant("cab")]]
ANSWERED_TOKENS = [[A, C, END, B, A, B, C, END], [A, A, END, B, A, END, A, B, C, END, B, C, A, B, END]]


@pytest.fixture(scope="module", params=["masked", "gidd"])
def pipe(request):
    made = letters(request.param, length=24)
    made.tokenizer.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def gidd():
    made = letters("gidd", length=24)
    made.tokenizer.chat_template = TEMPLATE
    return made


def test_an_answer_is_what_follows_the_rendered_conversation(pipe):
    """By hand: the tokens that the template renders as the prompt, and the text cut after its first end."""
    options = {"seeds": [3, 4, 5, 6], **QUIET}
    prompts = [Text.of("a prompt", ids, pipe.tokenizer) for ids in ASKED_TOKENS]
    whole = rows(pipe.generate(2, 6, prompts=prompts, **options))
    wanted = []
    for i, row in enumerate(whole):
        answer = row[len(ASKED_TOKENS[i // 2]) :]
        wanted.append(answer[: answer.index(END) + 1] if END in answer else answer)
    texts = pipe.generate(2, 6, prompts=ASKED, **options)
    assert rows(texts) == wanted and texts[0] == pipe.tokenizer.decode([t for t in wanted[0] if t])
    assert not any(pipe.tokenizer.mask_token_id in row for row in wanted)
    (last, *_) = reversed(list(pipe.stream(2, 6, prompts=ASKED, seeds=options["seeds"])))
    assert rows(last.texts) == wanted and last.first.tolist() == [4, 4, 12, 12]
    assert rows(pipe.generate(1, 6, prompts=ASKED[1:], seeds=[5], **QUIET)) == wanted[2:3]


@pytest.mark.filterwarnings("ignore:.*no visible token:UserWarning")
def test_a_correction_changes_the_last_answer_alone(pipe):
    correction = nl.SelfCorrection(pipe.denoiser, temperature=2.0, support=pipe.support)
    wanted = []
    for seed, (ids, first) in enumerate(zip(ANSWERED_TOKENS, (4, 11), strict=True)):
        z, answer = torch.tensor([ids]), (torch.arange(len(ids)) >= first) & (torch.arange(len(ids)) < first + 3)
        random = [torch.Generator().manual_seed(seed)]
        z = correction.correct(z, steps=5, rows=answer[None], generator=random)
        wanted.append(z[0, first : first + 3].tolist())
    options = {"num_inference_steps": 5, "temperature": 2.0, **QUIET}
    found = rows(pipe.self_correction(ANSWERED, seeds=[0, 1], **options))
    assert found == wanted != [[A, B, C], [C, A, B]]
    assert [rows(pipe.self_correction([one], seeds=[i], **options))[0] for i, one in enumerate(ANSWERED)] == wanted


def test_an_answer_of_the_pipeline_keeps_its_tokens_and_its_end(gidd):
    answers = gidd.generate(1, 6, prompts=ASKED, seeds=[3, 5], **QUIET)
    assert all(text.tokens[-1] == END for text in answers)
    talks = [[*asked, assistant(text)] for asked, text in zip(ASKED, answers, strict=True) if len(text.tokens) > 1]
    assert talks
    corrected = gidd.self_correction(talks, 4, 2.0, seed=0, **QUIET)
    for talk, text in zip(talks, corrected, strict=True):
        before = talk[-1]["content"].tokens
        assert len(text.tokens) == len(before) and text.tokens[-1] == END
    states = list(gidd.stream(talks, 4, 2.0, method="self_correction", seed=0))
    assert rows(states[-1].texts) == rows(corrected)
    prompts = [gidd.tokenizer.apply_chat_template(talk[:-1], add_generation_prompt=True)["input_ids"] for talk in talks]
    for state in states:
        for row, ids in zip(state.tokens.tolist(), prompts, strict=True):
            assert row[: len(ids)] == ids


def test_an_answer_that_did_not_end_gets_no_end(gidd):
    """It fills the context, with the tokens that were drawn."""
    content = Text.of("a", [B] * 20, gidd.tokenizer)
    (text,) = gidd.self_correction([[user("c"), assistant(content)]], 2, 2.0, seed=0, **QUIET)
    assert len(text.tokens) == 20
    with pytest.raises(ValueError, match="conversation 0 must fit the context of 24 tokens; got 25"):
        gidd.self_correction([[user("c"), assistant("b" * 20)]], 2, **QUIET)


def test_gaps_of_an_answer_are_filled(pipe):
    talks = [[user("c"), assistant("a[MASK]c")], [user("bb"), assistant("[MASK][MASK]")]]
    texts = pipe.infill(talks, 4, seed=0, **QUIET)
    assert [len(text.tokens) for text in texts] == [3, 2]
    assert texts[0].tokens[0] == A and texts[0].tokens[2] == C
    ids = Text.of("", [A, C, END, B, A, 2, C, END], pipe.tokenizer)
    whole = pipe.tokenizer.decode(list(ids.tokens))
    assert pipe.infill([whole], 4, seed=0, **QUIET)[0].tokens[4:7] == texts[0].tokens


BAD = [
    ([user("c")], "got one conversation .put it into a list."),
    ([[user("c")], "a"], "all be conversations or all be texts; item 1 is a str"),
    (["a", [user("c")]], "all be conversations or all be texts; item 0 is a str"),
    ([[user("c")], []], "at least one message each; conversation 1 has none"),
    ([[user("c")], [{"content": "c"}]], r"message 0 of conversation 1 lacks \['role'\]"),
    ([[user("c"), {"role": "user"}]], r"message 1 of conversation 0 lacks \['content'\]"),
    ([[{**user("c"), "name": "x"}]], r"message 0 of conversation 0 has \['name'\]"),
    (
        [[user("c"), user(" ")]],
        "content of a message must be a text that is not empty; that of message 1 of conversation 0",
    ),
    ([[{"role": "", "content": "c"}]], "role of a message must be a text that is not empty"),
    ([[{"role": "user", "content": None}]], "that of message 0 of conversation 0 is None"),
    ([[user("c"), 3]], "message 1 of conversation 0 is a int"),
]


@pytest.mark.parametrize(("prompts", "words"), BAD)
def test_what_is_no_conversation_is_refused_with_its_index(gidd, unchecked, prompts, words):
    calls = (
        lambda: gidd.generate(1, 2, prompts=prompts, **QUIET),
        lambda: gidd.infill(prompts, 2, **QUIET),
        lambda: gidd.self_correction(prompts, 2, **QUIET),
    )
    for call in calls:
        with pytest.raises(ValueError, match=words):
            call()


def test_what_a_conversation_must_be_for_each_call(gidd):
    long = [[user("c" * 30)]]
    for call, words in {
        lambda: gidd.generate(1, 2, prompts=ANSWERED, **QUIET): "conversation 0 ends with one of the assistant",
        lambda: gidd.self_correction(ASKED, 2, **QUIET): "last message of conversation 0 is by 'user'",
        lambda: gidd.infill(ASKED, 2, **QUIET): "last message of conversation 0 is by 'user'",
        lambda: gidd.infill(ANSWERED, 2, **QUIET): "text 0 does not",
        lambda: gidd.infill([[user("[MASK]"), assistant("[MASK]")]], 2, **QUIET): "conversation 0 has .MASK. elsewhere",
        lambda: gidd.generate(1, 2, prompts=long, **QUIET): "conversation 0 must fit the context of 24 tokens; got 33",
        lambda: gidd.generate(1, 2, prompts=ASKED, length=12, **QUIET): "prompts must fit 12 tokens; got one of 12",
        lambda: gidd.generate(1, 2, prompts=ASKED, as_released=True, **QUIET): "must be left out with",
        lambda: gidd.self_correction(
            ANSWERED, 2, as_released=True, **QUIET
        ): "must not be conversations with as_released",
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_without_a_template_it_is_said_how_to_set_one(gidd, monkeypatch):
    monkeypatch.setattr(gidd.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match=r"set pipe\.tokenizer\.chat_template to a Jinja template"):
        gidd.generate(1, 2, prompts=ASKED, **QUIET)
    monkeypatch.setattr(gidd.tokenizer, "chat_template", TEMPLATE + "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="roles must alternate"):
        gidd.generate(1, 2, prompts=ASKED, **QUIET)


def forced(pipe, token, monkeypatch):
    """The pipeline with a denoiser that always predicts one token."""

    class Constant(nl.Denoiser):
        predicts = "leave_one_out"

        def forward(self, z, t):
            return torch.nn.functional.one_hot(torch.full_like(z, token), pipe.process.vocab_size).double() * 50

    monkeypatch.setattr(type(pipe), "denoiser", property(lambda self: nl.denoisers.Support(Constant(), pipe.support)))
    return pipe


def test_a_bare_answer_that_is_erased_is_warned_of(gidd, monkeypatch, recwarn):
    """A model of conversations expects the question before; a plain text of the same words says nothing to it."""
    pipe = forced(gidd, END, monkeypatch)
    with pytest.warns(
        UserWarning, match="left nothing of 2 of 2 texts, such as text 0: a model that was trained on conv"
    ):
        assert pipe.self_correction(["abc", "ccc"], 6, seed=0, **QUIET) == ["", ""]
    with pytest.warns(UserWarning, match="all answers are empty: give length="):
        assert pipe.generate(2, 3, prompts=ASKED, seed=0, **QUIET) == [""] * 4
    recwarn.clear()
    assert pipe.generate(1, 3, prompts=ASKED, length=20, seed=0, **QUIET) == [""] * 2 and not recwarn.list
    pipe = forced(gidd, A, monkeypatch)
    assert pipe.self_correction(["abc"], 6, seed=0, **QUIET) == ["aaa"]
    assert pipe.generate(1, 3, prompts=ASKED[:1], seed=0, **QUIET) == ["a" * 20] and not recwarn.list
