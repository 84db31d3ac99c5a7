"""Regular expressions and JSON schemas as automata over tokens, against Python's own on the decoded text."""

import importlib.util
import itertools
import json
import random
import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import noiselab as nl
from noiselab.data import character_tokenizer, json_automaton, regex_automaton, token_support, train_tokenizer
from noiselab.samplers import ConstrainedSampler

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog"] * 10
SOME = [*TEXTS, "catalogue of dates: 2024, né 1999", '{"a": 1, "b": [true, "x"]}']
PATTERN = "(the|a) [a-z]+( [a-zé]+)?"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def fast(backend):
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        mask_token="[MASK]",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def metaspace():
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<unk>", "[MASK]", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(SOME, trainer)
    return fast(backend)


def byte_fallback():
    """As in Llama 2: characters that are no token are written byte by byte."""
    words = [
        "<unk>",
        "[MASK]",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdeghlnostu",
        "▁a",
        "▁the",
    ]
    backend = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast(backend)


def word_pieces(cleanup=False):
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece(cleanup=cleanup)
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=["<unk>", "[MASK]", "</s>"], show_progress=False)
    backend.train_from_iterator(SOME, trainer)
    return fast(backend)


KINDS = {
    "bytes": lambda: train_tokenizer(SOME, vocab_size=300),
    "characters": lambda: character_tokenizer(SOME),
    "metaspace": metaspace,
    "byte fallback": byte_fallback,
    "word pieces": word_pieces,
}


def decoded(tokenizer, rows):
    return tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def samples(pattern, tokenizer, n=200, length=6):
    """Sequences of equally probable tokens that the automaton of a pattern accepts."""
    automaton = regex_automaton(pattern, tokenizer)
    process = nl.uniform(vocab_size=automaton.vocab_size)
    law = torch.full((automaton.vocab_size,), 1 / automaton.vocab_size, dtype=torch.float64)

    class Flat(nl.Denoiser):
        def forward(self, z, t):
            return law.log().expand(*z.shape, -1)

    return ConstrainedSampler(process, Flat(), automaton).sample((n, length), steps=1, generator=generator())


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_tokenizer_writes_is_accepted_as_its_text_matches(kind):
    """Encoded texts, and the same with a token left out, repeated or another: Python's `re` on what the tokenizer decodes."""
    tokenizer = KINDS[kind]()
    automaton, seen = regex_automaton(PATTERN, tokenizer), set()
    for text in (
        "the cat",
        "a dog",
        "the cat sat",
        "cats",
        "the",
        "the cat sat on",
        "a ca",
        "the né",
        "the cat ",
        " the cat",
    ):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        changed = [ids[:i] + ids[i + 1 :] for i in range(len(ids))] + [
            ids[:i] + ids[i:] + ids[i:] for i in range(len(ids))
        ]
        for row in [ids, *changed]:
            if not row or not token_support(tokenizer)[row].all() or tokenizer.eos_token_id in row:
                continue
            first = tokenizer.convert_ids_to_tokens(row[0])
            begins = kind in ("bytes", "characters") or (
                first[0] == "▁" if kind != "word pieces" else first[:2] != "##"
            )
            want = begins and re.fullmatch(PATTERN, decoded(tokenizer, [row])[0]) is not None
            assert automaton.accepts(torch.tensor([row])).item() == want, (row, decoded(tokenizer, [row]))
            seen.add(want)
    assert seen == {True, False}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sampled_matches(kind):
    """Any tokens that together write a match, also those that the tokenizer would not choose."""
    tokenizer = KINDS[kind]()
    texts = decoded(tokenizer, samples(PATTERN, tokenizer))
    assert all(re.fullmatch(PATTERN, text) for text in texts) and len(set(texts)) > 20


def test_special_tokens_never_match():
    tokenizer = KINDS["bytes"]()
    automaton = regex_automaton("(?s:.)*", tokenizer)  # any text
    for token in tokenizer.all_special_ids:
        assert not automaton.accepts(torch.tensor([[token]])).any()
    found = automaton.accepts(torch.arange(automaton.vocab_size)[:, None])
    assert found.sum() > 150 and not found[tokenizer(chr(233))["input_ids"]].any()  # a byte of two is no text


def test_json_of_a_schema():
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 4},
            "age": {"type": "integer"},
            "ok": {"type": "boolean"},
        },
        "required": ["name", "age", "ok"],
    }
    tokenizer = KINDS["bytes"]()
    automaton = json_automaton(schema, tokenizer).ending(tokenizer.eos_token_id)
    assert json_automaton(json.dumps(schema), tokenizer).table.shape == json_automaton(schema, tokenizer).table.shape
    process = nl.masked(vocab_size=automaton.vocab_size, mask_id=tokenizer.mask_token_id)

    class Flat(nl.Denoiser):
        def forward(self, z, t):
            return torch.zeros(*z.shape, automaton.vocab_size)

    x = ConstrainedSampler(process, Flat(), automaton).sample((40, 45), steps=2, generator=generator())
    texts = tokenizer.batch_decode(x, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    for text in texts:
        found = json.loads(text)
        assert list(found) == ["name", "age", "ok"]
        assert len(found["name"]) <= 4 and type(found["age"]) is int and type(found["ok"]) is bool
    assert len(set(map(len, texts))) > 3


@pytest.mark.usefixtures("unchecked")
def test_what_is_refused():
    tokenizer = KINDS["bytes"]()
    plain = Tokenizer(models.WordLevel({"<unk>": 0, "[MASK]": 1, "</s>": 2, "a": 3}, unk_token="<unk>"))
    for call, words in {
        lambda: regex_automaton("(a", tokenizer): r"must be a regular expression .* got '\(a'",
        lambda: regex_automaton("a(?=b)", tokenizer): "without anchors and look-around",
        lambda: regex_automaton("z", character_tokenizer(["abc"])): "that the tokens can write; got 'z'",
        lambda: regex_automaton(3, tokenizer): "pattern must be a regular expression, a string; got 3",
        lambda: regex_automaton("a", word_pieces(cleanup=True)): "WordPiece with cleanup, which removes spaces",
        lambda: regex_automaton("a", fast(plain)): "must say how its tokens are joined",
        lambda: regex_automaton("a", tokenizer, vocab_size=0): "vocab_size must be at least 1",
        lambda: json_automaton(
            {"type": "person"}, tokenizer
        ): "schema must be a JSON schema that outlines-core supports",
        lambda: json_automaton("{", tokenizer): "schema must be a JSON schema",
        lambda: regex_automaton("yes)|(no", tokenizer): "must be a regular expression",
        lambda: json_automaton(["a"], tokenizer): "a mapping or its text",
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


BOOLEAN = {"type": "boolean"}
LEFT_OUT = {
    "minimum": {"type": "integer", "minimum": 5},
    "exclusiveMaximum": {"type": ["null", "number"], "exclusiveMaximum": 1},
    "multipleOf": {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 2}}},
    "uniqueItems": {"type": "array", "items": BOOLEAN, "uniqueItems": True},
    "contains": {"type": "array", "items": {"type": "array", "items": BOOLEAN, "contains": {"const": True}}},
    "pattern": {"type": "string", "minLength": 5, "pattern": "a+"},
    "format": {"type": "string", "maxLength": 3, "format": "date"},
    "allOf": {"allOf": [{"type": "integer"}, {"enum": [1, 2]}]},
    "maxLength": {"anyOf": [{"type": "string"}, {"type": "null"}], "maxLength": 2},
    "type": {"type": "string", "const": 3},
    "not": {"type": "integer", "not": {"const": 0}},
    "if": {"type": "boolean", "if": {"const": True}, "then": False},
    "minItems": {"type": "array", "prefixItems": [BOOLEAN], "minItems": 2},
    "minProperties": {"type": "object", "properties": {"a": BOOLEAN}, "minProperties": 1},
    "maxProperties": {"type": "object", "additionalProperties": BOOLEAN, "maxProperties": 1},
    "patternProperties": {"properties": {"a": BOOLEAN}, "patternProperties": {"a": {"type": "null"}}},
    "required": {"type": "object", "required": ["a"]},
    "among properties": {"type": "object", "properties": {"a": BOOLEAN}, "required": ["b"]},
    "with quotes": {"type": "object", "properties": {'a"b': BOOLEAN}},
    "enum must have": {"enum": []},
    "exclusiveMinimum": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer", "exclusiveMinimum": 0}}},
    "type object alone": {"type": ["object", "null"], "properties": {"a": BOOLEAN}},
}


@pytest.mark.parametrize("word", LEFT_OUT)
def test_a_schema_of_which_a_part_would_be_left_out_is_refused(word):
    """outlines-core reads one keyword of some and passes over the others in silence: its texts violate these schemas."""
    tokenizer = KINDS["bytes"]()
    for schema in (LEFT_OUT[word], {"title": "x", "type": "array", "items": LEFT_OUT[word]}):
        for given in (schema, json.dumps(schema)):
            with pytest.raises(ValueError, match=f"schema must be a JSON schema that outlines-core supports.*{word}"):
                json_automaton(given, tokenizer)


def test_schemas_that_are_read_whole():
    tokenizer = KINDS["bytes"]()
    for schema, text in (
        ({"title": "t", "description": "d", "type": "string", "enum": ["a", "b"], "default": "a"}, '"b"'),
        ({"type": ["integer", "null"], "maxLength": 3}, "12"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2, "uniqueItems": False}, "[1,2]"),
        ({"type": "array", "prefixItems": [BOOLEAN], "minItems": 1, "items": False}, "[true]"),
        ({"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": {"const": 1.5}}}, "1.5"),
        ({"allOf": [{"type": "string", "pattern": "a+"}]}, '"aa"'),
        (
            {"properties": {"minimum": BOOLEAN}, "required": ["minimum"], "additionalProperties": False},
            '{"minimum":true}',
        ),
        ({"type": "object", "additionalProperties": BOOLEAN, "minProperties": 1}, '{"a":true}'),
        ({"type": "object", "maxProperties": 0}, "{}"),
    ):
        assert json_automaton(schema, tokenizer).accepts(torch.tensor([tokenizer(text)["input_ids"]])).all(), schema


COUNTED = {
    "Items": ({"type": "array", "items": {"const": 1}}, lambda n: f"[{','.join('1' * n)}]"),
    "Length": ({"type": "string"}, lambda n: f'"{"a" * n}"'),
    "Properties": ({"type": "object"}, lambda n: json.dumps({"abcd"[i]: 1 for i in range(n)})),
}


@pytest.mark.parametrize("name", COUNTED)
def test_numbers_of_parts_are_within_their_limits_or_the_limits_are_refused(name):
    """A library that counts otherwise is noticed: every text of up to four parts, under every pair of limits."""
    tokenizer, (schema, write) = KINDS["bytes"](), COUNTED[name]
    refused = 0
    for low, high in itertools.product((0, 1, 2), (0, 1, 3)):
        try:
            automaton = json_automaton({**schema, f"min{name}": low, f"max{name}": high}, tokenizer)
        except ValueError:
            refused += 1
            continue
        for n in range(5):
            accepted = automaton.accepts(torch.tensor([tokenizer(write(n))["input_ids"]])).item()
            assert accepted == (low <= n <= high), (low, high, n)
    assert refused == (8 if name == "Properties" else 3)  # three have a minimum above the maximum


@pytest.mark.parametrize("name", ["ipv4", "hostname", "duration"])
def test_formats_that_are_not_supported_are_refused(name):
    with pytest.raises(ValueError, match="is not supported"):
        json_automaton({"type": "string", "format": name}, KINDS["bytes"]())


def test_a_tokenizer_that_decodes_otherwise_is_refused():
    """A decoder whose steps are known, but whose text is not that of its tokens: one that removes a character."""
    backend = KINDS["characters"]().backend_tokenizer
    backend.decoder = decoders.Sequence([decoders.Strip("t", 0, 1), decoders.Fuse()])
    with pytest.raises(ValueError, match="got the step Strip"):
        regex_automaton("a", fast(backend))


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (lambda: regex_automaton("a", KINDS["bytes"]()), lambda: json_automaton({}, KINDS["bytes"]())):
        with pytest.raises(ImportError, match=r"pip install noiselab\[constraints\]"):
            call()


def test_random_expressions_accept_what_python_matches():
    """Every text of up to five letters; alternatives of which one begins another, and repetitions of all kinds."""
    tokenizer, dice = character_tokenizer(["abc"]), random.Random(0)
    ids = {letter: tokenizer.convert_tokens_to_ids(letter) for letter in "abc"}
    words = [word for n in range(6) for word in itertools.product("abc", repeat=n)]

    def expression(depth):
        kind = dice.choice("letter set join or or repeat repeat".split()) if depth else "letter"
        parts = [expression(depth - 1) for _ in range(2)] if depth else []
        return {
            "letter": lambda: dice.choice("abc"),
            "set": lambda: dice.choice(["[ab]", "[^a]", "."]),
            "join": lambda: "".join(parts),
            "or": lambda: f"({'|'.join(parts)})",
            "repeat": lambda: f"({parts[0]}){dice.choice(['?', '*', '+', '??', '*?', '{2}', '{1,3}'])}",
        }[kind]()

    for pattern in ["a(bc)?", "a|abc", "abc|a", "(a|ab)(c|bc)?", *(expression(3) for _ in range(60))]:
        automaton = regex_automaton(pattern, tokenizer)
        for length in range(6):
            some = [word for word in words if len(word) == length]
            found = automaton.accepts(
                torch.tensor([[ids[letter] for letter in word] for word in some], dtype=torch.long).view(
                    len(some), length
                )
            )
            want = [re.fullmatch(pattern, "".join(word)) is not None for word in some]
            assert found.tolist() == want, pattern


def test_long_repetitions_take_no_exponential_time():
    """Texts may begin inside of others: outlines-core alone takes a second for 13 characters, and doubles with each more."""
    tokenizer = KINDS["bytes"]()

    def accepts(automaton, text):
        return automaton.accepts(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).item()

    name = regex_automaton("[A-Z][a-zA-Z]{2,60}", tokenizer)
    assert [accepts(name, "N" + n * "a") for n in (1, 2, 60, 61)] == [False, True, True, False]
    text = json_automaton({"type": "string", "minLength": 30, "maxLength": 60}, tokenizer)
    for letter in ("a", "é", '\\"'):
        assert [accepts(text, f'"{n * letter}"') for n in (29, 30, 60, 61)] == [False, True, True, False]
    two = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 40}, "b": {"type": "string"}}}
    assert accepts(json_automaton(two, tokenizer), '{"a": "x\\"y", "b": "z"}')


def test_classes_and_escapes_of_patterns():
    """Which ways of writing a class still match what they do in Python."""
    tokenizer = character_tokenizer(["abc.]-[^\\ (){}é\n"])
    for pattern, same in {
        r"[.]": r"[.]",
        r"[]a]": r"[\]a]",
        r"[^]a]": r"[^\]a]",
        r"[^-a]": r"[^\-a]",
        r"[\]\\]": r"[\]\\]",
        r"[a&&[^b]]|[[ab]--b]": r"a",
        r"[[:alpha:]&&[^b[c]]]": r"a",
        r"[^\S]": r"\s",
        r"\S": r"\S",
        r"\W": r"\W",
        r"\D": r"\D",
        r"\p{L}": r"[abcé]",
        r"\PL": r"[^abcé]",
        r"\(\)|\.": r"\.",
        r".": r".",
        r"(?s:.)": r"(?s:.)",
        r"(?P<a>[(])|(?<b>\))": r"[()]",
        r"\x{61}|\x{e9}": r"[aé]",
        r"(?i:A)[)]?": r"a",
    }.items():
        automaton = regex_automaton(pattern, tokenizer)
        for letter in "abc.]-[^\\ (){}é\n":
            found = automaton.accepts(torch.tensor([[tokenizer.convert_tokens_to_ids(letter)]])).item()
            assert found == (re.fullmatch(same, letter) is not None), (pattern, letter)


def test_parentheses_inside_of_classes_close_nothing():
    tokenizer = character_tokenizer(["ab()"])
    for pattern in ("a)|(b", "[)]a)", r"\(a)", "(a))(b", "(?x)a)|(b"):
        with pytest.raises(ValueError, match=r"must be a regular expression .*(unopened group|building NFA)"):
            regex_automaton(pattern, tokenizer)


def test_anchors_are_refused_also_where_another_part_matches():
    """Without an error `a|b$` would be `a`, because texts are followed by another character inside."""
    tokenizer = character_tokenizer(["ab$^"])
    for pattern in ("^a", "a$", "a|b$", "a|^b", r"a|\bb", r"a|\zb", "(?s:.)|b$"):
        with pytest.raises(ValueError, match=r"without anchors .* got the anchor"):
            regex_automaton(pattern, tokenizer)
    for pattern in (r"\^|[$]|\$", "[^a]"):
        ids = [[tokenizer.convert_tokens_to_ids(letter)] for letter in "^$a"]
        assert regex_automaton(pattern, tokenizer).accepts(torch.tensor(ids)).tolist() == [True, True, False]


def test_what_cannot_match_is_refused_in_words():
    with pytest.raises(ValueError, match=r"got '\[\^\\\\s\\\\S\]': they write no text that matches$"):
        regex_automaton(r"[^\s\S]", KINDS["bytes"]())
