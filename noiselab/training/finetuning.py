"""Fine-tuning with low-rank updates (LoRA), by peft."""

import copy
import warnings
from typing import Any

import transformers
from torch import nn

from ..autoregressive.probes import low_rank_config
from ..networks.adapters import merged_network
from ..networks.masked_lm import MaskedLanguageModel
from ..networks.wrapped import import_peft, is_adapted


def with_lora(
    network: transformers.PreTrainedModel, rank: int, embedding_rank: int | None = None, *, scale: float | int = 1.0
) -> Any:
    r"""Return a copy of a network with trainable low-rank updates of queries, values and the input embedding.

    Each weight becomes $W + s\,A B$ with $\operatorname{rank} A B \le r$; $A B$ is zero at the start, one of the two drawn
    from torch's own generator. Where input and output share their embedding, the output's becomes one of its own, and stays.

    **Arguments:**

    - `network`: a causal model of transformers with projections `q_proj` and `v_proj`. It is not modified.
    - `rank`: the rank $r$ for queries and values, positive.
    - `embedding_rank`: the rank for the embedding; by default twice `rank`; 0 for none.
    - `scale`: the factor $s$.

    **Returns:** a `peft.PeftModel`, which `Trainer` can train. `Trainer.save_final` writes it as the plain model of
    `merged`.

    **Raises:** `ValueError` for ranks or scales out of range, or a network without such projections; `ImportError` if peft is
    not installed.

    **Source:** Hu et al. (2021), arXiv 2106.09685; which weights: Ye et al. (2024), arXiv 2408.16293, section 5.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.training import merged, with_lora

    config = LlamaConfig(vocab_size=10, hidden_size=16, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2)
    network = LlamaForCausalLM(config)
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
    try:
        network.get_input_embeddings()
    except NotImplementedError as error:  # the base class knows some names only
        raise ValueError(
            "network must be a causal model of transformers with projections q_proj and v_proj; got a "
            f"{type(network).__name__}, whose embedding transformers does not find"
        ) from error
    network = copy.deepcopy(network)
    embedding_rank = 2 * rank if embedding_rank is None else embedding_rank
    if embedding_rank:
        _untie(network)
    config = low_rank_config(network, rank, embedding_rank, float(scale))
    config.task_type = "CAUSAL_LM"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses deprecated functions of transformers
        return peft.get_peft_model(network, config)


def merged(network: Any) -> Any:
    """Merge low-rank updates into the weights: a plain model with the same outputs.

    **Arguments:**

    - `network`: a network from `with_lora`, or a denoiser from `adapt`. It is not modified.

    **Returns:** a plain transformers model, or a denoiser around one.

    **Raises:** `ValueError` for any other network.
    """
    if isinstance(network, MaskedLanguageModel) and is_adapted(network.model):
        options: dict[str, Any] = {"predicts": network.predicts, "vocab_size": network.vocab_size, **network.settings}
        return MaskedLanguageModel(merged_network(network.model), **options)
    if not is_adapted(network):
        raise ValueError(f"network must be one from with_lora; got {type(network).__name__}")
    return merged_network(network)


def _untie(network: transformers.PreTrainedModel) -> None:
    """Untie the output layer from the embedding, because peft does not merge into shared weights."""
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    if head is not None and head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.detach().clone())
        network.config.tie_word_embeddings = False
        network.tie_weights()
