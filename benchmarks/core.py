"""Speed and memory of the core against the dense formulae, as ratios of one run: `make bench`.

512 rows (batch 2, length 256) of 50,258 tokens, float32, hybrid noise of p_uniform = 0.1, two threads. Prints a table;
a line that misses its limit is marked, and the exit status says so.
"""

import argparse
import functools
import os
import platform
import sys

import torch
import torch.nn.functional as F

import noiselab as nl
from measure import peak_memory, time_in_turns
from noiselab.elbo.native.building import library
from noiselab.numerics import UNIFORMS_PER_MOVE
from noiselab.process.three_way import reverse_move

V, BATCH, LENGTH, WIDTH = 50_258, 2, 256, 768
MASK = V - 1
ROWS = BATCH * LENGTH
DATA = torch.arange(V) != MASK


def seed_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def zipf_frequencies(power: float = 1.0) -> torch.Tensor:
    """Zipf's law, without the mask."""
    row = torch.arange(1, V + 1, dtype=torch.float64) ** -power * DATA
    return row / row.sum()


def draw_neighbours() -> torch.Tensor:
    """A neighbour row, among the first 4,096 tokens so that it is made in seconds."""
    embeddings = torch.randn(V, 64, generator=seed_generator())
    return nl.mixing.neighbour_row(embeddings, neighbours=16, support=torch.arange(V) < 4096)


def build_process(kind: str) -> nl.InterpolatingProcess:
    """Masks, and beside them the noise that `kind` says."""
    t = nl.t
    if kind == "hybrid":
        return nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=0.1)
    mask = nl.Absorbing(MASK, V)
    noises: dict = {
        "masked": lambda: {},
        "2 constants": lambda: {nl.Uniform(DATA): 0.2 * t**k for k in (1, 2)},
        "4 constants": lambda: {nl.Uniform(DATA): 0.2 * t**k for k in (1, 2, 3, 4)},
        "a unigram row": lambda: {nl.Unigram(zipf_frequencies()): 0.2 * t},
        "a neighbour row": lambda: {nl.Unigram(draw_neighbours()): 0.2 * t},
        "a constant and a row": lambda: {nl.Uniform(DATA): 0.2 * t, nl.Unigram(zipf_frequencies()): 0.2 * t**2},
        "3 rows": lambda: {nl.Unigram(zipf_frequencies(0.5 * k)): 0.2 * t**k for k in (1, 2, 3)},
        "a moving blend": lambda: {nl.Blend({nl.Unigram(zipf_frequencies()): 1 - t, nl.Uniform(DATA): t}): 0.2 * t},
    }[kind]()
    return nl.Interpolation(1 - t, {mask: t, **noises})


KINDS = [
    "hybrid",
    "2 constants",
    "4 constants",
    "a unigram row",
    "a neighbour row",
    "a constant and a row",
    "3 rows",
    "a moving blend",
]


@functools.cache
def draw_logits() -> torch.Tensor:
    return torch.randn(BATCH, LENGTH, V, generator=seed_generator())


def load_case(kind: str = "hybrid", per_token: bool = False):
    """A process and a batch with logits."""
    return _load_case(kind, per_token)


@functools.cache
def _load_case(kind: str, per_token: bool):
    process = _load_case(kind, False)[0] if per_token else build_process(kind)
    x = torch.randint(0, MASK, (BATCH, LENGTH), generator=seed_generator())
    shape = (BATCH, LENGTH) if per_token else (BATCH,)
    t = 0.05 + 0.9 * torch.rand(shape, generator=seed_generator(), dtype=torch.float64)
    return process, draw_logits(), x, process.corrupt(x, t, generator=seed_generator()), t


def dense_loss(logits, x, z, t):
    """The hybrid loss as it is usually written: one-hot, softmax, both laws and their logarithms, all [batch, length, V]."""
    process = load_case()[0]
    with torch.no_grad():
        lifted = t[:, None]
        alpha, noise = process.alpha(lifted).float()[..., None], process.noise(lifted).dense().float()
        weight = process.elbo_weight(x, z, t).float()
    logits = logits.index_fill(-1, torch.tensor(MASK), torch.finfo(logits.dtype).min)
    q = alpha * F.one_hot(x, V).to(logits) + noise
    p = alpha * logits.softmax(-1) + noise
    log_q, log_p = q.log().clamp(min=-1e6), p.log().clamp(min=-1e6)
    kl = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    ratio = (log_q.gather(-1, z[..., None]) - log_p.gather(-1, z[..., None]))[..., 0]
    return weight * (kl + ratio.exp() - ratio - 1)


def run_backward(loss, kind="hybrid", per_token=False, dense=False):
    process, logits, x, z, t = load_case(kind, per_token)
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, x, z, t) if dense else loss(process, leaf, x, z, t)
    value.mean().backward()
    return leaf.grad


def run_softmax():
    return load_case()[1].softmax(-1)


def reverse_times():
    t = torch.full((BATCH,), 0.5, dtype=torch.float64)
    return t - 1 / 64, t


def run_dense_step():
    process, logits, _, z, _ = load_case()
    s, t = reverse_times()
    lifted_s, lifted_t = s[:, None], t[:, None]
    x_hat = logits.index_fill(-1, torch.tensor(MASK), -torch.inf).softmax(-1)
    a_s, a_t = process.alpha(lifted_s).float()[..., None], process.alpha(lifted_t).float()[..., None]
    b_s, b_t = process.noise(lifted_s).dense().float(), process.noise(lifted_t).dense().float()
    keep = a_t / a_s
    forward = (b_t - keep * b_s).expand(BATCH, LENGTH, V).gather(-1, z[..., None]) + keep * F.one_hot(z, V)
    posterior = forward * (a_s * x_hat + b_s)
    return torch.multinomial(posterior.flatten(0, 1), 1).view(BATCH, LENGTH)


def draw_uniforms():
    return nl.categorical.uniforms(BATCH, LENGTH, UNIFORMS_PER_MOVE, generator=seed_generator())


def run_three_way_step():
    process, logits, _, z, _ = load_case()
    s, t = reverse_times()
    plan = reverse_move(process, z, s, t).plan(process, z, draw_uniforms())
    return plan.resolve(logits[plan.rows])


def share_of_rows_read():
    process, _, _, z, _ = load_case()
    s, t = reverse_times()
    return reverse_move(process, z, s, t).plan(process, z, draw_uniforms()).rows.double().mean().item()


@functools.cache
def draw_projection():
    hidden = torch.randn(BATCH, LENGTH, WIDTH, generator=seed_generator())
    return hidden, torch.randn(V, WIDTH, generator=seed_generator()) / WIDTH**0.5


def run_bare_products():
    """The three matrix products that any loss on projected hidden states needs."""
    hidden, weight = (v.flatten(0, -2) if v.dim() > 2 else v for v in draw_projection())
    with torch.no_grad():
        logits = hidden @ weight.T
        return logits @ weight, logits.T @ hidden


def project_and_lose(loss, dense=False):
    process, _, x, z, t = load_case()
    hidden, weight = (v.detach().requires_grad_() for v in draw_projection())
    logits = hidden @ weight.T
    value = loss(logits, x, z, t) if dense else loss(process, logits, x, z, t)
    value.mean().backward()
    return hidden.grad, weight.grad


def run_fused():
    process, _, x, z, t = load_case()
    hidden, weight = (v.detach().requires_grad_() for v in draw_projection())
    nl.elbo.nelbo_fused(process, hidden, weight, None, x, z, t, torch.full((BATCH, LENGTH), 1 / ROWS))[0].backward()
    return hidden.grad, weight.grad


def make_streaming():
    return _prepare(lambda: run_backward(nl.nelbo))


def make_rows():
    return _prepare(lambda: run_backward(nl.nelbo, "3 rows", True), "3 rows", True)


def make_dense():
    return _prepare(lambda: run_backward(dense_loss, dense=True))


def _prepare(piece, kind="hybrid", per_token=False):
    process, logits, x, z, t = load_case(kind, per_token)

    def warm():
        # Everything but the work itself: libraries, threads, scalars.
        first = t[:, :1] if per_token else t
        nl.nelbo(process, logits[:, :1].clone().requires_grad_(), x[:, :1], z[:, :1], first).sum().backward()

    piece.warm = warm
    return piece


def compare_mixings(rounds: int) -> int:
    """What other noises cost beside the hybrid one, with one time a sequence and with one a token; misses."""
    pieces = {
        (kind, per_token): functools.partial(run_backward, nl.nelbo, kind, per_token)
        for kind in KINDS
        for per_token in (False, True)
    }
    time = time_in_turns(pieces, rounds)
    one = time["hybrid", False]
    print("\n  beside masks               per sequence   per token")
    lines: list = []
    for kind in KINDS:
        sequence, token = time[kind, False], time[kind, True]
        print(f"  {kind:24} {1000 * sequence:10.1f} ms {1000 * token:8.1f} ms")
        if kind != "hybrid":
            # Any number of constants is one column; rows need one product more each.
            lines.append((f"{kind} / one constant", sequence / one, 1.2 if "constants" in kind else 1.5, False))
        lines.append((f"{kind}: time per token / per sequence", token / sequence, 1.2, False))
    return report("beside masks", lines)


def report(title: str, lines: list[tuple[str, float, float | None, bool]]) -> int:
    """Print name, measured and limit, which is a lower one where the last entry says so; how many are missed."""
    print(f"\n| {title} | measured | limit | |\n| --- | ---: | ---: | --- |")
    missed = 0
    for name, measured, limit, lower in lines:
        good = limit is None or (measured >= limit if lower else measured <= limit)
        missed += not good
        bound = "" if limit is None else f"{'>=' if lower else '<='} {limit:g}"
        print(f"| {name} | {measured:.3g} | {bound} | {'ok' if good else 'MISSED'} |")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each piece; the best counts")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(2)
    size = 4 * ROWS * V
    allocator = (
        ", ".join(f"{k}={v}" for k, v in os.environ.items() if k.startswith(("MALLOC_", "LD_PRELOAD"))) or "default"
    )
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, allocator: {allocator}")
    print(
        f"{ROWS} rows of {V} tokens, float32: logits {size / 2**20:.0f} MiB. Best of {rounds} rounds, taken in turns.\n"
    )

    time = time_in_turns(
        {
            "softmax": run_softmax,
            "nelbo": lambda: run_backward(nl.nelbo),
            "dense": lambda: run_backward(dense_loss, dense=True),
            "nelbo, masking": lambda: run_backward(nl.nelbo, "masked"),
            "three-way step": run_three_way_step,
            "dense step": run_dense_step,
            "bare products": run_bare_products,
            "project + nelbo": lambda: project_and_lose(nl.nelbo),
            "fused": run_fused,
        },
        rounds,
    )
    for name, seconds in time.items():
        print(f"  {name:26} {1000 * seconds:9.1f} ms")
    missed = compare_mixings(rounds)
    ours, theirs = peak_memory(make_streaming), peak_memory(make_dense)
    rows = peak_memory(make_rows)
    share = share_of_rows_read()

    lines = [
        ("loss forward + backward, dense / ours", time["dense"] / time["nelbo"], 8, True),
        (
            "loss forward + backward / one fresh softmax",
            time["nelbo"] / time["softmax"],
            1.6 if library() else 3,
            False,
        ),
        ("peak beyond logits and gradient / logits", ours / size - 1, 0.10, False),
        ("  (dense formula: peak beyond both / logits)", theirs / size - 1, None, True),
        ("  (the same for 3 rows, time per token)", rows / size - 1, 0.10, False),
        ("reverse step at 64 steps, dense / ours", time["dense step"] / time["three-way step"], 50, True),
        ("share of rows the reverse step reads", share, 0.05, False),
        ("projection + loss / bare matrix products", time["project + nelbo"] / time["bare products"], 1.2, False),
        ("fused projection and loss / bare products", time["fused"] / time["bare products"], 1.4, False),
    ]
    return min(missed + report("ratio", lines), 1)


if __name__ == "__main__":
    sys.exit(main())
