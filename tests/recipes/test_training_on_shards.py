"""A recipe on tokens that `noiselab tokenize` has written: with any number of processes, and resumed with another number."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from noiselab.commands.main import run
from noiselab.data import train_tokenizer
from noiselab.pipeline import Pipeline

ROOT = Path(__file__).parents[2]
SIZES = (
    "--steps 6 --warmup 1 --batch 8 --micro-batch 4 --length 16 --layers 1 --width 16 --heads 2 --log-every 1 --save-every 3 "
    "--evaluate-every 3 --validation-sequences 8 --cpu True --precision float32 --optimizer adamw --epsilon 1e-4"
).split()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    texts = [f"In chapter {i} the reader learns that {i} and {i} are {2 * i}. " * 3 for i in range(60)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    train_tokenizer(texts, vocab_size=300).save_pretrained(folder / "tokenizer")
    arguments = [str(folder / "texts.jsonl"), "--tokenizer", str(folder / "tokenizer"), "--length", "16", "--quiet"]
    run("tokenize", [*arguments, "--output", str(folder / "out"), "--validation", "0.2", "--shard-tokens", "320"])
    return folder / "out"


def train(shards, output, *more, processes=1):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    recipe = [str(ROOT / "recipes" / "masked.py"), "demo", "--corpus", f"shards:{shards}", "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *(launch if processes > 1 else []), *recipe, *SIZES, *more]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def weights(folder):
    return load_file(folder / "final" / "model.safetensors")


@pytest.mark.long
def test_a_recipe_trains_on_shards_with_any_number_of_processes_and_resumes(shards, tmp_path):
    whole = train(shards, tmp_path / "one")
    assert whole.returncode == 0, whole.stderr
    assert "training data: TokenShards(blocks=143, length=16" in whole.stdout
    assert "held out:      TokenBlocks(blocks=8, length=16" in whole.stdout
    expected = weights(tmp_path / "one")
    pipe = Pipeline.from_pretrained(tmp_path / "one" / "final")  # with the tokenizer of the shards
    assert pipe.tokenizer.decode(pipe.tokenizer("chapter 3")["input_ids"]) == "chapter 3" and len(pipe.tokenizer) == 300

    def resume(processes):
        shutil.rmtree(tmp_path / "run" / "final", ignore_errors=True)
        shutil.rmtree(tmp_path / "run" / "checkpoint-6")
        done = train(shards, tmp_path / "run", processes=processes)
        assert done.returncode == 0 and "checkpoint-3" in done.stderr, done.stderr
        return weights(tmp_path / "run")

    shutil.copytree(tmp_path / "one", tmp_path / "run")
    assert all(torch.equal(part, expected[name]) for name, part in resume(1).items())
    assert all(torch.allclose(part, expected[name], atol=1e-6) for name, part in resume(2).items())

    moved = tmp_path / "moved"
    shutil.copytree(shards, moved)  # the same tokens elsewhere: the run is finished
    assert train(moved, tmp_path / "one").returncode == 0
    (moved / "train" / "shard-00001.safetensors").unlink()
    missing = train(moved, tmp_path / "three", processes=2)
    assert missing.returncode and "train/shard-00001.safetensors is missing" in missing.stderr
    assert not list((tmp_path / "three").glob("checkpoint-*"))
