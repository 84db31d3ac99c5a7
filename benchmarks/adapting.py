"""What noise adds to the fine-tuning of a model of transformers, and the pipeline to its forward passes: `make bench`.

A step of each kind is done in turns, in one process: the model's own cross-entropy (`labels` of transformers) on its own causal
attention, and the diffusion loss of the adapted model, both with AdamW. Each round gives a ratio; their median is printed.
Peak memory is that of a fresh process for each kind. `generate` is compared with the forward passes that it needs.
"""

import statistics
import sys
import time
from functools import partial

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from measure import peak_memory, trim_heap
from noiselab.data import train_tokenizer
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.objectives import elbo
from noiselab.pipeline import DiffusionPipeline, ModelSettings
from noiselab.training import Place, noised_loss
from noiselab.training.losses import call_denoiser

V, LENGTH, BATCH, ROUNDS, LIMIT = 8192, 256, 4, 7, 1.15
SIZES = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
NOISES = {
    "masks": {"family": "masked", "vocab_size": V, "mask_id": V - 1},
    "hybrid": {"family": "gidd", "vocab_size": V, "mask_id": V - 1, "p_uniform": 0.1},
}
PROMPT = LENGTH // 2


def causal_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=V, max_position_embeddings=LENGTH, use_cache=False, **SIZES)).train()


def batch_of(prompt: int) -> dict[str, torch.Tensor]:
    """Random tokens, of which the first are a prompt."""
    ids = torch.randint(V - 1, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :prompt] = -100
    return {"input_ids": ids, "labels": labels} if prompt else {"input_ids": ids}


class Step:
    """A training step of one kind; called, it does one."""

    def __init__(self, noise: str | None, prompt: int) -> None:
        self.noise, self.batch, self.count = noise, batch_of(prompt), 0
        self.model: torch.nn.Module = causal_model()
        if noise is not None:
            self.model = MaskedLanguageModel(self.model, predicts="leave_one_out", shifted=True).train()
            self.process = ModelSettings(NOISES[noise]).process()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4)

    def __call__(self) -> None:
        self.count += 1
        if self.noise is None:
            labels = self.batch.get("labels", self.batch["input_ids"])
            loss = self.model(input_ids=self.batch["input_ids"], labels=labels).loss
        else:
            place = Place(self.count)
            loss = noised_loss(
                self.model, self.batch, process=self.process, objective=elbo, place=place, call=call_denoiser
            )
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Generate:
    """Generation by the pipeline, or the bare forward passes of the same number and shape."""

    def __init__(self, noise: str, bare: bool, steps: int = 24) -> None:
        tokenizer = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=280)
        tokenizer.add_tokens([f"<{i}>" for i in range(V - len(tokenizer))])
        settings = NOISES[noise] | {"mask_id": tokenizer.mask_token_id}
        model = causal_model().eval()
        denoiser = MaskedLanguageModel(model, predicts="leave_one_out", shifted=True).eval()
        self.pipe = DiffusionPipeline(denoiser, tokenizer, ModelSettings(settings))
        self.model, self.bare, self.steps = model, bare, steps
        self.z = torch.full((BATCH, LENGTH), tokenizer.mask_token_id)

    def __call__(self) -> None:
        if not self.bare:
            self.pipe.generate(BATCH, self.steps, length=LENGTH, show_progress=False)
            return
        seen = torch.ones(BATCH, 1, 1, LENGTH, dtype=torch.bool)
        with torch.no_grad():
            for _ in range(self.steps):
                self.model(input_ids=self.z, attention_mask=seen)


def ratios(piece: object, beside: object, rounds: int = ROUNDS) -> tuple[float, float, float]:
    """The median ratio of times over rounds in which both are done in turns, and the median times in seconds."""
    found = []
    for round_ in range(rounds + 1):
        times = []
        for one in (piece, beside) if round_ % 2 else (beside, piece):
            trim_heap()
            start = time.perf_counter()
            one()
            times.append(time.perf_counter() - start)
        found.append(tuple(times) if round_ % 2 else (times[1], times[0]))
    found = found[1:]  # the first warms up
    mine, other = (statistics.median(column) for column in zip(*found, strict=True))
    return statistics.median(a / b for a, b in found), mine, other


def warmed(noise: str | None, prompt: int) -> Step:
    """A step with the optimizer's state made: peak memory is that of later steps."""
    step = Step(noise, prompt)
    step()
    return step


def main() -> int:
    torch.set_num_threads(1)
    rows = []
    for prompt, data in ((0, "texts"), (PROMPT, "prompts and answers")):
        for noise in NOISES:
            ratio, mine, other = ratios(Step(noise, prompt), Step(None, prompt))
            rows.append((f"{noise}, {data}: step / own cross-entropy step", ratio, LIMIT))
            print(f"{noise}, {data}: {1000 * mine:.0f} ms, own {1000 * other:.0f} ms", flush=True)
    own = peak_memory(partial(warmed, None, 0))
    for noise in NOISES:
        used = peak_memory(partial(warmed, noise, 0))
        rows.append((f"{noise}, texts: peak memory of a step / own", used / own, 1.0))
        print(f"{noise}: {used / 2**20:.0f} MiB, own {own / 2**20:.0f} MiB", flush=True)
    for noise in NOISES:
        ratio, mine, other = ratios(Generate(noise, False), Generate(noise, True), 3)
        rows.append((f"{noise}: generate / bare forward passes", ratio, LIMIT))
        print(f"{noise}: generate {mine:.2f} s, forward passes {other:.2f} s", flush=True)
    print("\n| ratio | measured | limit | |\n| --- | ---: | ---: | --- |")
    for name, ratio, limit in rows:
        print(f"| {name} | {ratio:.3g} | <= {limit} | {'ok' if ratio <= limit else 'MISSED'} |")
    return int(any(ratio > limit for _, ratio, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
