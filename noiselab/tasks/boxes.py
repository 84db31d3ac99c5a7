"""Questions about which box contains an object: a minimal task with verifiable answers."""

import random
from dataclasses import dataclass

from .choices import letters

THINGS = (
    "apple", "ball", "book", "cup", "drum", "fan", "hat", "key", "lamp", "map", "pen", "ring",
    "bell", "coin", "doll", "fork", "glove", "jar", "kite", "leaf", "nail", "plate", "rope", "shoe",
)  # fmt: skip


@dataclass(frozen=True)
class BoxQuestion:
    """A question about which of several boxes contains a given object.

    **Arguments:**

    - `things`: the objects in the boxes, in the order of the boxes' letters.
    - `label`: the index of the box that contains the object of the question.
    """

    things: tuple[str, ...]
    label: int

    @property
    def options(self) -> tuple[str, ...]:
        """The letters of the boxes."""
        return letters(len(self.things))

    @property
    def thing(self) -> str:
        """The object of the question."""
        return self.things[self.label]

    def where(self, box: int) -> str:
        """The statement that the object is in a box, in the words of the context."""
        return f"{self.thing} {self.options[box]}"

    @property
    def text(self) -> str:
        """The question with its context; words and punctuation are separated by spaces."""
        held = " , ".join(f"{thing} {letter}" for thing, letter in zip(self.things, self.options, strict=True))
        return f"boxes : {held} . which box holds the {self.thing} ?"


def draw_boxes(generator: random.Random, *, boxes: int = 3) -> BoxQuestion:
    """Draw a random question with distinct objects.

    **Arguments:**

    - `generator`: a Python random generator.
    - `boxes`: the number of boxes, from 2 to 24.

    **Raises:** `ValueError` if `boxes` is out of range.

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
