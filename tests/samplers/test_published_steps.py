"""One step of published samplers, as laws: DDIM's three routes, and the recorded runs of diffusers' schedulers."""

import pytest
import torch
from published_decoders import LAWS, PublishedNetwork, settings

import noiselab as nl
from noiselab.process.three_way import reverse_move
from noiselab.samplers import CommittingSampler, RenoisingSampler

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


class Posterior(PublishedNetwork):
    predicts = "posterior"


def given(kind, case):
    """A sampler with the published draws in place of its own."""

    class Given(kind):
        laws, step_number = (), -1

        def candidates(self, log_probs, u, rows):
            self.laws = (*self.laws, log_probs.exp().view(2, -1, STATES))
            return case["sampled"][len(self.laws) - 1][rows]

        def renoised(self, z, s, u):
            self.step_number = self.step_number + 1
            return case["random"][self.step_number]

    return Given


def test_the_entropy_bound_scheduler():
    """The published last step renoises, too; ours would take the most probable tokens, so its grid ends before 0."""
    case = settings("entropy_bound", LAWS)
    heat = case["t_min"] + (case["t_max"] - case["t_min"]) * nl.t
    times = torch.cat([grid(case)[:-1], torch.tensor([1e-9], dtype=torch.float64)])
    for bound in (case["bound"], 0.7 * case["bound"]):
        sampler = given(RenoisingSampler, case)(PROCESS, Posterior(LAWS), bound, temperature=heat)
        states = torch.stack([case["trace"][0], *sampler.walk(case["trace"][0], times)])
        assert torch.equal(states, case["trace"]) == (bound == case["bound"])
        if bound == case["bound"]:
            for ours, name in ((sampler.laws[0], "law_first"), (sampler.laws[-1], "law_last")):
                assert (ours - LAWS[f"entropy_bound.{name}"]).abs().max() < 1e-6
    # What was accepted: what took its candidate where candidate and noise differ.
    apart = case["sampled"] != case["random"]
    assert torch.equal((case["trace"][1:] == case["sampled"])[apart], case["accepted"].bool()[apart])


@pytest.mark.parametrize("name", ["refine_uniform", "refine_uniform_edit"])
def test_block_refinement_without_a_mask(name):
    case = settings(name, LAWS)
    times, edit = grid(case), case.get("editing_threshold")
    committed = case["committed"].cummax(0).values.bool()  # published are the new ones of each step

    class Watched(given(CommittingSampler, case)):
        committed = ()

        def step(self, z, t, s, *, generator=None):
            new = super().step(z, t, s, generator=generator)
            kept = nl.samplers.walk_state.current_state().read(self, (s < t)[:, None].expand(z.shape))
            self.committed = (*self.committed, kept.tensors["committed"])
            return new

    for change in (0, 0.1):
        sampler = Watched(PROCESS, Posterior(LAWS), case["threshold"] - change, edit)
        states = torch.stack([case["trace"][0], *sampler.walk(case["trace"][0], times)])
        assert torch.equal(states, case["trace"]) == (change == 0)
        assert torch.equal(torch.stack(sampler.committed), committed) == (change == 0)
    before = torch.cat([torch.zeros_like(committed[:1]), committed[:-1]])
    edited = before & (case["trace"][1:] != case["trace"][:-1])
    assert torch.equal(edited, case["edited"].bool()) and edited.any() == (edit is not None)
