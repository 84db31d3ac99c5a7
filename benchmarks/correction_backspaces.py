"""Backspaces in benchmarks/correction_table.py: autoregressive models that delete what they have written, exact or trained."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.autoregressive import (
    BackspaceDetector,
    BackspaceSampler,
    BacktrackingReviser,
    ContinuationReviser,
    Proofreader,
    RandomTokenBackspace,
    SurpriseDetector,
    SurpriseProofreader,
    UniformTokens,
)
from noiselab.bench import World, force_errors
from noiselab.evaluation import threshold_at
from noiselab.revisions import Detector, Reviser
from noiselab.training import EditLoss, Place

RATE = 0.1  # of wrong tokens before each token


def edits_of(world: World) -> RandomTokenBackspace:
    """The noise: wrong tokens, uniform among the others, each followed by a backspace, the token after the last state."""
    return RandomTokenBackspace(world.states + 1, world.states, RATE, UniformTokens(world.states))


def start_of(world: World) -> int:
    """The token before each text: the backspace, which a model that erases never reads."""
    return world.states


class ExactBackspaces(nn.Module):
    r"""What a model of the erasing semantics learns at best, in closed form, for a chain and `RATE`.

    After a text that ends with u, the model proposes v with $\pi(v) = (1 - p) P(v \mid u) + p\, (1 - P(v \mid u)) / (|V| - 1)$,
    and deletes it again with $p\, (1 - P(v \mid u)) / (|V| - 1) / \pi(v)$, so that what it keeps has the law of the data.
    """

    def __init__(self, world: World):
        super().__init__()
        law = torch.cat([world.transition, world.initial[None]])  # the last row: after the start
        wrong = RATE * (1 - law) / (world.states - 1)
        self.proposed = (1 - RATE) * law + wrong
        self.deleted = wrong / self.proposed
        self.states = world.states

    def forward(self, input_ids: torch.Tensor, **unused: Any) -> torch.Tensor:
        """The log-probabilities of states and of the backspace after each entry."""
        before = nn.functional.pad(input_ids[:, :-1], (1, 0), value=self.states)
        first = (torch.arange(input_ids.shape[1]) == 0).expand(input_ids.shape)
        deleted = self.deleted[before, input_ids.clamp(max=self.states - 1)].masked_fill(first, 0)
        kept = torch.log1p(-deleted)[..., None] + self.proposed[input_ids].log()
        return torch.cat([kept, deleted.log()[..., None]], -1)


def train_backspaces(world: World, steps: int, seed: int) -> LlamaForCausalLM:
    """A Llama of the width and depth of the other networks of the table, trained for the same number of new sequences."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 64, "intermediate_size": 168, "num_hidden_layers": 2, "num_attention_heads": 4}
        network = LlamaForCausalLM(
            LlamaConfig(vocab_size=world.states + 1, max_position_embeddings=16 * world.length, **sizes)
        )
    loss = EditLoss(edits_of(world), start_of(world), semantics="erasing", deep=False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0)
    warmup = max(1, steps // 12)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (0.52 + 0.5 * math.cos(math.pi * step / steps))
    )
    random = torch.Generator().manual_seed(seed)
    for step, x in enumerate(world.sample(32 * steps, generator=random).split(32)):
        loss(network, {"input_ids": x}, place=Place(step, seed=seed)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
    return network.eval()


class BackspaceCase(NamedTuple):
    """A model with backspaces, and the sequences that it corrects; as `Case` of the table.

    **Arguments:**

    - `samples`: written by the same model without backspaces.
    - `forced`, `others`: true sequences with forced errors, to measure and to choose thresholds.
    """

    world: World
    network: nn.Module
    samples: torch.Tensor
    forced: nl.bench.ForcedErrors
    others: nl.bench.ForcedErrors

    @property
    def settings(self) -> dict[str, Any]:
        """What all readers of the model have in common."""
        return {"start": start_of(self.world), "cache": isinstance(self.network, LlamaForCausalLM)}

    def writer(self, bias: float = 0.0) -> BackspaceSampler:
        """The model that writes; after a forced error that is kept, it could delete whatever it writes for ever."""
        how = {"semantics": "erasing", "deep": False, "bias": bias, "budget": 4 * self.world.length}
        return BackspaceSampler(self.network, edits_of(self.world), **how, **self.settings)

    def threshold(self, detector: Detector) -> float:
        """That of 5 % false alarms."""
        return threshold_at(detector(self.others.tokens), self.others.wrong)

    def proofreader(self, **how: Any) -> Reviser:
        """Reads once, and writes another token where a backspace is probable."""
        back, threshold = start_of(self.world), self.threshold(self.detector)
        return Proofreader(self.network, back, threshold=threshold, semantics="erasing", **how, **self.settings)

    @property
    def detector(self) -> Detector:
        """The probability of a backspace after each token."""
        return BackspaceDetector(self.network, start_of(self.world), start=start_of(self.world))

    @property
    def surprise(self) -> Detector:
        """The improbability of each token after those before it."""
        return SurpriseDetector(self.network, start=start_of(self.world), backspace=start_of(self.world))


ANEW = "written anew, with backspaces"
"""The method that reads nothing of what it is given, so that it mends and harms nothing there."""
FROM_THERE = "backspace, then written on from there"
"""The method whose detector reads each text before the model writes; that reading is not among the reviser's evaluations."""
Made = tuple[Reviser, Detector]
METHODS: dict[str, Callable[[BackspaceCase], Made]] = {
    "backspaces, one reading, 5 % alarms": lambda case: (case.proofreader(), case.detector),
    "backspaces, one reading, tokens drawn": lambda case: (
        case.proofreader(temperature=1.0, tabu=False),
        case.detector,
    ),
    FROM_THERE: lambda case: (
        BacktrackingReviser(case.writer(), case.detector, threshold=case.threshold(case.detector)),
        case.detector,
    ),
    "without backspaces: surprise, 5 % alarms": lambda case: (
        SurpriseProofreader(
            case.network, threshold=case.threshold(case.surprise), backspace=start_of(case.world), **case.settings
        ),
        case.surprise,
    ),
    ANEW: lambda case: (ContinuationReviser(case.writer(), given=0), case.detector),
}


def make_backspace_case(world: World, network: nn.Module, size: int, seed: int) -> BackspaceCase:
    """Samples of the model without backspaces, and the true sequences with forced errors of the other denoisers."""
    random, tokens = torch.Generator().manual_seed(seed), torch.arange(world.states)
    forced, others = (force_errors(world.sample(size, generator=random), tokens, 0.1, generator=random) for _ in "ab")
    case = BackspaceCase(world, network, forced.tokens, forced, others)
    written = case.writer(-math.inf).sample(size, length=world.length, generator=random)
    return case._replace(samples=torch.stack(written.texts))


def backspace_revisers(
    world: World, trained: nn.Module, size: int, seed: int
) -> Iterator[tuple[str, str, BackspaceCase, Reviser, Detector]]:
    """The denoiser, the method, the case, and what is measured: the exact model, and a trained one."""
    for label, network in (("exact", ExactBackspaces(world)), ("trained", trained)):
        case = make_backspace_case(world, network, size, seed)
        for method, make in METHODS.items():
            yield label, method, case, *make(case)
