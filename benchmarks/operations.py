"""How many operations a compiled function has: the nodes of its graph, as a device would launch them without fusion."""

from collections.abc import Callable

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

# Of these nothing is computed.
VIEWS = {
    "_unsafe_view",
    "alias",
    "as_strided",
    "detach",
    "expand",
    "getitem",
    "permute",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
}


def count_operations(run: Callable[[Callable], object]) -> int:
    """The operations of the graphs that `run` compiles with the backend it is given."""
    names: list[str] = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> Callable:
        for node in graph.graph.nodes:
            if node.op == "call_function":
                names.append(getattr(getattr(node.target, "overloadpacket", node.target), "__name__", str(node.target)))
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    run(aot_autograd(fw_compiler=keep))
    return sum(name not in VIEWS for name in names)
