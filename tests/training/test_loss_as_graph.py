"""The loss in graphs and wrappers: traced whole by `torch.compile`, few operations, only rows with a loss projected."""

import pytest
import torch
from test_fused_loss import NETWORKS, PLACE, PROCESSES, batch, results
from torch.nn.parallel import DataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from toy_training import L

import noiselab as nl
from noiselab.elbo import fused, streaming
from noiselab.objectives import Dynamic, elbo
from noiselab.training import draw_noise, noised_loss, noisy_loss
from noiselab.training.losses import call_denoiser, call_network

VIEWS = (
    "view",
    "slice",
    "select",
    "expand",
    "t",
    "transpose",
    "as_strided",
    "unsqueeze",
    "squeeze",
    "split",
    "alias",
    "unbind",
    "permute",
    "detach",
)


class Operations(TorchDispatchMode):
    """Counts what a device would launch: operations that are not views of tensors."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__.removeprefix("_unsafe_").split(".")[0] not in VIEWS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("noise", ["masked", "hybrid", "unigram"])
def test_the_loss_of_16k_rows_takes_fewer_than_2000_operations_on_an_accelerator(noise, monkeypatch):
    """With the chunks that an accelerator gets for 50,258 tokens; the number does not depend on the vocabulary."""
    rows = fused.default_rows(torch.empty(50_258, 1, device="meta"))
    assert rows * 50_258 * 4 <= 1 << 28 < (rows + 1) * 50_258 * 4
    monkeypatch.setattr(fused, "chunk_bytes_of", lambda device: streaming.chunk_bytes_of(torch.device("meta")))
    process, width = PROCESSES[noise], 4
    hidden = torch.randn(1, 1 << 14, width, requires_grad=True)
    weight = torch.randn(process.vocab_size, width, requires_grad=True)
    x = torch.randint(process.vocab_size - 2, (1, 1 << 14))
    t = nl.stratified_times(1 << 14)[None]
    z = process.corrupt(x, t)
    with Operations() as seen:
        loss, _ = nl.elbo.nelbo_fused(
            process, hidden, weight, None, x, z, t, torch.ones(x.shape) / x.numel(), rows=rows
        )
        loss.backward()
    assert 500 < seen.count < 2000


def test_chunks_for_a_cache_take_many_more_operations():
    """What an accelerator would launch with the chunks of a CPU: the mode counts what depends on the size of chunks."""
    process, counts = PROCESSES["hybrid"], []
    logits = torch.randn(1, 512, process.vocab_size)
    x = torch.randint(process.vocab_size - 2, (1, 512))
    t = nl.stratified_times(512)[None]
    z = process.corrupt(x, t)
    for chunk in (512, 20):
        with Operations() as seen:
            nl.nelbo(
                process, logits.requires_grad_(), x, z, t, chunk_bytes=4 * chunk * process.vocab_size
            ).sum().backward()
        counts.append(seen.count)
    assert counts[1] > 6 * counts[0]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "noise", "predicts"), [("DiT, rounded up", "hybrid", "leave_one_out"), ("DiT", "unigram", "posterior")]
)
def test_the_loss_of_a_noisy_batch_is_one_graph(name, noise, predicts):
    torch.compiler.reset()  # or what other tests compiled counts towards the limit of graphs for one function
    model, process = NETWORKS[name]().double(), PROCESSES[noise]
    call = call_denoiser if isinstance(model, nl.Denoiser) else call_network
    noisy = draw_noise(batch(), process=process, objective=Dynamic(0.01), place=PLACE, multiple=8)
    assert len(noisy.rows) % 8 == 0 and (noisy.scale == 0).any()
    compiled = torch.compile(noisy_loss, fullgraph=True, backend="aot_eager")
    ours, theirs = (
        results(model, lambda loss=loss: loss(model, noisy, process=process, call=call, predicts=predicts))
        for loss in (compiled, noisy_loss)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


WRAPPERS = {
    "data parallel": DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "both": lambda model: torch.compile(DataParallel(model), backend="eager"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of dynamo, where a graph ends
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ["DiT", "DiT as a denoiser"])
def test_inside_wrappers_only_rows_with_a_loss_are_projected(name, wrapper):
    model = NETWORKS[name]().double()
    call = call_denoiser if isinstance(model, nl.Denoiser) else call_network
    layer = (model.model if name == "DiT as a denoiser" else model).output_layer.linear
    options = {"process": PROCESSES["masked"], "objective": elbo, "place": PLACE, "call": call}
    expected = results(model, lambda: noised_loss(model, batch(), **options))
    with_loss = len(draw_noise(batch(), **{k: options[k] for k in ("process", "objective", "place")}).rows)
    projected, right = [], layer.forward

    def counted(hidden):
        projected.append(hidden.shape[:-1].numel())
        return right(hidden)

    layer.forward = counted
    ours = results(model, lambda: noised_loss(WRAPPERS[wrapper](model), batch(), **options))
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    rounded = min(128, 6 * L) if name == "DiT" else with_loss
    assert projected == [rounded] and with_loss < 6 * L
