"""Attention of causal models that is opened, so that every token attends to all others, and the check that it is open."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..typing import MayAttend, Positions
from .outputs import accepts, logits_of
from .wrapped import innermost

Opener = Callable[[Any, Tensor, Tensor | None], dict[str, Any]]
"""(model, z, real) -> arguments of the model's `forward` beside `input_ids`, with which every token attends to all real
tokens; `real` is Bool [batch, length], or `None` if all tokens are real.
"""

TESTED: dict[str, str] = {
    "GPT2LMHeadModel": "GPT-2",
    "GPTBigCodeForCausalLM": "GPTBigCode (StarCoder)",
    "GPTJForCausalLM": "GPT-J",
    "GPTNeoXForCausalLM": "GPT-NeoX (Pythia)",
    "OPTForCausalLM": "OPT",
    "FalconForCausalLM": "Falcon with rotary positions",
    "PhiForCausalLM": "Phi",
    "Phi3ForCausalLM": "Phi-3",
    "LlamaForCausalLM": "Llama",
    "MistralForCausalLM": "Mistral",
    "Qwen2ForCausalLM": "Qwen2",
    "Qwen3ForCausalLM": "Qwen3",
    "GemmaForCausalLM": "Gemma",
    "Gemma2ForCausalLM": "Gemma 2",
    "Gemma3ForCausalLM": "Gemma 3 (text)",
    "SmolLM3ForCausalLM": "SmolLM3",
    "Olmo2ForCausalLM": "OLMo 2",
    "Olmo3ForCausalLM": "OLMo 3",
    "GraniteForCausalLM": "Granite",
    "StableLmForCausalLM": "StableLM",
    "CohereForCausalLM": "Cohere",
    "Cohere2ForCausalLM": "Cohere 2",
    "Starcoder2ForCausalLM": "StarCoder2",
    "BertForMaskedLM": "BERT",
    "RobertaForMaskedLM": "RoBERTa",
    "XLMRobertaForMaskedLM": "XLM-RoBERTa",
    "DistilBertForMaskedLM": "DistilBERT",
    "ModernBertForMaskedLM": "ModernBERT",
    "AlbertForMaskedLM": "ALBERT",
    "ElectraForMaskedLM": "ELECTRA",
    "MPNetForMaskedLM": "MPNet",
}
"""Class of transformers -> name: the architectures in which the tests prove, by gradients, that each token depends on every
other one, with a window of attention too where the architecture has one.
"""


def by_mask(model: Any, z: Tensor, real: Tensor | None) -> dict[str, Any]:
    """A four-dimensional attention mask, which transformers uses in place of its own, also in layers with a window.

    **Raises:** `ValueError` if the attention implementation takes no mask.
    """
    seen = z.new_ones(1, z.shape[1], dtype=torch.bool) if real is None else real
    return {"attention_mask": four_axes(model, seen[:, None])}


def four_axes(model: Any, seen: MayAttend) -> Tensor:
    """The attention mask of transformers, [batch or 1, 1, queries or 1, keys], from that of pairs.

    **Raises:** `ValueError` if the attention implementation takes no mask.
    """
    name, seen = implementation(model), seen[:, None]
    if name == "sdpa":
        return seen
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def placed_arguments(model: Any, z: Tensor, positions: Positions | None) -> dict[str, Any]:
    """The argument of given positions: from 0, or from the first that is not of padding, as in RoBERTa."""
    if positions is None:
        return {}
    start = _start_of_positions(model)
    return {"position_ids": positions.to(z.device).expand(z.shape) + (0 if start is None else start + 1)}


def by_mask_and_positions(model: Any, z: Tensor, real: Tensor | None) -> dict[str, Any]:
    """The same for models that count positions by a mask with two axes: the positions are given."""
    places = torch.ones_like(z) if real is None else real.expand(z.shape).long()
    return {**by_mask(model, z, real), "position_ids": places.cumsum(-1) * places - 1}


OPENERS: dict[str, Opener] = {"OPTForCausalLM": by_mask_and_positions}
"""Class name -> how its attention is opened; `by_mask` for all others. Add your own architecture here, before it is wrapped or
loaded.
"""


def opened_arguments(model: nn.Module, z: Tensor, real: Tensor | None) -> dict[str, Any]:
    """The arguments with which the attention of a model is open, by its `OPENERS`."""
    return OPENERS.get(type(model).__name__, by_mask)(model, z, real)


def implementation(model: nn.Module) -> str:
    """The attention implementation of a model whose attention is opened.

    **Raises:** `ValueError` if it takes no mask.
    """
    name = getattr(getattr(model, "config", None), "_attn_implementation", "sdpa")
    if name not in ("sdpa", "eager"):
        raise ValueError(
            f"an attention mask of any form needs a model whose attn_implementation is 'sdpa' or 'eager'; got {name!r}"
        )
    return name


def counted_positions(model: Any, z: Tensor, real: Tensor | None) -> dict[str, Any]:
    """The positions of models that otherwise count tokens other than padding by their value, such as RoBERTa.

    A padding token that noise puts into a text would move all later tokens.
    """
    start = _start_of_positions(model)
    if start is None or not accepts(model.forward, "position_ids"):
        return {}
    places = torch.ones_like(z) if real is None else real.expand(z.shape).long()
    return {"position_ids": places.cumsum(-1) * places + start}


def _start_of_positions(model: nn.Module) -> int | None:
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            return table.padding_idx
    return None


def influence(denoiser: nn.Module, length: int = 4) -> Float[Tensor, "to from"]:
    r"""How much the logits of each token depend on the input embedding of each other token.

    $$ \text{influence}_{ij} = \left\lVert \frac{\partial \, (w \cdot \ell_i)}{\partial e_j} \right\rVert , $$

    with the logits $\ell_i$ at position i, the embedding $e_j$ of the token at position j, and fixed random weights $w$. It is
    exactly 0 where no path of attention leads from j to i. Gradients of weights are not computed.

    **Arguments:**

    - `denoiser`: a `noiselab.networks.masked_lm.MaskedLanguageModel`, or another denoiser around a model of transformers.
    - `length`: the number of tokens of the sequence, within the context.

    **Example:**

    ```python
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.networks.masked_lm import MaskedLanguageModel
    from noiselab.networks.opening import influence

    config = LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    llama = LlamaForCausalLM(config)
    assert (influence(MaskedLanguageModel(llama)) > 0).all()
    assert (influence(MaskedLanguageModel(llama, bidirectional=False)).triu(1) == 0).all()  # sees the left only
    ```
    """
    model = innermost(getattr(denoiser, "model", denoiser))
    table = model.get_input_embeddings()
    device = next(model.parameters()).device
    z = torch.arange(length, device=device)[None] % int(model.config.vocab_size)
    leaves: list[Tensor] = []

    def leaf(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = table.register_forward_hook(leaf)
    try:
        with torch.enable_grad(), _evaluating(denoiser):
            logits = logits_of(denoiser(z, torch.full((1,), 0.5, device=device)))[0]
            random = torch.Generator().manual_seed(0)
            # Sums of unlike weights, because equal ones may cancel.
            signs = torch.randn(logits.shape[-1], generator=random).to(logits)
            sums = torch.where(logits.isfinite(), logits * signs, 0).sum(-1)
            rows = [torch.autograd.grad(one, leaves[-1], retain_graph=True)[0][0] for one in sums]
    finally:
        handle.remove()
    return torch.stack(rows).double().norm(dim=-1)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Context manager: evaluation mode, then each part in its own mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def check_open(denoiser: nn.Module, length: int = 4) -> None:
    """Check by `influence` that every token of a denoiser depends on all others.

    **Arguments:**

    - `denoiser`: as for `influence`; `length`: the number of tokens.

    **Raises:** `ValueError` naming two tokens of which one does not depend on the other, or if the model cannot be called.
    """
    model = innermost(getattr(denoiser, "model", denoiser))
    name = type(model).__name__
    advice = (
        "a recurrent model cannot be a bidirectional denoiser; for another architecture, add a function to "
        f"noiselab.networks.opening.OPENERS[{name!r}] that gives the arguments with which its attention is open"
    )
    try:
        found = influence(denoiser, length)
    except Exception as error:  # a model that cannot take such a mask fails in any way
        raise ValueError(
            f"the attention of the model must be opened, so that tokens attend to both sides; {name} fails with "
            f"{type(error).__name__}: {error} ({advice})"
        ) from error
    # Where attention is closed the gradient is exactly 0.
    closed = (found == 0).nonzero().tolist()
    if closed:
        to, source = closed[0]
        raise ValueError(
            f"every token must attend to all others; in {name}, that at position {to} does not depend on that at position "
            f"{source} ({advice})"
        )
