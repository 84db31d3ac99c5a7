"""Texts and a tokenizer that everything determines, for comparisons with the data code of published models."""

WORDS = "the reader of this text learns what a crop is and where it may begin or end".split()
END, PAD, MASK = "<|endoftext|>", "[PAD]", "[MASK]"


def documents() -> list[str]:
    """Fifteen different texts of 4 to 60 characters."""
    return [" ".join([f"{i}:", *(WORDS[(i * 7 + k) % len(WORDS)] for k in range((i * 5) % 13 + 1))]) for i in range(15)]


def letters():
    """One token for each character, with the special tokens behind them, as GPT-2 has them: start and end are the same."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = [*sorted(set("".join(documents()))), END, PAD, MASK]
    backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END, eos_token=END, pad_token=PAD, mask_token=MASK
    )
