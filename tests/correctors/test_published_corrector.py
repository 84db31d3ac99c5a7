"""The corrector of diffusers' DiscreteDDIMScheduler: its law, the order of its positions, and how they are drawn."""

import pytest
import torch
from by_hand import fit
from published_decoders import LAWS, PublishedNetwork, settings

import noiselab as nl

CASE = settings("ddim_corrector", LAWS)
STATES = LAWS["vocab"].item()
PROCESS = nl.uniform(vocab_size=STATES)
TIME = torch.full((2,), 1 - CASE["alpha"], dtype=torch.float64)
ORDERS = {"margin": "lowest_log_margin", "unlikely": "lowest_current_prob", "unsure": "lowest_maxprob"}


class Network(PublishedNetwork):
    predicts = "posterior"


class Chosen(nl.GibbsCorrector):
    """Keeps which positions it resamples, and from what."""

    def _redraw(self, z, t, time, chosen, u, x_hat=None):
        self.chosen, self.x_hat = chosen, x_hat
        return super()._redraw(z, t, time, chosen, u, x_hat)


def test_the_law_of_a_redrawn_token():
    """The posterior becomes the prediction without the token's own value, and then the law of the noisy token."""
    corrector = Chosen(PROCESS, Network(LAWS), CASE["z"].shape[1], positions="unsure")
    corrector.step(CASE["z"], TIME)
    law = PROCESS.marginal(corrector.x_hat.view(2, -1, STATES), TIME)
    assert corrector.chosen.all() and (law - LAWS["ddim_corrector.law"]).abs().max() < 1e-12
    alike = nl.GibbsCorrector(PROCESS, PublishedNetwork(LAWS))  # the same network, taken as leave-one-out
    x_hat = alike.denoiser(CASE["z"], TIME).softmax(-1)
    assert (PROCESS.marginal(x_hat, TIME) - LAWS["ddim_corrector.law"]).abs().max() > 0.1


@pytest.mark.parametrize("positions", ORDERS)
def test_the_order_of_positions(positions):
    order = CASE[f"order_{ORDERS[positions]}"]
    for count in range(1, order.shape[1] + 1):
        corrector = Chosen(PROCESS, Network(LAWS), count, positions=positions)
        corrector.step(CASE["z"], TIME)
        want = torch.zeros_like(corrector.chosen).scatter(1, order[:, :count], True)
        assert torch.equal(corrector.chosen, want)


def test_positions_are_drawn_as_published():
    """Against the published draws, and both against the softmax of the margins."""
    z, n = CASE["z"][:1], CASE["draws"]
    counts = {}
    for tau in (CASE["tau"], 1.5 * CASE["tau"]):
        corrector = Chosen(PROCESS, Network(LAWS), positions="margin", choice_temperature=tau)
        corrector.step(z.expand(n, -1), TIME[:1].expand(n), generator=torch.Generator().manual_seed(0))
        counts[tau] = corrector.chosen.sum(0)
    law = LAWS["ddim_corrector.law"][0]
    here, others = law.gather(1, z[0, :, None])[:, 0], law.scatter(1, z[0, :, None], 0).amax(1)
    want = (-(here.log() - others.log()) / CASE["tau"]).softmax(0)
    assert fit(CASE["first_pick_counts"], want) > 1e-3 and fit(counts[CASE["tau"]], want) > 1e-3
    assert fit(counts[1.5 * CASE["tau"]], want) < 1e-10
