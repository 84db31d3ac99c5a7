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
from measure import in_turns, peak_memory

import noiselab as nl
from noiselab.elbo.tokens import outside
from noiselab.samplers.ancestral import DRAWS, finish, plan

V, BATCH, LENGTH, WIDTH = 50_258, 2, 256, 768
MASK = V - 1
ROWS = BATCH * LENGTH


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def world(kind: str = "gidd", per_token: bool = False):
    """A process and a batch with logits."""
    return _world(kind, per_token)


@functools.cache
def _world(kind: str, per_token: bool):
    if kind == "gidd":
        process = nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=0.1)
    elif kind == "masked":
        process = nl.masked(vocab_size=V, mask_id=MASK)
    else:
        frequencies = 1 / torch.arange(1, V + 1, dtype=torch.float64) * (torch.arange(V) != MASK)
        row = nl.Unigram(frequencies / frequencies.sum())
        process = nl.Interpolation(1 - nl.t, {nl.Absorbing(MASK, V): nl.t, row: 0.2 * nl.t})
    x = torch.randint(0, MASK, (BATCH, LENGTH), generator=generator())
    shape = (BATCH, LENGTH) if per_token else (BATCH,)
    t = 0.05 + 0.9 * torch.rand(shape, generator=generator(), dtype=torch.float64)
    z = process.corrupt(x, t, generator=generator())
    logits = torch.randn(BATCH, LENGTH, V, generator=generator())
    return process, logits, x, z, t


def dense_loss(logits, x, z, t):
    """The hybrid loss as it is usually written: one-hot, softmax, both laws and their logarithms, all [batch, length, V]."""
    process = world()[0]
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


def backward(loss, kind="gidd", per_token=False, dense=False):
    process, logits, x, z, t = world(kind, per_token)
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, x, z, t) if dense else loss(process, leaf, x, z, t)
    value.mean().backward()
    return leaf.grad


def softmax_alone():
    return world()[1].softmax(-1)


def reverse_times():
    t = torch.full((BATCH,), 0.5, dtype=torch.float64)
    return t - 1 / 64, t


def dense_step():
    process, logits, _, z, _ = world()
    s, t = reverse_times()
    lifted_s, lifted_t = s[:, None], t[:, None]
    x_hat = logits.index_fill(-1, torch.tensor(MASK), -torch.inf).softmax(-1)
    a_s, a_t = process.alpha(lifted_s).float()[..., None], process.alpha(lifted_t).float()[..., None]
    b_s, b_t = process.noise(lifted_s).dense().float(), process.noise(lifted_t).dense().float()
    keep = a_t / a_s
    forward = (b_t - keep * b_s).expand(BATCH, LENGTH, V).gather(-1, z[..., None]) + keep * F.one_hot(z, V)
    posterior = forward * (a_s * x_hat + b_s)
    return torch.multinomial(posterior.flatten(0, 1), 1).view(BATCH, LENGTH)


def three_way_step():
    process, logits, _, z, _ = world()
    s, t = reverse_times()
    moves = plan(process, z, s, t, nl.uniforms(BATCH, LENGTH, DRAWS, generator=generator()))
    return finish(moves, logits[moves.rows], outside(process))


def rows_read():
    process, _, _, z, _ = world()
    s, t = reverse_times()
    return plan(process, z, s, t, nl.uniforms(BATCH, LENGTH, DRAWS, generator=generator())).rows.double().mean().item()


@functools.cache
def projection():
    hidden = torch.randn(BATCH, LENGTH, WIDTH, generator=generator())
    return hidden, torch.randn(V, WIDTH, generator=generator()) / WIDTH**0.5


def bare_products():
    """The three matrix products that any loss on projected hidden states needs."""
    hidden, weight = (v.flatten(0, -2) if v.dim() > 2 else v for v in projection())
    with torch.no_grad():
        logits = hidden @ weight.T
        return logits @ weight, logits.T @ hidden


def project_and_lose(loss, dense=False):
    process, _, x, z, t = world()
    hidden, weight = (v.detach().requires_grad_() for v in projection())
    logits = hidden @ weight.T
    value = loss(logits, x, z, t) if dense else loss(process, logits, x, z, t)
    value.mean().backward()
    return hidden.grad, weight.grad


def fused():
    process, _, x, z, t = world()
    hidden, weight = (v.detach().requires_grad_() for v in projection())
    nl.nelbo_fused(process, hidden, weight, None, x, z, t, torch.full((BATCH, LENGTH), 1 / ROWS))[0].backward()
    return hidden.grad, weight.grad


def make_streaming():
    return _prepared(lambda: backward(nl.nelbo))


def make_dense():
    return _prepared(lambda: backward(dense_loss, dense=True))


def _prepared(piece):
    process, logits, x, z, t = world()

    def warm():
        # Everything but the work itself: libraries, threads, scalars.
        nl.nelbo(process, logits[:, :1].clone().requires_grad_(), x[:, :1], z[:, :1], t).sum().backward()

    piece.warm = warm
    return piece


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

    time = in_turns(
        {
            "softmax": softmax_alone,
            "nelbo": lambda: backward(nl.nelbo),
            "dense": lambda: backward(dense_loss, dense=True),
            "nelbo, time per token": lambda: backward(nl.nelbo, per_token=True),
            "nelbo, masking": lambda: backward(nl.nelbo, "masked"),
            "nelbo, mask and unigram": lambda: backward(nl.nelbo, "unigram"),
            "three-way step": three_way_step,
            "dense step": dense_step,
            "bare products": bare_products,
            "project + nelbo": lambda: project_and_lose(nl.nelbo),
            "fused": fused,
        },
        rounds,
    )
    for name, seconds in time.items():
        print(f"  {name:26} {1000 * seconds:9.1f} ms")
    ours, theirs = peak_memory(make_streaming), peak_memory(make_dense)
    share = rows_read()

    # name, measured, limit, whether it is a lower limit
    lines = [
        ("loss forward + backward, dense / ours", time["dense"] / time["nelbo"], 8, True),
        ("loss forward + backward / one fresh softmax", time["nelbo"] / time["softmax"], 3, False),
        ("peak beyond logits and gradient / logits", ours / size - 1, 0.10, False),
        ("  (dense formula: peak beyond both / logits)", theirs / size - 1, None, True),
        ("time per token / time per sequence", time["nelbo, time per token"] / time["nelbo"], 1.2, False),
        ("reverse step at 64 steps, dense / ours", time["dense step"] / time["three-way step"], 50, True),
        ("share of rows the reverse step reads", share, 0.05, False),
        ("projection + loss / bare matrix products", time["project + nelbo"] / time["bare products"], 1.2, False),
        ("fused projection and loss / bare products", time["fused"] / time["bare products"], 1.4, False),
    ]
    print("\n| ratio | measured | limit | |\n| --- | ---: | ---: | --- |")
    missed = 0
    for name, measured, limit, lower in lines:
        good = limit is None or (measured >= limit if lower else measured <= limit)
        missed += not good
        bound = "" if limit is None else f"{'>=' if lower else '<='} {limit:g}"
        print(f"| {name} | {measured:.3g} | {bound} | {'ok' if good else 'MISSED'} |")
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
