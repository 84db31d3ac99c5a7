"""A corpus of one's own texts, made into training blocks: no text is lost, and validation texts are not trained on."""

import math

from noiselab.data import Corpus, hold_out, pack, train_tokenizer


class Countdowns(Corpus):
    """Counts down from n."""

    def __init__(self, highest):
        self.highest = highest
        self.name = "countdowns"
        self.key = f"countdowns-{highest}"

    def __iter__(self):
        for n in range(1, self.highest + 1):
            yield f"from {n}: " + " ".join(str(k) for k in range(n, 0, -1))


corpus = Countdowns(60)
assert list(corpus) == list(corpus) and next(iter(corpus)) == "from 1: 1"

training, validation = hold_out(corpus, share=0.2)
assert not set(training) & set(validation) and set(training) | set(validation) == set(corpus)

tokenizer = train_tokenizer(training, vocab_size=300)
length = 32
blocks = pack(training, tokenizer, length=length)
ids = [int(token) for block in blocks for token in block["input_ids"]]
assert len(ids) == length * len(blocks)

count = sum(
    len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in training
)  # each text has an end
assert len(blocks) == math.ceil(count / length)
assert all(token == tokenizer.pad_token_id for token in ids[count:])
texts = tokenizer.decode(ids[:count]).split(tokenizer.eos_token)
assert texts == [*training, ""]
print(len(blocks), "blocks of", length, "tokens from", len(list(training)), "texts")
