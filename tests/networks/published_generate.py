"""The generation of DiffusionGemma, written from its description, with torch's global draws in the published order."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parents[1] / "fixtures" / "formats" / "tiny-diffusion-gemma"
CALLS = json.loads((FOLDER / "generate_settings.json").read_text())["calls"]
DEFAULTS = {
    "max_new_tokens": 16, "max_denoising_steps": 6, "entropy_bound": 1.0, "t_min": 0.4, "t_max": 0.8,
    "stability_threshold": 1, "confidence_threshold": 0.005, "eos_token_id": [1],
}  # fmt: skip
PAD = 0


def stored():
    return load_file(FOLDER / "reference_logits.safetensors")


def settings(name):
    return {**DEFAULTS, **CALLS[name]}


def given(facts, name):
    """The inputs of a call."""
    keys = ("input_ids", "attention_mask", "decoder_input_ids")
    return {key: facts[f"generate.{name}.{key}"] for key in keys if f"generate.{name}.{key}" in facts}


def entropies(logits):
    law = logits.softmax(-1)
    return -(law * logits.log_softmax(-1)).sum(-1)


def draw(law):
    """One token of each row, from the numbers that torch draws for it."""
    return torch.multinomial(law.flatten(0, 1), 1).view(law.shape[:2])


def accepted(entropy, bound):
    order = entropy.argsort(-1)
    before = entropy.gather(-1, order).cumsum(-1) - entropy.gather(-1, order)
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before <= bound)


def denoise(decoder, z, call, vocab_size, log):
    """One block: the most probable tokens of the last step."""
    rows, steps = len(z), call["max_denoising_steps"]
    past, best = None, z
    finished = torch.zeros(rows, dtype=torch.bool)
    history = [torch.full_like(z, -1) for _ in range(call["stability_threshold"])]
    for k in range(steps, 0, -1):
        log["canvas_before_step"].append(z)
        logits = decoder(z, past) / (call["t_min"] + (call["t_max"] - call["t_min"]) * k / steps)
        drawn, entropy = draw(logits.softmax(-1)), entropies(logits)
        noise = torch.randint(0, vocab_size, z.shape)
        new = torch.where(accepted(entropy, call["entropy_bound"]), drawn, noise)
        still = finished[:, None]
        best, z = torch.where(still, best, logits.argmax(-1)), torch.where(still, z, new)
        past = logits if past is None else torch.where(still[..., None], past, logits)
        stable = torch.stack([(best == old).all(-1) for old in history]).all(0) if history else ~finished | finished
        history = [*history[1:], best] if history else []
        finished = finished | (stable & (entropies(past).mean(-1) < call["confidence_threshold"]))
        log["argmax_after_step"].append(best)
        log["finished_after_step"].append(finished)
        if finished.all():
            break
    return best


def generate(network, name, facts):
    """All blocks of a call; returns the sequences and what happened at each step."""
    call, inputs = settings(name), given(facts, name)
    ids, real = inputs["input_ids"], inputs.get("attention_mask")
    size, ends = network.canvas_length, torch.as_tensor(call["eos_token_id"])
    log = {"canvas_before_step": [], "argmax_after_step": [], "finished_after_step": []}
    torch.manual_seed(call["seed"])
    prefix, over = network.encode(ids, real), torch.zeros(len(ids), dtype=torch.bool)
    for block in range(math.ceil(call["max_new_tokens"] / size)):
        z = torch.randint(0, network.vocab_size, (len(ids), size))
        if block == 0 and "decoder_input_ids" in inputs:
            z = inputs["decoder_input_ids"]

        def decoder(z, past, prefix=prefix):
            return network(z, prefix=prefix, self_conditioning=past)

        new = denoise(decoder, z, call, network.vocab_size, log)
        new = torch.where(over[:, None], PAD, new)
        end = torch.isin(new, ends) & ~over[:, None]
        new = torch.where(end.long().cumsum(-1) - end.long() > 0, PAD, new)
        over = over | end.any(-1)
        ids, prefix = torch.cat([ids, new], 1), network.encode(new, after=prefix)
        if over.all():
            break
    return ids, {key: torch.stack(values) for key, values in log.items()}
