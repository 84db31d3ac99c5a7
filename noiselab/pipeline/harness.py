"""Diffusion pipelines as models for EleutherAI's lm-evaluation-harness (`pip install noiselab[harness]`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string

from ..data.corpus import fingerprint
from ..data.tokenizers import Encoder, tokenizer_key
from ..networks.lengths import check_fits
from ..numerics import require_count
from .base import Pipeline
from .chats import chat_of
from .diffusion import DiffusionPipeline
from .harness_batches import Batches, Passage, Wanted, ends_at, request_bar

OWN = ("nodes", "draws", "steps", "seed", "batch_size", "show_progress")
GREEDY = 1e-4
"""A temperature at which the arg-max is drawn, except for ties."""


@register_model("noiselab")
class HarnessModel(LM):
    r"""A model for tasks of the harness: log-likelihoods (by the bound), multiple choice, and generation.

    $\log p(\text{continuation} \mid \text{context})$ is bounded from below by noising only the continuation. The
    context stays clean, and the network receives the time of the continuation for the whole sequence, as in training. For a
    model that was trained in blocks it is the sum of the bounds of its blocks, each given the clean tokens before it, in
    one pass (`noiselab.denoisers.BlockDenoiser`).

    Times are fixed quadrature nodes, and the noise of a request depends only on `seed` and its own tokens. Results are
    therefore independent of order and batching but for rounding, and two models are compared on the same noise. Requests of
    like lengths share a call of the network, padded if the network takes an attention mask; without one, they share it if
    their lengths are equal. Equal requests are computed once. For autoregressive models, use the adapters of the harness.

    **Arguments:**

    - `pipe`: the model.
    - `nodes`: the number of times, with one evaluation each (`noiselab.process_quadrature` gives a sufficient number).
    - `draws`: the number of noise samples at each time, in one batch. More reduce the variance of each log-likelihood.
    - `steps`: the number of generation steps; by default that of the model.
    - `seed`: the seed of all noise.
    - `batch_size`: the number of requests in a batch. Log-likelihoods take the memory of `batch_size` times `draws`
      sequences of the longest request.
    - `show_progress`: whether to show a progress bar, which counts requests.

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
        batch_size: int = 8,
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
        self.batches = Batches(pipe, require_count("batch_size", batch_size), nodes, draws, steps, seed)
        self.show_progress = show_progress
        self.encoder, self.limit = Encoder(pipe.tokenizer), pipe.length
        self.reads_special = False

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "HarnessModel":
        """The model of `lm_eval.simple_evaluate(model="noiselab", model_args={"pretrained": folder, ...})`.

        **Arguments:**

        - `arg_dict`: `pretrained`, a folder or a name on the Hub; `device`; and options of the model, such as `nodes`.
        - `additional_config`: `batch_size` and `device` of the harness.

        **Raises:** `ValueError` for unknown options, or a batch size that is not an integer.
        """
        more = {name: value for name, value in (additional_config or {}).items() if value is not None}
        options = {**arg_dict, **more}
        options.pop("max_batch_size", None)
        name, device = options.pop("pretrained", None), options.pop("device", None)
        if name is None or set(options) - set(OWN):
            raise ValueError(
                f"model_args must be pretrained, device and any of {', '.join(OWN)}; got {sorted(arg_dict)}"
            )
        if "batch_size" in options:
            size = str(options["batch_size"])
            if not size.isdecimal():
                raise ValueError(f"batch_size must be an integer; got {size!r}")
            options["batch_size"] = int(size)
        pipe: Any = Pipeline.from_pretrained(name)
        return cls(pipe if device is None else pipe.to(device), **options)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> "HarnessModel":
        """The same for `model_args="pretrained=FOLDER,nodes=16"`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation): log-likelihood in nats, and whether the arg-max from pure noise equals the
        continuation (of a model of blocks, that of each block given those before it).

        A context that is too long is truncated at its beginning, as usual in the harness.

        **Raises:** `ValueError` if a continuation is empty or too long for the model.
        """
        passages = [Passage(*map(tuple, self.pair(*request.args))) for request in requests]
        each = list(dict.fromkeys(passages))
        modes = dict(zip(each, self.batches.modes(each), strict=True))
        nats = self.scored(each, [[passage] for passage in passages], disable_tqdm)
        return [(-nats[one], modes[one] == one.tail) for one in passages]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts in nats, in windows of the model's context; each token is scored once."""
        windows: list[list[Passage]] = []
        for request in requests:
            (text,) = request.args
            ids = tuple(self.encode(text))
            length = self.limit or max(len(ids), 1)
            windows.append([Passage((), ids[i : i + length]) for i in range(0, len(ids), length)])
        each = list(dict.fromkeys(window for some in windows for window in some))
        nats = self.scored(each, windows, disable_tqdm)
        return [0.0 - sum(nats[window] for window in some) for some in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate a continuation of each context, up to an end of text or a stop string, of at most `max_gen_toks` tokens.

        A request that is made several times is answered once, or, with `do_sample`, each time by another sample.
        """
        wanted, times = [], Counter[Wanted]()
        for request in requests:
            one = self.wanted(*request.args)
            wanted.append(one._replace(number=times[one]) if one.temperature > GREEDY else one)
            times[one] += 1
        each, ends = list(dict.fromkeys(wanted)), self.ends()
        made: dict[Wanted, str] = {}
        with request_bar("generating", [[one] for one in wanted], disable_tqdm or not self.show_progress) as done:
            for some, rows in self.batches.texts(each):
                made |= zip(
                    [each[i] for i in some], self.pipe.decode([ends_at(row, ends) for row in rows]), strict=True
                )
                done(each[i] for i in some)
        found = []
        for request, one in zip(requests, wanted, strict=True):
            text, until = str(made[one]), request.args[1].get("until") or []
            for end in [until] if isinstance(until, str) else until:
                text = text.split(end)[0] if end else text
            found.append(text)
        return found

    def scored(
        self, each: Sequence[Passage], requests: Sequence[Sequence[Passage]], quiet: bool
    ) -> dict[Passage, float]:
        """The bound on -log p of each passage, in nats.

        **Arguments:**

        - `each`: the passages; `requests`: those of each request, for the progress bar.
        """
        nats: dict[Passage, float] = {}
        with request_bar("log-likelihoods", requests, quiet or not self.show_progress) as done:
            for some, found in self.batches.nats(each):
                nats |= zip([each[i] for i in some], found, strict=True)
                done(each[i] for i in some)
        return nats

    def wanted(self, context: str, options: Mapping[str, Any]) -> Wanted:
        """The text that a request asks for; a context that is too long is truncated at its beginning."""
        most = int(options.get("max_gen_toks", 256))
        ids = self.encode(context)
        if self.limit is not None:
            room = min(max(1, self.limit - most), self.limit - 1)
            ids = ids[max(0, len(ids) - room) :]
        heat = float(options.get("temperature", 0) or 0)
        # Temperature 0, the harness's default, means the arg-max.
        heat = heat if options.get("do_sample", heat > 0) and heat > 0 else GREEDY
        length = len(ids) + most if self.limit is None else min(len(ids) + most, self.limit)
        return Wanted(tuple(ids), length, heat, 0)

    def ends(self) -> frozenset[int]:
        """The tokens that end a text: the end-of-text token, and those that end an answer in conversations."""
        end = self.pipe.tokenizer.eos_token_id
        own = frozenset() if end is None else frozenset([end])
        return own | chat_of(self.pipe).ends if self.reads_special else own

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
        """Encode a text without adding or interpreting special tokens; those of a chat template are interpreted."""
        if self.reads_special:
            call: Any = self.pipe.tokenizer
            return list(call(text, add_special_tokens=False, verbose=False)["input_ids"])
        return next(self.encoder([text]))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the tokenizer's chat template writes it; from now on, names of special tokens in texts are these.

        **Arguments:**

        - `chat_history`: messages with "role" and "content".
        - `add_generation_prompt`: whether the beginning of an answer follows; otherwise the last message is continued.

        **Raises:** `ValueError` if the tokenizer has no template, or it cannot write the conversation.
        """
        chat_of(self.pipe)
        self.reads_special = True
        more = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        try:
            written: str = self.pipe.tokenizer.apply_chat_template(chat_history, tokenize=False, **more)
        except Exception as error:  # raised by the template
            raise ValueError(f"the chat template must be able to write the conversation: {error}") from error
        return written

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The Jinja template that `apply_chat_template` of the harness asks for; empty if it asks for none.

        **Raises:** `ValueError` if the tokenizer has none.
        """
        if not chat_template:
            return ""
        chat_of(self.pipe)
        found: str = self.pipe.tokenizer.get_chat_template(None if chat_template is True else chat_template)
        return found

    @property
    def tokenizer_name(self) -> str:
        """A hash of all that the tokens of a text depend on, under which the harness stores requests."""
        template = getattr(self.pipe.tokenizer, "chat_template", None)
        return fingerprint([tokenizer_key(self.pipe.tokenizer), str(template)])


def evaluate(pipe: DiffusionPipeline, tasks: Sequence[Any], **options: Any) -> dict[str, Any]:
    """Evaluate a pipeline on tasks of the harness with `lm_eval.simple_evaluate`.

    **Arguments:**

    - `tasks`: names of tasks, or settings of custom tasks.
    - `options`: options of `HarnessModel` and of `lm_eval.simple_evaluate`, such as `limit`, `num_fewshot`,
      `task_manager`, `apply_chat_template`.
    """
    own = {name: options.pop(name) for name in OWN if name in options}
    model = HarnessModel(pipe, **own)
    model.reads_special = bool(options.get("apply_chat_template"))  # also where the harness has stored the requests
    found: dict[str, Any] = simple_evaluate(model=model, tasks=list(tasks), **options)
    return found
