"""The law of overrides: a method that a class replaces for speed says what the definition says."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..process import InterpolatingProcess, NoiseProcess, TokenDependentProcess, as_token_times
from .tools import Places, agree, logits, pairs, random_times, times


class Bare(InterpolatingProcess):
    """Nothing but the `alpha` and the `mixing` of a process: every other method is the definition.

    **Arguments:**

    - `process`: whose two methods are asked.
    """

    def __init__(self, process: InterpolatingProcess):
        super().__init__(process.support)
        self.written, self.domain = process, process.domain
        self.vocab_size = process.mixing(times(process, 1)[:, None]).shape[-1]

    def alpha(self, t: Tensor) -> Tensor:
        """The signal of the process."""
        return self.written.alpha(t)

    def mixing(self, t: Tensor) -> Tensor:
        """The mixing of the process."""
        return self.written.mixing(t)


class BareMatrices(TokenDependentProcess):
    """The same of a `TokenDependentProcess`.

    **Arguments:**

    - `process`: whose two methods are asked.
    """

    def __init__(self, process: TokenDependentProcess):
        super().__init__(process.support)
        self.written, self.domain = process, process.domain
        self.vocab_size = process.mixing(times(process, 1)).shape[-1]

    def alpha(self, t: Tensor) -> Tensor:
        """The signal of the process."""
        return self.written.alpha(t)

    def mixing(self, t: Tensor) -> Tensor:
        """The mixing of the process."""
        return self.written.mixing(t)


def overrides_equal_definitions(process: NoiseProcess) -> None:
    """Every derived method that a class replaces equals its definition in terms of `alpha` and `mixing`."""
    bare: NoiseProcess
    if isinstance(process, InterpolatingProcess):
        bare, derived = Bare(process), DERIVED
    else:
        assert isinstance(process, TokenDependentProcess)
        bare, derived = BareMatrices(process), DERIVED_OF_MATRICES
    for name, (definition, ask) in derived.items():
        where = _override(process, name)
        if where is not None:
            for per_token in (False, True):
                _compare(process, bare, name, where, definition, ask, per_token)


def _override(process: NoiseProcess, name: str) -> str | None:
    """Where a method is written if it is no definition, as "Class.method"."""
    if name in vars(process):
        return f"{type(process).__name__}.{name}"
    owner = next((kind for kind in type(process).__mro__ if name in vars(kind)), nn.Module)
    bases = (InterpolatingProcess, TokenDependentProcess, NoiseProcess, nn.Module)
    return None if owner in bases else f"{owner.__name__}.{name}"


def _compare(
    process: NoiseProcess, bare: NoiseProcess, name: str, where: str, definition: str, ask: "Ask", per_token: bool
) -> None:
    shape = "[batch, length]" if per_token else "[batch]"
    question, untouched = Question(process, per_token), Question(process, per_token)
    try:
        answers = ask(process, question)
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error).split(chr(10))[0]}"
        raise AssertionError(f"`{where}` fails for times of shape {shape} with {problem}") from error
    for given, before in zip(question.given(), untouched.given(), strict=True):
        assert torch.equal(given, before), f"`{where}` edits an argument in place"
    for (part, got, places), (_, want, _) in zip(answers, ask(bare, untouched), strict=True):
        what = f"`{where}`{part} differs from its definition, {definition}, for times of shape {shape},"
        try:
            got, want = torch.broadcast_tensors(got, want)
        except RuntimeError as error:
            raise AssertionError(f"{what} in shape: got {list(got.shape)}, want {list(want.shape)}") from error
        if name == "is_clean" and isinstance(process, InterpolatingProcess):
            # Where 1 - alpha has lost all its digits, the definition finds no noise.
            noise = process.noise(question.lifted).at(question.z)
            want = torch.where((noise > 0) & (noise < 1e-12), got, want)
        agree(what, got, want, rtol=1e-6, **places)


class Question:
    """Tokens and times to ask a process about: s < t, clean tokens x, noisy tokens z, predictions x_hat."""

    def __init__(self, process: NoiseProcess, per_token: bool):
        x, z = pairs(process)
        n = 5
        self.x, self.z = x.repeat(n, 1), z.repeat(n, 1)
        shape = self.z.shape if per_token else self.z.shape[:1]
        self.s, self.t = torch.stack([random_times(process, *shape, seed=k) for k in (1, 2)]).sort(0).values
        self.lifted = as_token_times(self.t, self.z)
        self.x_hat = logits(process, *self.z.shape).softmax(-1)
        self.every = torch.arange(process.vocab_size)

    def given(self) -> tuple[Tensor, ...]:
        """All that is passed to methods."""
        return self.x, self.z, self.s, self.t, self.lifted, self.x_hat

    def at_tokens(self, **more: Tensor) -> Places:
        """Coordinates of [batch, length]."""
        return {**more, "token": self.z, "t": self.lifted}

    def dense(self, **more: Tensor) -> Places:
        """Coordinates of [batch, length, state]."""
        return {**more, "token": self.every, "t": self.lifted[..., None]}


Answers: TypeAlias = list[tuple[str, Tensor, Places]]
Ask: TypeAlias = Callable[[Any, Question], Answers]


def _noise(p: InterpolatingProcess, q: Question) -> Answers:
    mass = p.noise(q.lifted)
    return [
        ("(t).dense()", mass.dense(), q.dense()),
        ("(t).at(z)", mass.at(q.z), q.at_tokens()),
        ("(t).total()", mass.total(), {"t": q.lifted}),
    ]


def _jump(p: InterpolatingProcess, q: Question) -> Answers:
    keep, fresh = p.transition(q.z, q.s, q.t)
    s = as_token_times(q.s, q.z)
    return [(" (the share kept)", keep, {"s": s, "t": q.lifted}), (" (the rest)", fresh, q.at_tokens(s=s))]


def _marginal(p: NoiseProcess, q: Question) -> Answers:
    return [
        (" of tokens", p.marginal(q.x, q.t), q.dense(x=q.x[..., None])),
        (" of distributions", p.marginal(q.x_hat, q.t), q.dense()),
    ]


def _posterior(p: NoiseProcess, q: Question) -> Answers:
    places = q.dense(z=q.z[..., None], s=as_token_times(q.s, q.z)[..., None])
    return [("", p.posterior(q.z, q.x_hat, q.s, q.t), places)]


def _column(method: str) -> Ask:
    """What goes into z from each token, [batch, length, state]."""

    def ask(p: TokenDependentProcess, q: Question) -> Answers:
        times = (q.s, q.t) if method == "transition" else (q.t,)
        places = {"from token": q.every, "into token": q.z[..., None], "t": q.lifted[..., None]}
        return [("", getattr(p, method)(q.z, *times), places)]

    return ask


COMMON: dict[str, tuple[str, Ask]] = {
    "data_tokens": ("the support", lambda p, q: [("", p.data_tokens(), {"token": q.every})]),
    "host_support": ("the support", lambda p, q: [("", p.host_support(), {"token": q.every})]),
    "interior": ("t, kept off the ends", lambda p, q: [("", p.interior(q.t, q.z), {"t": q.lifted})]),
}
DERIVED: dict[str, tuple[str, Ask]] = {
    **COMMON,
    "noise": ("(1 - alpha) mixing", _noise),
    "marginal": ("alpha x + b", _marginal),
    "likelihood": ("alpha 1[v = z] + b(z)", lambda p, q: [("", p.likelihood(q.z, q.t), q.dense(z=q.z[..., None]))]),
    "probability": ("alpha 1[z = x] + b(z)", lambda p, q: [("", p.probability(q.x, q.z, q.t), q.at_tokens(x=q.x))]),
    "transition": ("b_t - (alpha_t / alpha_s) b_s", _jump),
    "rate": ("b' - (alpha' / alpha) b", lambda p, q: [("", p.rate(q.z, q.t), q.at_tokens())]),
    "elbo_weight": ("rate / q(z | x)", lambda p, q: [("", p.elbo_weight(q.x, q.z, q.t), q.at_tokens(x=q.x))]),
    "is_clean": ("b(z) = 0", lambda p, q: [("", p.is_clean(q.z, q.t), q.at_tokens())]),
    "posterior": ("Bayes' rule", _posterior),
}
"""Every derived method: its definition in words, and how to ask for it."""

DERIVED_OF_MATRICES: dict[str, tuple[str, Ask]] = {
    **COMMON,
    "kernel": (
        "alpha 1 + (1 - alpha) mixing",
        lambda p, q: [("", p.kernel(q.lifted), {"t": q.lifted[..., None, None]})],
    ),
    "marginal": ("x Q", _marginal),
    "likelihood": ("a column of Q", lambda p, q: [("", p.likelihood(q.z, q.t), q.dense(z=q.z[..., None]))]),
    "probability": ("an entry of Q", lambda p, q: [("", p.probability(q.x, q.z, q.t), q.at_tokens(x=q.x))]),
    "transition": ("a column of Q_s^-1 Q_t", _column("transition")),
    "rate": ("a column of Q^-1 Q'", _column("rate")),
    "is_clean": ("q(z | v) = 0 for all other v", lambda p, q: [("", p.is_clean(q.z, q.t), q.at_tokens())]),
    "posterior": ("Bayes' rule", _posterior),
    "prior_law": ("the mean row at the end", lambda p, q: [("", p.prior_law(), {"token": q.every})]),
}
"""The same of a `TokenDependentProcess`."""
