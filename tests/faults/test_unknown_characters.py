"""A character that a tokenizer does not know never becomes an end of text."""

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from noiselab.data import character_tokenizer, load_tokenizer, pack
from noiselab.data.tokenizers import Encoder


def test_unknown_characters_are_dropped():
    tokenizer = character_tokenizer(["to be, or not to be"])
    blocks = pack(["to bé or Not"], tokenizer, 16)
    real = blocks.tokens[0, : int(blocks.real[0])].tolist()
    assert [tokenizer.decode([i]) for i in real] == [*"to b or ot", "<|endoftext|>"]
    assert tokenizer("to bé or Not")["input_ids"] == real[:-1]
    assert tokenizer("é[MASK]t")["input_ids"] == [tokenizer.mask_token_id, tokenizer.convert_tokens_to_ids("t")]


def test_every_known_character_has_its_token(tmp_path):
    text = "".join(sorted({*map(chr, range(300)), *"[]^-\\&{}~\u2028\u0085\n\r\x00🙂"}))
    tokenizer = character_tokenizer([text])
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, load_tokenizer(tmp_path)):
        assert list(Encoder(one)([text + "€"])) == [list(range(3, 3 + len(text)))]


@pytest.mark.parametrize("role", ["eos_token", "pad_token", "mask_token"])
def test_another_tokenizer_whose_unknown_token_has_a_role_is_refused_where_it_matters(role):
    backend = Tokenizer(models.WordLevel({"<x>": 0, "a": 1}, unk_token="<x>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    encode = Encoder(PreTrainedTokenizerFast(tokenizer_object=backend, **{role: "<x>"}))
    assert list(encode(["aa"])) == [[1, 1]]
    with pytest.raises(
        ValueError, match="characters that the tokenizer knows, since it encodes others as '<x>'; got 'ab'"
    ):
        list(encode(["ab"]))
