"""The adapter to lm-evaluation-harness: exact where the exact answer is known, and end to end on a task of its own."""

import json
from types import SimpleNamespace

import pytest
import torch
from small import random

import noiselab as nl
from noiselab.data import character_tokenizer
from noiselab.pipeline import DiffusionPipeline, ModelSettings

pytest.importorskip("lm_eval", reason="optional: pip install noiselab[harness]; continuous integration has it")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of the harness and what it imports

FIRST, LENGTH = 3, 12  # ids of "a", "b", "c" after the special tokens
START = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CHAIN = torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.1, 0.7], [0.6, 0.3, 0.1]], dtype=torch.float64)


class OracleNetwork(torch.nn.Module):
    """The exact denoiser of a chain over "a", "b", "c", under the ids of the tokenizer."""

    def __init__(self, family, **noise):
        super().__init__()
        kinds = {"masked": nl.masked, "gidd": nl.gidd}
        process = kinds[family](vocab_size=4, mask_id=3, **noise)
        self.oracle = nl.MarkovOracle(START, CHAIN, process)
        self.config = SimpleNamespace(vocab_size=6, max_seq_len=LENGTH)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, z, t):
        # Its ids are a, b, c, mask; ours end-of-text, padding, mask, a, b, c.
        own = torch.where(z >= FIRST, z - FIRST, 3)
        # At t = 1 itself, which float32 rounds times to, a visible context would be impossible.
        logits = self.oracle(own, t.double().clamp(max=1 - 1e-6))
        return torch.full((*z.shape, 6), -torch.inf, dtype=torch.float64).index_copy(
            -1, torch.arange(FIRST, 6), logits[..., :3]
        )


def pipeline(family="masked", **noise):
    settings = {"family": family, "vocab_size": 6, "mask_id": 2, **noise}
    return DiffusionPipeline(OracleNetwork(family, **noise), character_tokenizer(["abc"]), ModelSettings(settings))


def exact(context, continuation):
    ids = ["abc".index(c) for c in context + continuation]
    total = START[ids[0]].log() if not context else 0
    for i in range(max(1, len(context)), len(ids)):
        total = total + CHAIN[ids[i - 1], ids[i]].log()
    return float(total)


def asked(*pairs):
    from lm_eval.api.instance import Instance

    return [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]


PAIRS = [("abc", "ab"), ("abc", "cc"), ("", "bca"), ("bb", "c")]


@pytest.fixture(scope="module")
def harness():
    from noiselab.pipeline.harness import HarnessModel

    return HarnessModel(pipeline(), draws=400)


def test_log_likelihoods_are_those_of_the_chain(harness):
    for (found, _), pair in zip(harness.loglikelihood(asked(*PAIRS)), PAIRS, strict=True):
        assert found == pytest.approx(exact(*pair), abs=0.08), pair
    # The order of the requests, and what is beside them, makes no difference.
    assert harness.loglikelihood(asked(*PAIRS[::-1])) == harness.loglikelihood(asked(*PAIRS))[::-1]
    assert harness.loglikelihood_rolling(asked(("bca",)))[0] == pytest.approx(exact("", "bca"), abs=0.08)


def test_greedy_is_the_most_probable_token(harness):
    answers = harness.loglikelihood(asked(("ab", "c"), ("ab", "a"), ("ab", "b")))
    assert [greedy for _, greedy in answers] == [True, False, False]


def test_windows_of_the_context(harness):
    text = "abcabcabcabcab"
    assert len(text) > LENGTH
    want = exact("", text[:LENGTH]) + exact("", text[LENGTH:])
    assert harness.loglikelihood_rolling(asked((text,)))[0] == pytest.approx(want, abs=0.3)
    # Only what lies nearest fits beside a continuation.
    assert harness.pair("c" * 20, "ab") == ([5] * (LENGTH - 2), [3, 4])
    assert harness.pair("ab", "c") == ([3, 4], [5])
    for bad, words in ((("ab", ""), "at least one token"), (("ab", "c" * 20), "must fit the context of 12 tokens")):
        with pytest.raises(ValueError, match=words):
            harness.loglikelihood(asked(bad))


def test_generation_keeps_to_the_request(harness):
    (one, two) = harness.generate_until(
        asked(("ab", {"until": [], "max_gen_toks": 4}), ("ab", {"until": ["c"], "max_gen_toks": 4}))
    )
    assert len(one) == 4 and set(one) <= set("abc") and two == one.split("c")[0]
    long = harness.generate_until(asked(("ab" * 20, {"until": "z", "max_gen_toks": 4})))[0]
    assert len(long) == 4


def test_what_is_no_diffusion_model_is_refused():
    from noiselab.pipeline.harness import HarnessModel

    with pytest.raises(ValueError, match="at least 1; got 0, 8"):
        HarnessModel(pipeline(), nodes=0)


@pytest.mark.long
def test_a_task_of_ones_own_from_end_to_end(tmp_path):
    from lm_eval.tasks import TaskManager

    from noiselab.pipeline.harness import evaluate

    chain = nl.MarkovOracle(START, CHAIN, nl.masked(vocab_size=4, mask_id=3))
    rows = []
    for x in chain.sample(12, 5, generator=random()).tolist():
        text = "".join("abc"[token] for token in x)
        likely = "abc"[int(CHAIN[x[3]].argmax())]
        choices = sorted({likely, "abc"[int(CHAIN[x[3]].argmin())]})
        rows.append({"question": text[:4], "choices": choices, "answer": choices.index(likely)})
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "likelier_letter",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    found = evaluate(pipeline(), [task], draws=20, bootstrap_iters=0, task_manager=TaskManager())
    assert found["results"]["likelier_letter"]["acc,none"] == 1.0


def test_one_node_and_one_draw_suffice_and_models_without_a_limit_write_what_is_asked_for():
    from noiselab.pipeline.harness import HarnessModel

    pipe = pipeline()
    del pipe.network.config.max_seq_len
    pipe.tokenizer.model_max_length = 10**30
    harness = HarnessModel(pipe, nodes=1, draws=1, steps=4)
    (text,) = harness.generate_until(asked(("abc", {"until": "z", "max_gen_toks": 5})))
    assert harness.limit is None and len(text) == 5
