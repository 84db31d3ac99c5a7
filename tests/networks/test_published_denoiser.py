"""Published networks as denoisers: the clock that reaches the network, samples and bounds, and GIDD's own sampler."""

import json
import math

import pytest
import torch
from published_folders import FORMATS, reference

import noiselab as nl
from noiselab.denoisers import attending_to
from noiselab.networks import load_network
from noiselab.networks.published import PublishedDenoiser
from noiselab.processes import process_from

MASKS = {"tiny-gidd-easydel": 3, "tiny-gidd-easydel-unif": 3, "tiny-llada2-moe": 71, "tiny-a2d-qwen3": 69}
NAMES = (*MASKS, "tiny-mdlm", "tiny-udlm", "tiny-udlm-cfg", "tiny-duo")
TIMED = ("tiny-udlm", "tiny-udlm-cfg", "tiny-duo")


def made(name, process=None, **options):
    network = load_network(FORMATS / name)
    process = process or process_from(network.noise(MASKS.get(name)))
    return network, process, PublishedDenoiser(network, process, **options)


def seen_by(network, monkeypatch):
    """The time inputs of all evaluations to come."""
    times, states = [], network.states

    def recorded(ids, **options):
        times.append(options.get("timesteps"))
        return states(ids, **options)

    monkeypatch.setattr(network, "states", recorded)
    return times


@pytest.mark.parametrize("name", TIMED)
def test_a_sampler_shows_the_network_sigma(name, monkeypatch):
    network, process, denoiser = made(name)
    times = seen_by(network, monkeypatch)
    nl.AncestralSampler(process, denoiser).sample((2, 5), steps=4, generator=torch.Generator().manual_seed(0))
    grid = torch.tensor([1.0, 0.75, 0.5, 0.25])
    wanted = -torch.log(1 - 0.999 * grid)  # 6.908, 1.383, ...: never above -log(1e-3)
    torch.testing.assert_close(torch.stack(times)[:4, 0], wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", TIMED)
def test_another_schedule_shows_the_same_signal_at_another_time(name, monkeypatch):
    process = nl.uniform(vocab_size=61, signal=1 - nl.t**2)
    network, _, denoiser = made(name, process)
    times = seen_by(network, monkeypatch)
    t = torch.tensor([0.5, 1.0], dtype=torch.float64)
    denoiser(torch.zeros(2, 4, dtype=torch.long), t)
    wanted = torch.tensor(
        [-math.log(0.75), -math.log(1e-3)]
    )  # at t = 1 no signal is left: the last time of the training
    torch.testing.assert_close(times[0], wanted)


@pytest.mark.parametrize("name", NAMES)
def test_the_denoiser_predicts_the_published_logits_at_the_time_of_the_library(name):
    wanted = reference(name)
    _, _, denoiser = made(name)
    ids = wanted["input_ids"]
    t = wanted["times"] if "times" in wanted else torch.full((len(ids),), 0.5)
    with torch.no_grad():
        found = denoiser(ids, t)
    kept = found.isfinite()
    assert (found - wanted["logits"])[kept].abs().max() < 1e-4
    omitted = (~kept).flatten(0, 1)
    expected = [] if name in (*TIMED, "tiny-llada2-moe", "tiny-a2d-qwen3") else [MASKS.get(name, 60)]
    assert omitted.all(0).nonzero().flatten().tolist() == expected and omitted.any(0).sum() == len(expected)


def test_mdlm_at_masks_is_what_its_training_and_sampling_use():
    wanted = reference("tiny-mdlm")
    _, _, denoiser = made("tiny-mdlm")
    masks = wanted["input_ids"] == 60
    assert masks.any()
    with torch.no_grad():
        found = denoiser(wanted["input_ids"], wanted["times"], masks).log_softmax(-1)
    torch.testing.assert_close(found[:, :60], wanted["log_probs_subs"][masks][:, :60], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_and_a_bound(name):
    _, process, denoiser = made(name)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        x = nl.AncestralSampler(process, denoiser).sample((2, 8), steps=6, generator=random)
        bound = nl.continuous_bound(process, denoiser, x, nodes=6, generator=random)
    assert process.on_support(torch.zeros(process.vocab_size))[x].isfinite().all()
    assert bound.total.shape == (2,) and bound.total.isfinite().all() and (bound.total > 0).all()


def test_the_class_of_all_sequences():
    wanted = reference("tiny-udlm-cfg")
    with torch.no_grad():
        for row, label in enumerate(wanted["cond"].tolist()):
            _, _, denoiser = made("tiny-udlm-cfg", condition=label)
            found = denoiser(wanted["input_ids"], wanted["times"])[row]
            assert (found - wanted["logits_cond"][row]).abs().max() < 1e-4
    with pytest.raises(ValueError, match="'udlm' networks take no condition; got 1"):
        made("tiny-udlm", condition=1)
    with pytest.raises(ValueError, match="condition"):
        made("tiny-udlm-cfg", condition=4)


def test_padding_reaches_the_networks_that_take_a_mask():
    wanted = reference("tiny-a2d-qwen3")
    _, _, denoiser = made("tiny-a2d-qwen3")
    real = wanted["attention_mask"].bool()
    with torch.no_grad(), attending_to(denoiser, real):
        found = denoiser(wanted["input_ids"], torch.full((3,), 0.5))
    assert (found - wanted["logits_padded"])[real].abs().max() < 1e-4
    with pytest.raises(ValueError, match="'mdlm' networks take no attention_mask"):
        made("tiny-mdlm", attention_mask=torch.ones(1, 12).bool())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must cover all tokens of the noise, 62; it has 61"):
        made("tiny-udlm", nl.uniform(vocab_size=62))
    with pytest.raises(ValueError, match="network must be one of load_network; got Linear"):
        PublishedDenoiser(torch.nn.Linear(2, 2), nl.uniform(vocab_size=2))


# GIDD's own sampler, written from its description; torch's global generator gives the recorded draws.

EOS, PAD, MASK = 1, 2, 3


def law(log_snr, shift, size):
    """The noise at this log-SNR: uniform over all tokens but the mask, and the mask."""
    share = torch.sigmoid(log_snr + shift)
    return torch.where(torch.arange(size) == MASK, 1 - share, share / (size - 1))


def truncated(logits, temperature, top_k, top_p):
    """The prediction of a block: temperature, then top-k, then top-p, which keeps the token that crosses it."""
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    logits = logits / temperature
    if top_k is not None:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    if top_p is not None:
        probs, order = logits.softmax(-1).sort(descending=True)
        drop = (probs.cumsum(-1) - probs) >= top_p
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return logits.softmax(-1)


def ancestral(x, z, log_snr, to, shift):
    size = x.shape[-1]
    signal, kept = torch.sigmoid(log_snr), torch.sigmoid(to)
    now, then = (1 - signal) * law(log_snr, shift, size), (1 - kept) * law(to, shift, size)
    jump = (now - signal / kept * then).clamp(min=0)
    onto = jump[z][..., None] + signal / kept * torch.nn.functional.one_hot(z, size)  # q(z_t | z_s), for each z_s
    probs = (kept * x + then) * onto
    probs = probs / probs.sum(-1, keepdim=True)
    return torch.multinomial(probs.flatten(0, 1), 1).view(z.shape)


def adaptive(logits, x, z, log_snr, shift, count):
    size = x.shape[-1]
    weight = law(log_snr, shift, size)[z]
    plain = logits.softmax(-1)
    gain = plain.max(-1).values - plain.gather(-1, z[..., None])[..., 0]
    place = (gain * weight / weight.sum(-1, keepdim=True)).topk(count).indices
    drawn = torch.multinomial(x.flatten(0, 1), 1).view(z.shape)
    return z.scatter(-1, place, drawn.gather(-1, place))


def one_block(network, z, begin, end, log_snrs, call):
    """Denoise the positions [begin, end) of the canvas."""
    shift, noisy, logits = network.config.noise_type, torch.arange(z.shape[1]) >= begin, None
    for k in range(len(log_snrs) - 1, 0, -1):
        if logits is None:
            seen = (noisy[:, None] >= noisy).expand(len(z), -1, -1)
            logits = network(z, attention_mask=seen)[:, begin:end].clone()
            logits[..., MASK] = -torch.inf
        x = truncated(logits, call.get("temperature", 1.0), call.get("top_k"), call.get("top_p"))
        now = z[:, begin:end]
        if call["sampling_method"] == "adaptive":
            new = adaptive(logits, x, now, log_snrs[k], shift, call["tokens_per_step"])
        else:
            new = ancestral(x, now, log_snrs[k], log_snrs[k - 1], shift)
        if not torch.equal(new, now):
            z, logits = torch.cat((z[:, :begin], new, z[:, end:]), dim=1), None
    return z


def generate(network, prompt, call):
    config, start = network.config, prompt.shape[1]
    shape = (len(prompt), config.max_position_embeddings)
    ends = torch.tensor([config.min_log_snr, config.max_log_snr])
    uniform = torch.rand(shape) < torch.sigmoid(ends[0] + config.noise_type)
    z = torch.where(uniform, torch.randint(0, config.vocab_size, shape), MASK)
    z[:, :start] = prompt
    low, high = torch.sigmoid(ends)
    t = torch.linspace(0, 1, call["steps"] + 1)
    log_snrs = torch.logit((high - low) * (0.5 + torch.cos(torch.pi * t) / 2) + low).clamp(*ends.tolist())
    last = start + call["max_length"]
    for begin in range(start, last, call["block_length"]):
        z = one_block(network, z, begin, min(begin + call["block_length"], shape[1]), log_snrs, call)
        if (z == EOS).any(1).all():
            break
    z = z[:, :last]
    first = torch.where(z == EOS, torch.arange(last), last).min(1).values
    ended = (torch.arange(last) >= first[:, None]) & (first > 0)[:, None]
    return z.masked_fill(ended, PAD)


@pytest.mark.parametrize("name", ["tiny-gidd-easydel", "tiny-gidd-easydel-unif"])
def test_their_sampler_with_this_network_gives_their_tokens(name):
    network, wanted = load_network(FORMATS / name), reference(name)
    settings = json.loads((FORMATS / name / "generate_settings.json").read_text())
    assert len(settings["calls"]) == (4 if name.endswith("unif") else 3)
    for kind, call in settings["calls"].items():
        torch.manual_seed(settings["seed"])
        with torch.no_grad():
            found = generate(network, wanted["generate.prompt"], call)
        assert found.tolist() == wanted[f"generate.{kind}"].tolist(), kind
