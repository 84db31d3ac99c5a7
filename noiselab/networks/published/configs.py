"""Reading config.json of published formats: what is used, what must have one value, and what has no effect."""

import warnings
from collections.abc import Collection, Mapping
from typing import Any

# Fields without effect on the logits, in any format.
INERT = frozenset(
    (
        *("architectures", "auto_map", "model_type", "transformers_version", "torch_dtype", "dtype", "_name_or_path"),
        *("return_dict", "output_attentions", "output_hidden_states", "output_router_logits", "use_cache"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "sep_token_id", "cls_token_id"),
        *("initializer_range", "tokenizer_class", "attn_implementation", "_attn_implementation", "problem_type"),
        *("id2label", "label2id", "chunk_size_feed_forward", "is_encoder_decoder"),
    )
)
# Fields that change the logits of other models; any other value needs code that a format must have.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "rope_scaling": (None,),
    "use_sliding_window": (False,),
    "sliding_window": (None,),
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
    "logit_scale": (None, 1.0),
    "embedding_multiplier": (None, 1.0),
    "residual_multiplier": (None, 1.0),
    "pretraining_tp": (None, 1),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}


def own_fields(
    settings: Mapping[str, Any],
    *,
    counts: Collection[str],
    required: Collection[str] = (),
    optional: Collection[str] = (),
    fixed: Mapping[str, tuple[Any, ...]] | None = None,
    inert: Collection[str] = (),
) -> dict[str, Any]:
    """The fields of a config.json that a format uses; the others are checked.

    **Arguments:**

    - `settings`: the content of config.json.
    - `counts`: the fields that must be positive integers.
    - `required`, `optional`: the other fields that the format uses.
    - `fixed`: the accepted values of fields of which only some values are implemented.
    - `inert`: further fields without effect on the logits.

    **Raises:** `ValueError` naming each field that is missing, or has a value that is not implemented. Other unknown fields
    are named in one `UserWarning`.
    """
    used = {*counts, *required, *optional}
    inert = {*inert, *(["sliding_window", "max_window_layers"] if settings.get("use_sliding_window") is False else [])}
    accepted = {name: values for name, values in {**NEUTRAL, **(fixed or {})}.items() if name not in used}
    wrong = [f"{name} must be given" for name in (*counts, *required) if settings.get(name) is None]
    wrong += [
        f"{name} must be a positive integer, not {settings[name]!r}"
        for name in counts
        if settings.get(name) is not None and (type(settings[name]) is not int or settings[name] < 1)
    ]
    for name, values in accepted.items():
        if name in inert or name not in settings or any(same(settings[name], value) for value in values):
            continue
        shown = " or ".join(repr(value) for value in values)
        wrong.append(f"{name} = {settings[name]!r} is not implemented (only {shown})")
    if wrong:
        raise ValueError(f"config.json of {settings.get('model_type')!r}: {'; '.join(wrong)}")
    unknown = sorted(set(settings) - used - set(accepted) - INERT - set(inert))
    if unknown:
        warnings.warn(
            f"config.json of {settings.get('model_type')!r} has fields that noiselab does not know and ignores: "
            f"{', '.join(unknown)}",
            stacklevel=2,
        )
    return {name: settings[name] for name in settings if name in used}


def same(found: Any, accepted: Any) -> bool:
    """Whether two values of JSON are equal; true and 1 are not."""
    return isinstance(found, bool) == isinstance(accepted, bool) and found == accepted


def rope_theta(settings: Mapping[str, Any]) -> float:
    """The base of rotary positions: `rope_theta`, or since transformers 5 inside `rope_parameters`.

    **Raises:** `ValueError` if it is missing, given twice with different values, or the positions are scaled.
    """
    nested = settings.get("rope_parameters") or {}
    if not isinstance(nested, Mapping) or nested.get("rope_type", "default") != "default":
        raise ValueError(f"rope_parameters must be of rope_type 'default'; got {nested!r}")
    more = sorted(set(nested) - {"rope_type", "rope_theta", "partial_rotary_factor"})
    if more:
        raise ValueError(f"rope_parameters must contain rope_type and rope_theta only; got {more}")
    found = {float(part["rope_theta"]) for part in (settings, nested) if part.get("rope_theta") is not None}
    if len(found) != 1:
        raise ValueError(
            f"rope_theta must be given once, in config.json or in its rope_parameters; got {sorted(found)}"
        )
    return found.pop()
