"""Any causal or masked model of transformers, adapted to be trained as a diffusion model."""

import copy
import warnings
from typing import Any, NamedTuple

import transformers
from torch import nn

from ..data.tokenizers import MASK, complete, vocabulary_size
from ..networks.adapters import add_adapter, base_of, with_token
from ..networks.masked_lm import MaskedLanguageModel
from ..networks.opening import check_open
from ..networks.wrapped import is_adapted
from ..parametrization import Prediction


class Adapted(NamedTuple):
    """A denoiser from a model of transformers, and a tokenizer that has the tokens which it needs."""

    denoiser: MaskedLanguageModel
    """The denoiser, for `Trainer`, samplers and pipelines."""
    tokenizer: Any
    """The tokenizer, with a mask token."""


def adapt(
    model: nn.Module,
    tokenizer: Any,
    *,
    shifted: bool = False,
    predicts: Prediction = "leave_one_out",
    mask_token: str | None = None,
    lora: Any = None,
) -> Adapted:
    r"""Turn a causal or masked model of transformers into a denoiser that can be trained on any noise.

    - Attention of a causal model is opened, so that every token attends to all real tokens on both sides. It is checked on this
      model, for a few tokens, that the logits of each depend on the embedding of every other one
      (`noiselab.networks.opening.influence`).
    - If the tokenizer has no mask token, one is added, with a `UserWarning` unless `mask_token` names it. Its embedding is the
      mean of those of the other tokens. Vocabularies that are rounded up have room for it; others are enlarged by a row.
    - If the tokenizer has no padding token, padding is the end of text. It is known by its position.

    The model and the tokenizer are not modified. The denoiser shares the weights of the model, which training changes;
    with `lora`, it does not.

    **Arguments:**

    - `model`: the model, with its head for masked or causal language modelling.
    - `tokenizer`: its tokenizer.
    - `shifted`: whether the logits of a token are at the previous position, as in the causal model; see
      `noiselab.networks.masked_lm.MaskedLanguageModel`.
    - `predicts`: the quantity that the model predicts, "leave_one_out" (trained by the bound) or "posterior".
    - `mask_token`: the mask token of a tokenizer that has none: a token that it has, such as an unused one, or a new one; by
      default "[MASK]".
    - `lora`: low-rank updates, which alone are trained then: their rank, for all linear layers but the output, or a
      `peft.LoraConfig`. They are drawn from torch's own generator.

    **Returns:** the denoiser and the tokenizer. The process needs `vocabulary_size(tokenizer)` tokens.

    **Raises:** `ValueError` if the attention of the model cannot be opened (recurrent models, BLOOM), if the tokenizer has more
    tokens than the model, or for a model that is none of transformers or has adapters already; `ImportError` for `lora`
    without peft.

    **Source:** Gong et al. (2025), arXiv 2410.17891, and Ye et al. (2025), arXiv 2508.15487 (causal models that become
    diffusion models, with shifted logits); Hu et al. (2021), arXiv 2106.09685 (low-rank updates).

    **Example:**

    ```python
    import noiselab as nl
    from noiselab.data import train_tokenizer, vocabulary_size
    from noiselab.training import adapt
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=280)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary_size(tokenizer), **sizes))
    denoiser, tokenizer = adapt(llama, tokenizer, shifted=True)
    process = nl.gidd(vocab_size=vocabulary_size(tokenizer), mask_id=tokenizer.mask_token_id, p_uniform=0.1)
    x = nl.AncestralSampler(process, denoiser).sample((2, 8), steps=4)
    ```
    """
    if is_adapted(model) or not isinstance(model, transformers.PreTrainedModel):
        raise ValueError(f"model must be one of transformers, without adapters; got {type(model).__name__}")
    table: Any = model.get_input_embeddings()
    known, rows = vocabulary_size(tokenizer), table.num_embeddings
    if known > rows:
        raise ValueError(
            f"the tokenizer must not have more tokens than the model; it has {known}, the model embeddings of {rows} "
            "(model.resize_token_embeddings adds some)"
        )
    base = None if lora is None else base_of(model)
    network, tokenizer = sharing_weights(model), with_mask(tokenizer, mask_token)
    size = vocabulary_size(tokenizer)
    new = tokenizer.mask_token_id if size > known else None
    if new is not None:
        with_token(network, new, known)
    options: dict[str, Any] = {"predicts": predicts, "shifted": shifted, "vocab_size": size}
    denoiser = MaskedLanguageModel(network, **options)
    check_open(denoiser)
    if lora is not None:
        denoiser = MaskedLanguageModel(add_adapter(network, lora), **options)
        denoiser.adapter = {**(base or {}), "token": new, "known": known}
    return Adapted(denoiser, tokenizer)


def with_mask(tokenizer: Any, mask_token: str | None = None) -> Any:
    """A copy of a tokenizer that has a mask token.

    **Arguments:**

    - `tokenizer`: the tokenizer; `mask_token`: the token, if it has none; see `adapt`.
    """
    made = complete(tokenizer)
    if made.mask_token_id is not None and mask_token in (None, made.mask_token):
        return made
    made.add_special_tokens({"mask_token": mask_token or MASK})
    if mask_token is None:
        warnings.warn(
            f"the tokenizer has no mask token, so that {made.mask_token!r} (id {made.mask_token_id}) was added; its embedding "
            "is the mean of the others (mask_token= names another)",
            UserWarning,
            stacklevel=3,
        )
    return made


def sharing_weights(model: transformers.PreTrainedModel) -> Any:
    """A copy of a model with the same weights in memory; modules and settings are its own, so that they can be changed."""
    own = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, {**own, **{id(buffer): buffer for buffer in model.buffers()}})
