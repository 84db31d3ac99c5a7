"""Check-as-Context, compared with its definition and, on scripted models, with what must come out."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from chats import CHECK, QUESTIONS, START, TEMPLATE, generators, random_chat, scripted_chat, word_tokenizer

from noiselab.categorical import choose, uniforms
from noiselab.dialogue import (
    Chat,
    CheckAsContext,
    Corrected,
    GroundTruthReview,
    choices_of,
    revisions_of,
    right_or_wrong,
)

OPTIONS = ["a", "b", "c"]


def read(number, answer):
    """The option that an answer of the scripted models chooses."""
    last = answer.split()[-1]
    return OPTIONS.index(last) if last in OPTIONS else None


def defined(chat, question, rounds, generator, temperature, told=None):
    """The algorithm word by word: the text put together by hand, and all of it read for every token."""
    ids = chat.tokenizer.get_vocab()
    words = {i: word for word, i in ids.items()}
    said, text, entries = [question], f"<bos> <user> {question} <end>", 0

    def write(start, most):
        nonlocal text, entries
        text += f" <assistant> {start}"
        written = []
        while len(written) < most:
            tokens = [ids[word] for word in [*text.split(), *written]]
            entries += len(tokens)
            logits = chat.network(input_ids=torch.tensor([tokens])).logits[0, -1]
            if temperature:
                token = int(choose((logits / temperature).softmax(-1)[None], uniforms(1, generator=generator)))
            else:
                token = int(logits.argmax())
            if token in chat.ends:
                break
            written.append(words[token])
        said.append(" ".join([*start.split(), *written]))
        text += f" {' '.join(written)} <end>"

    def ask(what):
        nonlocal text
        said.append(what)
        text += f" <user> {what} <end>"

    write(START, 5)
    for _ in range(rounds):
        ask("check it")
        if told is None:
            write("My answer is", 4)
        else:
            said.append(told)
            text += f" <assistant> {told} <end>"
        ask(f"again {question}")
        write(START, 5)
    return said, entries


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("told", [None, "My previous answer is wrong"])
@torch.no_grad()
def test_it_is_its_definition_with_a_cache_and_without(temperature, told):
    chat = random_chat()
    review = None if told is None else GroundTruthReview(lambda number, answer: False, told=("x", told))
    settings = {"rounds": 3, "answer_prefix": START, "answer_tokens": 5, "temperature": temperature, "review": review}
    found = {
        cache: CheckAsContext(chat, CHECK, cache=cache, **settings).answer(QUESTIONS, generator=generators(*range(5)))
        for cache in (True, False)
    }
    lengths = set()
    for number, question in enumerate(QUESTIONS):
        said, entries = defined(chat, question, 3, *generators(number), temperature, told)
        cached, anew = found[True][number], found[False][number]
        assert cached == replace(anew, entries_read=cached.entries_read)
        assert [message["content"] for message in anew.messages] == said
        assert [message["role"] for message in anew.messages] == ["user", "assistant"] * 7
        assert anew.question == question and anew.answers == tuple(said[1::4]) and anew.reviews == tuple(said[3::4])
        assert anew.verdicts == ((False,) * 3 if told else tuple(map(CHECK.verdict, anew.reviews)))
        assert anew.entries_read == entries
        # Each token once: up to the last one that was decided, which nobody reads.
        final = chat.tokens(anew.messages[:-1], start=anew.answers[-1])
        last = len(anew.answers[-1].split()) - len(START.split())
        assert cached.entries_read == len(final) - (last == 5)
        lengths |= {len(text.split()) for text in (*anew.answers, *anew.reviews)}
    assert len(lengths) > 2  # some ended, others were cut off


def test_without_rounds_it_is_the_plain_model():
    chat = random_chat()
    plain, corrected = (
        CheckAsContext(chat, CHECK, rounds=rounds, answer_prefix=START).answer(QUESTIONS) for rounds in (0, 2)
    )
    for one, other in zip(plain, corrected, strict=True):
        assert one.answers == other.answers[:1] and one.messages == other.messages[:2]
        assert one.reviews == one.verdicts == ()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("cache", [True, False])
def test_batched_equals_alone(temperature, cache):
    review = GroundTruthReview(lambda number, answer: len(answer) % 2 == 0, 0.3)
    for told in (None, replace(review, right=lambda number, answer: len(answer) % 2 == 0)):
        sampler = CheckAsContext(
            random_chat(1), CHECK, rounds=2, answer_prefix=START, temperature=temperature, cache=cache, review=told
        )
        together = sampler.answer(QUESTIONS, generator=generators(*range(5)))
        alone = [sampler.answer([question], generator=generators(seed))[0] for seed, question in enumerate(QUESTIONS)]
        assert together == alone


def last_verdict(words):
    return [word.strip(".") for word in words if word.strip(".") in ("right", "wrong")][-1]


def last_option(words):
    """The option of the last answer in the context."""
    return [word for before, word in pairwise(words) if before == "is" and word in OPTIONS][-1]


def obedient(words):
    """Stays with its option when told that it is right, and takes the next one when told that it is wrong."""
    if words[-1] in OPTIONS:
        return "<end>"
    if words.count("again") == 0:
        return "a"
    option = OPTIONS.index(last_option(words))
    return OPTIONS[option if last_verdict(words) == "right" else (option + 1) % 3]


@pytest.mark.parametrize("truth", range(3))
def test_told_the_truth_an_obedient_model_finds_the_answer_and_keeps_it(truth):
    review = GroundTruthReview(lambda number, answer: read(number, answer) == truth)
    sampler = CheckAsContext(scripted_chat(obedient), CHECK, rounds=4, answer_prefix=START, review=review, cache=False)
    (corrected,) = sampler.answer(["Which one ?"])
    assert choices_of([corrected], read).tolist() == [[min(step, truth) for step in range(5)]]
    assert corrected.verdicts == tuple(step >= truth for step in range(4))
    assert revisions_of([corrected], read) == [
        (0, 0, step, step - 1, step, "check-as-context") for step in range(1, truth + 1)
    ]


def test_told_the_opposite_it_leaves_what_is_right_and_keeps_what_is_wrong():
    for truth, expected in ((0, [0, 1, 1, 1]), (1, [0, 0, 0, 0])):
        review = GroundTruthReview(lambda number, answer, truth=truth: read(number, answer) == truth, noise=1.0)
        sampler = CheckAsContext(
            scripted_chat(obedient), CHECK, rounds=3, answer_prefix=START, review=review, cache=False
        )
        assert choices_of(sampler.answer(["Which one ?"]), read).tolist() == [expected]


def test_a_model_that_knows_what_is_wrong_mends_it_by_its_own_review():
    def reviewing(words):
        if words[-3:] == ["My", "answer", "is"]:  # the question names the right answer last
            return "right" if last_option(words) == words[words.index("?") - 1] else "wrong"
        return "<end>" if words[-1] in ("right", "wrong") else obedient(words)

    sampler = CheckAsContext(scripted_chat(reviewing), CHECK, rounds=3, answer_prefix=START, cache=False)
    found = sampler.answer([f"one two {option} ?" for option in OPTIONS])
    assert choices_of(found, read).tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2]]
    assert [each.verdicts for each in found] == [(True, True, True), (False, True, True), (False, False, True)]
    assert found[2].reviews == ("My answer is wrong", "My answer is wrong", "My answer is right")


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.6])
def test_the_accuracy_follows_its_law(noise):
    """Told wrong, the model moves to any other option: a' = c a + c (1 - a) / (k - 1)."""
    questions, rounds, first = 800, 3, 0.5

    def moving(words):
        if words.count("again") == 0:
            return {"a": first, "b": 0.3, "c": 0.2}
        option = last_option(words)
        if last_verdict(words) == "right":
            return option
        return {other: 1.0 for other in OPTIONS if other != option}

    review = GroundTruthReview(lambda number, answer: read(number, answer) == 0, noise)
    sampler = CheckAsContext(
        scripted_chat(moving),
        CHECK,
        rounds=rounds,
        answer_prefix=START,
        answer_tokens=1,
        review=review,
        temperature=1.0,
        cache=False,
    )
    found = sampler.answer(["one ?"] * questions, generator=torch.Generator().manual_seed(0))
    measured = (choices_of(found, read) == 0).double().mean(0).tolist()
    expected = [first]
    for _ in range(rounds):
        expected.append((1 - noise) * (expected[-1] + (1 - expected[-1]) / 2))
    for one, other in zip(measured, expected, strict=True):
        assert abs(one - other) < 4 * (other * (1 - other) / questions) ** 0.5


def test_the_longest_conversation_is_said_before_anything_is_read():
    def no_end(words):
        return "x"

    check = replace(CHECK, ask="check {answer} {answer} of {question}")
    for told in (None, GroundTruthReview(lambda number, answer: True, told=("right", "it is wrong again"))):
        for prefix in (START, ""):
            settings = {"rounds": 2, "answer_prefix": prefix, "answer_tokens": 3, "cache": False, "review": told}
            sampler = CheckAsContext(scripted_chat(no_end), check, **settings)
            (corrected,) = sampler.answer(["Which one ?"])
            longest = sampler.longest("Which one ?")
            length = len(sampler.chat.tokens(corrected.messages[:-1], start=corrected.answers[-1]))
            assert longest == length + (6 if told else 0)  # it was right each time, which is shorter

            def forbidden(words):
                raise AssertionError("something was read")

            chat = scripted_chat(forbidden)
            with pytest.raises(ValueError) as raised:
                CheckAsContext(chat, check, limit=longest - 1, **settings).answer(["a", "Which one ?"])
            assert f"must have at most {longest - 1} tokens; with 2 rounds question 1, 'Which one ?'," in str(
                raised.value
            )
            assert f"may reach {longest}" in str(raised.value)
            short = CheckAsContext(scripted_chat(no_end), check, limit=longest, **settings)
            assert short.answer(["a", "Which one ?"])[1] == corrected
    chat = random_chat(positions=30)
    assert chat.limit == 30 and CheckAsContext(chat, CHECK, rounds=0).answer(QUESTIONS)
    with pytest.raises(ValueError, match="must have at most 30 tokens; with 1 rounds question 0"):
        CheckAsContext(chat, CHECK, rounds=1).answer(QUESTIONS)


def test_a_question_about_an_answer_can_quote_it():
    check = right_or_wrong(ask="check {answer}", again="again {question}", tokens=1)
    settings = {"rounds": 2, "answer_prefix": START, "answer_tokens": 1, "cache": False}
    chat = scripted_chat(lambda words: OPTIONS[words.count("again")])
    (corrected,) = CheckAsContext(chat, check, **settings).answer(["Which one ?"])
    assert [message["content"] for message in corrected.messages[2::4]] == [
        "check The answer is a",
        "check The answer is b",
    ]


def test_choices_that_cannot_be_read_and_changes_of_mind():
    answers = [("a", "b", "x", "x"), ("c", "c", "c", "a")]
    found = [Corrected("?", each, (), (), (), 0, 0) for each in answers]
    assert choices_of(found, read).tolist() == [[0, 1, -1, -1], [2, 2, 2, 0]]
    assert revisions_of(found, read, "test") == [
        (0, 0, 1, 0, 1, "test"),
        (0, 0, 2, 1, -1, "test"),
        (1, 0, 3, 2, 0, "test"),
    ]
    assert choices_of(found, lambda number, answer: number).tolist() == [[0] * 4, [1] * 4]
    for wrong in ([], [found[0], replace(found[1], answers=("a",))]):
        with pytest.raises(ValueError, match="all with the same number of answers"):
            choices_of(wrong, read)
    with pytest.raises(ValueError, match="counted from 0"):
        choices_of(found, lambda number, answer: -1)


def test_bad_input():
    chat = random_chat()
    for settings, message in (
        ({"rounds": -1}, "rounds must be non-negative"),
        ({"rounds": 1, "answer_tokens": 0}, "answer_tokens positive"),
        ({"rounds": 1, "temperature": -1.0}, "temperature must be non-negative"),
        ({"rounds": 1, "temperature": float("nan")}, "temperature must be non-negative"),
        ({"rounds": 1, "limit": 0}, "limit positive"),
    ):
        with pytest.raises(ValueError, match=message):
            CheckAsContext(chat, CHECK, **settings)
    sampler = CheckAsContext(chat, CHECK, rounds=1)
    for questions, message in (
        ([], "questions must be a list of at least one text"),
        ("Which?", "must be a list"),
        (["a", "  "], "got '  ' as question 1"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler.answer(questions)
    with pytest.raises(ValueError, match="must be one generator for each of 2 questions; got 1"):
        sampler.answer(["a", "b"], generator=generators(0))
    bare = word_tokenizer()
    bare.chat_template = None
    with pytest.raises(ValueError, match="chat template"):
        Chat(chat.network, bare)
    assert CheckAsContext(Chat(chat.network, bare, template=TEMPLATE), CHECK, rounds=1).answer(["a"])
