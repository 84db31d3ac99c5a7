"""Probes of a frozen model: a linear head on its last hidden state, with optional low-rank updates."""

import copy
import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..networks.wrapped import import_peft
from ..typing import Tokens

ATTENTION = ("q_proj", "v_proj")
"""The projections with a low-rank update of attention."""


class Probe(nn.Module):
    r"""A binary classifier on a frozen causal model: a linear head on its last hidden state, after a low-rank update.

    With $h$ the hidden states of the last layer and $E$ the embedding of the input,

    $$\text{logit}_i = w \cdot h_i(E + A B) + b, \quad \operatorname{rank} A B \le r .$$

    Only $w, b, A, B$ are trained, and with `attention_rank` also updates of the queries and values of each layer. All
    updates are initialized to zero. The model is copied; the given one is never modified.

    **Arguments:**

    - `network`: a causal model of transformers.
    - `embedding_rank`: the rank $r$ of the update of the embedding; 0 for none.
    - `attention_rank`: the rank of the updates of the projections `q_proj` and `v_proj`; 0 for none.

    **Raises:** `ValueError` for negative ranks, or a network without these parts; `ImportError` if a rank is positive
    and peft is not installed.

    **Source:** Ye et al. (2024), arXiv 2408.16293, sections 3.1 and D.2: ranks 8 and 0, or 32 and 2.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import Probe

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes))
    probe = Probe(network, embedding_rank=4)
    print(probe(torch.randint(10, (2, 5))).sigmoid(), f"{probe.trained_size} numbers are trained")
    ```
    """

    def __init__(self, network: nn.Module, embedding_rank: int = 8, attention_rank: int = 0) -> None:
        super().__init__()
        if min(embedding_rank, attention_rank) < 0:
            raise ValueError(f"ranks must be non-negative; got {embedding_rank} and {attention_rank}")
        given: Any = getattr(network, "base_model", None)
        if given is None or not hasattr(given, "get_input_embeddings"):
            raise ValueError(f"network must be a causal model of transformers; got {type(network).__name__}")
        self.embedding_rank, self.attention_rank = embedding_rank, attention_rank
        self.backbone: Any = copy.deepcopy(given).requires_grad_(False).eval()
        self.config = self.backbone.config
        embedding = self.backbone.get_input_embeddings()
        self.head = nn.Linear(embedding.weight.shape[1], 1, device=embedding.weight.device)
        add_low_rank(self.backbone, attention_rank, embedding_rank)

    @property
    def trained_size(self) -> int:
        """The number of trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def train(self, mode: bool = True) -> "Probe":
        """Set the training mode of the probe; the frozen model always stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(
        self, input_ids: Tokens, attention_mask: Tokens | None = None, places: Int[Tensor, "batch ..."] | None = None
    ) -> Float[Tensor, "batch ..."]:
        """Logits of the positive class.

        **Arguments:**

        - `input_ids`: the tokens.
        - `attention_mask`: 1 for real tokens; by default all are real.
        - `places`: the positions at which the probe is evaluated, one or more for each row, given the tokens up to
          there. By default the last real token of each row.
        """
        mask = {} if attention_mask is None else {"attention_mask": attention_mask}
        hidden = self.backbone(input_ids=input_ids, use_cache=False, **mask).last_hidden_state
        if places is None:
            length = input_ids.shape[1]
            here = torch.arange(length, device=input_ids.device)
            real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            places = torch.where(real.bool(), here, 0).amax(-1)
        rows = torch.arange(len(hidden), device=hidden.device).view(-1, *[1] * (places.ndim - 1))
        return self.head(hidden[rows, places].to(self.head.weight.dtype))[..., 0]


def add_low_rank(network: Any, attention_rank: int, embedding_rank: int, scale: float = 1.0) -> None:
    """Add low-rank updates to a network in place, by peft; only they are trainable afterwards.

    **Arguments:**

    - `network`: a transformers model.
    - `attention_rank`: the rank of the updates of queries and values; `embedding_rank`: of the embedding; 0 for none.
    - `scale`: the factor of the updates, alpha / rank.

    **Raises:** `ValueError` for a network without these projections; `ImportError` without peft.
    """
    config = low_rank_config(network, attention_rank, embedding_rank, scale)
    if config is not None:
        peft = import_peft()
        with warnings.catch_warnings():
            # peft uses deprecated functions of transformers.
            warnings.simplefilter("ignore")
            peft.inject_adapter_in_model(config, network)


def low_rank_config(network: Any, attention_rank: int, embedding_rank: int, scale: float = 1.0) -> Any:
    """The peft configuration, by the full names of modules; `None` for no updates. See `add_low_rank`."""
    ranks: dict[str, int] = {}
    embedding = network.get_input_embeddings()
    for name, module in network.named_modules():
        if module is embedding and embedding_rank:
            ranks[name] = embedding_rank
        if name.endswith(ATTENTION) and attention_rank:
            ranks[name] = attention_rank
    if attention_rank and not any(name.endswith(ATTENTION) for name in ranks):
        raise ValueError(
            f"the network must have projections {' and '.join(ATTENTION)} for an update of attention; got a "
            f"{type(network).__name__} without"
        )
    if not ranks:
        return None
    return import_peft().LoraConfig(
        target_modules=list(ranks),
        rank_pattern={f"^{name}$": rank for name, rank in ranks.items()},
        alpha_pattern={f"^{name}$": scale * rank for name, rank in ranks.items()},
    )
