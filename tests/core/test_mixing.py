"""Mixings: rows of a corpus, neighbours, blends that move, what they promise, and the fast bound on them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from worlds import DATA, Learned, V, row

import noiselab as nl
from noiselab import t
from noiselab.elbo import tokens
from noiselab.testing import PROCESS_LAWS, check_process

LAWS = {law.__name__: law for law in PROCESS_LAWS}


class Turning(nl.Mixing):
    """A user's mixing: `probs`, and nothing else."""

    vocab_size = V

    def probs(self, t):
        share = torch.cos(t)[..., None] ** 2
        return share * row(0.1, 0.2, 0.3, 0.4, 0) + (1 - share) * row(0.25, 0.25, 0.25, 0.25, 0)


class Sizeless(nl.Mixing):
    def probs(self, t):
        return torch.full((V,), 1 / V)


def mask():
    return nl.Absorbing(V - 1, V)


def words():
    return nl.Unigram(row(0.4, 0.3, 0.2, 0.1, 0))


def rare():
    return nl.Unigram(row(0, 0.05, 0.15, 0.8, 0))


def beside_its_part():
    shared, drift = words(), nl.Blend({mask(): t, rare(): 0.5})
    return nl.Interpolation(1 - t, {nl.Blend({shared: 1, drift: t**0.5}): t, shared: t, mask(): t}, support=DATA)


MIXED = {
    "three rows": lambda: nl.Interpolation(
        1 - t, {mask(): t, words(): t**2, rare(): 0.3 * t, nl.Unigram(row(0.1, 0, 0.9, 0, 0)): t**1.5}
    ),
    "a constant and a row": lambda: nl.Interpolation(1 - t, {mask(): t, nl.Uniform(DATA): 0.4 * t, words(): t**2}),
    "four constants": lambda: nl.Interpolation(
        1 - t, {mask(): t, **{nl.Uniform(DATA): t**k for k in (1, 2, 3)}, nl.Uniform(V): 0.2 * t}
    ),
    "a blend alone": lambda: nl.Interpolation(1 - t, {nl.Blend({words(): 1, rare(): t**0.5}): t}, support=DATA),
    "a blend of all": lambda: nl.Interpolation(
        1 - t, {nl.Blend({mask(): t, words(): 1, nl.Uniform(DATA): 0.3}): t}, support=DATA
    ),
    "a blend in a blend, beside its part": beside_its_part,
    "a blend of what moves": lambda: nl.Interpolation(1 - t, {nl.Blend({Turning(): 1, words(): t}): t, mask(): t}),
    "a fixed blend": lambda: nl.Interpolation(1 - t, {nl.Blend({words(): 1, nl.Uniform(V): 3}): t}),
    "masks that data contain": lambda: nl.Interpolation(
        1 - t, {mask(): t, words(): t}, support=torch.ones(V, dtype=torch.bool)
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_laws_hold(name):
    # The others see nothing of a mixing but what these compare with its `probs`.
    several = (
        "shortcuts_equal_definitions",
        "noise_is_the_share_of_mixing",
        "rate_is_the_slope_of_jump",
        "draws_have_the_marginal_law",
        "bound_equals_definition",
    )
    check_process(MIXED[name](), [LAWS[law] for law in several])


@st.composite
def mixings(draw, depth=2):
    """Any mixing: a mask, a set, a row, one that moves, or a blend of such. Made when called, outside the strategy."""
    kind = draw(st.sampled_from(["mask", "set", "row", "turning", *["blend"] * (2 * depth)]))
    if kind == "blend":
        parts = draw(st.lists(mixings(depth=depth - 1), min_size=1, max_size=3))
        weights = [draw(st.floats(0.1, 3)) * t ** draw(st.sampled_from([0.0, 0.3, 1.0])) for _ in parts]
        return lambda: nl.Blend({part(): weight for part, weight in zip(parts, weights, strict=True)})
    if kind in ("mask", "turning"):
        return {"mask": mask, "turning": Turning}[kind]
    entries = torch.tensor(draw(st.lists(st.floats(0.01, 1), min_size=V, max_size=V)), dtype=torch.float64)
    return lambda: nl.Uniform(entries >= entries.median()) if kind == "set" else nl.Unigram(entries / entries.sum())


@st.composite
def processes(draw):
    """One to four mixings, beside a signal 1 - t: noise that only grows against the signal, so a Markov process."""
    parts = draw(st.lists(mixings(), min_size=1, max_size=4))
    weights = [draw(st.floats(0.1, 3)) * t for _ in parts]
    support = draw(st.sampled_from([None, DATA]))
    return lambda: nl.Interpolation(
        1 - t, {part(): weight for part, weight in zip(parts, weights, strict=True)}, support=support
    )


@settings(max_examples=12)
@given(processes())
def test_random_mixings_are_what_their_probabilities_say(make):
    process = make()
    check_process(process, [LAWS[name] for name in ("shortcuts_equal_definitions", "noise_is_the_share_of_mixing")])


@settings(max_examples=12)
@given(processes())
def test_the_fast_bound_of_random_mixings_is_the_definition(make):
    """For times per sequence and per token, in pieces and fused, value and gradient."""
    check_process(make(), [LAWS["bound_equals_definition"]])


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_logits_up_to_the_ends_of_time(name, per_token, dtype):
    process = MIXED[name]()
    time = row(0.0, 1e-12, 1e-8, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.99, 1 - 1e-4, 1 - 1e-6, 1 - 1e-8, 1.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(4, (13, 26), generator=generator)
    time = time.repeat(26, 2).view(26, 26)[:13].T.reshape(13, 26) if per_token else time
    z = process.corrupt(x, time, generator=generator)
    logits = (3 * torch.randn(13, 26, V, generator=generator)).to(dtype).requires_grad_()
    exact = nl.elbo.nelbo_dense(process, logits.detach().double(), x, z, time)
    value = nl.nelbo(process, logits, x, z, time)
    value.sum().backward()
    assert logits.grad.isfinite().all()
    # Beyond 1e-9 of the ends the dense formula itself has lost its digits.
    good = (torch.minimum(time, 1 - time) > 1e-9).expand_as(x) if per_token else (torch.minimum(time, 1 - time) > 1e-9)
    assert value.isfinite().all()
    assert_close(value[good].double(), exact[good], rtol=1e-4, atol=1e-6 * exact[good].abs().max().item())


def test_noise_is_held_as_factors():
    """However weights move and times differ: constants are one column, a blend is its parts, a part in two places one."""

    def held(name):
        process = MIXED[name]()
        z = torch.zeros(2, 3, dtype=torch.long)
        noise = tokens.noise_on_data(process, z, torch.rand(2, 3, dtype=torch.float64))
        assert noise.weights.shape == (6, len(noise.parts)) and all(
            isinstance(part, nl.Mixing) or part.shape == (V,) for part in noise.parts
        )
        return noise.level is not None, [isinstance(part, torch.Tensor) for part in noise.parts]

    assert held("four constants") == (True, [])
    assert held("three rows") == (False, [True] * 3)
    assert held("a blend alone") == (False, [True, True])
    assert held("a blend of all") == (True, [True])
    assert held("a blend in a blend, beside its part") == (False, [True, True])
    assert held("a blend of what moves") == (False, [False, True])
    assert held("a fixed blend") == (False, [True])


def test_profiles_are_as_small_as_truth_allows():
    everything, data = torch.ones(V, dtype=torch.bool), nl.Uniform(DATA)
    moving = {"first": 1 - t, "second": t}
    assert nl.Blend({data: moving["first"], nl.Uniform(DATA): moving["second"]}).profile(DATA) == 0.25
    assert nl.Blend({data: moving["first"], mask(): moving["second"]}).profile(DATA) is None
    assert nl.Blend({data: 3, mask(): 1}).profile(DATA) == 0.1875
    assert nl.Blend({mask(): t}).profile(DATA) == 0.0
    assert_close(nl.Blend({data: 3, mask(): 1}).profile(everything), row(0.1875, 0.1875, 0.1875, 0.1875, 0.25))
    assert_close(nl.Blend({words(): 1, nl.Uniform(V): 1}).profile(DATA), row(0.3, 0.25, 0.2, 0.15, 0.1))
    assert nl.Blend({Turning(): 1, words(): 1}).profile(DATA) is None


def test_weights_that_vanish_at_an_end_are_taken_at_their_limit():
    blend = nl.Blend({words(): t**2 * (1 - t), nl.Uniform(V): t * (1 - t) ** 2})
    assert_close(
        blend.probs(row(0.0, 1.0)), torch.stack([row(0.2, 0.2, 0.2, 0.2, 0.2), words().row]), rtol=0, atol=1e-9
    )


def test_a_blend_refuses_what_is_none():
    with pytest.raises(
        ValueError, match=r"weights must be non-negative and finite; got -0.0\d* from 1 - 2 \* t at t = 0\.5"
    ):
        nl.Blend({words(): 1 - 2 * t, rare(): (t - 1) ** 2})

    def late(t):
        return (t - 0.5).clamp(min=0)

    with pytest.raises(ValueError, match=r"weights must not all vanish; they do at t = 0: 0, late\(t\)"):
        nl.Blend({words(): 0, rare(): late})
    with pytest.raises(ValueError, match=r"all need the same vocab_size; got sizes \[4, 5\]"):
        nl.Blend({words(): 1, nl.Uniform(4): 1})
    with pytest.raises(ValueError, match=r"must set vocab_size, the number of its tokens; Sizeless does not"):
        nl.Blend({Sizeless(): t})
    with pytest.raises(ValueError, match=r"at least one mixing is needed"):
        nl.Blend({})


def test_weights_that_round_below_0_are_0():
    """A negative weight is rounding if it is small beside the largest one, also where most weights are 0."""
    tiny = nl.schedules.Function(lambda t: torch.full_like(t, -1e-9))
    blend = nl.Blend({words(): 1, rare(): tiny, nl.Uniform(V): 0})
    assert_close(blend.probs(row(0.0, 0.5)), words().row.expand(2, -1))
    with pytest.raises(ValueError, match=r"must be non-negative and finite; got -1e-09"):
        nl.Blend({words(): 1e-3, rare(): tiny, nl.Uniform(V): 1e-3})


def test_a_blend_can_be_learned():
    """Through the dense bound: the gradient is that of differences."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(4, (2, 30), generator=generator)
    logits, time = torch.randn(2, 30, V, dtype=torch.float64, generator=generator), torch.tensor([0.3, 0.7])

    def process(shift=0.0):
        weight = Learned()
        weight.power.data += shift
        return weight, nl.Interpolation(1 - t, {nl.Blend({mask(): weight, words(): 1}): t}, support=DATA)

    weight, learned = process()
    z = learned.corrupt(x, time, generator=generator)
    nl.nelbo(learned, logits, x, z, time).mean().backward()
    high, low = (nl.nelbo(process(shift)[1], logits, x, z, time).mean().item() for shift in (1e-5, -1e-5))
    assert weight.power.grad.item() == pytest.approx((high - low) / 2e-5, rel=1e-6)


# Rows and sets.


def test_special_tokens_are_left_out(unchecked):
    assert nl.mixing.support_without(5, 0).tolist() == [False, True, True, True, True]
    assert nl.mixing.support_without(5, torch.tensor([[4], [0]])).tolist() == [False, True, True, True, False]
    assert repr(nl.Uniform.without(5, [4, 4])) == "Uniform(4 of 5)"
    assert_close(nl.Uniform.without(5, {4}).probs(row(0.5)), row(0.25, 0.25, 0.25, 0.25, 0)[None])
    with pytest.raises(ValueError, match=r"must lie in \[0, 5\); got 5"):
        nl.Uniform.without(5, [5])
    with pytest.raises(ValueError, match=r"must be a whole number and lie in"):
        nl.mixing.support_without(5, [0, None])
    with pytest.raises(ValueError, match=r"at least one token must be left; got all 3"):
        nl.mixing.support_without(3, range(3))


def test_a_row_keeps_its_promise(unchecked):
    assert torch.equal(nl.Unigram(row(0.5, 0.5, 0, 0, 0), support=DATA).support, DATA)
    with pytest.raises(ValueError, match=r"mixing must have no mass outside its support; got 0\.01 on token 4"):
        nl.Unigram(row(0.5, 0.49, 0, 0, 0.01), support=DATA)
    with pytest.raises(ValueError, match=r"support must be Bool of shape \[5\]; got torch.bool \[4\]"):
        nl.Unigram(row(0.5, 0.5, 0, 0, 0), support=torch.ones(4, dtype=torch.bool))
    assert words().support is None and nl.Uniform(DATA).support is None


def test_a_row_that_is_rounded_is_normalised():
    for rounding in (5e-7, -5e-7):
        mixing = nl.Unigram(row(0.5, 0.25, 0.25 + rounding))
        assert_close(mixing.probs(row(0.5)).sum(-1), row(1.0), rtol=0, atol=1e-15)


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, V - 1), max_size=6), min_size=1, max_size=5), st.sampled_from([0, 0.5]))
def test_a_corpus_gives_the_same_frequencies_however_it_comes(texts, smoothing):
    flat = [token for text in texts for token in text]
    counts = [flat.count(token) + smoothing if token < V - 1 else 0 for token in range(V)]
    forms = [
        flat,
        iter(flat),
        texts,
        [torch.tensor(text, dtype=torch.int32) for text in texts],
        torch.tensor(flat).long(),
    ]
    for form in forms:
        if sum(counts) == 0:
            with pytest.raises(ValueError, match="counts must not all vanish on the support"):
                nl.Unigram.from_tokens(form, V, smoothing=smoothing, support=DATA)
        else:
            got = nl.Unigram.from_tokens(form, V, smoothing=smoothing, support=DATA)
            assert_close(got.row, row(*counts) / sum(counts)) and torch.equal(got.support, DATA)


def test_counts_that_are_none_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 5\); got -100"):
        nl.Unigram.from_tokens([[1, 2], [-100]], V)
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 5\); got 7"):
        nl.Unigram.from_tokens(torch.tensor([0, 7]), V)
    with pytest.raises(ValueError, match=r"tokens must be integers; got torch\.float32"):
        nl.Unigram.from_tokens([torch.tensor([0.5])], V)
    with pytest.raises(ValueError, match="counts must be non-negative and finite; got -1"):
        nl.Unigram.from_counts(torch.tensor([3, -1]))
    with pytest.raises(ValueError, match="smoothing must be non-negative and finite; got -1"):
        nl.Unigram.from_counts(torch.tensor([3, 1]), smoothing=-1)
    monkeypatch.setattr("noiselab.mixing.fixed.GATHERED", 2)
    assert nl.Unigram.from_tokens(iter([0, 0, 1, 2, 2]), 3).row.tolist() == [0.4, 0.2, 0.4]


# Neighbours.


def brute_force(embeddings, k, support):
    """Neighbours of every token by the definition, one pair at a time."""
    index, cosine = [], []
    for x, own in enumerate(embeddings):
        pairs = [
            (torch.nn.functional.cosine_similarity(own, other, dim=0).item(), z)
            for z, other in enumerate(embeddings)
            if z != x and support[z]
        ]
        best = sorted(pairs, reverse=True)[:k]
        index.append([z for _, z in best])
        cosine.append([value for value, _ in best])
    return torch.tensor(index), torch.tensor(cosine, dtype=torch.float64)


@pytest.mark.parametrize("at_once", [1, 40, 1 << 24])
@pytest.mark.parametrize("left_out", [[], [0, 5, 11]])
def test_neighbours_by_brute_force(at_once, left_out, monkeypatch):
    monkeypatch.setattr("noiselab.mixing.neighbours.SIMILARITIES_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(len(left_out))
    embeddings = torch.randn(12, 4, dtype=torch.float64, generator=generator)
    frequencies = torch.rand(12, dtype=torch.float64, generator=generator)
    support = nl.mixing.support_without(12, left_out)
    index, cosine = brute_force(embeddings, 3, support)
    got = nl.mixing.nearest_neighbours(embeddings, 3, support)
    assert torch.equal(got[0], index)
    assert_close(got[1], cosine)
    want = torch.zeros(12, dtype=torch.float64)
    for x in support.nonzero()[:, 0]:
        for z, share in zip(index[x], torch.softmax(cosine[x] / 0.3, 0), strict=True):
            want[z] += frequencies[x] / frequencies[support].sum() * share
    arguments = {"neighbours": 3, "support": support, "temperature": 0.3}
    assert_close(nl.mixing.neighbour_row(embeddings, frequencies=frequencies, **arguments), want)
    even = nl.mixing.neighbour_row(embeddings, **arguments)
    assert_close(even, nl.mixing.neighbour_row(embeddings, frequencies=torch.full((12,), 7.0), **arguments))
    assert not torch.allclose(even, want)
    nl.Unigram(even, support=support)  # a distribution that keeps to the support


def test_hubs_get_more_than_their_share():
    corners = torch.eye(4).repeat_interleave(1, 0)
    embeddings = torch.cat([corners + 0.2, corners.sum(0, keepdim=True)])  # the last is near to all, they are not
    got = nl.mixing.neighbour_row(embeddings, neighbours=1)
    assert got[-1] == pytest.approx(0.8)


def test_neighbours_that_are_none_are_refused(unchecked):
    embeddings = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"k must lie in \[1, 2\], the other tokens of the support; got 3"):
        nl.mixing.nearest_neighbours(embeddings, 3, nl.mixing.support_without(4, 0))
    with pytest.raises(ValueError, match=r"embeddings must be finite; got .* for token 1"):
        nl.mixing.nearest_neighbours(embeddings.index_fill(0, torch.tensor(1), torch.nan), 1)
    with pytest.raises(ValueError, match="temperature must be positive and finite; got 0"):
        nl.mixing.neighbour_row(embeddings, neighbours=1, temperature=0)
    with pytest.raises(
        ValueError, match="frequencies must be non-negative, and not all zero on the support; got smallest 0"
    ):
        nl.mixing.neighbour_row(
            embeddings, neighbours=1, frequencies=row(1.0, 0, 0, 0), support=nl.mixing.support_without(4, 0)
        )
    with pytest.raises(ValueError, match=r"frequencies must have shape \[4\]; got \[3\]"):
        nl.mixing.neighbour_row(embeddings, neighbours=1, frequencies=torch.ones(3))


# Planted mistakes.


def same_number_twice(right):
    """The uniform number that selected the part selects the token too, as it is."""
    return lambda mass, u: (right(mass, u)[0], u)


MISTAKES = {
    "a blend draws with a number already used": (
        "noiselab.mixing.blend._invert",
        same_number_twice,
        "shortcuts_equal_definitions",
    ),
    "a blend that is not normalised": (
        "noiselab.mixing.blend.Blend.shares",
        lambda right: lambda self, t: self._weights(t),
        "is_a_markov_process",
    ),
    "a blend calls itself fixed": (
        "noiselab.mixing.blend.Blend.profile",
        lambda right: lambda self, support: self.probs(row(0.5))[0],
        "bound_equals_definition",
    ),
    "a part is taken for all of its blend": (
        "noiselab.mixing.blend.Blend.factors",
        lambda right: lambda self, t: right(self, t)._replace(weights=torch.ones_like(right(self, t).weights)),
        "bound_equals_definition",
    ),
    "rows without the constants": (
        "noiselab.elbo.tokens.NoiseOnData.over",
        lambda right: lambda self, *a, **k: right(self._replace(level=None), *a, **k),
        "bound_equals_definition",
    ),
    "the first row for all": (
        "noiselab.elbo.tokens.NoiseOnData.over",
        lambda right: lambda self, *a, **k: right(self._replace(parts=self.parts[:1] * len(self.parts)), *a, **k),
        "bound_equals_definition",
    ),
    "one time for all tokens": (
        "noiselab.elbo.tokens.NoiseOnData.window",
        lambda right: lambda self, i, j: right(self, i, j)._replace(t=self.t[:1]),
        "bound_equals_definition",
    ),
    "rows are not brought to scale": (
        "noiselab.elbo.tokens.NoiseOnData.over",
        lambda right: lambda self, scale, *a, **k: right(self, torch.ones_like(scale), *a, **k),
        "bound_equals_definition",
    ),
    "sum over rows without its gradient": (
        "noiselab.elbo.streaming._over_rows",
        lambda right: lambda *a: right(*a)._replace(spread=0 * right(*a).spread),
        "bound_equals_definition",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_turn_laws_red(mistake, monkeypatch):
    subjects = [make() for make in MIXED.values()]
    where, wrong, law = MISTAKES[mistake]
    *path, name = where.removeprefix("noiselab.").split(".")
    owner = nl
    for step in path:
        owner = getattr(owner, step)
    monkeypatch.setattr(owner, name, wrong(getattr(owner, name)))
    with pytest.raises(AssertionError, match=law):
        for process in subjects:
            check_process(process, [LAWS[law]])


def test_masks_inside_a_blend_are_no_data_either():
    t, words = nl.t, torch.tensor([0.5, 0.3, 0.2, 0.0])
    inner = nl.Blend({nl.Unigram(words): 1 - t, nl.Absorbing(3, 4): t})
    process = nl.Interpolation(1 - t, {nl.Blend({inner: 1.0}): t})
    assert process.support.tolist() == [True, True, True, False]


def test_a_promised_support_is_checked_inside_a_blend():
    class Moving(nl.Mixing):
        vocab_size = 3

        def probs(self, t):
            share = t[..., None]
            return share * torch.tensor([0.5, 0.5, 0.0]).to(t) + (1 - share) * torch.tensor([0.5, 0.4, 0.1]).to(t)

    wrong = Moving(support=torch.tensor([True, True, False]))
    with pytest.raises(ValueError, match=r"no mass outside its support; .* on token 2"):
        nl.Interpolation(1 - nl.t, {nl.Blend({wrong: 1.0}): nl.t})


def test_a_process_made_and_used_under_inference_mode():
    """Tensors made there do not count what is written to them."""
    data = torch.tensor([True, True, True, True, False])
    time = torch.tensor([0.5])
    x = torch.tensor([[0, 1, 2]])
    logits = torch.linspace(-1, 1, V).expand(1, 3, V)
    with torch.inference_mode():
        inside = nl.Interpolation(1 - t, {nl.Uniform(data.clone()): t, mask(): t}, support=data.clone())
        got = nl.nelbo(inside, logits, x, x, time)
        assert torch.equal(inside.host_support(), data)
        inside.support = ~data
        assert torch.equal(inside.host_support(), ~data)
    outside = nl.Interpolation(1 - t, {nl.Uniform(data): t, mask(): t}, support=data)
    assert_close(got, nl.nelbo(outside, logits, x, x, time))


def test_counts_are_not_smoothed_unless_asked_for():
    assert nl.Unigram.from_counts(torch.tensor([3, 1, 0])).row.tolist() == [0.75, 0.25, 0.0]


def test_noise_of_no_sequences_or_of_no_tokens_is_empty():
    process = nl.uniform(vocab_size=3)
    assert process.prior(0, 4).shape == (0, 4) and process.prior(2, 0).shape == (2, 0)
