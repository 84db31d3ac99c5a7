"""Laws as pytest classes: inherit, return the process, and pytest collects one test for each law."""

from collections.abc import Callable, Sequence
from typing import Any

from ..process import NoiseProcess
from .check import ANY_PROCESS_LAWS, PROCESS_LAWS, TOKEN_DEPENDENT_LAWS, Law, check_process, laws_of


def _test(law: Law, check: Callable[[Any, Any, Law], None]) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        check(self, self.subject(), law)

    test.__name__, test.__doc__ = f"test_{law.__name__}", law.__doc__
    return test


class Laws:
    """A test class with one test for each law; subclasses define the kind of object that the laws are about.

    **Arguments:**

    - `laws`: a class argument, as in `class SamplerLaws(Laws, laws=SAMPLER_LAWS)`; each law becomes `test_<its name>`.
    """

    def __init_subclass__(cls, laws: Sequence[Law] = (), **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for law in laws:
            setattr(cls, f"test_{law.__name__}", _test(law, cls.check))

    def subject(self) -> Any:
        """The object to test, created for each test."""
        raise NotImplementedError(f"{type(self).__name__} must define `subject`, which returns the object to test")

    def check(self, subject: Any, law: Law) -> None:
        """Run one law."""
        law(subject)


class _OfProcess(Laws):
    def process(self) -> NoiseProcess:
        """The process to test, with a few tokens; created for each test."""
        raise NotImplementedError("write `process(self)`: it returns the process that the laws are checked on")

    def subject(self) -> NoiseProcess:
        """The process."""
        return self.process()

    def check(self, subject: NoiseProcess, law: Law) -> None:
        """Run one law on a copy of the process."""
        if law not in laws_of(subject):
            raise TypeError(
                f"this is not a law of a {type(subject).__name__}: inherit from ProcessLaws for an InterpolatingProcess, "
                "TokenDependentProcessLaws for a TokenDependentProcess, AnyProcessLaws for any other"
            )
        check_process(subject, [law])


class ProcessLaws(_OfProcess, laws=PROCESS_LAWS):
    """The laws of an `InterpolatingProcess` as a pytest class: inherit from it under a name that starts with "Test".

    **Example:**

    ```python
    import noiselab as nl
    from noiselab.testing import ProcessLaws

    class TestMine(ProcessLaws):
        def process(self):
            return nl.masked(vocab_size=5, mask_id=4)

    TestMine().test_two_jumps_are_one()  # pytest does this for each law
    ```
    """


class TokenDependentProcessLaws(_OfProcess, laws=TOKEN_DEPENDENT_LAWS):
    """The laws of a `TokenDependentProcess` as a pytest class, used in the same way."""


class AnyProcessLaws(_OfProcess, laws=ANY_PROCESS_LAWS):
    """The laws of a kind of process of your own as a pytest class, used in the same way."""
