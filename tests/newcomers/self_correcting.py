"""A library's desk that answers questions and corrects itself, learned from twenty conversations with answers of all lengths.

A Qwen3 with random weights takes the place of your own model: it has ChatML, no mask token and a vocabulary that is rounded
up. It is adapted, trained on the conversations on a CPU and saved. A fresh process opens the folder, answers, corrects its
answers and others that name a wrong fact, keeps those that are right, and fills gaps.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import noiselab as nl
from noiselab.data import ResponseRows, vocabulary_size
from noiselab.pipeline import GenerationSettings, ModelSettings, Pipeline
from noiselab.training import Optimization, Run, Trainer, adapt

# A question, its answer, and the word of the answer that a wrong one, or a gap, replaces.
DESK = [
    ("When do you open on Monday?", "We open at nine on Monday.", "nine"),
    ("When do you open on Tuesday?", "We open at ten on Tuesday.", "ten"),
    ("When do you open on Wednesday?", "We open at noon on Wednesday.", "noon"),
    ("When do you open on Saturday?", "On Saturday the doors open at eleven, and they close at four.", "eleven"),
    ("Are you open on Sunday?", "No, the library is closed on Sunday.", "closed"),
    ("How late are you open on Friday?", "Until eight.", "eight"),
    ("Who wrote Dracula?", "Bram Stoker.", "Stoker"),
    ("Who wrote Emma?", "Jane Austen.", "Austen"),
    ("Who wrote Hamlet?", "Hamlet was written by William Shakespeare.", "Shakespeare"),
    ("Where do I find Moby Dick?", "Moby Dick is on the third shelf of the red room.", "red"),
    ("Where do I find the atlas?", "The atlas lies on the long table beside the window.", "window"),
    ("Where do I find books about birds?", "Books about birds are upstairs in the green room.", "green"),
    ("How long may I keep a book?", "You may keep a book for three weeks.", "three"),
    ("How many books may I borrow?", "You may borrow up to twelve books with one card.", "twelve"),
    ("What does a card cost?", "A card is free for everyone who lives in the town.", "free"),
    ("How do I renew a loan?", "Call the desk or write to us, and we renew the loan.", "desk"),
    ("Is there a quiet place to read?", "Yes, the reading room on the second floor.", "second"),
    ("May I bring coffee?", "Please leave coffee at the cafe beside the entrance.", "cafe"),
    ("Can children come alone?", "Children over seven may.", "seven"),
]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def conversations():
    """The messages up to each answer, the answers, and their words that matter."""
    dune = [user("Do you have Dune?"), assistant("Yes, we have two copies of Dune."), user("Are they in?")]
    talks = [([user(question)], answer, word) for question, answer, word in DESK]
    return zip(*talks, (dune, "One copy is in, and the other is back on Friday.", "Friday"), strict=True)


def save_base(folder, texts):
    """Write the model that you have: random weights, and a tokenizer of words with the space before them."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=letters)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    sizes = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "head_dim": 24}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = Qwen3Config(vocab_size=-(-len(tokenizer) // 64) * 64, **sizes, **heads, tie_word_embeddings=True)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(base, file, run, final):
    """Adapt the model in `base`, train it on the conversations in `file`, and save it in `final`."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    denoiser, tokenizer = adapt(model, tokenizer, shifted=True)
    data = ResponseRows(file, tokenizer, length=128)
    process = nl.gidd(vocab_size=vocabulary_size(tokenizer), mask_id=tokenizer.mask_token_id, p_uniform=0.2)
    trainer = Trainer(
        denoiser,
        Optimization(steps=1000, batch=20, learning_rate=3e-3),
        Run(run, save_every=0, progress=False),
        train_dataset=data,
        process=process,
        objective=nl.objectives.Clipped(2.0),
    )
    trainer.train()
    settings = ModelSettings(process, generation=GenerationSettings(steps=16, length=data.width))
    trainer.save_final(final, tokenizer=data.tokenizer, parts=[settings])


def use(folder):
    """What the folder is worth in a process of its own."""
    pipe = Pipeline.from_pretrained(folder)
    asked, truth, words = conversations()
    quiet = {"seed": 0, "show_progress": False}

    def answered(answers):
        return [[*messages, assistant(answer)] for messages, answer in zip(asked, answers, strict=True)]

    size = {word: len(pipe.tokenizer.tokenize(f" {word}")) for word in words}
    wrong, gaps = [], []
    for i, (answer, word) in enumerate(zip(truth, words, strict=True)):
        other = next(o for o in words[i + 1 :] + words[:i] if size[o] == size[word] and o not in answer)
        wrong.append(answer.replace(f" {word}", f" {other}", 1))
        gaps.append(answer.replace(f" {word}", pipe.tokenizer.mask_token * size[word], 1))
    answers = pipe.generate(prompts=asked, **quiet)
    found = {
        "answers": answers,
        "answers after correction": pipe.self_correction(answered(answers), **quiet),
        "wrong answers corrected": pipe.self_correction(answered(wrong), **quiet),
        "true answers kept": pipe.self_correction(answered(truth), **quiet),
        "gaps filled": pipe.infill(answered(gaps), **quiet),
    }
    right = {name: sum(map(str.__eq__, texts, truth)) for name, texts in found.items()}
    print(f"right of 20: {right}")
    assert right["answers"] >= 10 and min(list(right.values())[1:]) >= 18


def main():
    asked, truth, _ = conversations()
    chats = [[*messages, assistant(answer)] for messages, answer in zip(asked, truth, strict=True)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [json.dumps({"messages": chat}) + "\n" for chat in chats]
        (folder / "chats.jsonl").write_text("".join(lines), encoding="utf-8")
        save_base(folder / "base", [f"{message['role']}\n {message['content']}" for chat in chats for message in chat])
        train(folder / "base", folder / "chats.jsonl", folder / "run", folder / "final")
        assert isinstance(AutoModelForCausalLM.from_pretrained(folder / "final"), Qwen3ForCausalLM)
        subprocess.run([sys.executable, __file__, folder / "final"], check=True)


if __name__ == "__main__":
    use(sys.argv[1]) if len(sys.argv) > 1 else main()
