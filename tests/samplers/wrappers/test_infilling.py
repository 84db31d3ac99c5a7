"""Sampling around known tokens, against exact conditional laws."""

import itertools

import pytest
import torch
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl
from noiselab.samplers.wrappers.infilling import Infilling, Prompted

LENGTH = 4
LEAKY = {"log-SNR hybrid"}  # noise is left at the lower end of time


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def world(name):
    process = PROCESSES[name]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    return nl.AncestralSampler(process, oracle), oracle


def fine(steps):
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2


def conditional_law(oracle, tokens, known):
    """All sequences with these known tokens, and their probabilities given them."""
    states = oracle.tokens.tolist()
    x = torch.tensor(list(itertools.product(states, repeat=tokens.shape[1])))
    x = x[((x == tokens) | ~known).all(-1)]
    return x, oracle.log_prob(x).softmax(0)


def excess(x, sequences, law):
    """By how many standard deviations the chi-square statistic of samples lies above its mean."""
    code = V ** torch.arange(x.shape[1])
    same = x @ code == (sequences @ code)[:, None]
    assert same.any(0).all()  # no others
    seen, want = same.sum(-1).double(), law * len(x)
    rare = want < 5
    if rare.any():
        seen = torch.cat([seen[~rare], seen[rare].sum()[None]])
        want = torch.cat([want[~rare], want[rare].sum()[None]])
    freedom = len(want) - 1
    return (((seen - want) ** 2 / want).sum().item() - freedom) / (2 * freedom) ** 0.5


ROW = torch.tensor([[3, 2, 1, 0]])
PLACES = {
    "ends": [True, False, False, True],
    "middle": [False, True, True, False],
    "prompt": [True, False, False, False],
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["masked", "gidd", "uniform"])
def test_completions_have_the_exact_conditional_law(name, place):
    sampler, oracle = world(name)
    known = torch.tensor([PLACES[place]])
    tokens = oracle.tokens[ROW]
    x = Infilling(sampler, tokens, known).sample((4000, LENGTH), times=fine(48), generator=generator(1))
    assert excess(x, *conditional_law(oracle, tokens, known)) < 4


@pytest.mark.parametrize("name", ["gidd", "uniform"])
def test_known_tokens_that_are_taken_for_noisy_give_another_law(name):
    """The planted mistake: the denoiser is not given their time 0."""
    sampler, oracle = world(name)
    known = torch.tensor([PLACES["ends"]])
    tokens = oracle.tokens[ROW]
    filling = Infilling(sampler, tokens, known, times="sequence")
    x = filling.sample((4000, LENGTH), times=fine(48), generator=generator(1))
    assert (x[:, known[0]] == tokens[:, known[0]]).all()
    assert excess(x, *conditional_law(oracle, tokens, known)) > 40


@pytest.mark.parametrize("name", [name for name in PROCESSES if name not in LEAKY])
def test_one_missing_token_is_exact_at_any_number_of_steps(name):
    sampler, oracle = world(name)
    n, known = 20_000, torch.tensor([[True, False, True]])
    tokens = oracle.tokens[torch.tensor([[1, 0, 2]])]
    x = Infilling(sampler, tokens, known).sample((n, 3), steps=2, generator=generator())
    sequences, law = conditional_law(oracle, tokens, known)
    share = (x[:, 1] == sequences[:, 1:2]).double().mean(-1)
    assert ((share - law).abs() < 5 * (law * (1 - law) / n).sqrt()).all()


def test_under_masking_it_makes_no_difference_which_times_are_given():
    sampler, _ = world("masked")
    tokens, known = torch.tensor([[3, 0, 1, 0, 2, 2]]), torch.tensor([[1, 0, 1, 0, 0, 1]]).bool()
    token, sequence = (
        Infilling(sampler, tokens, known, times=times).sample((300, 6), steps=16, generator=generator())
        for times in ("token", "sequence")
    )
    assert torch.equal(token, sequence)


def test_without_known_tokens_it_is_the_inner_sampler():
    for name in PROCESSES:
        sampler, _ = world(name)
        empty = Infilling(sampler, torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 5, dtype=torch.bool))
        same = (s.sample((50, 5), steps=4, generator=generator()) for s in (sampler, empty))
        assert torch.equal(*same), name


class Witness(nl.WrappedDenoiser):
    """Keeps its arguments."""

    def __init__(self, inner):
        super().__init__(inner)
        self.seen = []

    def forward(self, z, t, rows=None):
        self.seen.append((z, nl.process.as_token_times(t, z).expand(z.shape), rows))
        return self.inner(z, t, rows)


def test_known_tokens_have_time_0_and_are_not_evaluated():
    sampler, oracle = world("gidd")
    witness = Witness(oracle)
    tokens, known = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]), torch.tensor([PLACES["ends"], PLACES["middle"]])
    filling = Infilling(nl.AncestralSampler(sampler.process, witness), tokens, known)
    filling.sample((2, LENGTH), steps=16, generator=generator())
    assert witness.seen
    for z, t, rows in witness.seen:
        assert (z[known] == tokens[known]).all() and (t[known] == 0).all() and (t[~known] > 0).all()
        assert not (rows & known).any()


class Careless(nl.WrappedSampler):
    """A sampler whose second stage shifts every token, known or not."""

    def stages(self, z, t, s, *, generator=None):
        done = self.inner.stages(z, t, s, generator=generator)
        return [*done, nl.samplers.Stage("shift", s, (done[-1].z + 1) % 4)]

    def clean(self, z, t, *, generator=None):
        return (z + 1) % 4


def test_every_stage_of_any_sampler_has_the_known_tokens():
    sampler, _ = world("masked")
    tokens, known = torch.tensor([[3, 2, 1, 0]]), torch.tensor([PLACES["ends"]])
    filling = Infilling(Careless(sampler), tokens, known)
    stages = [stage for part in filling.run((3, LENGTH), steps=4, generator=generator()) for stage in part]
    assert [stage.kind for stage in stages] == ["noise", *4 * ["denoise", "shift"], "clean"]
    z, t = torch.full((3, LENGTH), 4), torch.full((3,), 0.5)
    stages += [*filling.stages(z, t, t / 2), nl.samplers.Stage("step", t, filling.step(z, t, t / 2))]
    assert all((stage.z[:, known[0]] == tokens[:, known[0]]).all() for stage in stages)


def test_the_jump_to_clean_tokens_keeps_known_ones():
    sampler, oracle = world("uniform")
    tokens, known = oracle.tokens[ROW], torch.tensor([PLACES["ends"]])
    times = torch.linspace(1, 0.5, 9)
    x = Infilling(sampler, tokens, known).sample((2000, LENGTH), times=times, generator=generator())
    assert (x[:, known[0]] == tokens[:, known[0]]).all()
    # The planted mistake: what noise at t = 0.5 does to them if nothing is said.
    z = Infilling(sampler, tokens, known).sample((2000, LENGTH), times=times, clean=False, generator=generator())
    assert (sampler.clean(z, torch.full((2000,), 0.5), generator=generator())[:, 0] != tokens[:, 0]).any()


def test_walks_start_from_tokens_of_ones_own():
    sampler, oracle = world("gidd")
    tokens, known = torch.tensor([[3, 2, 1, 0]]), torch.tensor([PLACES["ends"]])
    filling, z = Infilling(sampler, tokens, known), torch.full((200, LENGTH), V - 1)
    kept = z.clone()
    states = list(filling.walk(z, torch.linspace(1, 0, 9), generator=generator()))
    assert torch.equal(z, kept) and len(states) == 8
    assert all((state[:, known[0]] == tokens[:, known[0]]).all() for state in states)
    assert oracle.log_prob(states[-1]).isfinite().all()


@pytest.mark.parametrize("name", ["gidd", "chain"])
def test_each_sequence_has_its_own_known_tokens_and_numbers(name):
    sampler, oracle = world(name)
    tokens = oracle.tokens[torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 1, 1]])]
    known = torch.tensor([PLACES["ends"], PLACES["middle"], PLACES["prompt"]])
    together = Infilling(sampler, tokens, known).sample(
        (3, LENGTH), steps=8, generator=[generator(seed) for seed in range(3)]
    )
    assert (together[known] == tokens[known]).all()
    for i in range(3):
        alone = Infilling(sampler, tokens[i : i + 1], known[i : i + 1])
        assert torch.equal(alone.sample((1, LENGTH), steps=8, generator=[generator(i)])[0], together[i])


def test_a_prompt_is_a_known_beginning():
    sampler, _ = world("gidd")
    prompt = torch.tensor([[3, 0], [1, 1]])
    known = torch.tensor([[True, True, False, False, False]])
    filling = Infilling(sampler, torch.cat([prompt, torch.zeros(2, 3, dtype=torch.long)], 1), known.expand(2, -1))
    same = (s.sample((2, 5), steps=8, generator=generator()) for s in (Prompted(sampler, prompt), filling))
    assert torch.equal(*same)
    whole = Prompted(sampler, prompt).sample((2, 2), steps=8)
    assert torch.equal(whole, prompt)


def test_what_does_not_fit_is_said():
    sampler, _ = world("gidd")
    prompt = torch.tensor([[3, 0, 1]])
    with pytest.raises(ValueError, match="must hold the prompt of 3 tokens; got sequences of 2"):
        Prompted(sampler, prompt).sample((1, 2), steps=2)
    with pytest.raises(ValueError, match="must hold the prompt of 3 tokens; got sequences of 2"):
        Prompted(sampler, prompt).walk(torch.zeros(1, 2, dtype=torch.long), torch.linspace(1, 0, 3))
    with pytest.raises(ValueError, match=r"in the support of the process; got \[4\]"):
        Prompted(sampler, torch.tensor([[0, V - 1]]))
    with pytest.raises(ValueError, match=r"must lie in \[0, 5\); got 0 to 5"):
        Prompted(sampler, torch.tensor([[0, 5]]))
    with pytest.raises(ValueError, match="got 2 for 3 sequences"):
        Prompted(sampler, prompt.expand(2, -1)).sample((3, 4), steps=2)
    with pytest.raises(ValueError, match="as long as `known`, 3 tokens; got sequences of 4"):
        Infilling(sampler, prompt, prompt > 0).sample((1, 4), steps=2)
    with pytest.raises((ValueError, TypeError)):
        Infilling(sampler, prompt, prompt[:, :2] > 0)
    with pytest.raises((ValueError, TypeError)):
        Infilling(sampler, prompt, prompt > 0, times="each")


def test_what_is_at_unknown_places_makes_no_difference():
    sampler, _ = world("gidd")
    known = torch.tensor([PLACES["ends"]])
    one, other = torch.tensor([[3, -100, 99, 0]]), torch.tensor([[3, 1, 2, 0]])
    same = (Infilling(sampler, t, known).sample((9, LENGTH), steps=4, generator=generator()) for t in (one, other))
    assert torch.equal(*same)


def test_it_prints_in_one_line():
    sampler, _ = world("gidd")
    assert "\n" not in repr(Prompted(sampler, torch.tensor([[0, 1]])))
    assert repr(Prompted(sampler, torch.tensor([[0, 1]]))).endswith("a prompt of 2 tokens)")
    assert repr(Infilling(sampler, ROW, ROW > 1, times="sequence")).endswith("2 of 4 tokens known, times='sequence')")
