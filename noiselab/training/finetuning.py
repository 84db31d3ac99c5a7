"""Finetuning with low-rank updates, by peft."""

import copy
import sys
import warnings
from typing import Any

import transformers
from torch import nn

from ..autoregressive.probes import import_peft, low_rank_config


def with_lora(
    network: transformers.PreTrainedModel, rank: int, embedding_rank: int | None = None, *, scale: float | int = 1.0
) -> Any:
    r"""A copy of a network with low-rank updates of queries, values and the embedding of the input; only they are trained.

    Each weight becomes $W + s\,A B$ with $\operatorname{rank} A B \le r$; $A B$ is zero at the start, one of the two drawn
    from torch's own generator. Where input and output share their embedding, the output's becomes one of its own, and stays.

    **Arguments:**

    - `network`: a causal model of transformers with projections `q_proj` and `v_proj`. It is left as it is.
    - `rank`: $r$ of queries and values, positive.
    - `embedding_rank`: of the embedding, twice `rank` by default; 0 for none.
    - `scale`: $s$.

    **Returns:** a `peft.PeftModel`, which `Trainer` trains. `Trainer.save_final` writes it as `merged` has it.

    **Raises:** `ValueError` for ranks or scales out of range, or a network without such projections; `ImportError` if peft is
    not installed.

    **Source:** Hu et al. (2021), arXiv 2106.09685; which weights: Ye et al. (2024), arXiv 2408.16293, section 5.

    **Example:**

    ```python
    import torch
    from noiselab.training import merged, small_llama, with_lora

    network = small_llama(10, layers=1, width=16, heads=2, length=8, start=0)
    adapted = with_lora(network, rank=2)
    ids = torch.randint(10, (2, 8))
    assert torch.equal(adapted(input_ids=ids).logits, network(input_ids=ids).logits)  # before training
    plain = merged(adapted)  # a Llama again
    ```
    """
    if rank < 1 or (embedding_rank is not None and embedding_rank < 0) or not scale > 0:
        raise ValueError(
            f"rank and scale must be positive, embedding_rank not be negative; got {rank}, {scale} and {embedding_rank}"
        )
    if not isinstance(network, transformers.PreTrainedModel):
        raise ValueError(f"network must be a model of transformers; got {type(network).__name__}")
    peft = import_peft()
    network = copy.deepcopy(network)
    embedding_rank = 2 * rank if embedding_rank is None else embedding_rank
    if embedding_rank:
        _untie(network)
    config = low_rank_config(network, rank, embedding_rank, float(scale))
    config.task_type = "CAUSAL_LM"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers for what is deprecated there
        return peft.get_peft_model(network, config)


def merged(network: Any) -> transformers.PreTrainedModel:
    """The plain model of transformers that a network with low-rank updates is: the same answers, without them.

    **Arguments:**

    - `network`: from `with_lora`. It is left as it is.

    **Raises:** `ValueError` for another.
    """
    if not is_adapted(network):
        raise ValueError(f"network must be one from with_lora; got {type(network).__name__}")
    return copy.deepcopy(network).merge_and_unload()


def is_adapted(network: nn.Module) -> bool:
    """Whether a network is from `with_lora`; without importing peft, which is optional."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(network, peft.PeftModel)


def _untie(network: transformers.PreTrainedModel) -> None:
    """An output layer of its own: peft does not merge into a weight that is used elsewhere too."""
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    if head is not None and head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.detach().clone())
        network.config.tie_word_embeddings = False
        network.tie_weights()
