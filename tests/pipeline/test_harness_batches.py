"""Requests in batches: every number as one by one, in any order, with fewer calls of the network; and models of blocks."""

import itertools
from dataclasses import replace

import pytest
import torch
from small import pipeline, random

import noiselab as nl

pytest.importorskip("lm_eval", reason="optional: pip install noiselab[harness]; continuous integration has it")
from lm_eval.api.instance import Instance
from one_pass_worlds import ExactNetwork, SeparatePasses

from noiselab.data import character_tokenizer
from noiselab.denoisers import Support
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.pipeline import DiffusionPipeline, ModelSettings
from noiselab.pipeline.harness import HarnessModel

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the harness and what it imports
CONTEXTS = ["the", "the cat", "a dog and", "the dog sat on", "", "a cat", "the log", "the cat sat"]
ENDS = [" mat", " dog sat", " the log", " a"]
PAIRS = [(context, end) for context in CONTEXTS for end in ENDS]  # of up to nine lengths
TEXTS = ["the cat sat on the mat " * n for n in (1, 2, 3)] + CONTEXTS[:4] + ["a dog " * n for n in (1, 3, 5, 7, 9)]
ASKED = [(context, {"until": [], "max_gen_toks": 4}) for context in CONTEXTS]


def asked(pairs, kind="loglikelihood"):
    return [Instance(kind, {}, pair if isinstance(pair, tuple) else (pair,), i) for i, pair in enumerate(pairs)]


def model(pipe, size, **more):
    return HarnessModel(pipe, batch_size=size, **({"nodes": 3, "draws": 2, "steps": 3} | more))


def calls(pipe, ask):
    """The answer, and the number of calls of the network."""
    count = []
    hook = pipe.network.blocks[0].register_forward_hook(lambda *_: count.append(1))
    try:
        return ask(), len(count)
    finally:
        hook.remove()


@pytest.fixture(scope="module", params=["gidd", "masked"])
def pipe(request):
    return pipeline(request.param)


@pytest.fixture(scope="module")
def in_blocks():
    made = pipeline("gidd")
    return DiffusionPipeline(made.network, made.tokenizer, replace(made.settings, block_size=4)).eval()


def test_a_batch_changes_no_log_likelihood_and_takes_fewer_calls(pipe):
    one, many = model(pipe, 1), model(pipe, 8)
    alone, slow = calls(pipe, lambda: one.loglikelihood(asked(PAIRS)))
    together, fast = calls(pipe, lambda: many.loglikelihood(asked(PAIRS)))
    assert 4 * fast <= slow
    assert [nats for nats, _ in together] == pytest.approx([nats for nats, _ in alone], rel=0, abs=1e-6)
    assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]
    assert len({len(many.encode("".join(pair))) for pair in PAIRS}) > 4  # so that batches are padded
    order = torch.randperm(len(PAIRS), generator=random()).tolist()
    mixed = many.loglikelihood(asked([PAIRS[i] for i in order]))
    assert [nats for nats, _ in mixed] == pytest.approx([alone[i][0] for i in order], rel=0, abs=1e-6)


def test_a_batch_changes_no_text_that_is_scored_as_a_whole(pipe):
    alone, slow = calls(pipe, lambda: model(pipe, 1).loglikelihood_rolling(asked(TEXTS)))
    together, fast = calls(pipe, lambda: model(pipe, 8).loglikelihood_rolling(asked(TEXTS[::-1])))
    assert 4 * fast <= slow and together[::-1] == pytest.approx(alone, rel=0, abs=1e-6)
    assert model(pipe, 8).loglikelihood_rolling(asked([TEXTS[0], "", TEXTS[0]]))[1] == 0


def test_a_batch_changes_no_text_that_is_generated(pipe):
    alone, slow = calls(pipe, lambda: model(pipe, 1).generate_until(asked(ASKED)))
    together, fast = calls(pipe, lambda: model(pipe, 8).generate_until(asked(ASKED[::-1])))
    assert 4 * fast <= slow and together[::-1] == alone and len(set(alone)) > 1


def test_texts_of_one_length_with_and_without_a_beginning(pipe):
    """Of the whole context: the beginning of one must not be lost to another that has none."""
    pairs = [("", {"max_gen_toks": 16}), ("the cat", {"max_gen_toks": 16})]
    for some in (pairs, pairs[::-1]):
        alone = model(pipe, 1).generate_until(asked(some))
        assert model(pipe, 2).generate_until(asked(some)) == alone and alone[0] != alone[1]


def test_models_of_blocks_are_scored_in_batches_and_generate_in_blocks(in_blocks):
    alone = model(in_blocks, 1).loglikelihood(asked(PAIRS))
    together = model(in_blocks, 8).loglikelihood(asked(PAIRS))
    assert [nats for nats, _ in together] == pytest.approx([nats for nats, _ in alone], rel=0, abs=1e-6)
    assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]
    made = model(in_blocks, 1).generate_until(asked(ASKED))
    assert made == model(in_blocks, 8).generate_until(asked(ASKED))
    whole = DiffusionPipeline(in_blocks.network, in_blocks.tokenizer, replace(in_blocks.settings, block_size=None))
    assert made != model(whole.eval(), 8).generate_until(asked(ASKED))
    assert alone != model(whole, 1).loglikelihood(asked(PAIRS))


def test_a_model_of_blocks_has_the_sum_of_the_bounds_of_its_blocks(in_blocks):
    """As a pass for each block, with the clean blocks before it and nothing else, on the same noise."""
    harness, process = model(in_blocks, 8), in_blocks.process
    found = harness.loglikelihood(asked(PAIRS[:12]))
    batches = harness.batches
    for (nats, _), pair in zip(found, PAIRS[:12], strict=True):
        head, tail = harness.pair(*pair)
        x = torch.tensor([[*head, *tail]] * 2)
        plain = TransformersDenoiser(in_blocks.network, vocab_size=process.vocab_size)
        terms = nl.continuous_bound(
            process,
            Support(SeparatePasses(plain, 4, x), in_blocks.support),
            x,
            nodes=batches.nodes,
            low=batches.low,
            real=torch.arange(x.shape[1]).expand(x.shape) >= len(head),
            generator=[batches.random("draw", number) for number in range(2)],
        )
        assert -nats == pytest.approx(float(terms.total.mean()), rel=0, abs=1e-6)


START = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CHAIN = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]], dtype=torch.float64)


class Letters(ExactNetwork):
    """The exact network of `one_pass_worlds`, with the ids of a tokenizer of characters: a is 3, b is 4, c is 5, the mask 2."""

    vocab_size, max_length = 6, 6

    def hidden(self, z, t):
        logits = super().hidden(torch.where(z > 2, z - 3, 3), t)
        found = logits.new_full((*z.shape, 6), -torch.inf)
        found[..., 3:] = logits[..., :3]
        return found


@pytest.fixture(scope="module")
def exact():
    tokenizer = character_tokenizer(["abc"])
    settings = ModelSettings({"family": "masked", "vocab_size": 6, "mask_id": 2}, block_size=2)
    return DiffusionPipeline(Letters(nl.masked(vocab_size=4, mask_id=3), 6), tokenizer, settings).eval()


def chain(context, continuation):
    ids = ["abc".index(letter) for letter in context + continuation]
    logs = [START[ids[0]].log()] + [CHAIN[a, b].log() for a, b in itertools.pairwise(ids)]
    return float(sum(logs[len(context) :]))


def test_an_exact_model_of_blocks_has_the_likelihood_of_the_world(exact):
    short = DiffusionPipeline(Letters(nl.masked(vocab_size=4, mask_id=3), 4), exact.tokenizer, exact.settings).eval()
    pairs = [("ab", "bc"), ("", "abcc"), ("a", "bca"), ("abc", "a")]  # the last two begin within a block
    runs = [HarnessModel(short, nodes=12, draws=30, seed=seed) for seed in range(16)]
    found = torch.tensor([[nats for nats, _ in run.loglikelihood(asked(pairs))] for run in runs], dtype=torch.float64)
    wanted = torch.tensor([chain(*pair) for pair in pairs], dtype=torch.float64)
    error = found.std(0) / len(runs) ** 0.5
    assert ((found.mean(0) - wanted).abs() < 4 * error).all() and (error < 0.15).all()


def test_the_most_likely_answer_of_a_model_of_blocks_is_that_of_each_block_given_those_before_it(exact):
    """By hand: after c comes c (0.6), and two letters after it a (0.43), as the model says without the first."""
    one = DiffusionPipeline(exact.model, exact.tokenizer, replace(exact.settings, block_size=1)).eval()
    assert CHAIN[2].argmax() == 2 and (CHAIN @ CHAIN)[2].argmax() == 0
    pairs = [("ac", "cc"), ("ac", "ca"), ("ac", "ac"), ("a", "aa")]
    found = model(one, 8).loglikelihood(asked(pairs))
    assert [greedy for _, greedy in found] == [True, False, False, True]
    two = model(exact, 8).loglikelihood(asked([("ac", "ca"), ("ac", "cc")]))
    assert [greedy for _, greedy in two] == [True, False]  # both letters of the block at once


def test_equal_requests_are_computed_once_and_samples_differ(pipe):
    many = model(pipe, 8)
    once, few = calls(pipe, lambda: many.loglikelihood(asked(PAIRS[:2])))
    again, same = calls(pipe, lambda: many.loglikelihood(asked(PAIRS[:2] * 10)))
    assert again == once * 10 and same == few
    drawn = {"until": [], "max_gen_toks": 4, "do_sample": True, "temperature": 1.0}
    samples = many.generate_until(asked([("the", drawn)] * 5))
    assert len(set(samples)) > 1 and samples == many.generate_until(asked([("the", drawn)] * 5))
    assert len(set(many.generate_until(asked([ASKED[0]] * 5)))) == 1


def test_the_bar_counts_requests(pipe, capsys):
    many = model(pipe, 3, show_progress=True)
    many.loglikelihood(asked(PAIRS[:5] * 2))
    many.loglikelihood_rolling(asked([*TEXTS[:4], ""]))
    many.generate_until(asked(ASKED[:3]))
    said = capsys.readouterr().err
    assert all(part in said for part in (" 10/10 ", " 5/5 ", " 3/3 "))


def test_a_text_ends_at_its_end(exact):
    class Ends(torch.nn.Module):
        """A network that writes "a", an end of text, and "b" ever after."""

        config = type("Config", (), {"vocab_size": 6, "max_seq_len": 6})()

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, z, t):
            ids = torch.tensor([3, 0, 4, 4, 4, 4])[: z.shape[1]]
            return torch.full((*z.shape, 6), -1e4).index_put(
                (torch.arange(len(z))[:, None], torch.arange(z.shape[1]), ids), torch.tensor(0.0)
            )

    settings = ModelSettings({"family": "masked", "vocab_size": 6, "mask_id": 2})
    pipe = DiffusionPipeline(Ends(), exact.tokenizer, settings).eval()
    assert model(pipe, 2).generate_until(asked([("", {"until": [], "max_gen_toks": 5})])) == ["a"]


def test_sizes_that_are_none(pipe):
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size must be .*; got {size}"):
            model(pipe, size)


def test_the_harness_opens_a_folder_by_itself(pipe, tmp_path):
    from lm_eval.api.registry import get_model

    pipe.save_pretrained(tmp_path / "model")
    wanted = model(pipe, 4).loglikelihood(asked(PAIRS[:4]))
    opened = get_model("noiselab").create_from_arg_string(
        f"pretrained={tmp_path / 'model'},nodes=3,draws=2", {"batch_size": 4, "device": "cpu", "max_batch_size": None}
    )
    assert opened.batches.size == 4
    assert [n for n, _ in opened.loglikelihood(asked(PAIRS[:4]))] == pytest.approx([n for n, _ in wanted], abs=1e-6)
    for given, words in (
        ({"pretrained": str(tmp_path / "model"), "node": 3}, "model_args must be pretrained, device and any of nodes"),
        ({"nodes": 3}, "model_args must be pretrained"),
        ({"pretrained": str(tmp_path / "model"), "batch_size": "auto"}, "batch_size must be an integer; got 'auto'"),
    ):
        with pytest.raises(ValueError, match=words):
            HarnessModel.create_from_arg_obj(given)
