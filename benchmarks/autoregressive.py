"""The cost of backtracking: `make bench`.

A Llama of 6 layers and width 192, float32, two threads. Training on streams against training on the bare text, for equally many
clean tokens; decoding with a cache from which entries are dropped against transformers' `generate`, for each evaluation;
problems of iGSM a second, of one core. A ratio that misses its limit is marked, and the exit status says so.
"""

import argparse
import random
import time
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core import report
from measure import time_in_turns
from noiselab.autoregressive import BackspaceSampler, RandomTokenBackspace, UniformTokens
from noiselab.training import EditLoss, Place, causal_loss

SIZE, LENGTH, BATCH = 512, 128, 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each piece; the best counts")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads. Best of {options.rounds} rounds, in turns.\n")
    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6}
    network: Any = LlamaForCausalLM(LlamaConfig(vocab_size=SIZE + 1, max_position_embeddings=8 * LENGTH, **sizes))
    edits = RandomTokenBackspace(SIZE + 1, SIZE, 0.1, UniformTokens(SIZE))
    batch = {"input_ids": torch.randint(SIZE, (BATCH, LENGTH))}
    plain = {"input_ids": torch.cat([torch.zeros(BATCH, 1, dtype=torch.long), batch["input_ids"]], 1)}
    step = iter(range(10**9))

    def train(loss: Any, data: dict[str, torch.Tensor]) -> None:
        network.zero_grad()
        loss(network, data, place=Place(next(step))).backward()

    pieces = {"plain": lambda: train(causal_loss, plain)}
    for semantics in ("visible", "erasing"):
        loss = EditLoss(edits, start=0, semantics=semantics, deep=False)
        pieces[semantics] = lambda loss=loss: train(loss, batch)
    found = time_in_turns(pieces, options.rounds)
    rows: list[tuple[str, float, float | None, bool]] = [
        ("training, erasing / plain, per clean token, rate 0.1", found["erasing"] / found["plain"], 1.3, False),
        ("training, visible / plain, per clean token, rate 0.1", found["visible"] / found["plain"], None, False),
    ]

    network.eval()
    network.generation_config.eos_token_id = None  # no text ends before the others
    rows += [(name, ratio, 1.1, False) for name, ratio in measure_decoding(network, edits, options.rounds)]
    rows.append(("iGSM, problems of nano a second, one core", count_problems_per_second(), 2000, True))
    return min(report("autoregressive", rows), 1)


def measure_decoding(network: Any, edits: RandomTokenBackspace, rounds: int) -> list[tuple[str, float]]:
    """Seconds for each evaluation of the network, with backspaces and without, as ratios."""
    found = []
    for count in (1, 8):
        start = torch.zeros(count, 1, dtype=torch.long)
        # Backspaces as frequent as after training at a rate of 0.1.
        with torch.no_grad():
            network.lm_head.weight[SIZE] = 0
        used: dict[str, int] = {}

        def plain(semantics: Any, start: torch.Tensor = start, used: dict[str, int] = used) -> None:
            # Equally many evaluations: for a later one, with more to attend to, costs more.
            network.generate(
                start,
                attention_mask=torch.ones_like(start),
                do_sample=True,
                max_new_tokens=used[semantics],
                top_k=0,
                pad_token_id=0,
            )

        def back(semantics: Any, count: int = count, used: dict[str, int] = used) -> None:
            sampler = BackspaceSampler(network, edits, start=0, semantics=semantics, deep=False, bias=4.0)
            written = sampler.sample(count, length=LENGTH, generator=torch.Generator().manual_seed(0))
            used[semantics] = max(written.evaluations)

        for semantics in ("erasing", "visible"):
            back(semantics)
            times = time_in_turns({"plain": partial(plain, semantics), "back": partial(back, semantics)}, rounds)
            name = f"decoding, {semantics} / generate, for equally many evaluations, {count} texts"
            found.append((name, times["back"] / times["plain"]))
    return found


def count_problems_per_second() -> float:
    """Problems a second."""
    from noiselab.tasks.igsm import draw_small

    generator, drawn = random.Random(0), 0
    begin = time.process_time()
    while time.process_time() - begin < 2:
        for _ in range(50):
            draw_small(generator, level="nano")
        drawn += 50
    return drawn / (time.process_time() - begin)


if __name__ == "__main__":
    raise SystemExit(main())
