"""A small language model that learns twenty conversations of a shop and then corrects itself.

A Llama with random weights takes the place of your own model. It is adapted, trained on the conversations for some seconds on a
CPU, saved and loaded; then it answers a question and revises its answer, corrects two wrong answers and fills a gap.
"""

import json
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.data import ResponseRows, train_tokenizer, vocabulary_size
from noiselab.data.chat_templates import PLAIN_TEMPLATE
from noiselab.pipeline import ModelSettings, Pipeline
from noiselab.training import Trainer, adapt, training_arguments

PRODUCTS = """lamp chair table kettle bucket hammer ladder mirror carpet pillow
blanket teapot basket candle clock drill spade rope broom torch""".split()
PRICES = "two three four five six seven eight nine ten twelve".split()


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def price(i, value=None):
    return [
        user(f"How much is the {PRODUCTS[i]}?"),
        assistant(f"The {PRODUCTS[i]} costs {value or PRICES[3 * i % 10]} pounds."),
    ]


def save_base(folder, chats):
    """Write the model that you have: here a Llama with random weights, and a tokenizer."""
    torch.manual_seed(0)
    texts = [
        "\n\n".join(f"{message['role'].capitalize()}:\n{message['content']}" for message in chat) for chat in chats
    ]
    tokenizer = train_tokenizer(texts * 20, vocab_size=700)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary_size(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(base, file, run, final):
    """Adapt the model in `base`, train it on the conversations in `file`, and save it in `final`."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    denoiser, tokenizer = adapt(model, tokenizer, shifted=True)
    data = ResponseRows(file, tokenizer, length=64, template=PLAIN_TEMPLATE)
    process = nl.gidd(vocab_size=vocabulary_size(tokenizer), mask_id=tokenizer.mask_token_id, p_uniform=0.2)
    arguments = training_arguments(
        run, max_steps=800, per_device_train_batch_size=20, learning_rate=3e-3, save_strategy="no", disable_tqdm=True
    )
    trainer = Trainer(denoiser, arguments, train_dataset=data, process=process, objective=nl.objectives.Clipped(2.0))
    trainer.train()
    trainer.save_final(final, tokenizer=data.tokenizer, parts=[ModelSettings(process)])


def main():
    greeting = [user("Good morning!"), assistant("Good morning! What can I do for you?")]
    chats = [greeting + price(i) if i < 8 else price(i) for i in range(20)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "chats.jsonl").write_text(
            "".join(json.dumps({"messages": chat}) + "\n" for chat in chats), encoding="utf-8"
        )
        save_base(folder / "base", chats)
        train(folder / "base", folder / "chats.jsonl", folder / "run", folder / "final")
        assert isinstance(AutoModelForCausalLM.from_pretrained(folder / "final"), LlamaForCausalLM)
        pipe = Pipeline.from_pretrained(folder / "final")

    options = {"seed": 0, "show_progress": False}
    (answer,) = pipe.generate(1, 32, prompts=[chats[12][:-1]], temperature=0.1, **options)
    (revised,) = pipe.self_correction([[*chats[12][:-1], assistant(answer)]], 32, **options)
    wrong = [price(9, "two"), greeting + price(1, "twelve")]
    fixed = pipe.self_correction(wrong, 32, **options)
    gap = [*chats[5][:-1], assistant("The hammer costs[MASK] pounds.")]
    (filled,) = pipe.infill([gap], 16, temperature=0.1, **options)

    print("answer:", answer, "->", revised)
    for chat, text in zip(wrong, fixed, strict=True):
        print("corrected:", chat[-1]["content"], "->", text)
    print("filled:", filled)
    assert "[MASK]" not in answer and pipe.tokenizer.mask_token_id not in answer.tokens
    assert revised == chats[12][-1]["content"]
    assert fixed == [chats[9][-1]["content"], chats[1][-1]["content"]] != [chat[-1]["content"] for chat in wrong]
    assert filled == chats[5][-1]["content"]


if __name__ == "__main__":
    main()
