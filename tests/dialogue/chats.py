"""Small chat models: tokenizers of a few words, random networks, and scripted ones whose every decision is known."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from noiselab.dialogue import Chat, Check, KeywordVerdict

SPECIAL = ["<pad>", "<bos>", "<end>", "<user>", "<assistant>"]
WORDS = (
    "Which one ? a b c The answer is check it again right wrong My previous right. wrong. x red green blue two".split()
)
TEMPLATE = (
    "<bos>{% for m in messages %} <{{ m.role }}> {{ m.content }} <end>{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)
CHECK = Check("test", "check it", "again {question}", 4, KeywordVerdict(("right",), ("wrong",), "last"), "My answer is")
QUESTIONS = ["Which one ?", "a", "Which one ? red green blue red", "b c ?", "one two one two one two one ?"]
START = "The answer is"


def word_tokenizer(template=TEMPLATE):
    """One token a word."""
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *WORDS]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrapped(backend, template)


def merging_tokenizer(template):
    """Letters, some pairs of which are one token: what is written as two tokens is read as one."""
    letters = list("abcdefgh \n")
    merges = [(one, two) for one in "abcd" for two in "abcd" if one != two] + [(" ", "a"), (" ", "b")]
    tokens = [*SPECIAL, *letters, *map("".join, merges)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token="<pad>"))
    backend.decoder = decoders.Fuse()
    return wrapped(backend, template)


def spaced_tokenizer(template):
    """Words with their spaces, the first of which is dropped in decoding."""
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, "\N{LOWER ONE EIGHTH BLOCK}", *WORDS]))}
    vocabulary = {word if i < 6 else f"\N{LOWER ONE EIGHTH BLOCK}{word}": i for word, i in vocabulary.items()}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return wrapped(backend, template)


def wrapped(backend, template):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", bos_token="<bos>", pad_token="<pad>", unk_token="<pad>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>"]})
    tokenizer.chat_template = template
    return tokenizer


def random_network(vocab_size, seed=0, window=None, positions=512):
    """Weights wide enough that it does not say the same all the time."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"vocab_size": vocab_size, "max_position_embeddings": positions, "initializer_range": 0.4}
    torch.manual_seed(seed)
    if window is None:
        network = LlamaForCausalLM(LlamaConfig(**sizes))
    else:
        network = MistralForCausalLM(MistralConfig(sliding_window=window, num_key_value_heads=2, **sizes))
    return network.double().eval()


def random_chat(seed=0, **settings):
    """Every fourth word ends a message, so that some are long and others short."""
    tokenizer = word_tokenizer()
    network = random_network(len(tokenizer), seed, **settings)
    return Chat(network, tokenizer, end=[tokenizer.eos_token_id, *range(8, len(tokenizer), 4)])


class Scripted(nn.Module):
    """Says what a function of the words read so far tells it to say: a word, or weights of some words."""

    def __init__(self, tokenizer, script):
        super().__init__()
        self.tokenizer, self.script = tokenizer, script
        self.words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))

    def forward(self, input_ids):
        logits = torch.full((*input_ids.shape, len(self.words)), -torch.inf, dtype=torch.float64)
        for row, tokens in enumerate(input_ids.tolist()):
            said = self.script([self.words[token] for token in tokens])
            for word, weight in (said if isinstance(said, dict) else {said: 1.0}).items():
                if weight:
                    logits[row, -1, self.words.index(word)] = torch.tensor(weight).log()
        return logits


def scripted_chat(script):
    tokenizer = word_tokenizer()
    return Chat(Scripted(tokenizer, script), tokenizer)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]
