"""Rows of data sets in the forms that people have them, stacked into one batch or refused in words."""

import datasets
import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from noiselab.data.rows import stack_rows

IDS = [[5, 6, 7], [8, 9, 10]]
FORMS = {
    "tensors": [torch.tensor(row) for row in IDS],
    "lists": IDS,
    "tuples": [tuple(row) for row in IDS],
    "arrays": [np.array(row) for row in IDS],
    "short arrays": [np.array(row, dtype=np.uint16) for row in IDS],
    "short tensors": [torch.tensor(row, dtype=torch.int32) for row in IDS],
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_tokens(form):
    batch = stack_rows([{"input_ids": row} for row in FORMS[form]])
    assert batch.keys() == {"input_ids"} and batch["input_ids"].tolist() == IDS


def test_a_table_of_datasets_and_an_encoding_of_transformers():
    table = datasets.Dataset.from_dict({"input_ids": IDS, "attention_mask": [[1, 1, 0], [1, 1, 1]]})
    for rows in ([table[0], table[1]], [BatchEncoding(table[i]) for i in (0, 1)]):
        batch = stack_rows(rows)
        assert batch["input_ids"].tolist() == IDS and batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_numbers_beside_the_tokens_are_kept():
    rows = [{"input_ids": row, "label": 1, "weight": 0.5, "scored": [True, False, True]} for row in IDS]
    batch = stack_rows(rows)
    assert batch["label"].tolist() == [1, 1] and batch["weight"].dtype == torch.float32
    assert batch["scored"].dtype == torch.bool


@pytest.mark.parametrize("with_mask", [0, 1])
def test_a_row_without_a_mask_has_no_padding(with_mask):
    """Whichever row has the mask: the first row does not decide for the batch."""
    rows = [{"input_ids": row} for row in IDS]
    rows[with_mask]["attention_mask"] = [1, 1, 0]
    expected = [[1, 1, 1], [1, 1, 1]]
    expected[with_mask] = [1, 1, 0]
    assert stack_rows(rows)["attention_mask"].tolist() == expected


def test_a_mask_that_hides_nothing_is_left_out():
    assert "attention_mask" not in stack_rows([{"input_ids": row, "attention_mask": [1, 1, 1]} for row in IDS])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(torch.tensor([1, 2]),)], "must be dicts with input_ids, .* row 0 is a tuple"),
        ([torch.tensor([1, 2])], "must be dicts with input_ids, .* row 0 is a Tensor"),
        (["text"], "must be dicts with input_ids, .* row 0 is a str"),
        ([{"tokens": [1]}], r"must have a column input_ids; row 0 has \['tokens'\]"),
        ([{"input_ids": [1, 2]}, {"input_ids": [1]}], r"one length; input_ids has shape \[2\] in row 0 and \[1\] in row 1"),
        ([{"input_ids": [1], "text": "the cat"}], "columns must hold numbers; 'text' of row 0 holds 'the cat'"),
        ([{"input_ids": [1], "note": None}], "columns must hold numbers; 'note' of row 0 holds None"),
        ([{"input_ids": [[1], [1, 2]]}], "columns must hold numbers; 'input_ids' of row 0"),
        ([{"input_ids": "the cat"}], "columns must hold numbers; 'input_ids' of row 0 holds 'the cat'"),
        ([{"input_ids": [1.0, 2.0]}], "must be the integer ids .* row 0 has torch.float32"),
        ([{"input_ids": [True]}], "must be the integer ids .* row 0 has torch.bool"),
        ([{"input_ids": [[1, 2]]}], r"tokens of one sequence; row 0 has torch.int64 of shape \[1, 2\]"),
        ([{"input_ids": 3}], r"of shape \[\]"),
        ([{"input_ids": []}], r"row 0 has torch.float32 of shape \[0\]|of shape \[0\]"),
        ([{"input_ids": [1, 2], "attention_mask": [1]}], r"attention_mask must have the shape .* row 0 has \[1\]"),
        ([{"input_ids": [1], "label": 1}, {"input_ids": [1]}], "same columns; row 0 has .*'label'.*, row 1 has"),
        ([{"input_ids": [1]}, {"input_ids": [1], "label": 1}], "same columns; row 0 has .*, row 1 has .*'label'"),
    ],
)  # fmt: skip
def test_what_cannot_be_stacked_is_refused_in_words(rows, words):
    with pytest.raises(ValueError, match=words):
        stack_rows(rows)
