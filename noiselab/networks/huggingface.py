"""Checkpoints in transformers formats: loading a `DiT` with checks, and using any such model as a `Denoiser`."""

import inspect
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..denoisers.base import ProjectedDenoiser
from ..denoisers.projection import LinearProjection
from ..distributed.sharded import is_shard
from ..parametrization import Prediction
from ..typing import PerSequence, PerToken, Selection, Tokens
from .attention_checks import check_attention
from .dit import DiT, DiTConfig
from .dit_layers import ROTARY_BASE
from .model_folders import load_weights_of, model_folder, read_config
from .outputs import accepts, logits_of
from .wrapped import innermost


def load_dit(name: str | Path, dtype: torch.dtype | None = None, revision: str = "main") -> DiT:
    """Load a `DiT` checkpoint and check that it is intact and matches its config.

    No pickle is loaded and no remote code is run. Only the rotary tables may be absent.

    **Arguments:**

    - `name`: a folder with config.json and safetensors weights, or a name on the Hugging Face Hub.
    - `dtype`: the dtype of the weights; by default that of the checkpoint.
    - `revision`: branch, tag or commit on the Hub; unused for a folder.

    **Returns:** the model, in evaluation mode.

    **Raises:** `ValueError` when the config or the weights are missing or cannot be read, or when a weight is missing,
    unexpected, or has another shape than the config requires.
    """
    try:
        folder = model_folder(name, revision)
        kind = read_config(folder).get("model_type")
        if kind != DiTConfig.model_type:
            raise ValueError(f"model_type in config.json must be 'dit'; got {kind!r}")
        model: Any = load_weights_of(DiT, folder, dtype)
    except ValueError as error:
        raise ValueError(
            f"a DiT checkpoint must have a config.json and intact safetensors weights; {str(name)!r}: {error}"
        ) from error
    problems: list[str] = []
    rotary = model.rotary_emb
    for found, wanted in zip((rotary.cos_cached, rotary.sin_cached), rotary.tables(), strict=True):
        if not torch.allclose(found.float(), wanted, rtol=0, atol=0.02):  # a table may have been stored in bfloat16
            problems.append(f"rotary_emb must be the table of base {ROTARY_BASE:g}")
    if problems:
        raise ValueError(f"the weights of {str(name)!r} must match config.json: {'; '.join(problems)}")
    return model


class TransformersDenoiser(ProjectedDenoiser):
    """A denoiser from a model that is called with (input_ids, timesteps).

    If the model has methods `hidden(input_ids, timesteps)` and `project(hidden)`, like `DiT`, only the requested rows
    are projected onto the vocabulary. Any other model is called as a whole; its output, a tensor or an object with
    `logits`, is used in place of hidden states.

    **Arguments:**

    - `model`: the model. Models trained on the bounds of this library, GIDD, MDLM or UDLM predict "leave_one_out".
    - `predicts`: the prediction type of the logits, "leave_one_out", "posterior" or "score"; see `Denoiser`.
    - `attention_mask`: Bool or Int [batch, length], 1 for real tokens, for the sequences that will be denoised; or [1,
      length] for all of them. By default all tokens are real. Only for models that accept a mask. For batches of
      sequences of different lengths, use `noiselab.denoisers.attending_to`.
    - `vocab_size`: the vocabulary size of the process, if the model has more logits (a rounded-up vocabulary), which
      are dropped.

    **Raises:** `ValueError` for an unknown `predicts`, or an attention mask for a model that accepts none; on a call, if the
    shape does not match `attention_mask`.

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
    attends = False
    """Whether the model is known to honour `may_attend` and `positions`."""

    def __init__(
        self,
        model: nn.Module,
        predicts: Prediction = "leave_one_out",
        attention_mask: Selection | Tokens | None = None,
        *,
        vocab_size: int | None = None,
    ):
        super().__init__()
        self.model, self.predicts, self.vocab_size = model, predicts, vocab_size
        call: Any = model.hidden if self.splits else model.forward
        self.takes_mask = accepts(call, "attention_mask")
        if attention_mask is not None and not self.takes_mask:
            raise ValueError(f"attention_mask needs a model that accepts one; {type(model).__name__} does not")
        # Not persistent, because it belongs to the sequences and not to the weights.
        self.register_buffer("attention_mask", attention_mask, persistent=False)

    @property
    def splits(self) -> bool:
        """Whether hidden states and projection are computed apart; sharded weights are only there within a whole call."""
        return hasattr(self.model, "hidden") and hasattr(self.model, "project") and not is_shard(self.model)

    def hidden(self, z: Tokens, t: PerSequence | PerToken) -> Float[Tensor, "batch length width"]:
        """The hidden states of the model, or its logits if it has no separate projection."""
        given = {
            "attention_mask": self.real_tokens(z),
            "may_attend": self.may_attend(z),
            "positions": self.positions(z),
        }
        options = {name: value for name, value in given.items() if value is not None}
        call: Any = self.model.hidden if self.splits else self.model
        return logits_of(call(z, t.float(), **options))

    def require_attention(self) -> None:
        """Check that the model takes `may_attend` and `positions` and honours both (`check_attention`).

        **Raises:** `ValueError` if not.
        """
        inner: Any = innermost(self.model)
        if self.attends or isinstance(inner, DiT):
            return
        call: Any = inner.hidden if self.splits else inner.forward
        missing = {"may_attend", "positions"} - set(inspect.signature(call).parameters)
        if missing:
            raise ValueError(
                f"the network must take may_attend and positions, as DiT does; {type(inner).__name__} takes no "
                f"{' and no '.join(sorted(missing))}"
            )
        check_attention(self)
        self.attends = True

    def project(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows state"]:
        """Logits of hidden states."""
        project: Any = self.model.project if self.splits else nn.Identity()
        logits = project(hidden)
        return logits if self.vocab_size is None else logits[..., : self.vocab_size]

    def linear_projection(self, hidden: Float[Tensor, "*rows width"]) -> LinearProjection | None:
        """That of the model, if it has one."""
        found: Any = getattr(self.model, "linear_projection", None)
        return found(hidden) if self.splits and found is not None else None
