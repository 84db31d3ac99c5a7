"""Masked language models of transformers as denoisers without time input."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from ..denoisers.attended import real_pairs
from ..denoisers.base import ProjectedDenoiser
from ..denoisers.projection import LinearProjection, linear_projection
from ..parametrization import Prediction
from ..typing import MayAttend, Positions, Selection, Times, Tokens
from .attention_checks import check_attention
from .opening import (
    TESTED,
    check_open,
    counted_positions,
    four_axes,
    implementation,
    opened_arguments,
    placed_arguments,
)
from .outputs import accepts
from .wrapped import innermost, plain_network

MASKED: frozenset[str] = frozenset(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values())
"""Classes of transformers that predict masked tokens."""
CAUSAL: frozenset[str] = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) - MASKED
"""Classes of transformers that predict the next token."""

Head = Callable[[Any, Tensor], tuple[Tensor, nn.Module]]


# Named functions, so that a denoiser can be pickled.
def _lm_head(model: Any, hidden: Tensor) -> tuple[Tensor, nn.Module]:
    return hidden, model.lm_head


def _bert(model: Any, hidden: Tensor) -> tuple[Tensor, nn.Module]:
    return model.cls.predictions.transform(hidden), model.cls.predictions.decoder


def _roberta(model: Any, hidden: Tensor) -> tuple[Tensor, nn.Module]:
    head = model.lm_head
    return head.layer_norm(nn.functional.gelu(head.dense(hidden))), head.decoder


def _modernbert(model: Any, hidden: Tensor) -> tuple[Tensor, nn.Module]:
    return model.head(hidden), model.decoder


def _distilbert(model: Any, hidden: Tensor) -> tuple[Tensor, nn.Module]:
    return model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))), model.vocab_projector


# Models whose logits are exactly a layer of a row-wise function of the last hidden states of `base_model`, without cap
# or scale: here both. The tests compare each with the whole model.
HEADS: dict[str, Head] = {
    "BertForMaskedLM": _bert,
    "DistilBertForMaskedLM": _distilbert,
    "ModernBertForMaskedLM": _modernbert,
    "RobertaForMaskedLM": _roberta,
    "XLMRobertaForMaskedLM": _roberta,
    "GPT2LMHeadModel": _lm_head,
    "LlamaForCausalLM": _lm_head,
    "MistralForCausalLM": _lm_head,
    "Qwen2ForCausalLM": _lm_head,
    "Qwen3ForCausalLM": _lm_head,
}


class MaskedLanguageModel(ProjectedDenoiser):
    r"""A denoiser from a masked language model that is called with (input_ids, attention_mask) and without time.

    Time is not needed: given the unmasked tokens, the distribution of a masked token does not depend on the time. The
    mask token is defined by the process, not by this class.

    Encoders (BERT, RoBERTa, ModernBERT) are called unchanged. Decoders receive an attention mask by which every token
    attends to all real tokens on both sides; the model itself is not changed, and a sliding window no longer applies.
    `noiselab.networks.opening.TESTED` lists the architectures in which this is tested; in others it is checked on the model.
    LLaDA is such a Llama; Dream is such a Qwen2 with logits shifted by one position (`load_masked_lm`). If the head is
    known (`HEADS`), only the requested rows are projected onto the vocabulary; any other model is called as a whole.

    How to choose `predicts`:

    - At masked tokens, "posterior" and "leave_one_out" are the same distribution. For absorbing noise either is
      correct; "leave_one_out" saves samplers a pass over the logits.
    - At visible tokens, LLaDA, Dream and other models trained only at masks have not learned anything.
    - At visible tokens, BERT and RoBERTa were trained on the few that were kept or replaced by a random token with
      equal probability, and predict the posterior under these odds. It is the posterior of a process with uniform noise
      at alpha = 1/2, and at no other time. Subtracting log(1 + V) from their logit at z gives leave-one-out
      predictions.

    **Arguments:**

    - `model`: a model that returns logits [batch, length, tokens], as a tensor or as the attribute `logits`; also one with
      adapters of peft.
    - `predicts`: "posterior" or "leave_one_out", see above.
    - `shifted`: whether the logits of a token are at the previous position. The first token, and the first after
      padding, uses the logits at its own position.
    - `bidirectional`: whether to make the attention of a decoder bidirectional. By default true if transformers lists
      the model as causal. Requires the attention implementation "sdpa" or "eager".
    - `vocab_size`: the vocabulary size of the process, if the model has more logits (dropped) or fewer (padded with
      -inf).
    - `attention_mask`: Bool or Int [batch, length], 1 for real tokens, for the sequences that will be denoised; or [1,
      length] for all of them. By default all tokens are real. Models with absolute positions (BERT, GPT-2) require
      padding on the right. For batches of sequences of different lengths, use `noiselab.denoisers.attending_to`.

    **Raises:** `ValueError` for an unknown `predicts`, if the model cannot embed `vocab_size` tokens, or if its attention
    cannot be made bidirectional; on a call, if the shape does not match `attention_mask`.

    **Source:** Devlin et al. (2019), arXiv 1810.04805 (BERT); Nie et al. (2025), arXiv 2502.09992 (LLaDA); Ye et al.
    (2025), arXiv 2508.15487 (Dream). Masked denoisers need no time: Ou et al. (2024), arXiv 2406.03736.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import noiselab as nl
    from noiselab.networks.masked_lm import MaskedLanguageModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    denoiser = MaskedLanguageModel(LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes)))
    sampler = nl.AncestralSampler(nl.masked(vocab_size=50, mask_id=49), denoiser)
    x = sampler.sample((2, 8), steps=4, generator=torch.Generator().manual_seed(0))
    assert (x < 49).all()
    ```
    """

    attention_mask: Tensor | None
    adapter: dict[str, Any] | None = None
    """The identity of the base of adapters, for noiselab.json; set by `noiselab.training.adapt`."""
    attends = False
    """Whether the model is known to honour `may_attend` and `positions`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        predicts: Prediction = "posterior",
        shifted: bool = False,
        bidirectional: bool | None = None,
        vocab_size: int | None = None,
        attention_mask: Selection | Tokens | None = None,
    ):
        super().__init__()
        if predicts not in ("posterior", "leave_one_out"):
            raise ValueError(f"predicts must be 'posterior' or 'leave_one_out'; got {predicts!r}")
        if bidirectional is None:
            bidirectional = is_causal(model)
        self.model, self.predicts, self.shifted, self.bidirectional = model, predicts, shifted, bidirectional
        self.vocab_size = vocab_size
        # Exactly these classes, because a subclass may transform the logits further.
        plain = plain_network(model)
        known = type(plain).__module__.startswith("transformers.models.")
        self.head = HEADS.get(type(plain).__name__) if known else None
        call: Any = plain.base_model if self.head else plain
        self.takes_cache = "use_cache" in inspect.signature(call.forward).parameters
        self.takes_mask = accepts(plain.forward, "attention_mask")
        self._check_sizes()
        if bidirectional:
            implementation(plain)
            if isinstance(plain, PreTrainedModel) and type(plain).__name__ not in TESTED:
                self.register_buffer("attention_mask", None, persistent=False)
                check_open(self)
        # Not persistent, because it belongs to the sequences and not to the weights.
        self.register_buffer("attention_mask", attention_mask, persistent=False)

    @property
    def settings(self) -> dict[str, bool]:
        """How the model is called, for noiselab.json."""
        return {"shifted": self.shifted, "bidirectional": self.bidirectional}

    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The hidden states of each token at its own position, or the logits if the model is called as a whole."""
        real, model = self.real_tokens(z), plain_network(self.model)
        states = self.states(z, **self._arguments(model, z, real))
        if not self.shifted:
            return states
        return states.take_along_dim(place_before(z, real, self.may_attend(z), self.positions(z))[..., None], 1)

    def states(self, z: Tokens, **options: Any) -> Float[Tensor, "batch length width"]:
        """The hidden states where the model has them, not shifted; `options` are arguments of the model."""
        model = plain_network(self.model)
        call: Any = model.base_model if self.head else model
        if self.takes_cache:
            options = {"use_cache": False} | options
        found = call(input_ids=z, **options)
        if isinstance(found, Tensor):
            return found
        return found.last_hidden_state if self.head else found.logits

    def project(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows state"]:
        """Logits of hidden states."""
        logits = hidden
        if self.head is not None:
            states, layer = self.head(plain_network(self.model), hidden)
            logits = layer(states)
        if self.vocab_size is None:
            return logits
        more = self.vocab_size - logits.shape[-1]
        return nn.functional.pad(logits, (0, more), value=-torch.inf) if more > 0 else logits[..., : self.vocab_size]

    def linear_projection(self, hidden: Float[Tensor, "*rows width"]) -> LinearProjection | None:
        """The product of a known head, if it has a logit for each token."""
        if self.head is None:
            return None
        states, layer = self.head(plain_network(self.model), hidden)
        found = linear_projection(layer, states)
        return None if found is None or len(found.weight) < (self.vocab_size or 0) else found

    def _arguments(self, model: Any, z: Tensor, real: Tensor | None) -> dict[str, Any]:
        """What the model is called with beside the tokens."""
        if self.bidirectional:
            found = opened_arguments(model, z, real)
        else:
            found = {"attention_mask": None if real is None else real.long(), **counted_positions(model, z, real)}
        pairs, positions = self.may_attend(z), self.positions(z)
        if pairs is not None:
            found["attention_mask"] = four_axes(model, real_pairs(pairs, real))
        return {**found, **placed_arguments(model, z, positions)}

    def require_attention(self) -> None:
        """Check on the model that it honours any mask and any positions (`check_attention`).

        **Raises:** `ValueError` if it does not, or is used as a causal model.
        """
        if self.attends:
            return
        name = type(plain_network(self.model)).__name__
        if is_causal(self.model) and not self.bidirectional:
            raise ValueError(f"may_attend needs a model whose attention is open; got {name} with bidirectional=False")
        implementation(plain_network(self.model))
        check_attention(self)
        self.attends = True

    def _check_sizes(self) -> None:
        if self.vocab_size is None:
            return
        plain = plain_network(self.model)
        embedding = plain.get_input_embeddings() if isinstance(plain, PreTrainedModel) else None
        size = getattr(embedding, "num_embeddings", max(1, self.vocab_size))
        if not 1 <= self.vocab_size <= size:
            raise ValueError(
                f"vocab_size must lie in [1, {size}], the tokens that the model can embed; got {self.vocab_size} "
                "(model.resize_token_embeddings adds a mask token)"
            )

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.model.parameters())
        more = [name for name in ("shifted", "bidirectional") if getattr(self, name)]
        name = type(plain_network(self.model)).__name__
        return f"{type(self).__name__}({', '.join([name, f'{count:,} parameters', *more])})"


def is_causal(model: nn.Module) -> bool:
    """Whether transformers lists the model, inside wrappers of torch and peft, as causal."""
    return any(kind.__name__ in CAUSAL for kind in type(innermost(model)).__mro__)


def place_before(
    z: Tokens, real: Selection | None, may_attend: MayAttend | None, positions: Positions | None
) -> Positions:
    """The index of the token before each one, [batch or 1, length]: its own where no real one is before it.

    Where positions repeat, it is the one that the token may attend to.
    """
    place = torch.arange(z.shape[1], device=z.device)
    if may_attend is None and positions is None:
        before = (place - 1).clamp(min=0)
        return before[None] if real is None else torch.where(real[:, before], before, place)
    at = place[None] if positions is None else positions.to(z.device)
    found = at[:, None, :] == at[:, :, None] - 1
    found = found if may_attend is None else found & may_attend
    found = found if real is None else found & real[:, None]
    return torch.where(found.any(-1), found.to(torch.uint8).argmax(-1), place)
