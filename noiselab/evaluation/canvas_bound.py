"""The bound on held-out texts under block-diffusion models, canvas by canvas, with its standard error."""

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor, nn

from ..categorical import split_generator
from ..data.rows import group_equal
from ..denoisers.modes import device_of, evaluating
from ..distributed import Processes, is_sharded, require_processes
from ..likelihood.nodes import process_quadrature
from ..likelihood.ranges import time_range
from ..networks.canvas import CanvasNetwork, canvas_bounds
from ..numerics import require_count
from ..process import NoiseProcess
from ..times import sine_clock, stratified_times
from .bound import Bound, mean_and_error


@torch.no_grad()
def canvas_validation_bound(
    process: NoiseProcess,
    network: CanvasNetwork,
    texts: Sequence[Sequence[int]],
    *,
    given: Sequence[int] | None = None,
    block_size: int | None = None,
    low: float | int | None = None,
    nodes: int | None = None,
    repeats: int = 1,
    batch_size: int = 32,
    generator: Generator | None = None,
    processes: Processes | None = None,
) -> Bound:
    r"""Estimate the negative ELBO of texts under a network of a prefix and a canvas: the mean over scored tokens.

    $$-\log p(x_{> n} \mid x_{\le n}) \le \sum_b \text{bound}(x^b \mid x^{<b})$$

    The bound of a text is the sum of those of its canvases (`noiselab.networks.canvas.canvas_bounds`), computed without
    self-conditioning. Texts of one length, with prompts of one length, are evaluated together; each has noise of its own,
    so that the batch size does not change the result by more than rounding.

    **Arguments:**

    - `process`: the noise on a canvas.
    - `network`: a network of a prefix and a canvas that predicts the posterior.
    - `texts`: the tokens of the texts, with their prompts.
    - `given`: for each text the number of tokens of its prompt, which are not scored; by default 0.
    - `block_size`: the number of tokens of a canvas; by default the `canvas_length` of the network. Canvases are counted from
      the end of the prompt, and the last one may be shorter.
    - `low`: the smallest time, as for `noiselab.evaluation.validation_bound`.
    - `nodes`: the number of fixed quadrature times; by default each text has `repeats` random times, the same for all of its
      canvases, which together are a low-discrepancy set.
    - `repeats`: the number of times for each text; with `nodes`, of samples of z at each node.
    - `batch_size`: the number of texts evaluated at once.
    - `generator`: the source of randomness; by default torch's global generator.
    - `processes`: those that divide the batches among them, as for `noiselab.evaluation.validation_bound`.

    **Raises:** `ValueError` if there is no text, or one has no token after its prompt, or processes are given and the weights
    are sharded.

    **Source:** as for `canvas_bounds`.
    """
    given = [0] * len(texts) if given is None else list(given)
    if not texts or len(given) != len(texts):
        raise ValueError(f"there must be at least one text, and `given` for each; got {len(texts)} and {len(given)}")
    sizes = [(require_count("given", first, 0), len(ids)) for first, ids in zip(given, texts, strict=True)]
    for i, (first, size) in enumerate(sizes):
        if size <= first:
            raise ValueError(f"texts must have tokens after the prompt; text {i} has {size}, {first} of them given")
    require_count("repeats", repeats)
    low, high = time_range(process, low, None)
    fixed = None if nodes is None else process_quadrature(process, nodes, low=low, high=high)
    if fixed is None:
        tau = stratified_times(len(texts) * repeats, generator=generator)
        tau = tau[torch.randperm(len(tau), generator=generator)].view(len(texts), repeats)
    randoms = split_generator(generator, len(texts))
    module = network if isinstance(network, nn.Module) else process
    if processes is not None and is_sharded(module):
        raise ValueError(
            "processes must be None with sharded weights: texts differ in the number of canvases, and all processes must "
            "call such a network equally often"
        )
    together = group_equal(sizes, require_count("batch_size", batch_size))

    def work(numbers: Sequence[int]) -> Iterator[list[Tensor]]:
        for some in (together[number] for number in numbers):
            x = torch.tensor([list(texts[i]) for i in some], device=device_of(module, process))
            each = torch.zeros(3, len(some), dtype=torch.float64)
            for k in range(repeats):
                terms = canvas_bounds(
                    process,
                    network,
                    x,
                    given=given[some[0]],
                    block_size=block_size,
                    nodes=fixed,
                    times=None if fixed is not None else sine_clock(tau[some, k].to(x.device), low=low, high=high),
                    low=low,
                    generator=[randoms[i] for i in some],
                )
                each += torch.stack([torch.stack(block) for block in terms]).sum(0).cpu() / repeats
            yield [each]

    each = torch.zeros(3, len(texts), dtype=torch.float64)
    with evaluating(module):
        about = ["canvas bound", texts, given, block_size, low, nodes, repeats, *randoms]
        found = require_processes(processes).collect(work, len(together), about=about)
    for some, (terms,) in zip(together, found, strict=True):
        each[:, some] = terms
    lengths = torch.tensor([size - first for first, size in sizes])
    tokens = int(lengths.sum())
    mean, error = mean_and_error(each.sum(0), lengths)
    diffusion, rebuilt, prior = (each.sum(-1) / tokens).tolist()
    return Bound(mean, error, diffusion, rebuilt, prior, tokens, len(texts), low, high, each.sum(0), lengths)
