"""Trained correction in a world where everything is known: texts of a Markov chain, a small network, exact likelihoods.

    python benchmarks/trained_correction.py            # some minutes on one core

1. Detection: the area under the ROC curve of a quality head, one pass for all tokens, beside the same network asked token by
   token with each hidden in turn, and the exact oracle asked in this way. Wrong tokens are random ones, or the model's own.
2. Correction: the mean exact log-likelihood per token of texts drawn in few steps, before and after each corrector, and the
   number of sequences that networks read.
"""

import argparse
import tempfile
import time

import torch

import noiselab as nl
from noiselab.correctors import CorrectorReviser, DenoiserDetector, DraftCorrector, QualityDetector, SuspectCorrector
from noiselab.data import TokenBlocks
from noiselab.denoisers import Denoiser, QualityDenoiser
from noiselab.evaluation import measure_detection
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.training import CorrectionLoss, Optimization, QualityLoss, Run, Trainer, reveal

WORDS, LENGTH = 8, 16
MASK = WORDS
PROCESS = nl.masked(vocab_size=WORDS + 1, mask_id=MASK)


def chain(seed: int = 0) -> nl.MarkovOracle:
    """A chain in which each word has a few likely successors."""
    random = torch.Generator().manual_seed(seed)
    transition = (3 * torch.randn(WORDS, WORDS, generator=random, dtype=torch.float64)).softmax(-1)
    return nl.MarkovOracle(torch.full((WORDS,), 1 / WORDS, dtype=torch.float64), transition, PROCESS)


def train(denoiser: Denoiser, oracle: nl.MarkovOracle, steps: int, **how) -> None:
    """Train on texts of the chain: by the bound, or another loss."""
    x = oracle.sample(8192, LENGTH, generator=torch.Generator().manual_seed(1))
    blocks = TokenBlocks(x, torch.full((len(x),), LENGTH), vocab_size=WORDS + 1)
    optimization = Optimization(steps=steps, batch=64, learning_rate=2e-3, warmup=50)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder, cpu=True, progress=False, save_every=0, log_every=steps)
        Trainer(denoiser, optimization, run, train_dataset=blocks, **how).train()


def errors(oracle: nl.MarkovOracle, denoiser: Denoiser, kind: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of the chain with a seventh of their tokens replaced, and which are wrong."""
    random = torch.Generator().manual_seed(2)
    x = oracle.sample(count, LENGTH, generator=random)
    chosen = torch.rand(x.shape, generator=random) < 1 / 7
    if kind == "random":
        z = torch.where(chosen, (x + torch.randint(1, WORDS, x.shape, generator=random)) % WORDS, x)
    else:
        shown = torch.where(chosen, MASK, x)
        with torch.no_grad():
            logits = PROCESS.on_support(denoiser(shown, torch.full((count,), 1 / 7)))
        z = reveal(logits, shown, chosen, LENGTH, generator=random)[0]
    return z, z != x


def _redrafted(denoiser: nl.Denoiser, steps: int) -> CorrectorReviser:
    """Texts after some passes of the corrector of drafts."""
    return CorrectorReviser(DraftCorrector(PROCESS, denoiser), time=0.01, steps=steps, settles=True)


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--steps", type=int, default=1500, help="of training by the bound; each correction takes half of them"
    )
    parser.add_argument("--revealed", type=int, default=1, help="masks that are filled in at once for the quality head")
    parser.add_argument("--texts", type=int, default=512)
    options = parser.parse_args()
    torch.manual_seed(0)
    oracle, began = chain(), time.monotonic()
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    plain = TransformersDenoiser(DiT(DiTConfig(vocab_size=WORDS + 1, max_seq_len=LENGTH, **sizes)))
    train(plain, oracle, options.steps, process=PROCESS)
    learned = {name: value.clone() for name, value in plain.state_dict().items()}
    drafting = TransformersDenoiser(DiT(DiTConfig(vocab_size=WORDS + 1, max_seq_len=LENGTH, **sizes)))
    drafting.load_state_dict(learned)
    train(drafting, oracle, options.steps // 2, loss=CorrectionLoss(PROCESS, flat=True))
    headed = QualityDenoiser(plain)
    train(headed, oracle, options.steps // 2, loss=QualityLoss(PROCESS, bound=1.0, revealed=options.revealed))
    headed.eval()
    print(f"trained in {time.monotonic() - began:.0f} s; entropy {oracle.entropy(LENGTH) / LENGTH:.3f} nats per token")
    detect(oracle, headed, options.texts)
    correct(oracle, headed, drafting.eval(), options.texts)


def detect(oracle: nl.MarkovOracle, headed: QualityDenoiser, texts: int) -> None:
    """Print the area under the curve of each detector."""
    detectors = {
        "quality head": (QualityDetector(headed), 1),
        "the same network, each token hidden": (DenoiserDetector(headed, hide=MASK), LENGTH),
        "the same network, tokens visible": (DenoiserDetector(headed), 1),
        "exact oracle, each token hidden": (DenoiserDetector(oracle, hide=MASK), LENGTH),
    }
    kinds = {kind: errors(oracle, headed, kind, texts) for kind in ("random", "own")}
    print(f"\n{'area under the ROC curve':38}{'passes':>8}{'random errors':>16}{'own errors':>14}")
    for name, (detector, passes) in detectors.items():
        found = [measure_detection(detector(z), wrong).area for z, wrong in kinds.values()]
        print(f"{name:38}{passes:8d}{found[0]:16.3f}{found[1]:14.3f}")


def correct(oracle: nl.MarkovOracle, headed: QualityDenoiser, drafting: Denoiser, texts: int) -> None:
    """Print the likelihood of texts drawn in four steps, and after each corrector."""
    z = nl.AncestralSampler(PROCESS, headed).sample(
        (texts, LENGTH), steps=4, generator=torch.Generator().manual_seed(3)
    )
    by_head = SuspectCorrector(PROCESS, headed, QualityDetector(headed), temperature=0.5)
    hidden = SuspectCorrector(PROCESS, headed, temperature=0.5)
    revisers = {
        "suspects of the quality head, 4 steps": CorrectorReviser(by_head, time=0.01, steps=4),
        "suspects by hiding each token, 4 steps": CorrectorReviser(hidden, time=0.01, steps=4),
        "corrected drafts, 1 pass": _redrafted(drafting, 1),
        "corrected drafts, 4 passes": _redrafted(drafting, 4),
        "drafts of a network without it, 1 pass": _redrafted(headed, 1),
    }
    print(f"\n{'nats per token, texts of four steps':40}{'log p':>8}{'evaluations per text':>24}")
    print(f"{'as drawn':40}{oracle.log_prob(z).mean() / LENGTH:8.3f}{4:24d}")
    for name, reviser in revisers.items():
        after, evaluations = reviser(z, generator=torch.Generator().manual_seed(4))
        print(f"{name:40}{oracle.log_prob(after).mean() / LENGTH:8.3f}{evaluations / texts:24.1f}")
    print(f"{'minus the entropy':40}{-oracle.entropy(LENGTH) / LENGTH:8.3f}")


if __name__ == "__main__":
    main()
