import pytest
import torch
from networks import Table
from test_likelihood import BACK, EDITS, START, streams
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from noiselab.autoregressive import (
    BackspaceSampler,
    NoCache,
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
    written = sampler.sample(n, length=2, most=1000, generator=torch.Generator().manual_seed(seed))
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
        assert torch.equal(text[: len(prompt)], prompt)  # a prompt is never deleted
        if kind == "tokens":
            assert torch.equal(KINDS[kind].clean(torch.cat([prompt, stream])), text)


@pytest.mark.parametrize("which", ["eager", "window"])
def test_cached_equals_reread_whatever_may_be_attended_to(which):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=9, initializer_range=0.4, attn_implementation="eager", **sizes))
    if which == "window":
        wide = {"sliding_window": 5, "num_key_value_heads": 2}
        network = MistralForCausalLM(MistralConfig(vocab_size=9, initializer_range=0.4, **wide, **sizes)).double()
    network = network.eval()
    settings = {"start": 0, "semantics": "visible" if which == "window" else "erasing", "bias": 3.0}
    one, two = (
        BackspaceSampler(network, KINDS["tokens"], cache=cache, **settings).sample(
            PROMPTS, length=12, most=60, generator=generators(0, 1, 2, 3)
        )
        for cache in (True, False)
    )
    assert sum(int((z == 8).sum()) for z in one.streams) > 4
    for a, b in zip(one.streams, two.streams, strict=True):
        assert torch.equal(a, b)


def test_logits_that_are_no_numbers_are_refused():
    class Broken(Table):
        def forward(self, input_ids):
            return torch.full((*input_ids.shape, 9), torch.nan)

    sampler = BackspaceSampler(Broken(9, seed=3), KINDS["tokens"], start=0, cache=False)
    with pytest.raises(ValueError, match="must not be NaN or all -inf; got such after text 0"):
        sampler.sample(2, length=4)


def generator_after(seed, decisions):
    generator = torch.Generator().manual_seed(seed)
    torch.rand(decisions, generator=generator, dtype=torch.float64)
    return generator


def goes_on_as_if_it_had_written_the_prompt(sampler, begin, written, mark, tries=16, **settings):
    """Cut streams before their first erasure: from there the same random numbers must give the same rest.

    Returns how often the first thing that was done to the prompt was to delete from it.
    """
    prompts, kept, whole, random = [], [], [], []
    for seed in range(tries):
        one = sampler.sample([begin], generator=generators(seed), **settings)
        stream = one.streams[0].tolist()
        if stream[:written].count(mark) or len(stream) <= written:
            continue
        prompts.append(torch.cat([begin, one.streams[0][:written]]))
        kept.append(len(begin))
        whole.append(one)
        random.append(generator_after(seed, written))
    assert len(prompts) > 3
    rest = sampler.sample(prompts, kept=kept, generator=random, **settings)
    for number, one in enumerate(whole):
        assert torch.equal(rest.streams[number], one.streams[0][written:])
        assert torch.equal(rest.texts[number], one.texts[0])
        assert rest.stopped[number] == one.stopped[0] and rest.spent[number] == one.spent[0]
        assert [revision[1:2] + revision[3:] for revision in rest.revisions if revision.sequence == number] == [
            revision[1:2] + revision[3:] for revision in one.revisions
        ]
    return sum(stream[:1].tolist() == [mark] for stream in rest.streams)


@pytest.mark.parametrize("semantics", ["visible", "erasing"])
@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_may_be_deleted_of_a_prompt_is_as_if_written(semantics, deep, kind):
    network = Table(9, seed=3, shy=-0.5)
    sampler = BackspaceSampler(
        network, KINDS[kind], start=0, semantics=semantics, deep=deep, cache=False, tabu=True, budget=8
    )
    begin = torch.tensor([1, 5])
    assert goes_on_as_if_it_had_written_the_prompt(sampler, begin, 3, 8, length=8, most=30) > 0


@pytest.mark.parametrize("semantics", ["visible", "erasing"])
def test_a_prompt_of_which_all_may_be_deleted_has_the_law_of_streams_that_begin_so(semantics):
    network, first = Table(4, seed=2, shy=1.0), 0
    law = torch.zeros(9, dtype=torch.float64)
    for z, text in streams(2, 8):
        if z[0] == first:
            log_p = stream_log_probability(network, EDITS, torch.tensor(z), start=START, semantics=semantics)
            law[3 * text[0] + text[1]] += log_p.exp()
    law = law / law.sum()
    sampler = BackspaceSampler(network, EDITS, start=START, semantics=semantics, cache=False)
    written = sampler.sample([torch.tensor([first])] * 800, length=2, kept=0, generator=generators(0)[0])
    counts = torch.bincount(torch.stack(written.texts) @ torch.tensor([3, 1]), minlength=9).double()
    assert law[3:].sum() > 0.05  # it is deleted often enough to be missed
    assert all(written.stopped) and chi_square(counts, law) > 1e-3


@pytest.mark.parametrize("semantics", ["visible", "erasing"])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_reread_where_prompts_may_be_deleted(llama, semantics, kind):
    settings = {"start": 0, "semantics": semantics, "bias": 3.0}
    cached = BackspaceSampler(llama, KINDS[kind], **settings)
    reread = BackspaceSampler(llama, KINDS[kind], cache=False, **settings)
    prompts = [torch.tensor([1, 7, 2, 5]), *PROMPTS[1:]]
    kept = [1, 0, 0, 2]
    one, two = (
        sampler.sample(prompts, length=12, most=60, kept=kept, generator=generators(0, 1, 2, 3))
        for sampler in (cached, reread)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.streams, two.streams, strict=True))
    assert one.revisions == two.revisions and one.evaluations == two.evaluations
    assert any(revision.position < len(prompts[revision.sequence]) for revision in one.revisions)
    for number, (prompt, some, text) in enumerate(zip(prompts, kept, one.texts, strict=True)):
        assert torch.equal(text[:some], prompt[:some])
        alone = cached.sample([prompt], length=12, most=60, kept=some, generator=generators(number))
        assert torch.equal(alone.streams[0], one.streams[number])
        assert alone.evaluations[0] == one.evaluations[number]
        if kind == "tokens":
            assert torch.equal(KINDS[kind].clean(torch.cat([prompt, one.streams[number]])), text)
        # The prompt is one, and then each token that was written; its own tokens are not read again.
        backspaces = int((one.streams[number] == 8).sum())
        read = len(one.streams[number]) - (backspaces if semantics == "erasing" else 0)
        assert not one.stopped[number] or one.evaluations[number] == 1 + read


@pytest.mark.parametrize("semantics", ["visible", "erasing"])
def test_positions_are_those_of_what_is_read(semantics, monkeypatch):
    """Networks that know only distances, as a Llama, would not tell."""
    reads = []

    class Watched(NoCache):
        def read_last(self, tokens, positions, real, count):
            found = super().read_last(tokens, positions, real, count)
            for row, some, here in zip(self.rows, real, positions, strict=True):
                assert here[some].tolist() == list(range(len(row)))[-int(some.sum()) :]
                reads.append(len(row))
            return found

    monkeypatch.setattr("noiselab.autoregressive.backtracking.NoCache", Watched)
    sampler = BackspaceSampler(Table(9, seed=3), KINDS["tokens"], start=0, semantics=semantics, cache=False, bias=1.0)
    sampler.sample(PROMPTS, length=6, most=20, kept=[1, 0, 0, 2], generator=generators(0, 1, 2, 3))
    assert len(reads) > 12


def test_kept_must_lie_in_the_prompt(llama):
    sampler = BackspaceSampler(llama, KINDS["tokens"], start=0)
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    for wrong in (-1, 2, [1], [3, 2], [1, 1, 1], [-1, 0]):
        with pytest.raises(ValueError, match="kept must lie"):
            sampler.sample(prompts, length=8, kept=wrong)
    with pytest.raises(ValueError, match="kept must lie"):
        sampler.sample(2, length=8, kept=1)
    whole = sampler.sample(prompts, length=8, kept=[3, 1], generator=generators(0, 1))
    default = sampler.sample(prompts, length=8, generator=generators(0, 1))
    assert all(torch.equal(a, b) for a, b in zip(whole.streams, default.streams, strict=True))


def test_evaluations_are_what_the_network_reads(llama):
    """Erasing reads what is written, not what is deleted; visible reads everything."""
    for semantics in ("visible", "erasing"):
        sampler = BackspaceSampler(llama, KINDS["tokens"], start=0, semantics=semantics, bias=1.0)
        written = sampler.sample(4, length=8, generator=generators(*range(4)))
        for stream, count in zip(written.streams, written.evaluations, strict=True):
            backspaces = int((stream == 8).sum())
            assert count == 1 + len(stream) - (backspaces if semantics == "erasing" else 0)


def test_revisions_say_what_was_deleted_and_for_what(llama):
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
