"""Checkpoints in the formats of transformers: loading a `DiT` with checks, and any such model as a `Denoiser`."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from ..denoisers.base import ProjectedDenoiser
from ..parametrization import Prediction
from ..typing import PerSequence, PerToken, Selection, Tokens
from .dit import ROTARY_BASE, DiT, DiTConfig
from .outputs import logits_of


def load_dit(name: str | Path, dtype: torch.dtype | None = None, revision: str = "main") -> DiT:
    """Load a `DiT` checkpoint, and refuse one that is damaged or does not fit its config.

    Nothing is unpickled and no remote code is run. Only the rotary tables may be absent.

    **Arguments:**

    - `name`: a folder with config.json and safetensors weights, or a name on the Hugging Face hub.
    - `dtype`: of the weights; the checkpoint's own by default.
    - `revision`: branch, tag or commit of a hub name; unused for a folder.

    **Returns:** the model, in evaluation mode.

    **Raises:** `ValueError` when the config or the weights are missing or cannot be read, or when a weight is missing,
    unexpected, or of another shape than the config asks for.
    """
    try:
        settings, _ = DiTConfig.get_config_dict(name, revision=revision)
        if settings.get("model_type") != DiTConfig.model_type:
            raise ValueError(f"model_type in config.json must be 'dit'; got {settings.get('model_type')!r}")
        loaded: Any = DiT.from_pretrained(
            name,
            revision=revision,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that all of them are reported, below
            output_loading_info=True,
        )
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(
            f"a DiT checkpoint must have a config.json and intact safetensors weights; {str(name)!r}: {error}"
        ) from error
    model, info = loaded
    problems = [f"{key} is missing" for key in sorted(info["missing_keys"])]
    problems += [f"{key} is unexpected" for key in sorted(info["unexpected_keys"])]
    problems += [
        f"{key} must have shape {list(wanted)}, and has {list(found)}"
        for key, found, wanted in sorted(info["mismatched_keys"])
    ]
    problems += [f"{key} is not finite" for key, weight in model.named_parameters() if not finite(weight)]
    rotary = model.rotary_emb
    for found, wanted in zip((rotary.cos_cached, rotary.sin_cached), rotary.tables(), strict=True):
        if not torch.allclose(found.float(), wanted, rtol=0, atol=0.02):  # a table may have been stored in bfloat16
            problems.append(f"rotary_emb has another table than that of base {ROTARY_BASE:g}")
    if problems:
        raise ValueError(f"the weights of {str(name)!r} must be those that config.json asks for: {'; '.join(problems)}")
    return model


def finite(weight: Tensor) -> bool:
    """Whether all entries are finite; without a copy of them, which `isfinite` makes."""
    return weight.numel() == 0 or all(bool(end.isfinite()) for end in torch.aminmax(weight))


class TransformersDenoiser(ProjectedDenoiser):
    """A model that is called with (input_ids, timesteps), as a denoiser.

    A model with methods `hidden(input_ids, timesteps)` and `project(hidden)`, as `DiT` has, projects only the rows that
    are asked for onto the vocabulary. Any other model is called as a whole, and its logits, a tensor or the `logits`
    of what it returns, take the place of the hidden states.

    **Arguments:**

    - `model`: the model. A model that was trained on the bounds of this library, or of GIDD, MDLM or UDLM, predicts
      "leave_one_out".
    - `predicts`: what the logits mean, "leave_one_out", "posterior" or "score"; see `Denoiser`.
    - `attention_mask`: Bool or Int [batch, length], 1 for real tokens, for the sequences that will be denoised; or
      [1, length] for all of them. All tokens are real by default. Only for models that take one.
    - `padding`: a token that is padding wherever it stands, in place of `attention_mask`; so that sequences of unlike length
      may come in any batch.
    - `vocab_size`: that of the process, if the model has more logits (a vocabulary rounded up), which are cut.

    **Raises:** `ValueError` for another `predicts`, both kinds of padding, and on a call whose shape does not fit
    `attention_mask`.

    **Example:**

    ```python
    import torch
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.networks.huggingface import TransformersDenoiser

    model = DiT(DiTConfig(vocab_size=100, max_seq_len=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2))
    denoiser = TransformersDenoiser(model)
    logits = denoiser(torch.randint(100, (4, 16)), torch.rand(4, dtype=torch.float64))
    assert logits.shape == (4, 16, 100)
    ```
    """

    attention_mask: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        predicts: Prediction = "leave_one_out",
        attention_mask: Selection | Tokens | None = None,
        *,
        padding: int | None = None,
        vocab_size: int | None = None,
    ):
        super().__init__()
        one_kind(attention_mask, padding)
        self.model, self.predicts, self.padding, self.vocab_size = model, predicts, padding, vocab_size
        self.splits = hasattr(model, "hidden") and hasattr(model, "project")
        # Not persistent: it belongs to the sequences, not to the weights.
        self.register_buffer("attention_mask", attention_mask, persistent=False)

    def hidden(self, z: Tokens, t: PerSequence | PerToken) -> Float[Tensor, "batch length width"]:
        """Hidden states of the model, or its logits if it does not tell the two apart."""
        real = real_tokens(z, self.attention_mask, self.padding)
        options = {} if real is None else {"attention_mask": real}
        call: Any = self.model.hidden if self.splits else self.model
        return logits_of(call(z, t.float(), **options))

    def project(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows state"]:
        """Logits of hidden states."""
        project: Any = self.model.project if self.splits else nn.Identity()
        logits = project(hidden)
        return logits if self.vocab_size is None else logits[..., : self.vocab_size]


def one_kind(attention_mask: Tensor | None, padding: int | None) -> None:
    """Raise `ValueError` where padding is told in two ways."""
    if attention_mask is not None and padding is not None:
        raise ValueError("attention_mask and padding must not both be given; got both")


def real_tokens(z: Tensor, attention_mask: Tensor | None, padding: int | None) -> Tensor | None:
    """Where tokens are real; None if all are.

    **Raises:** `ValueError` if the attention mask is one for other tokens.
    """
    if attention_mask is None:
        return None if padding is None else z != padding
    if attention_mask.shape not in (z.shape, (1, z.shape[1])):
        raise ValueError(
            f"attention_mask must have the shape of the tokens {list(z.shape)} or [1, {z.shape[1]}]; "
            f"got {list(attention_mask.shape)}"
        )
    return attention_mask.expand(z.shape)
