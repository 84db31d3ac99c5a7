"""A tiny random model of each architecture of transformers that is tested as a denoiser, by the name of its class."""

import torch
import transformers

V = 24
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
# A window of 3 tokens, which would hide the ends of a sequence from each other.
WINDOW = {"sliding_window": 3}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
BOTH = {"layer_types": ["sliding_attention", "full_attention"]}
CONFIGS = {
    "GPT2LMHeadModel": ("GPT2Config", GPT),
    "GPTBigCodeForCausalLM": ("GPTBigCodeConfig", GPT),
    "GPTJForCausalLM": ("GPTJConfig", GPT | {"rotary_dim": 4}),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", SIZES),
    "OPTForCausalLM": ("OPTConfig", SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "FalconForCausalLM": ("FalconConfig", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "PhiForCausalLM": ("PhiConfig", SIZES),
    "Phi3ForCausalLM": ("Phi3Config", GROUPED),
    "LlamaForCausalLM": ("LlamaConfig", GROUPED),
    "MistralForCausalLM": ("MistralConfig", GROUPED | WINDOW),
    "Qwen2ForCausalLM": ("Qwen2Config", GROUPED | WINDOW | {"use_sliding_window": True, "max_window_layers": 1}),
    "Qwen3ForCausalLM": ("Qwen3Config", GROUPED | {"head_dim": 4}),
    "GemmaForCausalLM": ("GemmaConfig", GROUPED | {"head_dim": 4}),
    "Gemma2ForCausalLM": ("Gemma2Config", GROUPED | WINDOW | BOTH | {"head_dim": 4}),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", GROUPED | WINDOW | BOTH | {"head_dim": 4}),
    "SmolLM3ForCausalLM": ("SmolLM3Config", GROUPED),
    "Olmo2ForCausalLM": ("Olmo2Config", GROUPED),
    "Olmo3ForCausalLM": ("Olmo3Config", GROUPED | WINDOW | BOTH),
    "GraniteForCausalLM": ("GraniteConfig", GROUPED),
    "StableLmForCausalLM": ("StableLmConfig", GROUPED),
    "CohereForCausalLM": ("CohereConfig", GROUPED),
    "Cohere2ForCausalLM": ("Cohere2Config", GROUPED | WINDOW | BOTH),
    "Starcoder2ForCausalLM": ("Starcoder2Config", GROUPED | WINDOW),
    "BertForMaskedLM": ("BertConfig", SIZES),
    "RobertaForMaskedLM": ("RobertaConfig", SIZES),
    "XLMRobertaForMaskedLM": ("XLMRobertaConfig", SIZES),
    "DistilBertForMaskedLM": (
        "DistilBertConfig",
        {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 32},
    ),
    "ModernBertForMaskedLM": (
        "ModernBertConfig",
        SIZES | {"global_attn_every_n_layers": 2, "local_attention": 4, "cls_token_id": 2, "sep_token_id": 3},
    ),
    "AlbertForMaskedLM": ("AlbertConfig", SIZES | {"embedding_size": 8}),
    "ElectraForMaskedLM": ("ElectraConfig", SIZES),
    "MPNetForMaskedLM": ("MPNetConfig", SIZES),
}
# Special tokens that the config would place beyond a small vocabulary.
ENDS = {"bos_token_id": 2, "eos_token_id": 3}


def make(name, vocab_size=V, attention="sdpa", dtype=torch.float64, seed=0, **more):
    """A small model with weights large enough for every token to matter to every other."""
    config, sizes = CONFIGS[name]
    kind = getattr(transformers, name)
    settings = getattr(transformers, config)(vocab_size=vocab_size, **{**ENDS, **sizes, **more})
    if not kind._supports_sdpa:
        attention = "eager"
    model = kind._from_config(settings, attn_implementation=attention).to(dtype).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in key.lower():
                weight.copy_(0.3 * torch.randn(weight.shape, generator=random, dtype=torch.float64))
    return model
