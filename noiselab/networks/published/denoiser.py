"""Networks in published formats as denoisers: the time of the library becomes that of the published code."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...denoisers.base import ProjectedDenoiser
from ...denoisers.projection import LinearProjection
from ...numerics import require_count
from ...parametrization import Prediction
from ...process import InterpolatingProcess, NoiseProcess
from ...typing import Selection, Times, Tokens
from .base import PublishedNetwork


class PublishedDenoiser(ProjectedDenoiser):
    r"""A denoiser from a network of `load_network`.

    It converts the time t of the library to the input of the published code, here and nowhere else: UDLM and Duo get
    $\sigma = -\log \alpha_t$ with the signal of the process, at most the largest $\sigma$ of their training. Where the
    published code never predicts the mask token (GIDD, MDLM), the logits of tokens outside the support of the process
    are -inf.

    **Arguments:**

    - `network`: a network of `load_network`.
    - `process`: the noise; `noiselab.processes.process_from(network.noise(mask_id))` is that of the training.
    - `predicts`: "leave_one_out" or "posterior"; by default that of the format.
    - `condition`: the class of all sequences, for networks with a class condition; by default none.
    - `attention_mask`: Bool or Int [batch or 1, length], 1 for real tokens; by default all are real. Only for networks
      that take one. For batches of sequences of different lengths, use `noiselab.denoisers.attending_to`.

    **Raises:** `ValueError` if the network has fewer tokens than the process, takes no class or attention mask that is
    given, or needs the signal of a process that has none.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.networks.published import UDLM, PublishedDenoiser, UDLMConfig

    config = UDLMConfig(vocab_size=9, model_length=8, hidden_dim=16, cond_dim=8, n_blocks=1, n_heads=2)
    network = UDLM(config).eval()  # as `load_network` returns them
    process = nl.processes.process_from(network.noise())
    sampler = nl.AncestralSampler(process, PublishedDenoiser(network, process))
    x = sampler.sample((2, 8), steps=4, generator=torch.Generator().manual_seed(0))
    ```
    """

    attention_mask: Tensor | None

    def __init__(
        self,
        network: Any,
        process: NoiseProcess,
        *,
        predicts: Prediction | None = None,
        condition: int | None = None,
        attention_mask: Selection | Tokens | None = None,
    ):
        super().__init__()
        if not isinstance(network, PublishedNetwork):
            raise ValueError(f"network must be one of load_network; got {type(network).__name__}")
        size = network.config.vocab_size
        if process.vocab_size > size:
            raise ValueError(f"the network must cover all tokens of the noise, {process.vocab_size}; it has {size}")
        one = torch.ones((), dtype=torch.float64)
        if network.published_time(one) is not None and not isinstance(process, InterpolatingProcess):
            raise ValueError(f"the time input of the network is a function of alpha; {process} has none")
        if condition is not None:
            if "condition" not in network.knows:
                raise ValueError(f"{network.config.model_type!r} networks take no condition; got {condition}")
            require_count("condition", condition, 0, network.config.cfg_num_classes)
        self.takes_mask = "attention_mask" in network.knows
        if attention_mask is not None and not self.takes_mask:
            raise ValueError(f"{network.config.model_type!r} networks take no attention_mask; got one")
        self.network, self.process, self.condition = network, process, condition
        self.predicts = network.predicts if predicts is None else predicts
        # Not persistent, because it belongs to the sequences and not to the weights.
        self.register_buffer("attention_mask", attention_mask, persistent=False)

    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The hidden states at the published time of t."""
        options: dict[str, Any] = {}
        real = self.real_tokens(z) if self.takes_mask else None
        if real is not None:
            options["attention_mask"] = real
        if self.condition is not None:
            options["condition"] = torch.full((len(z),), self.condition, device=z.device)
        if isinstance(self.process, InterpolatingProcess):
            time = self.network.published_time(self.process.alpha(t.double()))
            options["timesteps"] = None if time is None else time.float()
        return self.network.hidden(z, **options)

    def project(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows state"]:
        """The logits of the tokens of the process."""
        logits = self.network.project(hidden)[..., : self.process.vocab_size]
        return self.process.on_support(logits) if self.network.omits_masks else logits

    def linear_projection(self, hidden: Float[Tensor, "*rows width"]) -> LinearProjection | None:
        """That of the network; losses ignore the logits of tokens outside the support by themselves."""
        return self.network.linear_projection(hidden)

    def __repr__(self) -> str:
        network: Any = self.network
        count = sum(weight.numel() for weight in network.parameters())
        return f"{type(self).__name__}({type(network).__name__}, {count:,} parameters)"
