"""Conversations read on where they were left, compared with reading all anew and with one another."""

import pytest
import torch
from chats import (
    QUESTIONS,
    TEMPLATE,
    generators,
    merging_tokenizer,
    random_chat,
    random_network,
    scripted_chat,
    spaced_tokenizer,
    word_tokenizer,
)

from noiselab.dialogue import Chat, Conversations

DROPPING = TEMPLATE.replace("in messages", "in messages[-3:]")
REWRITING = TEMPLATE.replace(
    "{{ m.content }}", "{{ m.content if loop.last or m.role == 'user' else m.content.replace('a', 'b') }}"
)
LETTERS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TRIMMED = LETTERS.replace("m.content", "m.content | trim")
SPACED = LETTERS.replace("{{ m.content }}", " {{ m.content }}")


def talk(chat, openings, *, cache=True, temperature=0.0, seeds=None, rounds=3, start="a"):
    """Some rounds in which the user always says the same."""
    talks = Conversations(chat, len(openings), cache=cache)
    generator = None if seeds is None else generators(*seeds)
    for number, opening in enumerate(openings):
        talks.add_message(number, "user", opening)
    for size in range(rounds):
        talks.write(tokens=4 + 3 * size, start=start, temperature=temperature, generator=generator)
        for number in range(len(openings)):
            talks.add_message(number, "user", "b c")
    return talks


def words(template):
    tokenizer = word_tokenizer(template)
    return Chat(random_network(len(tokenizer)), tokenizer, end=[*range(8, len(tokenizer), 4)])


def letters(template, window=None):
    tokenizer = merging_tokenizer(template)
    return Chat(random_network(len(tokenizer), seed=1, window=window), tokenizer)


KINDS = {
    "growing": random_chat,
    "window": lambda: random_chat(window=6),
    "dropping": lambda: words(DROPPING),
    "rewriting": lambda: words(REWRITING),
    "merging": lambda: letters(LETTERS),
    "merging, window": lambda: letters(LETTERS, window=6),
    "trimmed": lambda: letters(TRIMMED),
    "trimmed, window": lambda: letters(TRIMMED, window=6),
    "spaced": lambda: letters(SPACED),
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("start", ["", "a"])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_recomputed_and_batched_equals_alone_whatever_the_template(kind, start, temperature):
    chat, openings, seeds = KINDS[kind](), ["a b", "c", "a c b a b b a", "b b c a"], range(4)
    together = talk(chat, openings, temperature=temperature, seeds=seeds, start=start)
    anew = talk(chat, openings, cache=False, temperature=temperature, seeds=seeds, start=start)
    assert together.messages == anew.messages
    for number, opening in enumerate(openings):
        alone = talk(chat, [opening], temperature=temperature, seeds=[number], start=start)
        assert alone.messages[0] == together.messages[number]
        assert alone.entries_read[0] == together.entries_read[number]
        assert alone.evaluations[0] == together.evaluations[number] == anew.evaluations[number]
    assert len({said[1]["content"] for said in together.messages}) > 1
    assert all(some < all_ for some, all_ in zip(together.entries_read, anew.entries_read, strict=True))


def read_when_nothing_is_read_twice(chat, talks, number):
    """The tokens before the last user message and the mark behind the last assistant one, but for the last if unread."""
    *before, last, _ = talks.messages[number]
    asked = chat.tokens(before, start="a")
    written = chat.tokens(before, start=last["content"])
    return len(written) - (len(written) - len(asked) == 10)


def test_without_surprises_each_token_is_read_once_and_with_them_some_again():
    chat = random_chat()
    talks = talk(chat, QUESTIONS, temperature=1.0, seeds=range(5))
    expected = [read_when_nothing_is_read_twice(chat, talks, number) for number in range(5)]
    assert talks.entries_read == expected
    tokenizer = word_tokenizer(REWRITING)
    surprising = Chat(chat.network, tokenizer, end=[*chat.ends])
    talks = talk(surprising, QUESTIONS, temperature=1.0, seeds=range(5))
    expected = [read_when_nothing_is_read_twice(surprising, talks, number) for number in range(5)]
    assert all(read > once for read, once in zip(talks.entries_read, expected, strict=True))


def test_tokens_that_merge_at_the_seam_are_read_anew():
    tokenizer = merging_tokenizer(LETTERS)
    plan = tokenizer.convert_tokens_to_ids(["a", "b", "<end>"])
    chat = Chat(random_network(len(tokenizer)), tokenizer)
    bias = torch.full((3, len(tokenizer)), -1e9, dtype=torch.float64)
    bias[range(3), plan] = 0
    calls = iter(range(100))
    chat.network.lm_head.register_forward_hook(lambda *args: args[2] + bias[next(calls) % 3])
    talks = Conversations(chat, 1)
    for opening in ("c", "d"):
        talks.add_message(0, "user", opening)
        assert talks.write(tokens=3) == ["ab"]
    asked = len(chat.tokens(talks.messages[0][:-1]))
    assert len(chat.tokens(talks.messages[0][:2], start=None)) == 3 + 1 + 1 + 1 + 1 + 1  # "ab" is one token
    # The second answer, and the two tokens of the first one that "ab" has replaced.
    assert talks.entries_read == [asked + 2 + 2]


def test_the_text_of_the_conversation_is_what_was_written():
    for template, written in ((SPACED, " b"), (LETTERS, "b"), (LETTERS, " b"), (LETTERS, "b "), (TRIMMED, " b ")):
        chat = Chat(random_network(40), merging_tokenizer(template))
        messages, prompt = [{"role": "user", "content": "a"}], chat.tokens([{"role": "user", "content": "a"}])
        content = chat.content(messages, prompt, chat.encode(written), start="")
        assert content.strip() == "b" and (
            template == TRIMMED or content == written.removeprefix(" " * (template == SPACED))
        )
        closed = chat.text([*messages, {"role": "assistant", "content": content}], start=None)
        if template != TRIMMED:
            assert closed == chat.text(messages) + written + "<end>\n"


def test_the_space_that_decoding_drops_is_kept():
    tokenizer = spaced_tokenizer(LETTERS.replace(">{{ m.content }}<", "> {{ m.content }} <"))
    word = tokenizer.convert_tokens_to_ids("\N{LOWER ONE EIGHTH BLOCK}red")
    assert tokenizer.decode([word]) == "red"
    chat = Chat(random_network(len(tokenizer)), tokenizer)
    messages = [{"role": "user", "content": "Which one"}]
    prompt = chat.tokens(messages, start="The answer is")
    assert chat.content(messages, prompt, [word], start="The answer is") == "The answer is red"


def test_a_prefix_begins_where_the_template_begins_a_message():
    chat = Chat(random_network(40), merging_tokenizer(SPACED))
    messages = [{"role": "user", "content": "a"}]
    assert chat.text(messages, start="b") == "<user> a<end>\n<assistant> b"
    assert chat.text(messages) == "<user> a<end>\n<assistant>"


def test_messages_end_with_the_marks_of_the_template_the_tokenizer_and_the_network():
    tokenizer = word_tokenizer()
    ids = dict(zip(["<end>", "<user>"], tokenizer.convert_tokens_to_ids(["<end>", "<user>"]), strict=True))
    network = random_network(len(tokenizer))
    network.generation_config.eos_token_id = [0, 20]  # of which only one is a mark
    assert Chat(network, tokenizer).ends == {ids["<end>"], 0}
    network.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    assert Chat(network, tokenizer).ends == {ids["<end>"]}
    assert Chat(network, tokenizer, template=TEMPLATE.replace(" <end>", "")).ends == {ids["<user>"]}
    assert Chat(network, tokenizer, end=3).ends == {3}
    assert Chat(network, tokenizer, end=()).ends == frozenset()


def test_the_end_counts_but_is_no_part_and_no_tokens_without_a_name_are_written():
    talks = Conversations(scripted_chat(lambda read: "<end>" if read[-1] == "b" else "b"), 1, cache=False)
    talks.add_message(0, "user", "a")
    assert talks.write(tokens=2) == ["b"] and talks.evaluations == [2]
    assert talks.write(tokens=1) == ["b"] and talks.evaluations == [3]
    chat = random_chat()
    narrow = talk(chat, QUESTIONS).messages
    chat.network.lm_head.register_forward_hook(lambda *args: torch.nn.functional.pad(args[2], (0, 50), value=1e3))
    assert talk(chat, QUESTIONS).messages == narrow


def test_bad_input():
    chat, bare = random_chat(), word_tokenizer()
    bare.chat_template = None
    with pytest.raises(ValueError, match="a chat template must be given"):
        Chat(chat.network, bare)
    assert Chat(chat.network, bare, template=TEMPLATE).tokens([{"role": "user", "content": "a"}])
    with pytest.raises(ValueError, match="at least one conversation; got 0"):
        Conversations(chat, 0)
    talks = Conversations(chat, 2, limit=8)
    talks.add_message(0, "user", "a")
    talks.add_message(1, "user", "a b a b")
    for settings in ({"tokens": 0}, {"tokens": 1, "temperature": -1.0}):
        with pytest.raises(ValueError, match="tokens must be positive"):
            talks.write(**settings)
    with pytest.raises(ValueError, match="must have at most 8 tokens; conversation 1 has 8, and 1 may follow"):
        talks.write(tokens=1)
    assert talks.entries_read == [0, 0]
    talks = Conversations(chat, 1)
    talks.add_message(0, "user", "a")
    with pytest.raises(ValueError, match="must be one generator for each of 1 conversations; got 2"):
        talks.write(tokens=1, temperature=1.0, generator=generators(0, 1))
    talks = Conversations(scripted_chat(lambda read: {}), 1, cache=False)
    talks.add_message(0, "user", "a")
    with pytest.raises(ValueError, match="must not be NaN; got NaN after conversation 0"):
        talks.write(tokens=1)
