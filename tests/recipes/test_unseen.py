"""The study of what the bound does not see: its measures against other code, its settings, and its page."""

import json

import numpy as np
import pytest
import torch

import noiselab as nl
import unseen_by_the_bound as recipe
from noiselab.likelihood import expected_bound, model_law
from unseen import by_hand, page
from unseen.measures import measure_network
from unseen.networks import train_network
from unseen.world import LENGTH, NOISES, build_process, data_law, entropy, every_text


def numbers_of(denoiser):
    """The network as the other code wants it."""

    def predict(z, t):
        with torch.no_grad():
            logits = denoiser(torch.from_numpy(z), torch.full((len(z),), t, dtype=torch.float64)).double()
        return logits[..., :3].softmax(-1).numpy()

    return predict


def test_the_law_of_the_data_is_no_markov_chain():
    """Given its neighbour, a token still depends on the one before that."""
    law, x = data_law(), every_text()
    assert law.sum().item() == pytest.approx(1)
    joint = torch.zeros(3, 3, 3, dtype=torch.float64).index_put((x[:, 0], x[:, 1], x[:, 2]), law, accumulate=True)
    first, last = joint / joint.sum((0, 2), keepdim=True), joint.sum(0, keepdim=True) / joint.sum((0, 2), keepdim=True)
    assert (first - first.sum(2, keepdim=True) * last).abs().max() > 0.01
    assert 0.5 < entropy(law) < 0.8


@pytest.mark.parametrize("noise", NOISES)
def test_the_other_code_knows_the_same_process(noise):
    process = build_process(noise)
    for t in (0.1, 0.5, 0.9):
        ours = process.likelihood(torch.arange(4)[None], torch.tensor([[t]], dtype=torch.float64))[0].T[:3]
        np.testing.assert_allclose(ours.numpy(), by_hand.likelihood(noise, t), atol=1e-12)


@pytest.mark.parametrize("noise", ["masks", "0.2", "uniform"])
def test_integrand_and_law_equal_those_of_other_code(noise):
    """By rates of jumps and by Bayes' rule, in numpy: the closed form of the bound is not used."""
    process, law = build_process(noise), data_law()
    denoiser = train_network(process, law, 24, steps=3, batch=32, seed=0)
    predict = numbers_of(denoiser)
    for t in (0.15, 0.7):
        times = torch.tensor([t], dtype=torch.float64)
        given = {"times": (times, torch.ones_like(times)), "low": 1e-6}
        ours = expected_bound(process, denoiser, every_text(), **given).mean(law).diffusion.item()
        other = by_hand.integrand(noise, predict, law.numpy(), by_hand.every(3), t)
        assert ours == pytest.approx(other, rel=1e-6)
    grid = torch.linspace(1, 0, 3, dtype=torch.float64)
    ours = model_law(process, denoiser, LENGTH, grid).view(LENGTH * [4])[LENGTH * (slice(3),)].flatten()
    np.testing.assert_allclose(ours.numpy(), by_hand.sampler_law(noise, predict, 2), rtol=1e-9)


@pytest.mark.long
def test_the_bound_of_the_oracle_is_the_entropy_and_its_samples_are_the_data():
    """The exact denoiser by enumeration: both excesses vanish, that of the samples as 1 / T."""

    class Oracle(nl.Denoiser):
        def __init__(self, process, law):
            super().__init__()
            self.process, self.law = process, law

        def forward(self, z, t):
            x, like = every_text(), self.process.likelihood(z, t[:, None])
            found = torch.zeros(*z.shape, 4, dtype=torch.float64)
            for i in range(LENGTH):
                others = self.law.expand(len(z), -1)
                for j in set(range(LENGTH)) - {i}:
                    others = others * like[:, j][:, x[:, j]]
                found[:, i].index_add_(1, x[:, i], others)
            return found.log()

    law, process = data_law(), build_process("0.2")
    found = measure_network(process, Oracle(process, law), law, steps=(2, 4), nodes=16)
    assert abs(found["bound"]) < 1e-5
    assert 0 < found["steps"]["4"] < found["steps"]["2"]


def options(tmp_path, **more):
    given = {
        "steps": 2,
        "batch": 8,
        "widths": (24,),
        "seeds": (1,),
        "noises": ("masks",),
        "sampler_steps": (1, 2),
        "nodes": 2,
    }
    return recipe.Options(out=tmp_path / "rows", **{**given, **more})


def test_a_network_is_trained_once_and_other_settings_are_refused(tmp_path):
    (first,) = recipe.main(options(tmp_path))
    path = tmp_path / "rows" / "masks-24-1.json"
    made = path.stat().st_mtime_ns
    (again,) = recipe.main(options(tmp_path))
    assert again == json.loads(json.dumps(first)) and path.stat().st_mtime_ns == made
    with pytest.raises(ValueError, match="was made with other settings"):
        recipe.main(options(tmp_path, steps=3))
    with pytest.raises(ValueError, match="noises must be among"):
        recipe.main(options(tmp_path, noises=("0.3",)))


def row(noise, seed, bound, limit, few):
    place = {"noise": noise, "width": 24, "seed": seed}
    return {**place, "bound": bound, "limit": limit, "steps": {"8": few}}


def test_the_page_says_what_the_rows_say(tmp_path):
    """Means, what the bound does not see, and differences in pairs of one seed: (.4, .6) less (.1, .2) is .35 +- .64."""
    rows = [row("masks", 1, 0.1, 0.05, 0.2), row("masks", 2, 0.2, 0.1, 0.4)]
    rows += [row("0.1", 1, 0.4, 0.04, 0.1), row("0.1", 2, 0.6, 0.09, 0.3)]
    for one in rows:
        path = tmp_path / "rows" / f"{one['noise']}-24-{one['seed']}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(one), encoding="utf-8")
    page.write_page(tmp_path / "rows", tmp_path / "assets")
    table = (tmp_path / "assets" / "table.md").read_text(encoding="utf-8").splitlines()
    masks, hybrid = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:])
    assert masks[:2] == ["24", "masks"] and masks[2].startswith("0.1500 ±") and masks[4].endswith("(50 %)")
    assert hybrid[2].startswith("0.5000 ±") and hybrid[6].startswith("+0.3500 ± 0.6353")
    assert hybrid[7].startswith("-0.0100 ± 0.0000") and hybrid[8].startswith("-0.1000 ± 0.0000")
    answer = (tmp_path / "assets" / "answer.md").read_text(encoding="utf-8")
    assert "By the bound: hybrid, 0.1 not told apart." in answer
    assert "By those of 8 steps: hybrid, 0.1 better than masks." in answer
    first = (tmp_path / "assets" / "unseen.svg").read_text(encoding="utf-8")
    page.write_page(tmp_path / "none", tmp_path / "assets")  # from the rows that the documentation has
    assert (tmp_path / "assets" / "unseen.svg").read_text(encoding="utf-8") == first
