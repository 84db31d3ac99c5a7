"""Real processes, on gloo: what they tell each other arrives, and none waits for one that fails."""

import json
import sys
import time
from pathlib import Path

import pytest
from several_processes import launch

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

import divided

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "how",
    [
        "fine",
        pytest.param("raises", marks=pytest.mark.long),
        pytest.param("killed", marks=pytest.mark.long),
        pytest.param("hangs", marks=pytest.mark.long),
    ],
)
def test_no_process_waits_for_one_that_has_failed(how, tmp_path):
    launch(3, str(HERE / "ends.py"), how, str(tmp_path))
    found = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    if how == "fine":
        assert found == ["[0, 1, 2, 3, 4]"] * 2
        return
    for text in found:
        seconds, words = text.split(" ", 1)
        assert float(seconds) < 10  # the process that hangs does so for 12
        if how == "raises":
            assert words == "process 2 failed with OSError: the disk is full"
        else:
            assert "which has ended or took over" in words
    assert how == "raises" or "got no answer from process 2" in found[0]


@pytest.mark.long
def test_no_process_finishes_its_share_when_another_has_failed(tmp_path):
    begun = time.monotonic()
    done = launch(3, str(HERE / "ends.py"), "works", str(tmp_path))
    assert time.monotonic() - begun < 50  # a share takes 60 seconds and more
    for rank in range(2):
        assert f"process {rank} is ended: process 2 failed with OSError: the disk is full" in done.stderr


@pytest.fixture(scope="module", params=[2, 3])
def several(request, tmp_path_factory):
    """What each of several processes has."""
    folder = tmp_path_factory.mktemp("divided")
    done = launch(request.param, str(HERE / "divided.py"), str(folder))
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]


@pytest.mark.long
def test_bound_texts_and_judgement_are_those_of_one_process(several):
    """Bit for bit, in each process."""
    alone = json.loads(json.dumps(divided.results()))
    assert len(alone["bound"][0]) == 13 and len(alone["texts"]) == 7 and alone["corrected"] != alone["texts"]
    for found in several:
        assert {name: found[name] for name in alone} == alone


@pytest.mark.long
@pytest.mark.parametrize("family", ["gidd", "masked"])
def test_sharded_weights_have_the_bound_of_whole_ones(several, family):
    pipe = divided.model(family)
    for found in (one["sharded"] for one in several):
        for how in ({}, {"low": 0.05}, {"nodes": 2}):
            assert found[f"{family} {how}"] == pytest.approx(divided.bound(pipe, None, **how).nats.tolist(), rel=1e-6)
        assert found[f"{family} alone"] == found[f"{family} {{}}"]
        assert found[f"{family} whole weights"] == 0  # what was gathered is freed
        texts = pipe.generate(3, 4, batch_size=2, seed=3, show_progress=False)
        assert found[f"{family} texts"] == [list(text.tokens) for text in texts]
        assert found["refused"].startswith("processes must be None with sharded weights")
        total = divided.judgement(divided.judge(), None).total.tolist()
        assert found["judgement"] == pytest.approx(total, rel=1e-6)
