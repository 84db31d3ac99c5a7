"""The benchmark of decoders: forwards by hand, exact decoders at chance, and the page says what the table says."""

import math
import sys
from pathlib import Path

import pytest
import torch

from noiselab.bench.world import World
from noiselab.samplers import (
    AncestralSampler,
    BlockSampler,
    ConfidenceThreshold,
    Quota,
    RenoisingSampler,
    SlidingBlockSampler,
    ThresholdSampler,
)

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import decoders as bench  # noqa: E402
from decoder_figures import BOTTOM, SHOWN, save_figures, tabulate  # noqa: E402
from decoder_list import Decoder, balanced, decoders, in_steps  # noqa: E402

WORLD = World.sharp(states=5, length=8)


def run(make, noise="masked", sequences=50, world=WORLD):
    process = world.processes()[noise]
    return bench.run(Decoder("one", "", make), world, process, world.oracle(process), sequences)


def by(rule, process, denoiser):
    return ThresholdSampler(process, denoiser, rule, draw=True)


@pytest.mark.parametrize(
    ("forwards", "noise", "make"),
    [
        (8, "masked", lambda p, d: in_steps(by(Quota(1), p, d), 8)),
        (4, "masked", lambda p, d: in_steps(by(Quota(2), p, d), 8)),
        (8, "masked", lambda p, d: in_steps(by(ConfidenceThreshold(1), p, d), 99)),  # none after the last mask
        (4, "masked", lambda p, d: in_steps(BlockSampler(by(Quota(2), p, d), 4), 4)),
        (4, "masked", lambda p, d: in_steps(SlidingBlockSampler(by(Quota(2), p, d), 4, share=1), 4)),
        (6, "uniform", lambda p, d: in_steps(RenoisingSampler(p, d, 1), 6)),
    ],
)  # fmt: skip
def test_forwards_are_those_that_a_sequence_needs(forwards, noise, make):
    assert run(make, noise)[1] == forwards


def test_a_finished_sequence_costs_nothing_while_others_go_on():
    calls = run(lambda p, d: in_steps(by(ConfidenceThreshold(0.6), p, d), 8), sequences=200)[1]
    assert 1 < calls < 7 and calls % 1 > 0


def test_exact_decoders_are_at_chance_and_pairs_of_tokens_are_not():
    exact, _ = run(lambda p, d: in_steps(by(ConfidenceThreshold(1), p, d), 8), sequences=2000)
    rough, _ = run(lambda p, d: in_steps(by(Quota(2), p, d), 8), sequences=2000)
    floor = bench.floors(WORLD, len(exact))
    for k in (0, 1):
        assert bench.measure(WORLD, exact)[k] < 2 * floor[k]
        assert bench.measure(WORLD, rough)[k] > 5 * floor[k]


def test_balanced_jumps_leave_exact_samples_at_chance():
    process = WORLD.processes()["gidd"]
    fresh = balanced(
        lambda shape, generator: WORLD.sample(shape[0], generator=generator), process, WORLD.oracle(process)
    )
    x = fresh((4000, WORLD.length), torch.Generator().manual_seed(0))
    assert bench.measure(WORLD, x)[0] < 2 * bench.floors(WORLD, len(x))[0]


def test_the_divergence_of_a_single_sequence_is_its_own():
    world = World(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), 4)
    x = torch.tensor([[0, 0, 1, 1]] * 4)  # 1/2 * 0.9 * 0.1 * 0.5
    assert bench.measure(world, x, single=True)[0] == pytest.approx(-math.log(0.0225) / 4)


def test_intervals_are_those_of_repetitions():
    generator = torch.Generator().manual_seed(0)
    sets = [WORLD.sample(500, generator=generator) for _ in range(40)]
    spread = torch.tensor([bench.measure(WORLD, x)[1] for x in sets]).std().item()
    halves = torch.tensor([bench.jackknife(WORLD, x)[1] for x in sets]).square().mean().sqrt().item()
    assert 0.6 < halves / (bench.QUANTILE * spread) < 1.7


def test_the_soft_chain_has_eight_followers_and_the_sharp_one_three():
    sharp, soft = bench.worlds()
    assert ((sharp.transition > 0.01).sum(-1) == 3).all() and (soft.transition > 0).all()
    assert soft.entropy > 1.5 * sharp.entropy


@pytest.mark.parametrize("noise", list(SHOWN))
def test_each_decoder_of_the_figures_runs(noise):
    first = list({decoder.name: decoder for decoder in reversed(decoders(noise))}.values())
    assert set(SHOWN[noise]) <= {decoder.name for decoder in first}
    assert len({(d.name, d.setting) for d in decoders(noise)}) == len(decoders(noise))
    world = World.sharp(length=8)
    rows = bench.compare(world, noise, "exact denoiser", world.oracle, 5, first)
    assert all(row.tokens_per_forward > 0 and row.divergence >= 0 for row in rows)
    text = tabulate(rows, {world.name: (0.01, 0.02)})
    assert sum(line.startswith("| ") for line in text.splitlines()) == len(rows) + 2
    assert set(BOTTOM) == {"divergence", "pairs"}


def test_figures_are_the_same_again(tmp_path):
    world, one = World.sharp(length=8), Decoder("ancestral", "", lambda p, d: in_steps(AncestralSampler(p, d), 4))
    rows = bench.compare(world, "gidd", "exact denoiser", world.oracle, 10, [one])
    files = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        save_figures(rows, {world.name: (0.01, 0.02)}, folder)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1] and set(files[0]) == {"decoders.svg", "decoders_pairs.svg"}
    assert b"dc:date" not in files[0]["decoders.svg"]


def stored():
    """KL, tokens per forward and pairs of the stored table, by chain, noise, denoiser, decoder and setting, as written."""
    found, place = {}, ()
    for line in (ROOT / "docs/assets/decoders/table.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("**"):
            chain, noise, denoiser = line.split("**")[1].split(", ")
            place = (chain.removesuffix(" chain"), noise, denoiser)
        elif line.startswith("| ") and not line.startswith(("| decoder", "| ---")):
            decoder, setting, tokens, kl, pairs, _ = (cell.strip() for cell in line.strip("|").split("|"))
            values = (float(kl.split(" ")[0]), float(tokens), float(pairs.split(" ")[0]))
            found[*place, decoder, setting] = values
    return found


STUDY, GUIDE = "studies/decoders.md", "guides/samplers.md"
MASKS, SOFT, HYBRID, UNIFORM = (
    "sharp; masks; exact denoiser; ",
    "soft; masks; exact denoiser; ",
    "sharp; hybrid noise; exact denoiser; ",
    "sharp; uniform noise; exact denoiser; ",
)
CLAIMS = [  # k is the KL, t are tokens per forward, p pairs, of the rows in this order
    (STUDY, "a KL of {k0:.3f} at {t0:.1f} tokens per forward, and the most confident two of each step {k1:.3f} at {t1:.1f}",
     MASKS + "ancestral; 16 steps", MASKS + "quota, most confident; 2"),
    (STUDY, "on the soft chain {k0:.3f} and {k1:.3f}", SOFT + "ancestral; 16 steps", SOFT + "quota, most confident; 2"),
    (STUDY, "gains little ({t0:.2f} tokens per forward)", MASKS + "local maxima; 0.5"),
    (STUDY, "in blocks of 8: {k0:.3f} at {t0:.1f}", MASKS + "ancestral, blocks of 8; 4 steps"),
    (STUDY, "pairs of {p0:.3f} for the first", MASKS + "confidence of the drawn token; 1"),
    (STUDY, "({k0:.3f} against {k1:.3f} at {t0:.0f} tokens per forward, sharp chain)",
     HYBRID + "ancestral, squared times; 16 steps", HYBRID + "ancestral; 16 steps"),
    (STUDY, "after 8 steps have {k0:.3f} at {t0:.1f} tokens per forward", HYBRID + "ancestral, balanced jumps after; 8 steps"),
    (STUDY, "with masks at {t0:.1f}, and faster", MASKS + "ancestral; 64 steps"),
    (STUDY, "{k0:.3f} with the bound 0.1 and {k1:.3f} with 1, at 16 steps",
     HYBRID + "renoising, bound 0.1; 16 steps", HYBRID + "renoising, bound 1; 16 steps"),
    (STUDY, "have {k0:.3f} at {t0:.1f} tokens per forward on the sharp chain; without them {k1:.3f} at {t1:.1f}",
     UNIFORM + "ancestral, balanced jumps after; 8 steps", UNIFORM + "ancestral, squared times; 8 steps"),
    (STUDY, "(first hitting) have {k0:.3f} and {k1:.3f} on the sharp and the soft chain, and the most confident "
     "place first {k2:.3f} and {k3:.3f}",
     "sharp; masks; wrong by 0.5; first hitting; ", "soft; masks; wrong by 0.5; first hitting; ",
     "sharp; masks; wrong by 0.5; quota, most confident; 1", "soft; masks; wrong by 0.5; quota, most confident; 1"),
    (STUDY, "all ancestral decoders have {p0:.3f} to {p1:.3f}",
     MASKS + "ancestral; 16 steps", UNIFORM + "ancestral, squared times; 8 steps"),
    (GUIDE, "{k0:.3f} nats per token at {t0:.1f} tokens per forward on the sharp chain, where taking the two "
     "most confident tokens costs {k1:.3f}",
     MASKS + "ancestral; 16 steps", MASKS + "quota, most confident; 2"),
    (GUIDE, "{k0:.3f} at {t0:.1f} tokens per forward, the best of all on the sharp chain",
     HYBRID + "ancestral, balanced jumps after; 8 steps"),
    (GUIDE, "the same: {k0:.3f} at {t0:.1f}", UNIFORM + "ancestral, balanced jumps after; 8 steps"),
]  # fmt: skip


@pytest.mark.parametrize("page", ["studies/decoders.md", "guides/samplers.md"])
def test_pages_say_what_the_table_says(page):
    text, table = " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split()), stored()
    claims = [claim for claim in CLAIMS if claim[0] == page]
    assert claims
    for _, sentence, *keys in claims:
        values = [table[tuple(key.split("; "))] for key in keys]
        numbers = {f"{name}{k}": v for k, value in enumerate(values) for name, v in zip("ktp", value, strict=True)}
        assert sentence.format(**numbers) in text, sentence.format(**numbers)


def test_the_table_has_every_decoder_once():
    found = stored()
    for noise, name in (("masked", "masks"), ("gidd", "hybrid noise"), ("uniform", "uniform noise")):
        want = {(decoder.name, decoder.setting) for decoder in decoders(noise)}
        for chain in ("sharp", "soft"):
            for denoiser in ("exact denoiser", "wrong by 0.5"):
                assert {key[3:] for key in found if key[:3] == (chain, name, denoiser)} == want
