"""A small chat model that answers, reviews its answer and answers again, for `check_as_context.py`.

It is trained on dialogues of a simulated speaker. The speaker's first answer is right with some probability; its reviews are
true; and it follows reviews: an answer judged right is kept, otherwise another one is chosen at random. The accuracy of the
model's own reviews is learned; the accuracy of given reviews can be set freely.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.utils.data import IterableDataset

from common import build_llama, load_or_train
from noiselab.dialogue import Check, chain_of_thought, natural_language, right_or_wrong
from noiselab.tasks.boxes import THINGS, BoxQuestion, draw_boxes
from noiselab.tasks.choices import letters
from noiselab.training import Trainer, causal_loss, predicted_tokens
from noiselab.training.options import Optimization, Run
from problems.streams import batch_by_length, pad_row

PREFIX = "the answer is"
LESSONS = ("show all boxes .", "be sure .")
AGAIN = "answer again . {question}"
VERDICTS = ("my previous answer is right", "my previous answer is wrong")
CHECKS: dict[str, Check] = {
    "right or wrong": right_or_wrong(ask="is your previous answer right or wrong ?", again=AGAIN, tokens=8),
    "natural language": natural_language(ask="review your previous answer .", again=AGAIN, tokens=20),
    "chain of thought": chain_of_thought(ask="check your previous answer step by step .", again=AGAIN, tokens=20),
}
TEMPLATE = (
    "{% for message in messages %}{{ '<' + message.role + '> ' + message.content }}"
    "{{ ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)


def write_review(kind: str, question: BoxQuestion, choice: int) -> str:
    """A true review of the given kind."""
    verdict = VERDICTS[0 if choice == question.label else 1]
    if kind == "right or wrong":
        return verdict
    if kind == "natural language":
        return f"let me look at what I said before . {verdict}"
    return f"{question.where(question.label)} . I said {question.options[choice]} . {verdict}"


@dataclass(frozen=True)
class CheckModel:
    """The small chat model and its training."""

    layers: int = 3
    """number of transformer blocks"""
    width: int = 96
    """width of the residual stream"""
    heads: int = 4
    """number of attention heads"""
    skill: float = 0.6
    """probability that the simulated speaker's first answer is right"""
    lessons: float = 0.5
    """share of dialogues in which the speaker lists the content of all boxes, or is prompted to be sure, and is always right"""
    trained_rounds: int = 2
    """maximum number of checks in a training dialogue"""
    optimization: Optimization = field(default_factory=lambda: Optimization(batch=32, micro_batch=32, steps=3_000))
    """settings of the optimizer"""
    run: Run = field(default_factory=lambda: Run(output=Path("runs/check_as_context")))
    """folder of the model, and logging"""


def build_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of whole words with a chat template; words outside the task are unknown tokens."""
    texts = [PREFIX, *LESSONS, AGAIN.replace("{question}", ""), *VERDICTS, *(check.ask for check in CHECKS.values())]
    texts += [*THINGS, *letters(6), draw_boxes(random.Random(0)).text]
    texts += [write_review(kind, draw_boxes(random.Random(0)), 0) for kind in CHECKS]
    known = ["<pad>", "<unknown>", "<start>", "<user>", "<assistant>", "<end>"]
    known += sorted({word for text in texts for word in text.split()})
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unknown>",
        bos_token="<start>",
        eos_token="<end>",
        chat_template=TEMPLATE,
    )


class Dialogues(IterableDataset):
    """An endless stream of dialogues with checks of random kinds; only the assistant's tokens are scored."""

    endless = True
    key = "drawn"  # from the settings of the run, which are compared

    def __init__(self, options: CheckModel, tokenizer: Any, *, length: int, batch: int, seed: int) -> None:
        self.options, self.tokenizer, self.length, self.batch, self.seed = options, tokenizer, length, batch, seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Rows: `input_ids`, `attention_mask` and `scored`."""
        generator = random.Random(self.seed)
        drawn = iter(lambda: self._row(generator), None)
        for tokens, scored in batch_by_length(drawn, self.batch, generator, length=lambda row: len(row[0])):
            yield {
                "input_ids": pad_row(tokens, self.length, self.tokenizer.pad_token_id),
                "attention_mask": pad_row(torch.ones_like(tokens), self.length),
                "scored": pad_row(scored, self.length),
            }

    def _row(self, generator: random.Random) -> tuple[Tensor, Tensor]:
        tokens: list[int] = []
        scored: list[int] = []
        for message in draw_dialogue(self.options, generator):
            own = message["role"] == "assistant"
            said = self.tokenizer.encode(f"<{message['role']}> {message['content']} <end>", add_special_tokens=False)
            tokens += said
            scored += [0] + [int(own)] * (len(said) - 1)
        return torch.tensor(tokens), torch.tensor(scored)


def draw_dialogue(options: CheckModel, generator: random.Random) -> list[dict[str, str]]:
    """Draw a dialogue of the simulated speaker."""
    question = draw_boxes(generator)
    if generator.random() < options.lessons:
        return _draw_lesson(question, generator)
    others = [option for option in range(3) if option != question.label]
    choice = question.label if generator.random() < options.skill else generator.choice(others)
    text, check = question.text, CHECKS[generator.choice(list(CHECKS))]
    # In a quarter of the dialogues the reviews are given and may be wrong; the speaker follows them anyway.
    told = generator.random() < 0.25
    messages = [{"role": "user", "content": text}, _write_answer(question, choice)]
    for _ in range(generator.randint(0, options.trained_rounds)):
        if told:
            right = (choice == question.label) == (generator.random() < 0.7)
            review = VERDICTS[0 if right else 1]
        else:
            right, review = choice == question.label, write_review(check.name, question, choice)
        if not right:
            choice = generator.choice([option for option in range(3) if option != choice])
        messages += [
            {"role": "user", "content": check.asked(text, "")},
            {"role": "assistant", "content": review},
            {"role": "user", "content": check.asked_again(text, "")},
            _write_answer(question, choice),
        ]
    return messages


def _draw_lesson(question: BoxQuestion, generator: random.Random) -> list[dict[str, str]]:
    """Draw a dialogue whose answer is always right; such dialogues speed up training."""
    if generator.random() < 1 / 3:
        text, shown = f"{question.text} {LESSONS[1]}", f"{PREFIX} {question.where(question.label)}"
    else:
        many = draw_boxes(generator, boxes=6)
        text = f"{many.text} {LESSONS[0]}"
        shown = " , ".join(replace(many, label=box).where(box) for box in generator.sample(range(6), 6))
    return [{"role": "user", "content": text}, {"role": "assistant", "content": shown}]


def _write_answer(question: BoxQuestion, choice: int) -> dict[str, str]:
    return {"role": "assistant", "content": f"{PREFIX} {question.where(choice)}"}


def load_or_train_model(options: CheckModel) -> tuple[Any, transformers.PreTrainedTokenizerFast]:
    """The network and its tokenizer, of an earlier run or trained now."""
    tokenizer = build_tokenizer()
    o = options.optimization
    longest = 64 * (1 + options.trained_rounds)

    def build() -> Trainer:
        transformers.set_seed(o.seed)
        network = build_llama(
            len(tokenizer),
            layers=options.layers,
            width=options.width,
            heads=options.heads,
            length=4096,
            start=tokenizer.bos_token_id,
            end=tokenizer.eos_token_id,
            padding=tokenizer.pad_token_id,
        )
        return Trainer(
            network,
            replace(o, decay_all=False),
            options.run,
            train_dataset=Dialogues(options, tokenizer, length=longest, batch=o.micro_batch or o.batch, seed=o.seed),
            loss=causal_loss,
            count=predicted_tokens,
        )

    folder = options.run.output
    network = load_or_train(folder, build, averaged=o.ema is not None, resume=options.run.resume, cpu=options.run.cpu)
    return network, tokenizer
