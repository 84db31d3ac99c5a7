"""Pipelines of block-diffusion models: an encoder reads the prompt, a decoder denoises one canvas of tokens after another."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Generator, Tensor, nn

from ..categorical import Randomness
from ..data import vocabulary_size
from ..denoisers import Denoiser, Support
from ..distributed import Processes
from ..evaluation import Bound, canvas_validation_bound
from ..networks.canvas import CanvasDenoiser, CanvasNetwork
from ..networks.lengths import check_fits
from ..process import NoiseProcess
from ..samplers import Sampler
from ..schedules import ScheduleLike
from . import canvas_calls, canvas_changes, canvas_drawing
from .arguments import arguments_of
from .base import Pipeline
from .canvas_settings import STEPS, CanvasSettings, published_settings
from .chats import Prompts
from .constraining import Constraint
from .diffusion import all_tokens
from .drawing import SamplerLike
from .settings import GenerationSettings, ModelSettings
from .streaming import Callback, Streaming


class CanvasPipeline(Streaming, Pipeline, loads=("canvas",)):
    """A block-diffusion language model such as DiffusionGemma: `generate`, `infill`, `self_correction`, `bound`.

    An encoder reads the prompt and finished canvases, and a decoder denoises one canvas of tokens after another from noise.

    **Arguments:**

    - `model`: a `noiselab.networks.canvas.CanvasNetwork`, such as a DiffusionGemma of `noiselab.networks.load_network`.
    - `tokenizer`: its tokenizer; if the network has more ids, these are never sampled.
    - `settings`: the noise on a canvas, by default uniform over all tokens, and the settings of the sampler, by default the
      published ones.

    **Raises:** `ValueError` if noise, tokenizer and model do not match.

    **Example:** an architecture of two layers with random weights.

    ```python
    import torch
    from noiselab.data import train_tokenizer, vocabulary_size
    from noiselab.networks.published.diffusion_gemma import DiffusionGemma
    from noiselab.pipeline import CanvasPipeline, ModelSettings
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=280)
    text = {
        "vocab_size": vocabulary_size(tokenizer), "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "num_experts": 4,
        "top_k_experts": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6,
        "max_position_embeddings": 128,
    }
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 8}
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=8, image_token_id=270)
    network = DiffusionGemma(DiffusionGemmaForBlockDiffusion(config)).eval()
    pipe = CanvasPipeline(network, tokenizer, ModelSettings())
    texts = pipe.generate(2, 4, prompts=["the cat", "a"], length=16, seed=0, show_progress=False)
    for state in pipe.stream(2, 4, prompts=["the cat"], length=16, seed=0):
        assert state.steps == 8
    ```
    """

    tag = "block-diffusion"
    streams: ClassVar = {
        "generate": canvas_calls.generation,
        "infill": canvas_changes.infilling,
        "self_correction": canvas_changes.correction,
    }
    process: NoiseProcess
    support: Tensor

    def __init__(self, model: nn.Module, tokenizer: Any, settings: ModelSettings):
        if not isinstance(model, CanvasNetwork):
            raise ValueError(
                f"model must be a network of a prefix and a canvas (noiselab.networks.canvas.CanvasNetwork); got "
                f"{type(model).__name__}"
            )
        super().__init__(model, tokenizer, completed(settings, model))
        self.process = self.settings.process()
        states, size = int(model.vocab_size), vocabulary_size(tokenizer)
        if self.process.vocab_size != states or size > states:
            raise ValueError(
                f"the noise must have the tokens of the model, and the tokenizer no others; the model has {states}, the noise "
                f"{self.process.vocab_size}, the tokenizer {size}"
            )
        wrong = [end for end in self.canvas.ends if end >= states]
        if wrong:
            raise ValueError(f"ends must be tokens of the model, in [0, {states}); got {wrong}")
        support = torch.zeros(states, dtype=torch.bool)
        support[:size] = all_tokens(tokenizer)  # special tokens too, as published
        if self.process.support is not None:
            support &= self.process.host_support()
        if not support.any():
            raise ValueError("the support of the noise must contain tokens of the tokenizer; it contains none")
        self.register_buffer("support", support, persistent=False)

    @classmethod
    def default_settings(cls, name: str | Path, model: Any, tokenizer: Any) -> ModelSettings:
        """The settings of a checkpoint that has no noiselab.json: the noise of its format, and its generation_config.json."""
        canvas, steps = published_settings(Path(name))
        return ModelSettings(model.noise(), generation=GenerationSettings(steps=steps), canvas=canvas)

    @property
    def canvas(self) -> CanvasSettings:
        """The default settings of the sampler."""
        return self.settings.canvas or CanvasSettings()

    @property
    def canvas_length(self) -> int:
        """The number of tokens in a canvas."""
        return int(self.network.canvas_length)

    @property
    def ends(self) -> list[int]:
        """The tokens that end a text: those of the settings, or else the end of text of the tokenizer."""
        end = self.tokenizer.eos_token_id
        return list(self.canvas.ends) or ([] if end is None else [end])

    @property
    def opening(self) -> list[int]:
        """The tokens that the tokenizer puts before each text: the beginning of text, or none."""
        begin = self.tokenizer.bos_token_id
        return [begin] if begin is not None and self.tokenizer("a")["input_ids"][:1] == [begin] else []

    def opened(self, tokens: list[int], what: str) -> list[int]:
        """Tokens of a text after `opening`, unless they begin with it.

        **Raises:** `ValueError` if they are longer than the context.
        """
        opening = self.opening
        found = tokens if tokens[: len(opening)] == opening else [*opening, *tokens]
        check_fits(len(found), self.length, what)
        return found

    def denoiser_after(self, given: int, *, self_conditioning: bool = True) -> Denoiser:
        """The network as a denoiser of canvases after a prompt; it predicts only tokens of the tokenizer.

        **Arguments:**

        - `given`: the number of tokens of the prompt.
        - `self_conditioning`: as for `noiselab.networks.canvas.CanvasDenoiser`.
        """
        inner = CanvasDenoiser(self.network, given=given, self_conditioning=self_conditioning).eval()
        return inner if bool(self.support.all()) else Support(inner, self.support)

    def generate(
        self,
        num_samples: int = 1,
        num_inference_steps: int | None = None,
        *,
        prompts: Prompts | None = None,
        length: int | Literal["auto"] | None = None,
        stop: bool = True,
        constraint: Constraint | None = None,
        sampler: SamplerLike | None = None,
        temperature: "ScheduleLike | None" = None,
        top_k: int | None = None,
        top_p: float | int | None = None,
        min_p: float | int | None = None,
        callback: Callback | None = None,
        batch_size: int = 16,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        generator: Randomness = None,
        show_progress: bool = True,
        dtype: torch.dtype | None = None,
        processes: Processes | None = None,
    ) -> list[str]:
        """Generate texts canvas by canvas.

        **Arguments:**

        - `num_samples`: the number of texts, for each prompt if prompts are given.
        - `num_inference_steps`: the largest number of network evaluations for each canvas, at least 1; by default
          `pipe.generation.steps`. The published sampler takes fewer when a canvas no longer changes.
        - `prompts`: the beginnings of the texts; or conversations, each a list of messages with "role" and "content", that
          the chat template of the tokenizer renders. Of these the answers alone are returned. Prompts may have different
          lengths: those of one length are sampled together, without padding. A token that the tokenizer puts before each
          text is put before prompts, and is the prompt if there is none.
        - `length`: the number of tokens *after* the prompt, rounded up to whole canvases, as published; by default that of
          the settings (published: 256), or what the context leaves. "auto" is the default length with `stop=True`.
        - `stop`: whether to cut each text after its first end-of-text token that is not in the prompt, as published. No
          canvas is sampled after all texts of a batch have ended.
        - `constraint`: must be left out; texts that satisfy one need a diffusion model of whole texts.
        - `sampler`: a class of samplers such as `nl.AncestralSampler`, or a function that builds one from a process and a
          denoiser; by default the published one, `nl.samplers.RenoisingSampler` with the settings `pipe.canvas`.
        - `temperature`: divides the logits; for the published sampler a number or a schedule such as `0.4 + 0.4 * nl.t`, by
          default that of `pipe.canvas`; for others a number, by default that of `pipe.generation`.
        - `top_k`, `top_p`, `min_p`: truncation of the prediction before the temperature of the published sampler; defaults
          are in `pipe.generation`.
        - `callback`: called after each step with a `GenerationState`. If it returns True, generation ends after the canvases
          in progress, which take the most probable tokens of the step, or with other samplers are drawn in one jump, which
          takes one more network evaluation. Texts that have not begun are left out.
        - `batch_size`: the number of texts generated at once.
        - `seed`: text i has random numbers of its own, derived from the seed and i: it does not depend on `batch_size` or
          the number of texts.
        - `seeds`: one seed for each text: a text is the same alone and in any batch and order.
        - `generator`: instead of seeds, the source of randomness: one generator, or one for each text.
        - `show_progress`: whether to show a progress bar.
        - `dtype`: the dtype of the network's arithmetic; by default that of the weights.
        - `processes`: those that divide the batches among them, from `noiselab.distributed.join_processes`; by default this
          one does all. Each of them must make the same call, with seeds or a generator for each text, and gets all texts.

        **Returns:** the texts without special tokens, grouped by prompt.

        **Raises:** `ValueError` if a setting is out of range, a prompt and its canvases do not fit the context, `sampler` is
        an instance (its denoiser would not know the lengths of the prompts), or there is no end of text at which to stop.

        **Source:** `generate` of `transformers.models.diffusion_gemma`; with the same random draws both visit the same
        canvases.
        """
        return canvas_calls.generation(self, **arguments_of(locals())).run()

    def infill(
        self,
        texts: Prompts,
        num_inference_steps: int | None = None,
        *,
        sampler: SamplerLike | None = None,
        temperature: "ScheduleLike | None" = None,
        top_k: int | None = None,
        top_p: float | int | None = None,
        min_p: float | int | None = None,
        callback: Callback | None = None,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        generator: Randomness = None,
        show_progress: bool = True,
        dtype: torch.dtype | None = None,
        processes: Processes | None = None,
    ) -> list[str]:
        """Replace each mask token in the texts, written as in the tokenizer ("<mask>"), by one token.

        The first canvas begins at the first gap. A gap is filled given all tokens before its canvas, and those of its canvas,
        also after the gap; tokens after the canvas are not read, because the network reads what is before it only. The last
        canvas ends with the text, and may be shorter than those of training.

        **Arguments:** as for `generate`. Texts may be conversations that end with an answer, in which the gaps are; the
        answers are returned. A callback that returns True ends the texts with one jump for each canvas with gaps.

        **Raises:** `ValueError` if there are no texts, the tokenizer has no mask token, or a text has none or is longer than
        the context.
        """
        return canvas_changes.infilling(self, **arguments_of(locals())).run()

    def self_correction(
        self,
        texts: Prompts,
        num_inference_steps: int = 128,
        temperature: float | int = 0.1,
        *,
        early_stopping: bool = True,
        early_stopping_patience: int = 32,
        tokens_per_step: int = 1,
        callback: Callback | None = None,
        batch_size: int = 16,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        generator: Randomness = None,
        show_progress: bool = True,
        dtype: torch.dtype | None = None,
        processes: Processes | None = None,
    ) -> list[str]:
        """Correct texts canvas by canvas: replace the tokens to which the model most confidently prefers others.

        Each canvas is corrected given the corrected ones before it, by `noiselab.SelfCorrection`, and finished before the next
        one begins. Later canvases are not read, so that nothing in them corrects an earlier token. Canvases are counted from
        the beginning of the text, or of the answer; the last one may be shorter than those of training.

        **Arguments:**

        - `texts`: at least one text. Texts generated by this pipeline keep their tokens; others are encoded. Or
          conversations that end with an answer: the last answer alone may change, and is returned.
        - `num_inference_steps`: the maximum number of network evaluations for each canvas.
        - `temperature`, `tokens_per_step`: see `noiselab.SelfCorrection`; the network takes no time.
        - `early_stopping`, `early_stopping_patience`: whether to finish a canvas once its self-accuracy has not improved
          for this number of steps. Otherwise all steps are taken.
        - `callback`, `batch_size`, `seed`, `seeds`, `generator`, `show_progress`, `dtype`, `processes`: as for `generate`;
          texts that have not begun are returned as they are.

        **Returns:** the texts, in order, each with the same number of tokens.

        **Raises:** `ValueError` if there are no texts, a text is longer than the context, or a setting is out of range.

        **Source:** von Ruette et al. (2025), arXiv 2503.04482, section 5.3, here canvas by canvas.
        """
        return canvas_changes.correction(self, **arguments_of(locals())).run()

    def sampler_after(self, prompt: Int[Tensor, "batch prompt"]) -> Sampler:
        """The default sampler of texts after prompts of one length, for traces and loops of one's own; it does not stop.

        **Arguments:**

        - `prompt`: the tokens of the prompts, which may be none.
        """
        build = canvas_drawing.canvas_sampler(self, None, None, None, None, None)
        return canvas_drawing.canvas_chain(self, build, prompt.to(self.device), (), 0)

    def bound(
        self,
        texts: Prompts,
        *,
        prompts: Sequence[str] | None = None,
        nodes: int | None = None,
        repeats: int = 1,
        low: float | int | None = None,
        batch_size: int = 16,
        generator: Generator | None = None,
        dtype: torch.dtype | None = None,
        processes: Processes | None = None,
    ) -> Bound:
        """Bound the negative log-likelihood of texts, canvas by canvas, in nats per token.

        **Arguments:**

        - `texts`: the texts; or conversations that end with an answer, of which the answers are scored, each with the token
          that ends it.
        - `prompts`: one for each text, which it continues; they are encoded by themselves, and not scored.
        - `nodes`, `repeats`, `low`, `batch_size`, `generator`: as for `noiselab.evaluation.canvas_validation_bound`.
        - `dtype`: the dtype of the network's arithmetic; by default that of the weights.
        - `processes`: as for `generate`, with a generator in the same state in each.

        **Returns:** a `noiselab.evaluation.Bound`: the mean per token in `nelbo`, and the nats of each text in `nats`.

        **Raises:** `ValueError` if there are no texts, one is empty or longer than the context, or prompts are not one for each
        text.
        """
        rows, given = canvas_calls.scored(self, texts, prompts)
        with self._computing(dtype):
            return canvas_validation_bound(
                self.process,
                self.network,
                rows,
                given=given,
                low=low,
                nodes=nodes,
                repeats=repeats,
                batch_size=batch_size,
                generator=generator,
                processes=processes,
            )


def completed(settings: ModelSettings, model: CanvasNetwork) -> ModelSettings:
    """Settings with what they do not name: uniform noise, and the published sampler; the model predicts the posterior."""
    noise, generation = settings.noise, settings.generation
    if generation.length is not None:
        raise ValueError(
            "length of a block-diffusion model must be set as CanvasSettings(length=...), the tokens after a prompt; got "
            f"GenerationSettings(length={generation.length})"
        )
    if noise is None:
        noise = {"family": "uniform", "vocab_size": int(model.vocab_size)}
    if settings.canvas is None and generation == GenerationSettings():
        generation = GenerationSettings(steps=STEPS)
    canvas = settings.canvas or CanvasSettings()
    return replace(settings, noise=noise, predicts="posterior", generation=generation, canvas=canvas)
