"""One step of published samplers, as laws: DDIM's three routes, and the recorded runs of diffusers' schedulers."""

import torch
from published_decoders import LAWS, PublishedNetwork, settings

import noiselab as nl
from noiselab.process.three_way import reverse_move

STATES = LAWS["vocab"].item()
PROCESS = nl.uniform(vocab_size=STATES)


def grid(case):
    return torch.linspace(1, 0, case["steps"] + 1, dtype=torch.float64)


def test_the_routes_of_ddim_are_the_three_way_step():
    """Given x0, the most likely token; where it is the token that is there, "stay" and "draw from x_hat" are one route."""
    case = settings("ddim", LAWS)
    times, routes = grid(case), LAWS["ddim.routes"].double()
    for i in range(case["steps"]):
        z, x0, t, s = case["trace"][i], case["x0"][i], times[i], times[i + 1]
        assert torch.equal(PublishedNetwork(LAWS)(z, t.expand(2)).argmax(-1), x0)
        move = reverse_move(PROCESS, z, s.expand(2), t.expand(2))
        same = (z == x0).double()
        ours = torch.stack(torch.broadcast_tensors(move.data + move.stay_slope * same, move.stay, move.noise), -1)
        assert (ours / ours.sum(-1, keepdim=True) - routes[i]).abs().max() < 1e-6
        # The law of the next token: of the sampler whose denoiser says x0 alone, and of the published routes.
        x_hat = nl.denoisers.TopK(PublishedNetwork(LAWS), 1)(z, t.expand(2)).softmax(-1)
        law = PROCESS.posterior(z, x_hat, s.expand(2), t.expand(2))
        published = routes[i, ..., 2:] / STATES + torch.zeros_like(law)
        published = published.scatter_add(-1, x0[..., None], routes[i, ..., :1])
        published = published.scatter_add(-1, z[..., None], routes[i, ..., 1:2])
        assert (law - published).abs().max() < 1e-6
        # Where the run went is possible.
        assert (law.gather(-1, case["trace"][i + 1][..., None]) > 0).all()
