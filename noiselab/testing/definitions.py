"""Laws of overrides: a method that a class replaces for speed says what the definition says."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..mixing import Mixing
from ..process import InterpolatingProcess, NoiseProcess, lift
from .tools import Places, agree, every_token, logits, pairs, random_times, times


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


def overridden(thing: nn.Module, name: str, bases: tuple[type, ...]) -> str | None:
    """Where a method is written if not in one of `bases`, as "Class.method"; None if it is theirs."""
    if name in vars(thing):
        return f"{type(thing).__name__}.{name}"
    owner = next((kind for kind in type(thing).__mro__ if name in vars(kind)), None)
    return None if owner is None or owner in bases else f"{owner.__name__}.{name}"


def overrides_equal_definitions(process: InterpolatingProcess) -> None:
    """Every derived method that a class replaces equals its definition in terms of `alpha` and `mixing`."""
    bare = Bare(process)
    for name, (definition, ask) in DERIVED.items():
        where = overridden(process, name, (InterpolatingProcess, NoiseProcess))
        if where is None:
            continue
        for shape in ("[batch]", "[batch, length]"):
            question = Question(process, per_token=shape != "[batch]")
            try:
                answers = ask(process, question)
            except Exception as error:
                problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                raise AssertionError(f"`{where}` fails for times of shape {shape} with {problem}") from error
            fresh = Question(process, per_token=shape != "[batch]")
            for given, before in zip(question.given(), fresh.given(), strict=True):
                assert torch.equal(given, before), f"`{where}` edits an argument in place"
            for (part, got, places), (_, want, _) in zip(answers, ask(bare, question), strict=True):
                what = f"`{where}`{part} differs from its definition, {definition}, for times of shape {shape},"
                try:
                    got, want = torch.broadcast_tensors(got, want)
                except RuntimeError as error:
                    raise AssertionError(f"{what} in shape: got {list(got.shape)}, want {list(want.shape)}") from error
                if name == "reveals":
                    # Where 1 - alpha has lost all its digits, the definition finds no noise.
                    want = torch.where(bare.noise(question.lifted).at(question.z) < 1e-12, got, want)
                agree(what, got, want, rtol=1e-6, **places)


class Question:
    """Tokens and times to ask a process about: s < t, clean tokens x, noisy tokens z, predictions x_hat."""

    def __init__(self, process: InterpolatingProcess, per_token: bool):
        x, z = pairs(process)
        n = 5
        self.x, self.z = x.repeat(n, 1), z.repeat(n, 1)
        shape = self.z.shape if per_token else self.z.shape[:1]
        self.s, self.t = torch.stack([random_times(process, *shape, seed=k) for k in (1, 2)]).sort(0).values
        self.lifted = lift(self.t, self.z)
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


Answers = list[tuple[str, Tensor, Places]]


def _noise(p: InterpolatingProcess, q: Question) -> Answers:
    mass = p.noise(q.lifted)
    return [
        ("(t).dense()", mass.dense(), q.dense()),
        ("(t).at(z)", mass.at(q.z), q.at_tokens()),
        ("(t).total()", mass.total(), {"t": q.lifted}),
    ]


def _jump(p: InterpolatingProcess, q: Question) -> Answers:
    keep, fresh = p.jump(q.z, q.s, q.t)
    s = lift(q.s, q.z)
    return [(" (the share kept)", keep, {"s": s, "t": q.lifted}), (" (the rest)", fresh, q.at_tokens(s=s))]


def _marginal(p: InterpolatingProcess, q: Question) -> Answers:
    return [
        (" of tokens", p.marginal(q.x, q.t), q.dense(x=q.x[..., None])),
        (" of distributions", p.marginal(q.x_hat, q.t), q.dense()),
    ]


def _posterior(p: InterpolatingProcess, q: Question) -> Answers:
    places = q.dense(z=q.z[..., None], s=lift(q.s, q.z)[..., None])
    return [("", p.posterior(q.z, q.x_hat, q.s, q.t), places)]


Ask = Callable[[InterpolatingProcess, Question], Answers]
DERIVED: dict[str, tuple[str, Ask]] = {
    "data_tokens": ("the support", lambda p, q: [("", p.data_tokens(), {"token": q.every})]),
    "host_support": ("the support", lambda p, q: [("", p.host_support(), {"token": q.every})]),
    "interior": ("t, kept off the ends", lambda p, q: [("", p.interior(q.t, q.z), {"t": q.lifted})]),
    "noise": ("(1 - alpha) mixing", _noise),
    "marginal": ("alpha x + b", _marginal),
    "likelihood": ("alpha 1[v = z] + b(z)", lambda p, q: [("", p.likelihood(q.z, q.t), q.dense(z=q.z[..., None]))]),
    "probability": ("alpha 1[z = x] + b(z)", lambda p, q: [("", p.probability(q.x, q.z, q.t), q.at_tokens(x=q.x))]),
    "jump": ("b_t - (alpha_t / alpha_s) b_s", _jump),
    "rate": ("b' - (alpha' / alpha) b", lambda p, q: [("", p.rate(q.z, q.t), q.at_tokens())]),
    "elbo_weight": ("rate / q(z | x)", lambda p, q: [("", p.elbo_weight(q.x, q.z, q.t), q.at_tokens(x=q.x))]),
    "reveals": ("b(z) = 0", lambda p, q: [("", p.reveals(q.z, q.t), q.at_tokens())]),
    "posterior": ("Bayes' rule", _posterior),
}
"""Every derived method: its definition in words, and how to ask for it."""


def shortcuts_equal_definitions(process: InterpolatingProcess) -> None:
    """`at`, `choose` and `profile` of every mixing say what its `probs` says, and its mass stays on its support."""
    host, z = process.host_support(), every_token(process, 4)
    token = torch.arange(process.vocab_size)
    for per_token in (False, True):
        t = random_times(process, *(z.shape if per_token else (4, 1)))
        for part in process.noise(t).parts:
            name, probs = type(part).__name__, part.probs(t).double()
            agree(f"`{name}.probs` does not sum to 1", probs.sum(-1), torch.ones(()), rtol=1e-5, t=t)
            on = getattr(part, "support", None)
            if isinstance(on, Tensor) and on.dtype == torch.bool:
                off = ~on.cpu()
                what = f"`{name}.probs` has mass outside its support"
                agree(what, probs[..., off], torch.zeros(()), atol=0.0, token=token[off], t=t[..., None])
            if not _shortcuts(part):
                continue
            want = probs.expand(*z.shape, -1).gather(-1, z[..., None])[..., 0]
            agree(f"`{name}.at` differs from `{name}.probs`", part.at(z, t), want, rtol=1e-6, token=z, t=t)
            _check_choose(part, t.flatten()[:4, None], token)
            _check_profile(part, host, probs, t)


def _shortcuts(part: Any) -> list[str]:
    """The methods of a mixing that are not the definitions."""
    return [name for name in ("at", "choose", "profile") if getattr(type(part), name) is not getattr(Mixing, name)]


def _check_choose(part: Any, t: Tensor, token: Tensor) -> None:
    """Of n even steps of u each token gets its share, to one step for each interval of u that selects it."""
    states = len(token)
    n = max(4000, 200 * states)
    u = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).expand(len(t), -1)
    share = torch.stack([torch.bincount(row, minlength=states) for row in part.choose(u, t)]) / n
    want = part.probs(t).double().expand(len(t), 1, -1)[:, 0]
    what = f"`{type(part).__name__}.choose` differs from `{type(part).__name__}.probs`"
    agree(what, share, want, rtol=0.0, atol=(states + 1) / n, token=token, t=t)
    agree(f"{what} (a token without mass)", (share > 0) & (want == 0), torch.tensor(False), token=token, t=t)


def _check_profile(part: Any, host: Tensor, probs: Tensor, t: Tensor) -> None:
    profile = part.profile(host)
    if profile is None:
        return
    on = torch.arange(len(host))[host]
    said = torch.tensor(profile, dtype=torch.float64) if isinstance(profile, float) else profile.cpu()[host]
    what = f"`{type(part).__name__}.profile` differs from `{type(part).__name__}.probs`"
    agree(what, said, probs[..., host], rtol=1e-6, token=on, t=t[..., None])
