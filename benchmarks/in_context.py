"""What rankings and checks in the context cost: `make bench`.

The Plackett-Luce loss of 256 rows of 20 answers in 5 dimensions, with its gradient, against a loop over ranks and rows; and how
many tokens a chat model reads in a conversation of several rounds, with a cache and without, against how many there are.
"""

import argparse
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from core import report
from measure import time_in_turns
from noiselab.dialogue import Chat, CheckAsContext, right_or_wrong

sys.path.append(str(Path(__file__).parents[1] / "recipes"))
from alignment import AnswersOnALine, cosine, plackett_luce


def loop_over_ranks(scores: Tensor, rewards: Tensor) -> Tensor:
    """The loss as its definition says, row by row and rank by rank."""
    total = scores.new_zeros(())
    for row, order in zip(scores, rewards.argsort(-1, descending=True), strict=True):
        ranked = row[order]
        for rank in range(len(ranked) - 1):
            total = total + ranked[rank:].logsumexp(0) - ranked[rank]
    return total


def build_chat() -> Chat:
    """A Llama of 6 layers and width 192 that knows 100 words and never ends a message by itself."""
    known = ["<unk>", "<user>", "<assistant>", "<end>", *(f"w{number}" for number in range(100))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = (
        "{% for m in messages %}{{ '<' + m.role + '> ' + m.content + ' <end> ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", chat_template=template
    )
    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=len(known), max_position_embeddings=4096, **sizes)).eval()
    with torch.no_grad():
        network.lm_head.weight[:4] = 0
    return Chat(network, fast, end=len(known))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each piece; the best counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads. Best of {options.rounds} rounds, in turns.\n")
    ranked = AnswersOnALine(5).draw(256, 20, generator=torch.Generator().manual_seed(0))
    said = torch.randn(256, 5, requires_grad=True)

    def ours() -> None:
        plackett_luce(cosine(said, ranked.y), ranked.rewards).sum().backward()

    def slow() -> None:
        loop_over_ranks(cosine(said, ranked.y), ranked.rewards).backward()

    found = time_in_turns({"ours": ours, "loop": slow}, options.rounds)
    rows: list[tuple[str, float, float | None, bool]] = [
        (
            "Plackett-Luce, loop over ranks / all at once, 256 rows of 20 answers",
            found["loop"] / found["ours"],
            20,
            True,
        )
    ]

    torch.manual_seed(0)
    talker, question = build_chat(), " ".join(f"w{number % 100}" for number in range(200))
    check = right_or_wrong(ask="w1 w2 w3", again="w4 {question}", tokens=20)
    read: dict[int, int] = {}

    def talk(cache: bool) -> None:
        sampler = CheckAsContext(talker, check, rounds=3, answer_tokens=10, cache=cache)
        found = sampler.answer([question])[0]
        # The last token of the last answer, and the mark behind it, need not be read.
        read[cache] = found.entries_read
        read.setdefault(2, len(talker.tokens(found.messages, start=None)) - 2)

    found = time_in_turns(
        {cache: lambda cache=cache: talk(cache) for cache in (True, False)}, max(1, options.rounds // 2)
    )
    rows += [
        ("Check-as-Context, tokens read / tokens of the conversation, 3 rounds", read[True] / read[2], 1.0, False),
        ("the same without a cache", read[False] / read[2], None, False),
        ("Check-as-Context, time with a cache / without", found[True] / found[False], None, False),
    ]
    return min(report("alignment", rows), 1)


if __name__ == "__main__":
    raise SystemExit(main())
