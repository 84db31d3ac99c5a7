"""The training loss from hidden states to gradients, as ratios of one run: `make bench`.

512 tokens of width 768 and 50,258 tokens of vocabulary, float32, hybrid noise, two threads; and a small `DiT` (two layers
of width 128, 16,384 tokens) on masks, half of the tokens masked. `--compiled` also times the loss as `torch.compile`
traces it, which takes a minute.
"""

import argparse
import functools
import sys

import torch

import core
import noiselab as nl
from core import LENGTH, ROWS, WIDTH, V, draw_projection, load_case, report
from measure import peak_memory, time_in_turns
from noiselab.elbo.fused import default_rows
from noiselab.elbo.native.building import library
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.objectives import elbo
from noiselab.training import Place, noised_loss
from noiselab.training.losses import call_network

STATES = 16_384
MASKS = nl.masked(vocab_size=STATES, mask_id=STATES - 1)


@functools.cache
def make_network() -> DiT:
    torch.manual_seed(0)
    sizes = {"max_seq_len": 256, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    return DiT(DiTConfig(vocab_size=STATES, **sizes))


def run_masks(call) -> None:
    """Forward and backward of a batch of which half the tokens are masked; a call that is not known computes all logits."""
    batch = {"input_ids": torch.randint(STATES - 1, (8, 256), generator=torch.Generator().manual_seed(1))}
    options = {"process": MASKS, "objective": elbo, "place": Place(0), "time_range": (0.49, 0.51)}
    network = make_network()
    noised_loss(network, batch, call=call, **options).backward()
    network.zero_grad()


def run_compiled(compiled):
    process, logits, x, z, t = load_case()
    leaf = logits.detach().requires_grad_()
    compiled(process, leaf, x, z, t).mean().backward()
    return leaf.grad


@functools.cache
def draw_head() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 2048, 384, generator=generator), torch.randn(STATES, 384, generator=generator) / 20


def run_head(share: float) -> None:
    """Projection and loss alone of this share of 2,048 tokens under masks, with gradients."""
    hidden, weight = (v.detach().requires_grad_() for v in draw_head())
    rows = int(share * hidden.shape[1])
    x = torch.randint(STATES - 1, (1, rows), generator=torch.Generator().manual_seed(1))
    z, t = torch.full_like(x, STATES - 1), torch.tensor([0.5], dtype=torch.float64)
    nl.elbo.nelbo_fused(MASKS, hidden[:, :rows], weight, None, x, z, t, torch.full(x.shape, 1 / rows))[0].backward()


def make_fused(dtype=None):
    """The fused loss of the projection, with all inputs and, as a real step has them, gradients allocated before."""
    hidden, weight = (v.detach().requires_grad_() for v in draw_projection())
    process, x, z, t = _tokens()
    scale = torch.full(x.shape, 1 / ROWS)

    def piece(part=slice(None)):
        tokens = x[:, part], z[:, part], t, scale[:, part]
        loss, _ = nl.elbo.nelbo_fused(process, hidden[:, part], weight, None, *tokens, dtype=dtype)
        return loss

    piece.warm = functools.partial(piece, slice(1))
    return piece


def _tokens():
    process = core.build_process("hybrid")
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(V - 1, (2, LENGTH), generator=generator)
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    return process, x, process.corrupt(x, t, generator=generator), t


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each piece; the best counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="also the loss as torch.compile traces it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pieces = {
        "softmax": core.run_softmax,
        "nelbo": lambda: core.run_backward(nl.nelbo),
        "bare products": core.run_bare_products,
        "fused": core.run_fused,
        "masks": lambda: run_masks(call_network),
        "masks, all rows": lambda: run_masks(lambda *given: call_network(*given)),
        "head, half": lambda: run_head(0.5),
        "head, all": lambda: run_head(1.0),
    }
    if options.compiled:
        compiled = torch.compile(nl.nelbo, fullgraph=True)
        pieces["compiled"] = lambda: run_compiled(compiled)
    time = time_in_turns(pieces, options.rounds)
    print("the sums of the loss:", "compiled" if library() else "operations of PyTorch, without a compiler")
    for name, seconds in time.items():
        print(f"  {name:26} {1000 * seconds:9.1f} ms")
    weight_bytes, chunk = 4 * V * WIDTH, 4 * V * default_rows(torch.empty(V, 1))
    beyond = peak_memory(make_fused) - weight_bytes - 4 * ROWS * WIDTH  # the gradients of weights and hidden states
    # Under autocast also copies of weights and hidden states in bfloat16, the gradient of the latter.
    low = peak_memory(functools.partial(make_fused, torch.bfloat16)) - 1.5 * weight_bytes - 8 * ROWS * WIDTH
    lines = [
        # Without a compiler 1.6 is not reached: for a million numbers in cache a softmax takes 0.40 ms, log1p of half of them
        # 0.24 ms, and each of the other 11 passes 0.04 to 0.09 ms; PyTorch has no operation that does two of them at once.
        (
            "loss forward + backward / one fresh softmax",
            time["nelbo"] / time["softmax"],
            1.6 if library() else 2.1,
            False,
        ),
        ("fused projection and loss / bare products", time["fused"] / time["bare products"], 1.15, False),
        ("half of the tokens masked: rows with a loss / all rows", time["masks"] / time["masks, all rows"], 0.6, False),
        ("half of the tokens masked: projection and loss alone", time["head, half"] / time["head, all"], 0.6, False),
        ("fused: peak beyond gradients / a chunk of logits", beyond / chunk, 2, False),
        ("fused in bfloat16: peak beyond gradients and copies / a chunk of logits", low / chunk, 2, False),
    ]
    if options.compiled:
        lines.append(
            ("compiled forward + backward / one fresh softmax", time["compiled"] / time["softmax"], 1.6, False)
        )
    return min(report("ratio", lines), 1)


if __name__ == "__main__":
    sys.exit(main())
