"""Pipelines of diffusion models: generation, self-correction and infilling."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..categorical import Randomness
from ..correctors import SelfCorrection
from ..data import token_support, vocabulary_size
from ..data.texts import text_list
from ..data.tokenizers import Encoder
from ..denoisers import Denoiser, Support
from ..networks.dit import DiT
from ..networks.huggingface import TransformersDenoiser
from ..networks.lengths import check_fits, generated_length
from ..networks.masked_lm import MaskedLanguageModel
from ..networks.model_folders import read_config
from ..numerics import require_count
from ..process import InterpolatingProcess, NoiseProcess
from ..samplers import Sampler
from .base import Pipeline
from .drawing import SamplerLike, Truncation, chosen_sampler, correct, draw
from .original import is_original, original_noise
from .own import FirstLogits, check_denoiser, logits_count, network_settings, save_denoiser
from .settings import ModelSettings


class DiffusionPipeline(Pipeline, loads=("dit", "masked", "own")):
    """A diffusion language model: `generate`, `infill`, `self_correction`.

    Pass `pipe.process` and `pipe.denoiser` to the samplers and evaluations of this library.

    **Arguments:**

    - `model`: a `DiT`, any other network that is called with tokens and times, a `MaskedLanguageModel`, or a `Denoiser` of
      your own with an attribute `vocab_size`, the number of its logits, and perhaps `max_length`, the longest sequence.
    - `tokenizer`: a tokenizer with a mask token; if the model has more ids than the tokenizer, these are never sampled.
    - `settings`: the settings, including the noise process.

    **Raises:** `ValueError` if noise, tokenizer and model do not match, or a denoiser does not offer what it must.

    **Example:**

    ```python
    import torch
    from noiselab.data import train_tokenizer, vocabulary_size
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.pipeline import DiffusionPipeline, ModelSettings

    tokenizer = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=280)
    size = vocabulary_size(tokenizer)
    model = DiT(DiTConfig(vocab_size=size, max_seq_len=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    noise = {"family": "gidd", "vocab_size": size, "mask_id": tokenizer.mask_token_id, "p_uniform": 0.2}
    pipe = DiffusionPipeline(model.eval(), tokenizer, ModelSettings(noise))
    random = torch.Generator().manual_seed(0)
    texts = pipe.generate(num_samples=2, num_inference_steps=8, generator=random, show_progress=False)
    texts = pipe.infill(["the [MASK] sat"], num_inference_steps=2, generator=random, show_progress=False)
    ```
    """

    tag = "diffusion"
    process: NoiseProcess

    def __init__(self, model: nn.Module, tokenizer: Any, settings: ModelSettings):
        if isinstance(model, MaskedLanguageModel):
            settings = replace(settings, network=model.settings)
        elif isinstance(model, Denoiser):
            check_denoiser(model, settings.process())
            settings = replace(settings, network=network_settings(model), predicts=model.predicts)
        super().__init__(model, tokenizer, settings)
        if tokenizer.mask_token_id is None and not isinstance(model, MaskedLanguageModel):
            raise ValueError("the tokenizer must have a mask token; got one without")
        self.process = settings.process()
        states, size = self.process.vocab_size, vocabulary_size(tokenizer)
        logits = logits_count(self.network)
        if states > logits or size > logits:
            raise ValueError(
                f"the model must cover all tokens; it has {logits}, the tokenizer {size}, the noise {states}"
            )
        support = torch.zeros(states, dtype=torch.bool)
        known = token_support(tokenizer)[:states]
        support[: len(known)] = known
        if self.process.support is not None:
            support &= self.process.host_support()
        if not support.any():
            raise ValueError("the support of the noise must contain tokens of the tokenizer; it contains none")
        self.register_buffer("support", support, persistent=False)

    support: Tensor

    @classmethod
    def default_settings(cls, name: str | Path, model: Any, tokenizer: Any) -> ModelSettings:
        """The settings of a checkpoint that has no noiselab.json: the noise that its config names, or masking."""
        tokens = {"vocab_size": vocabulary_size(tokenizer), "mask_id": tokenizer.mask_token_id}
        if is_original(name):
            return ModelSettings({**original_noise(Path(name)), **tokens})
        if isinstance(model, DiT):
            return ModelSettings({"family": "gidd", **tokens, "p_uniform": float(model.config.p_uniform)})
        config: Any = model.model.config
        mask = getattr(config, "mask_token_id", None)
        if mask is not None and mask < config.vocab_size:
            tokens["mask_id"] = mask
        if tokens["mask_id"] is None:
            raise ValueError(
                f"the tokenizer must have a mask token, or the model room for one; that of {str(name)!r} has none, and all "
                f"{config.vocab_size} tokens of the model are taken (noiselab.training.adapt adds one)"
            )
        tokens["vocab_size"] = max(tokens["vocab_size"], tokens["mask_id"] + 1)
        return ModelSettings({"family": "masked", **tokens}, predicts="leave_one_out")

    @classmethod
    def guesses_noise(cls, name: str | Path, model: Any) -> bool:
        """Whether the noise is assumed: not for a GIDD model with a share of uniform noise, nor for LLaDA and Dream."""
        if is_original(name):
            return False
        if isinstance(model, DiT):
            return not model.config.p_uniform
        return read_config(Path(name)).get("model_type") not in ("llada", "Dream")

    @property
    def denoiser(self) -> Denoiser:
        """The network as a denoiser that predicts only tokens that occur in texts.

        For a padded batch, evaluate it inside `noiselab.denoisers.attending_to`.
        """
        states, model = self.process.vocab_size, self.model
        inner: Denoiser
        if isinstance(model, MaskedLanguageModel):
            inner = MaskedLanguageModel(
                model.model,
                predicts=self.settings.predicts,
                shifted=model.shifted,
                bidirectional=model.bidirectional,
                vocab_size=states,
            )
        elif isinstance(model, Denoiser):
            inner = model if self.network.vocab_size == states else FirstLogits(model, states)
        else:
            inner = TransformersDenoiser(model, self.settings.predicts, vocab_size=states)
        return Support(inner.eval(), self.support)

    def _write_network(self, folder: Path) -> None:
        if isinstance(self.network, Denoiser):
            save_denoiser(self.network, self.settings.network, folder)
        else:
            super()._write_network(folder)

    def generate(
        self,
        num_samples: int = 1,
        num_inference_steps: int | None = None,
        *,
        prompts: Sequence[str] | None = None,
        length: int | None = None,
        sampler: SamplerLike | None = None,
        temperature: float | int | None = None,
        top_k: int | None = None,
        top_p: float | int | None = None,
        min_p: float | int | None = None,
        as_released: bool = False,
        batch_size: int = 16,
        generator: Randomness = None,
        show_progress: bool = True,
        dtype: torch.dtype | None = None,
    ) -> list[str]:
        """Generate texts from noise.

        **Arguments:**

        - `num_samples`: the number of texts, for each prompt if prompts are given.
        - `num_inference_steps`: network evaluations per text, at least 1; by default `pipe.generation.steps`.
        - `prompts`: the beginnings of the texts.
        - `length`: the number of tokens of a text, including the prompt; by default the whole context, or
          1,024 tokens if it is longer or has no limit.
        - `sampler`: a sampler built from `pipe.process` and `pipe.denoiser`, or a function or class that builds one
          from these two, such as `nl.samplers.TauLeapingSampler`; by default ancestral.
        - `temperature`, `top_k`, `top_p`, `min_p`: temperature and truncation of the prediction; defaults are in
          `pipe.generation`.
        - `as_released`: use the time grid of dvruette/gidd, which starts one step below t = 1 and ends at its margin
          `t_eps`, leaving the noise of that time in the text.
        - `batch_size`: the number of texts generated at once.
        - `generator`: the source of randomness: one generator, or one for each text.
        - `show_progress`: whether to show a progress bar.
        - `dtype`: the dtype of the network's arithmetic (`torch.bfloat16`, as published); by default that of the
          weights.

        **Returns:** the texts without special tokens, grouped by prompt.

        **Raises:** `ValueError` if a setting is out of range, a prompt is too long, or truncation is combined with a
        sampler instance.
        """
        starts = [None] if prompts is None else self.encode(prompts)
        length = generated_length(length, self.length)
        require_count("num_samples", num_samples)
        require_count("batch_size", batch_size)
        longest = max(0 if start is None else len(start) for start in starts)
        if longest > length:
            raise ValueError(f"prompts must fit {length} tokens; got one of {longest}")
        given = torch.zeros(len(starts), length, dtype=torch.long)
        known = torch.zeros(len(starts), length, dtype=torch.bool)
        for row, start in enumerate(starts):
            if start is not None:
                given[row, : len(start)], known[row, : len(start)] = torch.tensor(start), True
        chosen = self._sampler(sampler, Truncation(temperature, top_k, top_p, min_p))
        times = self._times(num_inference_steps, as_released)
        with self._computing(dtype):
            tokens = draw(
                given.repeat_interleave(num_samples, 0),
                known.repeat_interleave(num_samples, 0),
                chosen,
                times,
                batch_size=batch_size,
                clean=not as_released,
                generator=generator,
                show_progress=show_progress,
            )
        return self.decode(tokens)

    def infill(
        self,
        texts: Sequence[str],
        num_inference_steps: int | None = None,
        *,
        sampler: SamplerLike | None = None,
        temperature: float | int | None = None,
        top_k: int | None = None,
        top_p: float | int | None = None,
        min_p: float | int | None = None,
        generator: Randomness = None,
        show_progress: bool = True,
        dtype: torch.dtype | None = None,
    ) -> list[str]:
        """Replace each mask token in the texts, written as in the tokenizer ("[MASK]"), by one token.

        **Arguments:** as for `generate`.

        **Raises:** `ValueError` if there are no texts, or a text has no mask token or is longer than the context.
        """
        texts = text_list(texts)
        mask, limit, found = self.tokenizer.mask_token_id, self.length, []
        if mask is None:
            raise ValueError("the tokenizer must have a mask token, by which a text marks its gaps; got one without")
        for i, text in enumerate(texts):
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            check_fits(len(ids), limit, f"text {i}")
            if mask not in ids:
                raise ValueError(f"texts must contain {self.tokenizer.mask_token}; text {i} does not")
            found.append(torch.tensor([ids]))
        chosen = self._sampler(sampler, Truncation(temperature, top_k, top_p, min_p))
        times = self._times(num_inference_steps, False)
        randoms = generator if isinstance(generator, Sequence) else [generator] * len(found)
        results = []
        with self._computing(dtype):
            for tokens, random in zip(found, randoms, strict=True):
                where = tokens != mask
                results += draw(tokens, where, chosen, times, generator=random, show_progress=show_progress).tolist()
        return self.decode(results)

    def self_correction(
        self,
        texts: Sequence[str],
        num_inference_steps: int = 128,
        temperature: float | int = 0.1,
        t0: float | int = 0.01,
        early_stopping: bool = True,
        early_stopping_patience: int = 32,
        *,
        tokens_per_step: int = 1,
        as_released: bool = False,
        batch_size: int = 16,
        generator: Randomness = None,
        show_progress: bool = True,
        dtype: torch.dtype | None = None,
    ) -> list[str]:
        """Correct texts: repeatedly replace the tokens to which the model most confidently prefers others, until none
        is left.

        **Arguments:**

        - `texts`: at least one text. Texts generated by this pipeline keep their tokens; others are encoded.
        - `num_inference_steps`: the maximum number of network evaluations per text.
        - `temperature`, `t0`, `tokens_per_step`: see `noiselab.SelfCorrection`.
        - `early_stopping`, `early_stopping_patience`: whether to stop correcting a text once its self-accuracy has not
          improved for this number of steps. Otherwise all steps are taken.
        - `as_released`: pad texts to the context as dvruette/gidd does, without masking the padding, which may
          therefore change. Otherwise padding is masked and never changed.
        - `batch_size`, `show_progress`, `dtype`: as for `generate`.
        - `generator`: the source of randomness: one generator, or one for each text. With one for each, a text is
          corrected in the same way alone and in any batch.

        **Returns:** the texts, in order, each with the same number of tokens.

        **Raises:** `ValueError` if there are no texts, a text is longer than the context (texts are not truncated), a
        setting is out of range, or texts in one batch differ in length and the network accepts no attention mask.

        **Source:** von Ruette et al. (2025), arXiv 2503.04482, section 5.3; defaults as released.
        """
        ids = self.encode_as_released(texts) if as_released else self.encode(texts)
        require_count("num_inference_steps", num_inference_steps)
        require_count("batch_size", batch_size)
        lengths = torch.tensor([len(found) for found in ids])
        tokens = torch.full((len(ids), int(lengths.max())), self._padding)
        for row, found in enumerate(ids):
            tokens[row, : len(found)] = torch.tensor(found)
        correction = SelfCorrection(
            self.denoiser,
            time=t0,
            temperature=temperature,
            tokens_per_step=tokens_per_step,
            patience=early_stopping_patience,
            process=self.process,
            support=self.support,
        )
        with self._computing(dtype):
            corrected = correct(
                correction,
                tokens,
                lengths,
                steps=num_inference_steps,
                stop=early_stopping,
                batch_size=batch_size,
                generator=generator,
                show_progress=show_progress,
                device=self.device,
            )
        return self.decode([row[:length].tolist() for row, length in zip(corrected, lengths, strict=True)])

    @property
    def _padding(self) -> int:
        """The token at padding, which is known by its position: any, if the tokenizer has none for it."""
        return 0 if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def _sampler(self, sampler: SamplerLike | None, asked: Truncation) -> Sampler:
        return chosen_sampler(self.process, self.denoiser, sampler, asked, self.generation)

    def _times(self, steps: int | None, as_released: bool) -> Tensor:
        steps = require_count("num_inference_steps", self.generation.steps if steps is None else steps)
        if steps < 1 + as_released:
            raise ValueError(
                f"num_inference_steps must be at least {1 + as_released}; got {steps}"
                + (" (with as_released, the last step has no effect)" if as_released else "")
            )
        low, high = self.process.domain
        if not as_released:
            return torch.linspace(high, low, steps + 1, dtype=torch.float64)
        margin = float(getattr(getattr(self.network, "config", None), "t_eps", 1e-4))
        times = margin + (1 - 2 * margin) * torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return times[:-1].flip(0)

    def encode_as_released(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts again and pad them to the context, as dvruette/gidd does; longer ones are truncated with a warning.

        A model without a limit has no context: texts are padded to the longest.

        **Raises:** `ValueError` if there are no texts.
        """
        ids, limit = list(Encoder(self.tokenizer)(map(str, text_list(texts)))), self.length
        width = max(map(len, ids)) if limit is None else limit
        longer = [i for i, found in enumerate(ids) if len(found) > width]
        if longer:
            warnings.warn(
                f"as_released truncates texts to the context of {limit} tokens; this affects texts {longer[:8]}",
                stacklevel=3,
            )
        pad = [self._padding] * width
        return [(found + pad)[:width] for found in ids]


class GiddPipeline(DiffusionPipeline):
    """`DiffusionPipeline` under the name and with the interface of dvruette/gidd.

    ```py
    from noiselab.pipeline import GiddPipeline

    pipe = GiddPipeline.from_pretrained("dvruette/gidd-base-p_unif-0.2").to("cuda")
    texts = pipe.generate(num_samples=4, num_inference_steps=128)
    texts = pipe.self_correction(texts, num_inference_steps=128, early_stopping=True, temperature=0.1)
    ```

    **Source:** von Ruette et al. (2025), arXiv 2503.04482, and its code, MIT licence.
    """


def interpolating(pipe: DiffusionPipeline) -> InterpolatingProcess:
    """The process of a pipeline, for methods that require state-independent corruption."""
    if not isinstance(pipe.process, InterpolatingProcess):
        raise ValueError(
            f"the process must be an InterpolatingProcess (state-independent corruption); got {pipe.process}"
        )
    return pipe.process
