"""The report is one file that needs nothing else, and says what the figures say."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

import noiselab as nl
from demo_report.known_world import study_known_world
from demo_report.report import (
    Curves,
    Piece,
    build_token_grid,
    format_number,
    mark_changes,
    plot_curves,
    plot_process,
    plot_world,
    write_report,
)
from noiselab.data import TokenBlocks, train_tokenizer
from noiselab.evaluation import generative_perplexity, self_correction, token_bytes, validation_bound

TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT] * 10, vocab_size=280)


def test_bytes_are_those_of_the_text(tokenizer):
    text = "the cät → Ωmat\n"
    assert token_bytes(tokenizer)[tokenizer(text)["input_ids"]].sum() == len(text.encode())
    assert token_bytes(tokenizer)[[tokenizer.mask_token_id, tokenizer.eos_token_id]].tolist() == [0, 0]


def test_changes_rebuild_both_texts(tokenizer):
    before = torch.tensor(tokenizer("the cat sat on a mat")["input_ids"])
    after = before.clone()
    after[1], after[-1] = before[0], before[2]
    pieces = mark_changes(before, after, tokenizer)
    for z, left_out in ((before, "inserted"), (after, "removed")):
        assert "".join(p.text for p in pieces if p.kind != left_out) == tokenizer.decode(z)
    assert [p for p in mark_changes(before, before, tokenizer)] == [Piece(tokenizer.decode(before), "kept")]


def test_the_grid_says_what_becomes_of_each_token(tokenizer):
    mask = tokenizer.mask_token_id
    ids = tokenizer("the cat")["input_ids"]
    a, b = ids[0], ids[1]
    states = [[mask, mask, a], [a, mask, b], [b, a, b], [a, a, b]]
    rows = build_token_grid([(1 - i / 3, torch.tensor(s)) for i, s in enumerate(states)], tokenizer, mask)
    kinds = [[cell.kind for cell in cells] for _, cells in rows]
    assert kinds == [
        ["mask", "mask", "noise"],
        ["noise", "mask", "changed"],  # the first is right already, but will be changed
        ["noise", "changed", "settled"],
        ["changed", "settled", "settled"],
    ]
    assert rows[0][1][0].text == "" and rows[1][1][0].text == "the"
    assert [time for time, _ in rows] == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_numbers():
    assert (format_number(1234.5678), format_number(float("inf")), format_number(float("nan"))) == (
        "1,234.568",
        "∞",
        "–",
    )


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class Judge(torch.nn.Module):
    def forward(self, input_ids, attention_mask):
        return torch.zeros(*input_ids.shape, 280)


def test_the_page_needs_nothing_else(tmp_path, tokenizer):
    ids = torch.tensor(tokenizer(TEXT)["input_ids"])[None].repeat(3, 1)
    process = nl.gidd(vocab_size=280, mask_id=tokenizer.mask_token_id, p_uniform=0.2)

    class Uniform(nl.Denoiser):
        def forward(self, z, t):
            return torch.zeros(*z.shape, 280)

    generator = torch.Generator().manual_seed(0)
    corrector = nl.SelfCorrection(Uniform(), support=process.support)
    corrected = self_correction(corrector, ids, steps=2, judge=Judge(), generator=generator)
    bound = validation_bound(process, Uniform(), ids, generator=generator)
    world, results = study_known_world(train_steps=2, samples=6, sampling_steps=2)
    judged = generative_perplexity(Judge(), ids)
    history = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}, {"step": 2, "eval_loss": 2.7}]
    path = tmp_path / "new" / "report.html"
    content = {
        "weights": 10,
        "smoke": False,
        "correction": corrected,
        "held_out": TokenBlocks(ids, torch.full((3,), ids.shape[1]), 280),
        "pairs": [[Piece("<b> & kept", "kept"), Piece("old", "removed"), Piece("new", "inserted")]],
        "grid": build_token_grid([(1.0, ids[0]), (0.0, ids[0])], tokenizer, tokenizer.mask_token_id),
        "likelihood": [
            {"name": "GIDD+", "note": "", "prefix": "≤ ", "nats": 1.0, "error": 0.1, "perplexity": 2.7, "bits": 1.25}
        ],
        "bound": replace(bound, reconstruction=0.0123),
        "quality": [{"name": name, "note": "", "judged": judged} for name in ("data", "samples", "corrected")],
        "curves": plot_curves([Curves("GIDD+", history, 64, "training", "held out")]),
        "runs": [{"name": "GIDD+", "settings": {"weights": "10"}}],
        "settings": ["weights"],
        "process": repr(process),
        "process_image": plot_process(process),
        "world": world,
        "world_image": plot_world(world, results),
        "world_results": results,
        "timings": [("training", 60.0)],
        "version": "1",
        "torch": "2",
        "machine": "none",
    }
    write_report(path, **content)
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert not page.open  # every element is closed
    assert page.addresses and all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert not re.search(r"url\(|@import|<script", text)
    assert "&lt;b&gt; &amp; kept" in text and "<b> & kept" not in text
    assert "<del>old</del>" in text and "<ins>new</ins>" in text
    assert "0.0123" in text and "≤ 1.25" in text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]  # no temporary file is left

    write_report(path, **content)
    assert path.read_text() == text  # the same figures give the same file
    with pytest.raises(Exception, match="undefined"):
        write_report(path, **{name: value for name, value in content.items() if name != "grid"})
    assert path.read_text() == text
