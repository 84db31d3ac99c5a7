import pytest
import torch
from networks import Table
from test_likelihood import BACK, EDITS, START, streams
from transformers import LlamaConfig, LlamaForCausalLM

from noiselab.autoregressive import (
    BackspaceSampler,
    RandomTokenBackspace,
    StepBackspace,
    UniformTokens,
    erasing_log_probability,
    stream_log_probability,
)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def chi_square(counts, law):
    """The probability of a fit as bad as this, by the normal approximation of Wilson and Hilferty."""
    n, keep = counts.sum(), law > 0
    statistic, freedom = ((counts - n * law)[keep] ** 2 / (n * law)[keep]).sum(), int(keep.sum()) - 1
    z = ((statistic / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / (2 / (9 * freedom)) ** 0.5
    return torch.special.ndtr(-torch.as_tensor(z)).item()


def texts_of(sampler, n, seed=0):
    written = sampler.sample(n, length=2, generator=torch.Generator().manual_seed(seed))
    assert all(written.stopped)
    return torch.bincount(torch.stack(written.texts) @ torch.tensor([3, 1]), minlength=9).double(), written


@pytest.mark.parametrize("semantics", ["visible", "erasing"])
def test_texts_have_the_law_of_all_their_streams(semantics):
    network, law = Table(4, seed=2, shy=1.0), torch.zeros(9, dtype=torch.float64)
    for z, text in streams(2, 8):
        log_p = stream_log_probability(network, EDITS, torch.tensor(z), start=START, semantics=semantics)
        law[3 * text[0] + text[1]] += log_p.exp()
    sampler = BackspaceSampler(network, EDITS, start=START, semantics=semantics, cache=False)
    counts, written = texts_of(sampler, 1500)
    assert chi_square(counts, law / law.sum()) > 1e-3
    plain = BackspaceSampler(network, EDITS, start=START, semantics=semantics, cache=False, bias=-torch.inf)
    without, _ = texts_of(plain, 1500)
    assert chi_square(without, law / law.sum()) < 1e-3  # the backspaces are worth something here
    for text, stream in zip(written.texts, written.streams, strict=True):
        assert torch.equal(EDITS.clean(stream), text)


def test_erasing_with_one_look_has_the_committed_law():
    network = Table(4, seed=5, shy=-1.0)
    law = torch.stack(
        [
            erasing_log_probability(network, torch.tensor([a, b]), support=3, backspace=BACK, start=START).exp()
            for a in range(3)
            for b in range(3)
        ]
    )
    assert law.sum() == pytest.approx(1, abs=1e-12)
    one_look = BackspaceSampler(network, EDITS, start=START, semantics="erasing", deep=False, cache=False)
    assert chi_square(texts_of(one_look, 1500)[0], law) > 1e-3
    plain = BackspaceSampler(network, EDITS, start=START, semantics="erasing", bias=-torch.inf, cache=False)
    assert chi_square(texts_of(plain, 1500)[0], law) < 1e-3


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=9, initializer_range=0.4, **sizes)).double().eval()


PROMPTS = [torch.tensor([1, 2, 3]), torch.tensor([], dtype=torch.long), torch.tensor([4]), torch.tensor([5, 0])]
KINDS = {
    "tokens": RandomTokenBackspace(9, 8, 0.2, UniformTokens(8)),
    "steps": StepBackspace(9, 8, 0.2, UniformTokens(7), boundary=[7], size=2),
}


@pytest.mark.parametrize("semantics", ["visible", "erasing"])
@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_reread_and_batched_equals_alone(llama, semantics, deep, kind):
    settings = {"start": 0, "semantics": semantics, "deep": deep, "bias": 3.0}
    cached = BackspaceSampler(llama, KINDS[kind], **settings)
    reread = BackspaceSampler(llama, KINDS[kind], cache=False, **settings)
    one = cached.sample(PROMPTS, length=12, most=60, generator=generators(0, 1, 2, 3))
    two = reread.sample(PROMPTS, length=12, most=60, generator=generators(0, 1, 2, 3))
    alone = [
        cached.sample([prompt], length=12, most=60, generator=generators(seed)) for seed, prompt in enumerate(PROMPTS)
    ]
    assert sum(int((z == 8).sum()) for z in one.streams) > 4
    for a, b, c in zip(one.streams, two.streams, alone, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c.streams[0])
    assert one.revisions == two.revisions and one.evaluations == two.evaluations
    for prompt, text, stream in zip(PROMPTS, one.texts, one.streams, strict=True):
        assert torch.equal(text[: len(prompt)], prompt)  # a prompt is never taken back
        if kind == "tokens":
            assert torch.equal(KINDS[kind].clean(torch.cat([prompt, stream])), text)


def test_evaluations_are_what_the_network_reads(llama):
    """Erasing reads what is written, not what is taken back; visible reads everything."""
    for semantics in ("visible", "erasing"):
        sampler = BackspaceSampler(llama, KINDS["tokens"], start=0, semantics=semantics, bias=1.0)
        written = sampler.sample(4, length=8, generator=generators(*range(4)))
        for stream, count in zip(written.streams, written.evaluations, strict=True):
            backspaces = int((stream == 8).sum())
            assert count == 1 + len(stream) - (backspaces if semantics == "erasing" else 0)


def test_revisions_say_what_was_taken_back_and_for_what(llama):
    sampler = BackspaceSampler(llama, KINDS["tokens"], start=0, semantics="erasing", deep=False, bias=1.0)
    written = sampler.sample(3, length=8, generator=generators(0, 1, 2))
    assert written.revisions
    for revision in written.revisions:
        stream = written.streams[revision.sequence].tolist()
        place = revision.step - 1
        assert stream[place] == revision.new and stream[place - 2] == revision.old and stream[place - 1] == 8
        assert revision.kind == "backspace"


def test_greedy_erasing_goes_round_in_circles_unless_it_may_not_repeat_itself(llama):
    settings = {"start": 0, "semantics": "erasing", "temperature": 0, "bias": 20.0}
    circles = BackspaceSampler(llama, KINDS["tokens"], **settings).sample(1, length=4, most=40)
    assert circles.stopped == [False] and len(circles.streams[0]) == 40
    assert len(set(circles.streams[0].tolist())) == 2
    limited = BackspaceSampler(llama, KINDS["tokens"], budget=3, **settings).sample(1, length=4, most=40)
    assert limited.stopped == [True] and int((limited.streams[0] == 8).sum()) == 3
    tabu = BackspaceSampler(llama, KINDS["tokens"], tabu=True, deep=False, **settings).sample(1, length=4, most=40)
    proposed = tabu.streams[0][tabu.streams[0] != 8][:8]
    assert len(set(proposed.tolist())) == 8  # each token once


def test_without_backspace_it_is_the_plain_model(llama):
    sampler = BackspaceSampler(llama, KINDS["tokens"], start=0, bias=-torch.inf, temperature=0)
    text = sampler.sample(1, length=10).texts[0]
    plain = llama.generate(
        torch.tensor([[0]]), attention_mask=torch.ones(1, 1), max_new_tokens=10, do_sample=False, suppress_tokens=[8],
        pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    assert text.tolist() == plain[0, 1:].tolist()


def test_what_does_not_fit_is_refused(llama):
    edits = KINDS["tokens"]
    for wrong in ({"temperature": -1.0}, {"bias": torch.inf}, {"budget": -1}):
        with pytest.raises(ValueError, match=r"must"):
            BackspaceSampler(llama, edits, start=0, **wrong)
    sampler = BackspaceSampler(llama, edits, start=0)
    with pytest.raises(ValueError, match="shorter than 3"):
        sampler.sample([torch.tensor([1, 2, 3])], length=3)
    with pytest.raises(ValueError, match="backspace"):
        sampler.sample([torch.tensor([1, 8])], length=3)
