"""Gaps and corrections of texts under block-diffusion models: canvas by canvas, each given the finished ones before it."""

import pytest
import torch
from exact_worlds import TRANSITION
from small_canvas import QUIET, canvas_pipeline, chain_pipeline, random, rows, tokenizer

import noiselab as nl
from noiselab.networks.canvas import CanvasDenoiser

GAPS = ["the <mask>at sat on the m<mask>t and a <mask>", "a<mask>", "<mask>b", "<mask><mask> dog"]
TEXTS = ["the cat sat on the mat", "a dog", "b cat", "the dog sat on the log"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return canvas_pipeline(tmp_path_factory.mktemp("tiny"), dtype=torch.float64)


@pytest.fixture(scope="module")
def opening(tmp_path_factory):
    """With a tokenizer that puts a beginning before each text, and a chat template."""
    words = tokenizer(opening=True)
    words.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role[:1] + ':' + m.content + eos_token + '.' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    return canvas_pipeline(tmp_path_factory.mktemp("opening"), words, dtype=torch.float64)


def ids_of(pipe, text):
    return pipe.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("sampler", [None, nl.AncestralSampler])
def test_gaps_are_filled_by_the_chain_by_hand(pipe, sampler):
    """From the first gap on, in canvases of 8: all else stays."""
    x = torch.tensor([ids_of(pipe, GAPS[0])])
    known, start = x != 3, 4
    assert (~known).nonzero()[0, 1] == start and x.shape[1] == 30
    denoiser = CanvasDenoiser(pipe.network, given=start)
    steps = nl.AncestralSampler(pipe.process, denoiser)
    if sampler is None:
        steps = nl.samplers.RenoisingSampler(
            pipe.process, denoiser, 1.0, temperature=0.4 + 0.4 * nl.t, stability=1, confidence=0.005
        )
    blocks = nl.samplers.BlockSampler(steps, 8, given=start, context="past")
    wanted = nl.Infilling(blocks, x, known).sample((1, 30), steps=5, generator=[random(3)])
    found = pipe.infill(GAPS[:1], 5, sampler=sampler, seeds=[3], **QUIET)
    assert rows(found) == wanted.tolist() and torch.equal(wanted[known], x[known])


@pytest.mark.parametrize("method", ["infill", "self_correction"])
def test_a_text_is_the_same_alone_and_with_others(pipe, method):
    texts = GAPS if method == "infill" else TEXTS
    options = {"temperature": 3.0, **QUIET}
    whole = rows(getattr(pipe, method)(texts, 4, seeds=[0, 1, 2, 3], **options))
    assert [len(ids) for ids in whole] == [len(ids_of(pipe, text)) for text in texts]
    for i in range(4):
        assert rows(getattr(pipe, method)([texts[i]], 4, seeds=[i], **options)) == [whole[i]]
    back = getattr(pipe, method)(texts[::-1], 4, seeds=[3, 2, 1, 0], **options)
    assert rows(back) == whole[::-1] and len({tuple(ids) for ids in whole}) == 4


@pytest.mark.parametrize("method", ["infill", "self_correction"])
def test_the_last_state_is_what_the_method_returns(pipe, method):
    texts = GAPS if method == "infill" else TEXTS
    states, seen = list(pipe.stream(texts, 3, method=method, seed=1)), []
    found = getattr(pipe, method)(texts, 3, seed=1, callback=seen.append, **QUIET)
    assert states[-1].texts == found and rows(states[-1].texts) == rows(found) and states[-1].finished.all()
    assert len(states) == len(seen) and states[-1].step == states[-1].steps
    if method == "infill":  # four canvases of 8 from the first gap, then one in each text
        assert states[-1].steps == 3 * (4 + 1 + 1 + 1)


@pytest.mark.parametrize("sampler", [None, nl.AncestralSampler])
@pytest.mark.parametrize("step", [1, 4])
def test_a_callback_leaves_no_gap(pipe, sampler, step):
    """The canvases after the one in progress are finished too, one jump each."""
    x, calls = torch.tensor(ids_of(pipe, GAPS[0])), []
    hook = pipe.network.model.model.decoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        found = pipe.infill(
            GAPS, 3, sampler=sampler, seed=0, temperature=3.0, callback=lambda state: state.step == step, **QUIET
        )
    finally:
        hook.remove()
    (ids,) = rows(found)
    assert len(ids) == 30 and (torch.tensor(ids) == x)[x != 3].all() and len(calls) <= step + 4
    whole = rows(pipe.infill(GAPS[:1], 3, sampler=sampler, seed=0, temperature=3.0, **QUIET))[0]
    assert step == 1 or ids[:12] == whole[:12]


def test_a_gap_is_filled_from_what_is_around_it_in_its_canvas():
    """In a known world: p(x | before, after) = T[before, x] T[x, after] / ... in canvases of two tokens."""
    pipe, count = chain_pipeline(), 600
    options = {"sampler": nl.AncestralSampler, "seed": 0, **QUIET}
    found = torch.tensor(rows(pipe.infill(["a<mask>b"] * count, 4, **options)))
    assert (found[:, 0] == 0).all() and (found[:, 2] == 1).all()
    law = TRANSITION[0] * TRANSITION[:, 1]
    share = torch.bincount(found[:, 1], minlength=3) / count
    assert (share - law / law.sum()).abs().max() < 4 * (0.25 / count) ** 0.5
    # What comes after the canvas is not read.
    found = torch.tensor(rows(pipe.infill(["a<mask><mask>b"] * count, 4, **options)))
    share = torch.bincount(found[:, 2], minlength=3) / count
    assert (share - (TRANSITION @ TRANSITION)[0]).abs().max() < 4 * (0.25 / count) ** 0.5


def test_corrections_are_those_of_the_corrector_canvas_by_canvas(pipe):
    x = torch.tensor(pipe.encode(TEXTS[:1]))
    found = rows(pipe.self_correction(TEXTS[:1], 5, 0.7, tokens_per_step=2, seeds=[4], **QUIET))
    corrector = nl.SelfCorrection(
        CanvasDenoiser(pipe.network), temperature=0.7, tokens_per_step=2, process=pipe.process
    )
    generator, z = [random(4)], x
    for start in (0, 8, 16):
        mask = (torch.arange(22) >= start) & (torch.arange(22) < start + 8)
        end = min(start + 8, 22)
        for state in corrector.walk(z[:, :end], steps=5, rows=mask[None, :end], generator=generator):
            z = torch.cat([state, z[:, end:]], 1)
    assert found == z.tolist() and (z != x).sum() > 5


def test_a_canvas_is_not_corrected_by_what_is_behind_it(pipe):
    texts = [TEXTS[0], TEXTS[0][:8] + "!!", TEXTS[0][:8]]
    found = rows(pipe.self_correction(texts[:1] + texts[2:], 6, 0.7, seeds=[1, 1], **QUIET))
    assert found[0][:8] == found[1] != pipe.encode([TEXTS[0][:8]])[0]


def test_texts_have_their_beginning_and_answers_are_changed_alone(opening):
    for text in (
        opening.infill(["ab<mask>"], 2, seed=0, **QUIET),
        opening.self_correction(["abc"], 2, seed=0, **QUIET),
    ):
        assert rows(text)[0][0] == 2 and len(rows(text)[0]) == 4
    made = opening.generate(1, 2, prompts=["ab"], length=8, stop=False, seed=0, **QUIET)
    again = opening.self_correction(made, 3, 2.0, seed=0, **QUIET)
    assert len(rows(again)[0]) == len(rows(made)[0]) == 11 and rows(again)[0][0] == 2
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the <mask>at sat on"}]
    (filled,) = opening.infill([chat], 3, seed=0, **QUIET)
    assert filled.startswith("the ") and "at sat on" in filled and filled.tokens[4] != 3
    chat[1]["content"] = "the cat sat on the mat"
    (answer,) = opening.self_correction([chat], 3, 2.0, seed=0, tokens_per_step=3, **QUIET)
    assert len(answer.tokens) == 22 and answer != chat[1]["content"]
    before = opening.tokenizer("u:hello<eos>.a:")["input_ids"]
    states = list(opening.stream([chat], 3, 2.0, method="self_correction", seed=0))
    assert all(state.tokens[0, : len(before)].tolist() == before for state in states)
    assert states[-1].texts == opening.self_correction([chat], 3, 2.0, seed=0, **QUIET)
    for state in opening.stream([chat], 3, 2.0, method="self_correction", tokens_per_step=8, seed=0):
        assert state.tokens[0, len(before) + 22 :].tolist() == ids_of(opening, "<eos>.")  # it ends within a canvas


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda pipe: pipe.infill(["abc"]), "texts must contain <mask>; text 0 does not"),
        (lambda pipe: pipe.infill([]), "at least one"),
        (lambda pipe: pipe.infill(["<mask>" * 129]), "text 0 must fit the context of 128 tokens; got 129"),
        (lambda pipe: pipe.infill(["<mask>"], 0), "num_inference_steps must be at least 1"),
        (lambda pipe: pipe.infill(["<mask>"], sampler=3), "sampler must"),
        (lambda pipe: pipe.self_correction([]), "at least one"),
        (lambda pipe: pipe.self_correction([""]), "must not be empty"),
        (lambda pipe: pipe.self_correction(["a" * 129]), "text 0 must fit the context of 128 tokens; got 129"),
        (lambda pipe: pipe.self_correction(["a"], tokens_per_step=0), "tokens_per_step must"),
        (lambda pipe: pipe.self_correction(["a"], 0), "num_inference_steps must be at least 1"),
        (lambda pipe: pipe.stream(["a"], method="correct"), "method must be one of generate, infill, self_correction"),
    ],
)
def test_what_is_refused(pipe, unchecked, call, words):
    with pytest.raises(ValueError, match=words):
        call(pipe)


def test_a_tokenizer_without_a_mask_marks_no_gaps(tmp_path):
    pipe = canvas_pipeline(tmp_path)
    pipe.tokenizer.mask_token = None
    with pytest.raises(ValueError, match="the tokenizer must have a mask token"):
        pipe.infill(["a"], 2)
