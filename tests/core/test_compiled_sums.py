"""The sums of the bound in C++ against the definition in float64, and how the library comes about, or does not."""

import os
import shutil
import stat
import subprocess
import sys

import pytest
import torch

import noiselab as nl
from noiselab.elbo import nelbo_dense, nelbo_fused
from noiselab.elbo.native import building
from noiselab.elbo.native.building import library
from noiselab.elbo.native.rows import serves

V = 4096 + 2048 + 37  # two whole blocks of 2,048 and a rest, in ranges that the tokens outside the support divide
MASK = 3000
OUTSIDE = [0, 7, 8, MASK, V - 1]
t = nl.t

# Where there is a compiler, a build that fails is an error and no reason to skip.
COMPILER = os.environ.get(building.SWITCH) != "0" and any(map(shutil.which, building.COMPILERS))
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no compiler here, or the sums are switched off")


def support():
    found = torch.ones(V, dtype=torch.bool)
    found[OUTSIDE] = False
    return found


def row(power):
    found = torch.arange(1, V + 1, dtype=torch.float64) ** -power * support()
    return nl.Unigram(found / found.sum())


def processes():
    mask, data = nl.Absorbing(MASK, V), support()
    return {
        "masked": nl.Interpolation(1 - t, {mask: t}, support=data),
        "uniform": nl.uniform(vocab_size=V, special=OUTSIDE),
        "hybrid": nl.Interpolation(1 - t, {mask: t, nl.Uniform(data): 0.2 * t}, support=data),
        "row": nl.Interpolation(1 - t, {mask: t, row(1.0): 0.2 * t}, support=data),
        "rows": nl.Interpolation(
            1 - t, {mask: t, row(0.5): 0.1 * t, row(1.5): 0.1 * t**2, nl.Uniform(data): 0.2 * t}, support=data
        ),
    }


PROCESSES = processes()


def case(name, times=(0.02, 0.5, 0.97, 1 - 1e-6), length=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    process, times = PROCESSES[name], torch.tensor(times, dtype=torch.float64)
    data = support().nonzero()[:, 0]
    x = data[torch.randint(len(data), (len(times), length), generator=generator)]
    z = process.corrupt(x, times, generator=generator)
    logits = 3 * torch.randn(*x.shape, V, generator=generator)
    logits.scatter_add_(-1, x[..., None], torch.full((*x.shape, 1), 8.0))  # as after training: x is likely
    return process, logits, x, z, times


def largest_terms(process, logits, x, z, times):
    """The size of the terms that the gradient is the sum of, w (1 + rho), of which float32 rounds each."""
    x_hat = process.on_support(logits.double()).softmax(-1)
    lifted = times if times.dim() == 2 else times[:, None]
    predicted = process.alpha(lifted) * x_hat.gather(-1, z[..., None])[..., 0] + process.noise(lifted).at(z)
    rho = process.probability(x, z, lifted) / predicted
    return (process.elbo_weight(x, z, times) * (1 + rho))[..., None]


def with_gradient(loss, process, logits, x, z, times, upstream):
    leaf = logits.detach().clone().requires_grad_()
    value = loss(process, leaf, x, z, times)
    (value * upstream.to(value)).sum().backward()
    return value.detach().double(), leaf.grad.double()


@needs_compiler
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("name", PROCESSES)
def test_value_and_gradient_are_those_of_the_definition(name, per_token):
    process, logits, x, z, times = case(name)
    if per_token:
        times = torch.linspace(0.01, 0.99, x.numel(), dtype=torch.float64).view(x.shape)
        z = process.corrupt(x, times, generator=torch.Generator().manual_seed(1))
    assert serves(logits, None)
    upstream = torch.linspace(0.5, 2, x.numel()).view(x.shape)
    value, grad = with_gradient(nl.nelbo, process, logits, x, z, times, upstream)
    exact, exact_grad = with_gradient(nelbo_dense, process, logits.double(), x, z, times, upstream)
    torch.testing.assert_close(value, exact, rtol=2e-6, atol=2e-6)  # of float32 near the end, where terms cancel
    differences = (grad - exact_grad) / largest_terms(process, logits, x, z, times)
    assert differences[process.elbo_weight(x, z, times) > 0].abs().max() < 1e-6
    assert (grad[..., OUTSIDE] == 0).all()


@needs_compiler
@pytest.mark.parametrize("name", PROCESSES)
def test_fused_with_the_projection_it_gives_the_same(name):
    process, _, x, z, times = case(name)
    hidden = torch.randn(*x.shape, 8, generator=torch.Generator().manual_seed(2))
    weight = torch.randn(V, 8, generator=torch.Generator().manual_seed(3))
    found = []
    for dtype in (torch.float32, torch.float64):  # in float64 the operations of PyTorch
        h, w = (v.to(dtype, copy=True).requires_grad_() for v in (hidden, weight))
        total, values = nelbo_fused(process, h, w, None, x, z, times, torch.full(x.shape, 0.25))
        total.backward()
        found.append([v.double() for v in (values, h.grad, w.grad)])
    for ours, exact in zip(*found, strict=True):
        assert (ours - exact).norm() / exact.norm() < 1e-5  # of which the products in float32 are the larger part


@needs_compiler
@pytest.mark.parametrize("name", ["masked", "hybrid", "rows"])
def test_extreme_logits(name):
    """Probabilities that underflow, tokens that are excluded by an infinite logit, and rows that are not numbers."""
    process, logits, x, z, times = case(name)
    logits[0] *= 30
    logits[1, 0, 11] = -torch.inf if 11 not in (x[1, 0], z[1, 0]) else 0
    value, grad = with_gradient(nl.nelbo, process, logits, x, z, times, torch.ones(x.shape))
    exact, exact_grad = with_gradient(nelbo_dense, process, logits.double(), x, z, times, torch.ones(x.shape))
    torch.testing.assert_close(value, exact, rtol=5e-6, atol=1e-6)
    known = (process.elbo_weight(x, z, times) > 0) & exact_grad.isfinite().all(-1)
    assert (((grad - exact_grad) / largest_terms(process, logits, x, z, times))[known].abs() < 1e-6).all()
    assert (grad[process.elbo_weight(x, z, times) == 0] == 0).all()
    for bad in (torch.nan, torch.inf):
        broken = logits.clone()
        broken[2, 1, 20] = bad
        value = nl.nelbo(process, broken, x, z, times)
        assert value[2, 1].isnan() and value.isnan().sum() == 1


@needs_compiler
def test_large_ratios_do_not_overflow():
    """Little noise over much signal, with all the probability on one token, or on eight of one product."""
    process, logits, x, z, _ = case("hybrid", times=(1e-6,))
    z = x.clone()
    for share in (1, 8):
        sharp = torch.full_like(logits, -40)
        sharp.scatter_(-1, x[..., None], 0.0)
        sharp[..., 9 : 9 + 256 * (share - 1) : 256] = 0.0  # of a range that begins after token 8
        times = torch.tensor([1e-6], dtype=torch.float64)
        value, grad = with_gradient(nl.nelbo, process, sharp, x, z, times, torch.ones(x.shape))
        exact, exact_grad = with_gradient(nelbo_dense, process, sharp.double(), x, z, times, torch.ones(x.shape))
        assert grad.isfinite().all()
        torch.testing.assert_close(value, exact, rtol=1e-5, atol=1e-6)
        assert ((grad - exact_grad) / largest_terms(process, sharp, x, z, times)).abs().max() < 1e-6


@needs_compiler
def test_small_probabilities_are_exact_too():
    """Under masks the gradient of any other token is its probability times the weight: 1e-30 as exact as 1e-3."""
    process, logits, x, z, times = case("masked", times=(0.5,))
    z = torch.full_like(x, MASK)
    logits = torch.linspace(-70, 0, V).expand(logits.shape).clone()
    _, grad = with_gradient(nl.nelbo, process, logits, x, z, times, torch.ones(x.shape))
    expected = process.on_support(logits.double()).softmax(-1) / 0.5
    others = support() & (torch.arange(V) != x[..., None])
    torch.testing.assert_close(grad[others], expected[others], rtol=1e-5, atol=0)


@needs_compiler
@pytest.mark.parametrize("name", ["hybrid", "rows"])
def test_a_row_does_not_depend_on_its_batch_or_on_the_number_of_threads(name):
    process, logits, x, z, times = case(name)
    value, grad = with_gradient(nl.nelbo, process, logits, x, z, times, torch.ones(x.shape))
    alone = with_gradient(nl.nelbo, process, logits[1:2], x[1:2], z[1:2], times[1:2], torch.ones(1, 4))
    assert torch.equal(value[1:2], alone[0])
    assert torch.equal(grad[1:2], alone[1])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(5 - threads if threads < 5 else 1)
        again = with_gradient(nl.nelbo, process, logits, x, z, times, torch.ones(x.shape))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(value, again[0]) and torch.equal(grad, again[1])


@needs_compiler
def test_logits_of_any_layout_are_read_as_they_are_and_not_edited():
    process, logits, x, z, times = case("hybrid")
    expected = nl.nelbo(process, logits, x, z, times)
    wide = torch.zeros(*x.shape, V + 3)
    wide[..., :V] = logits
    turned = logits.transpose(0, 2).contiguous().transpose(0, 2)
    for given in (wide[..., :V], turned, torch.nn.Parameter(logits)):
        before = given.detach().clone()
        leaf = given if isinstance(given, torch.nn.Parameter) else given.detach().requires_grad_()
        value = nl.nelbo(process, leaf, x, z, times)
        assert torch.equal(value.detach(), expected)
        value.sum().backward()
        assert torch.equal(leaf.detach(), before)


@needs_compiler
def test_the_gradient_can_be_taken_twice_but_not_of_logits_that_have_changed():
    process, logits, x, z, times = case("hybrid")
    leaf = logits.clone().requires_grad_()
    loss = nl.nelbo(process, leaf, x, z, times).sum()
    (first,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    assert torch.equal(first, second)
    with torch.no_grad():
        leaf.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, leaf)


def test_what_the_compiled_sums_do_not_serve():
    """Other dtypes, small vocabularies, noise that is not rows; the same loss comes from PyTorch's operations."""
    logits = torch.zeros(1, V)
    assert not serves(logits.double(), None)
    assert not serves(logits.bfloat16(), None)
    assert not serves(logits[:, :4095], None)
    assert not serves(logits.to("meta"), None)


# How the library comes about.


@needs_compiler
def test_a_compiler_at_hand_builds_it():
    assert library() is not None


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """The function behind the cache, with a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(building.SWITCH, raising=False)
    monkeypatch.delenv("CXX", raising=False)
    return library.__wrapped__


def broken_compiler(tmp_path):
    path = tmp_path / "cxx"
    path.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_without_a_compiler_the_operations_of_pytorch_are_used(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fresh() is None
    monkeypatch.setenv(building.SWITCH, "1")
    with pytest.raises(ValueError, match="there is no compiler"):
        fresh()


def test_a_compiler_that_fails_is_quoted_where_the_library_is_demanded(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", broken_compiler(tmp_path))
    assert fresh() is None
    monkeypatch.setenv(building.SWITCH, "1")
    with pytest.raises(ValueError, match="it is broken"):
        fresh()
    assert not list((tmp_path / "cache" / "noiselab").glob("*.so"))


def test_a_cache_that_cannot_be_written(fresh, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file in the place of the folder")
    assert fresh() is None
    monkeypatch.setenv(building.SWITCH, "1")
    with pytest.raises(ValueError, match="cannot be built"):
        fresh()


def test_a_file_that_is_no_library(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "_built", lambda: tmp_path / "text.so")
    (tmp_path / "text.so").write_text("text")
    assert fresh() is None


@pytest.mark.parametrize("value", ["2", "yes", "off"])
def test_the_switch_has_two_values(fresh, monkeypatch, value):
    monkeypatch.setenv(building.SWITCH, value)
    with pytest.raises(ValueError, match=f"must be 0, 1 or not set; got '{value}'"):
        fresh()


def test_it_can_be_switched_off(fresh, monkeypatch):
    monkeypatch.setenv(building.SWITCH, "0")
    assert fresh() is None


@needs_compiler
def test_it_is_built_once(fresh, tmp_path, monkeypatch):
    assert fresh() is not None
    (path,) = (tmp_path / "cache" / "noiselab").iterdir()
    made = path.stat().st_mtime_ns
    monkeypatch.setenv("CXX", broken_compiler(tmp_path))
    assert fresh() is not None
    assert path.stat().st_mtime_ns == made


@needs_compiler
def test_processes_that_build_at_once_all_get_it(tmp_path):
    code = "from noiselab.elbo.native.building import library; assert library() is not None"
    env = dict(os.environ, XDG_CACHE_HOME=str(tmp_path), NOISELAB_NATIVE="1")
    runs = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert len(list((tmp_path / "noiselab").iterdir())) == 1
