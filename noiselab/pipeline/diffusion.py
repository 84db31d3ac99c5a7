"""Pipelines of diffusion models: generation, self-correction and infilling."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..categorical import Randomness
from ..data import token_support, vocabulary_size
from ..data.texts import text_list
from ..data.tokenizers import Encoder
from ..denoisers import BlockDenoiser, Denoiser, Support
from ..distributed import Processes
from ..networks.block_cache import in_blocks
from ..networks.denoiser_files import network_settings, save_denoiser
from ..networks.dit import DiT
from ..networks.huggingface import TransformersDenoiser
from ..networks.masked_lm import MaskedLanguageModel
from ..networks.model_folders import read_config
from ..networks.published import PublishedDenoiser, PublishedNetwork
from ..process import InterpolatingProcess, NoiseProcess
from . import calls
from .arguments import arguments_of
from .base import Pipeline
from .chats import Prompts, warn_of_empty, warn_of_erased
from .constraining import Constraint
from .corrections import CorrectionMethod
from .drawing import SamplerLike
from .original import is_original, original_noise
from .own import FirstLogits, check_denoiser, logits_count
from .settings import ModelSettings
from .streaming import Callback, Streaming


class DiffusionPipeline(Streaming, Pipeline, loads=("dit", "masked", "own", "published")):
    """A diffusion language model: `generate`, `infill`, `self_correction`.

    Pass `pipe.process` and `pipe.denoiser` to the samplers and evaluations of this library.

    **Arguments:**

    - `model`: a `DiT`, any other network that is called with tokens and times, a `MaskedLanguageModel`, a network of
      `noiselab.networks.load_network`, or a `Denoiser` of your own with an attribute `vocab_size`, the number of its
      logits, and perhaps `max_length`, the longest sequence.
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
    for state in pipe.stream(num_samples=2, num_inference_steps=8, seed=0):
        assert state.tokens.shape == (2, 16) and state.steps == 8
    for state in pipe.stream(["the [MASK] sat"], method="infill", num_inference_steps=2, seed=0):
        assert len(state.texts) == 1
    ```
    """

    tag = "diffusion"
    streams: ClassVar = {
        "generate": calls.generation,
        "infill": calls.infilling,
        "self_correction": calls.correction,
    }
    process: NoiseProcess
    keeps_keys = True
    """Whether a model of blocks is sampled with cached keys and values, where its network can be; texts are the same."""

    def __init__(self, model: nn.Module, tokenizer: Any, settings: ModelSettings):
        if isinstance(model, MaskedLanguageModel):
            settings = replace(settings, network=model.settings, adapter=model.adapter)
        elif isinstance(model, Denoiser):
            check_denoiser(model, settings.process())
            settings = replace(settings, network=network_settings(model), predicts=model.predicts)
        super().__init__(model, tokenizer, settings)
        if tokenizer.mask_token_id is None and not isinstance(model, MaskedLanguageModel | PublishedNetwork):
            raise ValueError("the tokenizer must have a mask token; got one without")
        self.process = settings.process()
        states, size = self.process.vocab_size, vocabulary_size(tokenizer)
        logits = logits_count(self.network)
        if states > logits or size > logits:
            raise ValueError(
                f"the model must cover all tokens; it has {logits}, the tokenizer {size}, the noise {states}"
            )
        support = torch.zeros(states, dtype=torch.bool)
        # Published networks predict special tokens too, as their samplers do.
        known = (all_tokens if isinstance(model, PublishedNetwork) else token_support)(tokenizer)[:states]
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
        if isinstance(model, PublishedNetwork):
            return ModelSettings(model.noise(tokenizer.mask_token_id), predicts=model.predicts)
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
        """Whether the noise is assumed: not for a GIDD model with a share of uniform noise, LLaDA, Dream, published formats."""
        if is_original(name) or isinstance(model, PublishedNetwork):
            return False
        if isinstance(model, DiT):
            return not model.config.p_uniform
        return read_config(Path(name)).get("model_type") not in ("llada", "Dream")

    @property
    def denoiser(self) -> Denoiser:
        """The network as a denoiser that predicts only tokens that occur in texts, in blocks if it was trained in blocks:
        with cached keys and values (`keeps_keys`) where the network can be evaluated with them.

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
            inner = model
        elif isinstance(model, PublishedNetwork):
            inner = PublishedDenoiser(model, self.process, predicts=self.settings.predicts)
        else:
            inner = TransformersDenoiser(model, self.settings.predicts, vocab_size=states)
        if self.settings.block_size is not None:
            made = in_blocks if self.keeps_keys else BlockDenoiser
            inner = made(inner, self.settings.block_size, low=self.process.domain[0])
        if (
            isinstance(model, Denoiser)
            and not isinstance(model, MaskedLanguageModel)
            and self.network.vocab_size != states
        ):
            inner = FirstLogits(inner, states)
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
        prompts: Prompts | None = None,
        length: int | Literal["auto"] | None = None,
        block_length: int | None = None,
        stop: bool = False,
        constraint: Constraint | None = None,
        sampler: SamplerLike | None = None,
        temperature: float | int | None = None,
        top_k: int | None = None,
        top_p: float | int | None = None,
        min_p: float | int | None = None,
        as_released: bool = False,
        callback: Callback | None = None,
        batch_size: int = 16,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        generator: Randomness = None,
        show_progress: bool = True,
        dtype: torch.dtype | None = None,
        processes: Processes | None = None,
    ) -> list[str]:
        """Generate texts from noise.

        **Arguments:**

        - `num_samples`: the number of texts, for each prompt if prompts are given.
        - `num_inference_steps`: network evaluations per text, at least 1; by default `pipe.generation.steps`.
        - `prompts`: the beginnings of the texts; or conversations, each a list of messages with "role" and "content", that
          the chat template of the tokenizer renders. Of these the answers alone are returned, cut as by `stop`.
        - `length`: the number of tokens of a text, including the prompt; by default `pipe.generation.length`, and without
          it the whole context, or 1,024 tokens if it is longer or has no limit. "auto" is the default length with
          `stop=True`: a text may end before.
        - `block_length`: sample blocks of this number of tokens one after another, from the end of the prompt, each in
          `num_inference_steps` (`noiselab.samplers.BlockSampler`). With `stop`, no block is sampled after all texts of a
          batch have ended. A model that was trained in blocks is sampled in blocks of its size by default, counted from the
          first token, also after a prompt; other sizes must be multiples of it.
        - `stop`: whether to cut each text after its first end-of-text token that is not in the prompt. It has the
          distribution of the texts without `stop`, cut. A text whose tokens up to its end are certainly clean and cannot
          change is not evaluated any more: in finished blocks, or for absorbing noise with a sampler that changes no
          revealed token (`keeps_clean`). Otherwise all steps are taken.
        - `constraint`: what each text must satisfy after its prompt, up to its first end-of-text token, where it is cut, or
          up to the length: a regular expression that it matches, a JSON schema as a mapping, or a
          `noiselab.constraints.TokenAutomaton` over texts without an end. Its sampler is
          `noiselab.samplers.ConstrainedSampler`, which evaluates all noisy tokens at each step.
        - `sampler`: a sampler built from `pipe.process` and `pipe.denoiser`, or a function or class that builds one
          from these two, such as `nl.samplers.TauLeapingSampler`; by default ancestral.
        - `temperature`, `top_k`, `top_p`, `min_p`: temperature and truncation of the prediction; defaults are in
          `pipe.generation`.
        - `as_released`: use the time grid of dvruette/gidd, which starts one step below t = 1 and ends at its margin
          `t_eps`, leaving the noise of that time in the text.
        - `callback`: called after each step with a `GenerationState`. If it returns True, generation ends: the tokens that
          are still noise are drawn in one jump, which takes one more network evaluation, and the texts of batches that
          have not begun are left out.
        - `batch_size`: the number of texts generated at once.
        - `seed`: text i has random numbers of its own, derived from the seed and i: it does not depend on `batch_size` or
          the number of texts.
        - `seeds`: one seed for each text: a text is the same alone and in any batch and order.
        - `generator`: instead of seeds, the source of randomness: one generator, or one for each text.
        - `show_progress`: whether to show a progress bar.
        - `dtype`: the dtype of the network's arithmetic (`torch.bfloat16`, as published); by default that of the
          weights.
        - `processes`: those that divide the batches among them, from `noiselab.distributed.join_processes`; by default this
          one does all. Each of them must make the same call, with seeds or a generator for each text, and gets all texts.

        **Returns:** the texts without special tokens, grouped by prompt.

        **Raises:** `ValueError` if a setting is out of range, a prompt is too long, truncation is combined with a sampler
        instance, `as_released` with `stop` or blocks, or the model cannot generate an end of text at which to stop; for a
        constraint with a sampler or blocks, or that no text of this length satisfies.
        """
        found = calls.generation(self, **arguments_of(locals())).run()
        if processes is None or processes.first:
            warn_of_empty(self, prompts, length, found)
        return found

    def infill(
        self,
        texts: Prompts,
        num_inference_steps: int | None = None,
        *,
        sampler: SamplerLike | None = None,
        temperature: float | int | None = None,
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
        """Replace each mask token in the texts, written as in the tokenizer ("[MASK]"), by one token.

        **Arguments:** as for `generate`. Texts may be conversations that end with an answer, in which the gaps are; the
        answers are returned.

        **Raises:** `ValueError` if there are no texts, or a text has no mask token or is longer than the context.
        """
        return calls.infilling(self, **arguments_of(locals())).run()

    def self_correction(
        self,
        texts: Prompts,
        num_inference_steps: int = 128,
        temperature: float | int = 0.1,
        t0: float | int = 0.01,
        early_stopping: bool = True,
        early_stopping_patience: int = 32,
        *,
        tokens_per_step: int = 1,
        method: CorrectionMethod = "gidd",
        as_released: bool = False,
        callback: Callback | None = None,
        batch_size: int = 16,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        generator: Randomness = None,
        show_progress: bool = True,
        dtype: torch.dtype | None = None,
        processes: Processes | None = None,
    ) -> list[str]:
        """Correct texts: repeatedly replace the tokens to which the model most confidently prefers others, until none
        is left.

        **Arguments:**

        - `texts`: at least one text. Texts generated by this pipeline keep their tokens; others are encoded. Or
          conversations that end with an answer, each a list of messages: the last answer alone may change, and is
          returned.
        - `num_inference_steps`: the maximum number of network evaluations per text.
        - `temperature`, `t0`, `tokens_per_step`: see `noiselab.SelfCorrection`.
        - `early_stopping`, `early_stopping_patience`: whether to stop correcting a text once its self-accuracy has not
          improved for this number of steps. Otherwise all steps are taken.
        - `method`: "gidd", as published; "balanced", which redraws tokens of small p-value, stops by itself and does not
          prefer probable text (`noiselab.correctors.BalancedCorrector`, level 0.01, prediction at temperature 0.7); or any
          object with `correct(z, steps=..., rows=..., generator=...)`, such as a `BalancedCorrector` with other settings;
          or a `Reviser`, such as `noiselab.correctors.CorrectorReviser`, which makes a method of any corrector and has its
          own number of steps: leave out `num_inference_steps`, and correct texts of unlike lengths one by one.
          `temperature`, `tokens_per_step`, early stopping and `as_released` belong to "gidd", and `t0` to the named ones.
          In `stream`, whose own `method` comes first, it is `correction_method`.
        - `as_released`: pad texts to the context as dvruette/gidd does, without masking the padding, which may
          therefore change. Otherwise padding is masked and never changed.
        - `callback`: as for `generate`; texts of batches that have not begun are returned as they are.
        - `batch_size`, `seed`, `seeds`, `generator`, `show_progress`, `dtype`, `processes`: as for `generate`.

        **Returns:** the texts, in order, each with the same number of tokens.

        **Raises:** `ValueError` if there are no texts, a text is longer than the context (texts are not truncated), a
        setting is out of range, or texts in one batch differ in length and the network accepts no attention mask.

        **Source:** von Ruette et al. (2025), arXiv 2503.04482, section 5.3; defaults as released. "balanced" is new here.
        """
        found = calls.correction(self, **arguments_of(locals())).run()
        if processes is None or processes.first:
            warn_of_erased(self, texts, found)
        return found

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
        pad = [calls.padding_of(self)] * width
        return [(found + pad)[:width] for found in ids]


def all_tokens(tokenizer: Any) -> Tensor:
    """The mask of ids that the tokenizer has, special tokens included."""
    found = torch.zeros(vocabulary_size(tokenizer), dtype=torch.bool)
    found[list(tokenizer.get_vocab().values())] = True
    return found


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
