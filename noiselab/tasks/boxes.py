"""Questions about which box holds a thing: the smallest task in which an answer can be checked."""

import random
from dataclasses import dataclass

from .choices import letters

THINGS = (
    "apple", "ball", "book", "cup", "drum", "fan", "hat", "key", "lamp", "map", "pen", "ring",
    "bell", "coin", "doll", "fork", "glove", "jar", "kite", "leaf", "nail", "plate", "rope", "shoe",
)  # fmt: skip


@dataclass(frozen=True)
class BoxQuestion:
    """Boxes, what each holds, and a thing that is asked for.

    **Arguments:**

    - `things`: what the boxes hold, in the order of their letters.
    - `label`: the box that holds what is asked for.
    """

    things: tuple[str, ...]
    label: int

    @property
    def options(self) -> tuple[str, ...]:
        """The letters of the boxes."""
        return letters(len(self.things))

    @property
    def thing(self) -> str:
        """What is asked for."""
        return self.things[self.label]

    def where(self, box: int) -> str:
        """That the thing is in a box, as the context puts it."""
        return f"{self.thing} {self.options[box]}"

    @property
    def text(self) -> str:
        """The question with its context; words and marks stand apart."""
        held = " , ".join(f"{thing} {letter}" for thing, letter in zip(self.things, self.options, strict=True))
        return f"boxes : {held} . which box holds the {self.thing} ?"


def draw_boxes(generator: random.Random, *, boxes: int = 3) -> BoxQuestion:
    """A question at random, of different things.

    **Arguments:**

    - `generator`: of Python's.
    - `boxes`: how many, from 2 to 24.

    **Raises:** `ValueError` for another number.

    **Example:**

    ```python
    import random
    from noiselab.tasks import draw_boxes, read_choice

    question = draw_boxes(random.Random(0))
    assert question.where(question.label) in question.text
    assert read_choice(f"The answer is {question.where(1)}", question.options) == 1
    ```
    """
    if not 2 <= boxes <= len(THINGS):
        raise ValueError(f"there must be 2 to {len(THINGS)} boxes; got {boxes}")
    return BoxQuestion(tuple(generator.sample(THINGS, boxes)), generator.randrange(boxes))
