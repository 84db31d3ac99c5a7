"""The law of overrides: a method that a class overrides for speed returns the same as its definition."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..process import InterpolatingProcess, NoiseProcess, TokenDependentProcess, as_token_times
from .tools import Places, agree, logits, pairs, random_times, times

KINDS = (InterpolatingProcess, TokenDependentProcess)
FLOAT64_SUM = 1e-12  # how far a row written in float64 may be from a sum of 1


class Bare(InterpolatingProcess):
    """A process with the `alpha` and `mixing` of another, in which every other method is the definition.

    **Arguments:**

    - `process`: the process that provides the two methods.
    - `normalize`: whether to divide the mixing by its sum.
    """

    def __init__(self, process: InterpolatingProcess, *, normalize: bool = False):
        super().__init__(process.support)
        self.written, self.domain, self.normalize = process, process.domain, normalize
        self.vocab_size = process.mixing(times(process, 1)[:, None]).shape[-1]

    def alpha(self, t: Tensor) -> Tensor:
        """The signal of the process."""
        return self.written.alpha(t)

    def mixing(self, t: Tensor) -> Tensor:
        """The mixing of the process."""
        pi = self.written.mixing(t)
        return pi.double() / pi.double().sum(-1, keepdim=True) if self.normalize else pi


class BareMatrices(TokenDependentProcess):
    """The same for a `TokenDependentProcess`.

    **Arguments:**

    - `process`: the process that provides the two methods.
    - `normalize`: whether to divide the mixing by its sum.
    """

    def __init__(self, process: TokenDependentProcess, *, normalize: bool = False):
        super().__init__(process.support)
        self.written, self.domain, self.normalize = process, process.domain, normalize
        self.vocab_size = process.mixing(times(process, 1)).shape[-1]

    def alpha(self, t: Tensor) -> Tensor:
        """The signal of the process."""
        return self.written.alpha(t)

    def mixing(self, t: Tensor) -> Tensor:
        """The mixing of the process."""
        pi = self.written.mixing(t)
        return pi.double() / pi.double().sum(-1, keepdim=True) if self.normalize else pi


class Primitives(NoiseProcess):
    """A process with the two primitives of another, in which every other method is the definition.

    **Arguments:**

    - `process`: the process that provides `marginal` and `transition`.
    - `clock`: an increasing function of time; by default the identity.
    """

    def __init__(self, process: NoiseProcess, clock: Callable[[Tensor], Tensor] = lambda t: t):
        super().__init__(process.support)
        self.written, self.domain, self.clock = process, process.domain, clock
        self.vocab_size = process.vocab_size

    def marginal(self, x: Tensor, t: Tensor) -> Tensor:
        """As in the given process."""
        return self.written.marginal(x, self.clock(t))

    def transition(self, z: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """As in the given process."""
        return self.written.transition(z, self.clock(s), self.clock(t))


def overrides_equal_definitions(process: NoiseProcess) -> None:
    """Every overridden method equals its definition, by `alpha` and `mixing` and by the two primitives."""
    kinds = (*KINDS, NoiseProcess, nn.Module)
    if isinstance(process, InterpolatingProcess):
        _compare_all(process, Bare(process), DERIVED, kinds)
        _compare_all(process, Primitives(process), CLOCK, (NoiseProcess, nn.Module))
    elif isinstance(process, TokenDependentProcess):
        _compare_all(process, BareMatrices(process), DERIVED_OF_MATRICES, kinds)
    _compare_all(process, Primitives(process), DEFINED, (NoiseProcess, nn.Module))


def _compare_all(
    process: NoiseProcess, bare: NoiseProcess, methods: dict[str, tuple[str, "Ask"]], definitions: tuple[type, ...]
) -> None:
    for name, (definition, ask) in methods.items():
        where = _override(process, name, definitions)
        if where is not None:
            for per_token in (False, True):
                try:
                    _compare(process, bare, name, where, definition, ask, per_token)
                except AssertionError:
                    exact = _normalized(process) if where in (f"{kind.__name__}.{name}" for kind in KINDS) else None
                    if exact is None:
                        raise
                    _compare(exact, Primitives(exact), name, where, definition, ask, per_token)


def _normalized(process: NoiseProcess) -> NoiseProcess | None:
    """The process with a mixing that sums to 1 in float64, or `None` if it already does.

    Rows that are written in float32 sum to 1 only in seven digits, which near pure noise is much of the signal: there a
    derivation and a definition, both correct, differ by more than rounding.
    """
    kind: type[Any]
    bare: Any
    for kind, bare in ((InterpolatingProcess, Bare), (TokenDependentProcess, BareMatrices)):
        if isinstance(process, kind):
            sums = process.mixing(times(process, 5)).double().sum(-1)
            return bare(process, normalize=True) if bool(((sums - 1).abs() > FLOAT64_SUM).any()) else None
    return None


def _override(process: NoiseProcess, name: str, definitions: tuple[type, ...]) -> str | None:
    """Return where a method is overridden, as "Class.method", or `None` if it is the definition."""
    if name in vars(process):
        return f"{type(process).__name__}.{name}"
    owner = next((kind for kind in type(process).__mro__ if name in vars(kind)), nn.Module)
    return None if owner in definitions else f"{owner.__name__}.{name}"


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
        if name == "is_clean":
            # Where 1 - alpha has lost all precision, the definition gives no noise.
            others = process.likelihood(question.z, question.t).scatter(-1, question.z[..., None], 0).amax(-1)
            want = torch.where((others > 0) & (others < 1e-12), got, want)
        agree(what, got, want, rtol=1e-6, **places)


class Question:
    """Arguments for the methods of a process: times s < t, clean tokens x, noisy tokens z, predictions x_hat."""

    def __init__(self, process: NoiseProcess, per_token: bool):
        x, z = pairs(process)
        n = 5
        self.x, self.z = x.repeat(n, 1), z.repeat(n, 1)
        shape = self.z.shape if per_token else self.z.shape[:1]
        self.s, self.t = torch.stack([random_times(process, *shape, seed=k) for k in (1, 2)]).sort(0).values
        self.lifted = as_token_times(self.t, self.z)
        self.x_hat = logits(process, *self.z.shape).softmax(-1)
        self.every = torch.arange(process.vocab_size)
        self.scores = torch.linspace(-1, 1, self.x_hat.numel(), dtype=torch.float64).view(self.x_hat.shape)
        self.possible = process.likelihood(self.z, self.t).gather(-1, self.x[..., None])[..., 0] > 0

    def given(self) -> tuple[Tensor, ...]:
        """All tensors that are passed to methods."""
        return self.x, self.z, self.s, self.t, self.lifted, self.x_hat

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, noisy tokens and times of the single tokens that are possible."""
        t = self.lifted.expand(self.z.shape)
        return self.x_hat.log()[self.possible], self.z[self.possible], t[self.possible]

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


def _factored(p: InterpolatingProcess, q: Question) -> Answers:
    keep, fresh = p.factored_transition(q.z, q.s, q.t)
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
    """Query a method that returns values into z from each token, [batch, length, state]."""

    def ask(p: NoiseProcess, q: Question) -> Answers:
        times = (q.s, q.t) if method == "transition" else (q.t,)
        places = {"from token": q.every, "into token": q.z[..., None], "t": q.lifted[..., None]}
        return [("", getattr(p, method)(q.z, *times), places)]

    return ask


def _of_rows(method: str, *, posterior: bool = False) -> Ask:
    """Query a method from logits of single tokens to a law over tokens; rows are compared up to a constant."""

    def ask(p: NoiseProcess, q: Question) -> Answers:
        logits, z, t = q.rows()
        bare = Primitives(p.written if isinstance(p, Primitives) else p)
        logits = bare.add_evidence(logits, z, t) if posterior else logits
        value = getattr(p, method)(logits, t) if method == "log_marginal" else getattr(p, method)(logits, z, t)
        return [("", value.softmax(-1), {"token": q.every, "z": z[:, None], "t": t[:, None]})]

    return ask


def _solved(p: NoiseProcess, q: Question) -> Answers:
    """Solving the scores of a prediction restores the prediction."""
    logits, z, t = q.rows()
    if isinstance(p, Primitives):
        return [("", logits.softmax(-1), {"token": q.every})]
    log_q = Primitives(p).log_marginal(logits, t)
    solved = p.solve_score(log_q - log_q.gather(-1, z[:, None]), z, t)
    return [("", solved.softmax(-1), {"token": q.every, "z": z[:, None], "t": t[:, None]})]


def _predicted(p: NoiseProcess, q: Question) -> Answers:
    logits, z, t = q.rows()
    return [("", p.predicted_probability(logits.softmax(-1), z, t), {"z": z, "t": t})]


def _evidence(p: NoiseProcess, q: Question) -> Answers:
    return [("", p.log_evidence(q.x_hat.log(), torch.zeros_like(q.z, dtype=torch.float64), q.z, q.t), q.at_tokens())]


def _bound(method: str) -> Ask:
    """Query a term of the bound for the possible noisy tokens."""

    def ask(p: NoiseProcess, q: Question) -> Answers:
        times = (q.s, q.t) if method == "step_kl" else (q.t,)
        outputs = q.x_hat.log() if method != "score_entropy" else q.scores
        with torch.no_grad():
            value = getattr(p, method)(outputs, q.x, q.z, *times)
        return [("", torch.where(q.possible, value, 0), q.at_tokens(x=q.x))]

    return ask


def _clock(p: NoiseProcess, q: Question) -> Answers:
    # The definition needs two data tokens, because it compares their laws.
    if int(p.data_tokens().sum()) < 2:
        return []
    return [
        (part, value, {"t": q.t}) for part, value in zip((" (signal)", " (rest)"), p.signal_share(q.t), strict=True)
    ]


def _untouched(p: NoiseProcess, q: Question) -> Answers:
    if int(p.data_tokens().sum()) < 2:
        return []
    return [("", torch.where(p.data_tokens()[q.x], p.untouched(q.x, q.t), 0), q.at_tokens())]


def _simple(method: str) -> Ask:
    """Query a method of the noisy tokens and their times."""
    return lambda p, q: [("", getattr(p, method)(q.z, q.t), q.at_tokens())]


COMMON: dict[str, tuple[str, Ask]] = {
    "data_tokens": ("the support", lambda p, q: [("", p.data_tokens(), {"token": q.every})]),
    "host_support": ("the support", lambda p, q: [("", p.host_support(), {"token": q.every})]),
    "interior": ("t, kept off the ends", lambda p, q: [("", p.interior(q.t, q.z), {"t": q.lifted})]),
    "on_support": ("-inf off the support", lambda p, q: [("", p.on_support(q.scores), q.dense())]),
    "likelihood": ("a column of the law", lambda p, q: [("", p.likelihood(q.z, q.t), q.dense(z=q.z[..., None]))]),
    "probability": ("an entry of the law", lambda p, q: [("", p.probability(q.x, q.z, q.t), q.at_tokens(x=q.x))]),
    "posterior": ("Bayes' rule", _posterior),
    "is_clean": (
        "q(z | v) = 0 for all other v",
        lambda p, q: [("", p.is_clean(q.z, q.t) | ~q.possible, q.at_tokens())],
    ),
    "prior_law": ("the mean marginal at the end", lambda p, q: [("", p.prior_law(), {"token": q.every})]),
}
"""Methods of every process: the definition in words, and how to query it."""

DEFINED: dict[str, tuple[str, Ask]] = {
    **COMMON,
    "kernel": (
        "the marginal of every token",
        lambda p, q: [("", p.kernel(q.lifted), {"t": q.lifted[..., None, None]})],
    ),
    "rate": ("the slope of `transition`", _column("rate")),
    "is_possible": ("q(z | v) > 0 for a data token v", _simple("is_possible")),
    "data_tokens_are_certain": (
        "`is_clean` for all data tokens",
        lambda p, q: [("", torch.tensor([p.data_tokens_are_certain(float(t)) for t in q.t.flatten()[:5]]), {})],
    ),
    "add_evidence": ("x_hat_v q(z | v)", _of_rows("add_evidence")),
    "remove_evidence": ("p_v / q(z | v)", _of_rows("remove_evidence", posterior=True)),
    "log_marginal": ("log q(. | x_hat)", _of_rows("log_marginal")),
    "solve_score": ("the prediction that has these scores", _solved),
    "predicted_probability": ("q(z | x_hat)", _predicted),
    "log_evidence": ("log q(z | x_hat)", _evidence),
    "nelbo": ("the sum over all jumps", _bound("nelbo")),
    "score_entropy": ("the sum over all jumps", _bound("score_entropy")),
    "step_kl": ("the divergence of the posteriors", _bound("step_kl")),
    "prior_kl": ("the divergence from `prior_law`", lambda p, q: [("", p.prior_kl(q.x, q.t), q.at_tokens(x=q.x))]),
    "prior_log_prob": ("the logarithm of the mean marginal", _simple("prior_log_prob")),
}
"""Every method that `NoiseProcess` defines by its two primitives, except draws, which have separate laws."""

CLOCK: dict[str, tuple[str, Ask]] = {
    "signal_share": ("what no law shares", _clock),
    "untouched": ("what a token has more than others", _untouched),
}
"""The signal, which another kind of process may define differently."""

DERIVED: dict[str, tuple[str, Ask]] = {
    **COMMON,
    "noise": ("(1 - alpha) mixing", _noise),
    "marginal": ("alpha x + b", _marginal),
    "factored_transition": ("b_t - (alpha_t / alpha_s) b_s", _factored),
    "transition": ("(alpha_t / alpha_s) 1[z = y] + b_t - (alpha_t / alpha_s) b_s", _column("transition")),
    "rate_into": ("b' - (alpha' / alpha) b", lambda p, q: [("", p.rate_into(q.z, q.t), q.at_tokens())]),
    "rate": ("b' - (alpha' / alpha) b", _column("rate")),
    "elbo_weight": ("rate / q(z | x)", lambda p, q: [("", p.elbo_weight(q.x, q.z, q.t), q.at_tokens(x=q.x))]),
    "signal_share": ("alpha and 1 - alpha", _clock),
}
"""Every method that an `InterpolatingProcess` derives from `alpha` and `mixing`."""

DERIVED_OF_MATRICES: dict[str, tuple[str, Ask]] = {
    **COMMON,
    "kernel": (
        "alpha 1 + (1 - alpha) mixing",
        lambda p, q: [("", p.kernel(q.lifted), {"t": q.lifted[..., None, None]})],
    ),
    "marginal": ("x Q", _marginal),
    "transition": ("a column of Q_s^-1 Q_t", _column("transition")),
    "rate": ("a column of Q^-1 Q'", _column("rate")),
    "signal_share": ("the mean of alpha over data tokens", _clock),
}
"""The same for a `TokenDependentProcess`."""
