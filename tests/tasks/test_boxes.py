"""Questions about boxes: what is asked for is where the text says, and any box is as likely."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noiselab.tasks import draw_boxes, read_choice


@given(st.integers(0, 2**31), st.integers(2, 24))
def test_the_right_box_is_the_one_that_the_text_names(seed, boxes):
    question = draw_boxes(random.Random(seed), boxes=boxes)
    words = question.text.split()
    asked = words[words.index("the") + 1]
    assert asked == question.thing and len(set(question.things)) == boxes
    # The letter is after the thing, in the list of what boxes hold.
    assert words[words.index(asked) + 1] == question.options[question.label]
    for box in range(boxes):
        assert read_choice(f"the answer is {question.where(box)}", question.options) == box
    assert question.where(question.label) in question.text


def test_every_box_is_as_likely():
    generator = random.Random(0)
    counts = [0, 0, 0]
    for _ in range(6000):
        counts[draw_boxes(generator).label] += 1
    assert all(abs(count - 2000) < 120 for count in counts)  # three standard errors


@pytest.mark.parametrize("boxes", [1, 25])
def test_numbers_out_of_range(boxes):
    with pytest.raises(ValueError, match=f"there must be 2 to 24 boxes; got {boxes}"):
        draw_boxes(random.Random(0), boxes=boxes)
