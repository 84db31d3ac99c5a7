"""The bound of texts under block-diffusion models: the sum over canvases, prompts and answers, known data by enumeration."""

import itertools

import pytest
import torch
from exact_worlds import INITIAL, TRANSITION
from small_canvas import canvas_pipeline, chain_pipeline, random, tokenizer

from noiselab.categorical import split_generator
from noiselab.evaluation import canvas_validation_bound
from noiselab.networks.canvas import canvas_bounds

SAMPLES = 300
TEXTS = ["the cat sat on the", "a dog", "the dog sat on the", "b cat"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return canvas_pipeline(tmp_path_factory.mktemp("tiny"), dtype=torch.float64)


@pytest.mark.parametrize("prompts", [None, ["a", "hello", "b", "hello"], ["ab", "", "", ""]])
def test_it_is_the_sum_over_the_canvases(pipe, prompts):
    """Text by text, with its own random numbers, and the mean of two draws; an empty prompt is none."""
    if prompts is not None and "" in prompts:
        with pytest.raises(ValueError, match="must not be empty"):
            pipe.bound(TEXTS, prompts=prompts)
        return
    found = pipe.bound(TEXTS, prompts=prompts, nodes=4, repeats=2, generator=random(3), batch_size=2)
    each, wanted = split_generator(random(3), 4), []
    for i, (text, own) in enumerate(zip(TEXTS, each, strict=True)):
        start = [] if prompts is None else pipe.encode([prompts[i]])[0]
        x = torch.tensor([start + pipe.encode([text])[0]])
        options = {"given": len(start), "nodes": 4, "generator": [own]}
        terms = [canvas_bounds(pipe.process, pipe.network, x, **options) for _ in range(2)]
        assert len(terms[0]) == -(-len(text) // 8)
        wanted.append(sum(block.total for block in terms[0] + terms[1]).item() / 2)
    assert found.nats.tolist() == pytest.approx(wanted, rel=1e-9)
    assert found.lengths.tolist() == [len(text) for text in TEXTS] and found.tokens == sum(map(len, TEXTS))
    assert found.nelbo == pytest.approx(sum(wanted) / found.tokens, rel=1e-9)
    assert found.nelbo == pytest.approx(found.diffusion + found.reconstruction + found.prior)


def test_the_batch_size_does_not_matter(pipe):
    for nodes in (3, None):
        nats = [
            pipe.bound(TEXTS, nodes=nodes, repeats=2, batch_size=size, generator=random(1)).nats for size in (1, 2, 16)
        ]
        assert torch.allclose(nats[0], nats[1], rtol=1e-9) and torch.allclose(nats[0], nats[2], rtol=1e-9)


def test_answers_are_scored_with_their_end(tmp_path):
    words = tokenizer(opening=True)
    words.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role[:1] + ':' + m.content + eos_token + '.' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    pipe = canvas_pipeline(tmp_path, words)
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the cat sat"}]
    found = pipe.bound([chat], nodes=2, generator=random())
    rows = pipe.tokenizer("u:hello<eos>.a:the cat sat<eos>")["input_ids"]
    assert found.tokens == len("the cat sat") + 1 and rows[0] == 2 and rows[-1] == 1
    again = canvas_validation_bound(
        pipe.process, pipe.network, [rows], given=[len(rows) - 12], nodes=2, generator=random()
    )
    assert again.nats.item() == pytest.approx(found.nats.item(), rel=1e-6)
    # Texts are read after the beginning of text, which is not scored.
    text = pipe.bound(["the cat"], nodes=2, generator=random())
    plain = canvas_validation_bound(
        pipe.process, pipe.network, [pipe.tokenizer("the cat")["input_ids"]], given=[1], nodes=2, generator=random()
    )
    assert text.tokens == 7 and text.nats.item() == pytest.approx(plain.nats.item(), rel=1e-6)


@pytest.mark.parametrize(("prompt", "length"), [(None, 3), ("b", 3)])
def test_known_data_cost_their_entropy(prompt, length):
    """Over every text of a known world, weighted by its probability; and each text costs -log p."""
    pipe = chain_pipeline()
    sequences = [*itertools.product(range(3), repeat=length)]
    first = INITIAL if prompt is None else TRANSITION["abc".index(prompt)]
    nats = torch.tensor(
        [
            -(first[x[0]].log() + sum(TRANSITION[a][b].log() for a, b in itertools.pairwise(x))).item()
            for x in sequences
        ],
        dtype=torch.float64,
    )
    p = (-nats).exp()
    assert abs(p.sum() - 1) < 1e-6
    texts = ["".join("abc"[i] for i in x) for x in sequences]
    prompts = None if prompt is None else [prompt] * len(texts) * SAMPLES
    found = pipe.bound(texts * SAMPLES, prompts=prompts, nodes=12, batch_size=9999, generator=random())
    found = found.nats.view(SAMPLES, len(texts))
    mean, error = found.mean(0), found.std(0) / SAMPLES**0.5
    assert ((mean - nats).abs() < 4.5 * error + 1e-3).all()
    whole = (found * p).sum(1)
    assert abs(whole.mean() - (p * nats).sum()) < 4 * whole.std() / SAMPLES**0.5 + 1e-3
    assert whole.std() / SAMPLES**0.5 < 0.01 * whole.mean()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda pipe: pipe.bound([]), "at least one"),
        (lambda pipe: pipe.bound([""]), "must not be empty"),
        (lambda pipe: pipe.bound(["a"], prompts=["a", "b"]), "prompts must be one for each of 1 texts; got 2"),
        (
            lambda pipe: pipe.bound(["a" * 100], prompts=["a" * 29]),
            "text 0 must fit the context of 128 tokens; got 129",
        ),
        (lambda pipe: pipe.bound([[{"role": "user", "content": "a"}]]), "chat template"),
        (lambda pipe: pipe.bound([[{"role": "user", "content": "a"}]], prompts=["a"]), "prompts must be None with"),
        (lambda pipe: pipe.bound(["a"], repeats=0), "repeats must"),
        (lambda pipe: pipe.bound(["a"], batch_size=0), "batch_size must"),
        (lambda pipe: canvas_validation_bound(pipe.process, pipe.network, []), "at least one text"),
        (
            lambda pipe: canvas_validation_bound(pipe.process, pipe.network, [[1, 2]], given=[2]),
            "texts must have tokens after the prompt; text 0 has 2, 2 of them given",
        ),
    ],
)
def test_what_is_refused(pipe, unchecked, call, words):
    with pytest.raises(ValueError, match=words):
        call(pipe)
