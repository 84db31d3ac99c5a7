"""How long a sequence may be: one answer for judges, pipelines, training and commands."""

from typing import Any

from torch import nn

from ..numerics import require_count

FIELDS = ("max_seq_len", "max_position_embeddings", "n_positions", "max_sequence_length", "model_length")
NO_LIMIT = 10**9  # transformers' value for a tokenizer that knows none is 10^30; XLNet's config has -1
USUAL = 1024
"""The number of tokens of a generated text if none is given and the context is longer, or has no limit."""


def context_length(network: nn.Module, tokenizer: Any = None) -> int | None:
    """The longest sequence that a network accepts, in tokens.

    It is the limit of the config; if there is none, as for BLOOM and Mamba, that of the tokenizer. Networks whose
    positions start after that of the padding token, such as RoBERTa, accept fewer tokens than their config says.

    **Arguments:**

    - `network`: a network with a `config`, such as a transformers model or a `DiT`. Without one there is no limit.
    - `tokenizer`: its tokenizer, if any.

    **Returns:** a number of tokens, or `None` if there is no limit.

    **Example:**

    ```python
    from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel
    from noiselab.networks.lengths import context_length

    sizes = {"vocab_size": 100, "hidden_size": 16, "n_layer": 1, "n_head": 2}
    assert context_length(GPT2LMHeadModel(GPT2Config(n_positions=32, **sizes))) == 32
    assert context_length(BloomForCausalLM(BloomConfig(**sizes))) is None
    ```
    """
    config: Any = getattr(network, "config", None)
    for part in (config, config.get_text_config() if hasattr(config, "get_text_config") else None):
        for name in FIELDS:
            limit = getattr(part, name, None)
            if isinstance(limit, int) and 0 < limit < NO_LIMIT:
                return limit - _first_position(network, limit)
    most: float = getattr(tokenizer, "model_max_length", NO_LIMIT)
    return int(most) if 0 < most < NO_LIMIT else None


def check_fits(count: int, limit: int | None, what: str, advice: str = "texts are not truncated") -> None:
    """Raise `ValueError` if `what` has more tokens than the context.

    **Arguments:**

    - `count`: its number of tokens.
    - `limit`: a `context_length`.
    - `what`, `advice`: for the message.
    """
    if limit is not None and count > limit:
        raise ValueError(f"{what} must fit the context of {limit} tokens; got {count} ({advice})")


def generated_length(length: int | None, limit: int | None, default: int | None = None) -> int:
    """The number of tokens of a generated text: the given one, that of the model, or the whole context up to `USUAL` tokens.

    **Arguments:**

    - `length`: a number, or `None` for the default.
    - `limit`: a `context_length`.
    - `default`: the default of the model, such as `pipe.generation.length`; `None` for the whole context.

    **Raises:** `ValueError` unless the number lies in [1, limit].
    """
    length = default if length is None else length
    if length is None:
        return USUAL if limit is None else min(limit, USUAL)
    return require_count("length", length, 1, limit)


def _first_position(network: nn.Module, limit: int) -> int:
    """The number of positions that are not used, because they belong to the padding token and those before it."""
    for name, table in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            return 0 if table.padding_idx is None or table.num_embeddings != limit else table.padding_idx + 1
    return 0
