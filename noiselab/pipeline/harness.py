"""Diffusion pipelines as models for EleutherAI's lm-evaluation-harness (`pip install noiselab[harness]`)."""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from torch import Generator, Tensor
from tqdm.auto import tqdm

from ..data.tokenizers import Encoder
from ..likelihood import continuous_bound
from ..networks.lengths import check_fits
from .base import Text
from .diffusion import DiffusionPipeline


class HarnessModel(LM):
    r"""A model for tasks of the harness: log-likelihoods (by the bound), multiple choice, and generation.

    $\log p(\text{continuation} \mid \text{context})$ is bounded from below by noising only the continuation. The
    context stays clean, and the network receives the time of the continuation for the whole sequence, as in training.
    Times are fixed quadrature nodes, and the noise of a request depends only on `seed`. Results are therefore
    independent of order and batching, and two models are compared on the same noise. For autoregressive models, use the
    adapters of the harness.

    **Arguments:**

    - `pipe`: the model.
    - `nodes`: the number of times, with one evaluation each (`noiselab.process_quadrature` gives a sufficient number).
    - `draws`: the number of noise samples at each time, in one batch. More reduce the variance of each log-likelihood.
    - `steps`: the number of generation steps; by default that of the model.
    - `seed`: the seed of all noise.
    - `show_progress`: whether to show a progress bar.

    **Raises:** `ValueError` for another class of pipeline, or settings below 1.

    **Source:** the interface is that of lm-evaluation-harness 0.4 (Gao et al., 2024).
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        *,
        nodes: int = 16,
        draws: int = 8,
        steps: int | None = None,
        seed: int = 0,
        show_progress: bool = False,
    ):
        super().__init__()
        if not isinstance(pipe, DiffusionPipeline):
            raise ValueError(
                f"pipe must be a DiffusionPipeline; got {type(pipe).__name__} (for autoregressive models use the harness's "
                "adapter: --model hf)"
            )
        if nodes < 1 or draws < 1:
            raise ValueError(f"nodes and draws must be at least 1; got {nodes}, {draws}")
        self.pipe, self.nodes, self.draws, self.steps, self.seed = pipe, nodes, draws, steps, seed
        self.show_progress = show_progress
        self.encoder, self.limit = Encoder(pipe.tokenizer), pipe.length

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation): log-likelihood in nats, and whether the arg-max from pure noise equals the
        continuation.

        A context that is too long is truncated at its beginning, as usual in the harness.

        **Raises:** `ValueError` if a continuation is empty or too long for the model.
        """
        found = []
        for request in tqdm(requests, desc="log-likelihoods", disable=disable_tqdm or not self.show_progress):
            context, continuation = self.pair(*request.args)
            tokens = torch.tensor([[*context, *continuation]])
            scored = torch.arange(tokens.shape[1])[None] >= len(context)
            found.append((-self.nats(tokens, scored), self.greedy(tokens, scored)))
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts in nats, in windows of the model's context; each token is scored once."""
        found = []
        for request in tqdm(requests, desc="log-likelihoods", disable=disable_tqdm or not self.show_progress):
            (text,) = request.args
            ids = self.encode(text)
            length = self.limit or max(len(ids), 1)
            windows = [ids[i : i + length] for i in range(0, len(ids), length)]
            parts = [torch.tensor([window]) for window in windows]
            found.append(-sum(self.nats(part, torch.ones_like(part, dtype=torch.bool)) for part in parts))
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate a continuation of each context, up to the first stop string and at most `max_gen_toks` tokens."""
        found = []
        for request in tqdm(requests, desc="generating", disable=disable_tqdm or not self.show_progress):
            context, options = request.args
            most = int(options.get("max_gen_toks", 256))
            ids = self.encode(context)
            if self.limit is not None:
                room = min(max(1, self.limit - most), self.limit - 1)
                ids = ids[max(0, len(ids) - room) :]
            heat = float(options.get("temperature", 0) or 0)
            texts = self.pipe.generate(
                1,
                self.steps,
                prompts=[Text.of(context, ids, self.pipe.tokenizer)] if ids else None,
                length=len(ids) + most if self.limit is None else min(len(ids) + most, self.limit),
                # Temperature 0, the harness's default, means the arg-max; 1e-4 is equivalent except for ties.
                temperature=heat if options.get("do_sample", heat > 0) and heat > 0 else 1e-4,
                generator=self.random(),
                show_progress=False,
            )
            (made,) = self.pipe.decode([list(texts[0].tokens[len(ids) :])])  # type: ignore[attr-defined]
            until = options.get("until") or []
            for end in [until] if isinstance(until, str) else until:
                made = made.split(end)[0] if end else made
            found.append(str(made))
        return found

    def nats(self, tokens: Tensor, scored: Tensor) -> float:
        """The bound on -log p of the scored tokens given the others, in nats; the mean over `draws` noise samples.

        **Arguments:**

        - `tokens`, `scored`: one sequence and its mask of scored tokens, both [1, length].
        """
        x, rows = (part.to(self.pipe.device).repeat(self.draws, 1) for part in (tokens, scored))
        with torch.no_grad():
            terms = continuous_bound(
                self.pipe.process,
                self.pipe.denoiser,
                x,
                nodes=self.nodes,
                real=rows,
                generator=self.random(self.pipe.device),
            )
        return float(terms.total.mean())

    def greedy(self, tokens: Tensor, scored: Tensor) -> bool:
        """Whether the most likely tokens equal the scored ones, if these are replaced by one sample of pure noise."""
        process, device = self.pipe.process, self.pipe.device
        noise = process.prior(1, tokens.shape[1], generator=self.random(device), device=device)
        x, rows = tokens.to(device), scored.to(device)
        with torch.no_grad():
            t = torch.full((1,), process.domain[1], dtype=torch.float64, device=device)
            logits = self.pipe.denoiser(torch.where(rows, noise, x), t, rows)
        return bool((logits.argmax(-1) == x[rows]).all())

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Encode context and continuation as one text, then split the tokens; where a token lies on both sides of the
        border, encode each by itself, so that all of the continuation is scored.

        **Raises:** `ValueError` if the continuation is empty or too long for the model.
        """
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        first = self.encode(context) if context else []
        whole = self.encode(context + continuation)
        head, tail = whole[: len(first)], whole[len(first) :]
        if head != first or (continuation and not tail):
            head, tail = first, self.encode(continuation)
        if not tail:
            raise ValueError(f"a continuation must have at least one token; got {continuation[:60]!r}")
        check_fits(len(tail), self.limit, f"the continuation {continuation[:60]!r}")
        if self.limit is not None:
            head = head[max(0, len(head) - (self.limit - len(tail))) :]
        return head, tail

    def encode(self, text: str) -> list[int]:
        """Encode a text without adding or interpreting special tokens."""
        return next(self.encoder([text]))

    def random(self, device: torch.device | str = "cpu") -> Generator:
        """Return a generator with the same seed for each request."""
        return Generator(device).manual_seed(self.seed)


def evaluate(pipe: DiffusionPipeline, tasks: Sequence[Any], **options: Any) -> dict[str, Any]:
    """Evaluate a pipeline on tasks of the harness with `lm_eval.simple_evaluate`.

    **Arguments:**

    - `tasks`: names of tasks, or settings of custom tasks.
    - `options`: options of `HarnessModel` and of `lm_eval.simple_evaluate`, such as `limit`, `num_fewshot`,
      `task_manager`.
    """
    own = {name: options.pop(name) for name in ("nodes", "draws", "steps", "seed", "show_progress") if name in options}
    found: dict[str, Any] = simple_evaluate(model=HarnessModel(pipe, **own), tasks=list(tasks), **options)
    return found
