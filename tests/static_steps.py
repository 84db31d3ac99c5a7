"""Worlds and counters for tests of steps with static shapes."""

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

import noiselab as nl

LENGTH = 6

VIEWS = {
    "view",
    "_unsafe_view",
    "slice",
    "select",
    "expand",
    "t",
    "transpose",
    "as_strided",
    "unsqueeze",
    "squeeze",
    "split",
    "split_with_sizes",
    "alias",
    "unbind",
    "permute",
    "detach",
}
READS = {
    "_local_scalar_dense",
    "nonzero",
    "item",
    "masked_select",
    "masked_scatter",
    "is_nonzero",
    "equal",
    "unique",
}


class Network(nl.Denoiser):
    """A small network with random weights, float64, so that selecting rows before or after the projection is the same."""

    def __init__(self, states, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed, self.mix = torch.nn.Embedding(states, 16), torch.nn.Conv1d(16, 16, 3, padding=1)
            self.out = torch.nn.Linear(16, states)
        self.to(dtype)
        self.out.weight.data *= 8  # sharp predictions, as those of trained networks

    def forward(self, z, t, rows=None):
        hidden = self.embed(z)
        t = t if t.dim() == 2 else t[:, None]
        hidden = torch.relu(self.mix((hidden + t[..., None].to(hidden)).mT).mT)
        return self.out(hidden if rows is None else hidden[rows])


class Known(nl.Denoiser):
    """Logits that are there already: a network of no operations."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, z, t):
        return self.logits.expand(len(z), -1, -1)


def processes_of(states):
    mask = states - 1
    return {
        "masked": nl.masked(vocab_size=states, mask_id=mask),
        "hybrid": nl.gidd(vocab_size=states, mask_id=mask, p_uniform=0.2),
        "uniform": nl.uniform(vocab_size=states, special=[mask]),
    }


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def name_of(target):
    """The name of an operation of a graph, without its overload."""
    return getattr(getattr(target, "overloadpacket", target), "__name__", str(target))


class Graphs:
    """A backend that keeps the names of the operations of each graph that it is given, without views."""

    def __init__(self):
        self.graphs = []

    def backend(self):
        def keep(graph, inputs):
            names = [name_of(node.target) for node in graph.graph.nodes if node.op == "call_function"]
            self.graphs.append([name for name in names if name not in VIEWS | {"getitem"}])
            return make_boxed_func(graph.forward)

        return aot_autograd(fw_compiler=keep)


class Eager(TorchDispatchMode):
    """Keeps the names of the operations that a device would launch, and refuses those that the host waits for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        to_host = str((kwargs or {}).get("device")) == "cpu" and args[:1] and str(args[0].device) != "cpu"
        assert name not in READS and not to_host, f"the host waits for {name}"
        if name not in VIEWS and name != "promote_types":
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def steps_of(make, process, *, dtype=torch.float64):
    sampler = make(process, Network(process.vocab_size, dtype))
    return sampler.with_shapes("rows"), sampler.with_shapes("static")


def times_of(kind, batch):
    """Falling times: of sequences; of tokens, where some do not move, as prompts; and to the end."""
    if kind == "sequences":
        return torch.tensor([0.9, 0.6, 0.3] * (batch // 3)).double(), torch.tensor(
            [0.7, 0.5, 0.0] * (batch // 3)
        ).double()
    t = torch.rand(batch, LENGTH, generator=seeded(5), dtype=torch.float64)
    s = t * torch.rand(batch, LENGTH, generator=seeded(6), dtype=torch.float64)
    t[:, 0] = s[:, 0] = 0  # known
    s[:, 1] = t[:, 1]
    t[:, -1], s[:, -1] = 1, 0  # the whole way
    t[0], s[0] = 0.4, 0.4  # a sequence that is finished
    return t, s


def same_tokens(one, other, process, kind, seeds=4, batch=48):
    t, s = times_of(kind, batch)
    moved = 0
    for seed in range(seeds):
        x = torch.randint(0, process.vocab_size - 1, (batch, LENGTH), generator=seeded(seed))
        z = process.corrupt(x, t, generator=seeded(seed + 100))
        with torch.no_grad():
            a, b = (sampler.step(z, t, s, generator=seeded(seed)) for sampler in (one, other))
        assert torch.equal(a, b)
        moved += int((a != z).sum())
    assert moved > 0
