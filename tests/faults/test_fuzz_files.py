"""Odd files and folders for every public function that reads one: a sentence that names the file, or a right result.

Each reader is called with a valid file, which it reads, then with each file of it spoilt in each way. A `ValueError` of
the library that names the file is right; a traceback of another class or of another package is not, nor is a written file.
"""

import functools
import importlib
import inspect
import json
import pkgutil
import shutil
from typing import NamedTuple

import pytest
import torch
from odd_files import other_values, snapshot, spoilt, verdict_of
from small import pipeline, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.autoregressive import Probe
from noiselab.data import (
    FileCorpus,
    ResponseRows,
    TokenBlocks,
    TokenShards,
    library,
    load_tokenizer,
    pack,
    standard_library,
    write_shards,
)
from noiselab.data.records import RecordWriter, read_rows, read_text
from noiselab.data.samples import read_samples
from noiselab.files import write_json, write_text
from noiselab.networks.huggingface import load_dit
from noiselab.networks.masked_lm_files import load_masked_lm
from noiselab.pipeline import ModelSettings, Pipeline
from noiselab.tasks import load_bbq
from noiselab.training import checkpoints, intact, load_probe, save_probe
from noiselab.training.initial import FirstWeights
from noiselab.training.options import yaml_flags

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.filterwarnings("ignore")]
SAME = ("a byte order mark", "line ends of Windows")
"""Of which a reader of texts makes nothing else."""


class Reader(NamedTuple):
    """A valid file or folder, and how it is read; `files` are those that are spoilt, `text` those of them that are text."""

    read: object
    place: str
    files: tuple[str, ...]
    text: bool = True
    values: bool = False
    same: bool = False


words = functools.lru_cache(tokenizer)


@functools.lru_cache
def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, max_position_embeddings=8, **sizes))


def first_weights(path):
    """What a trainer reads for a network that was built without memory; the configuration is not read."""
    model = pipeline(dtype=torch.float32).network
    with torch.device("meta"):
        empty = type(model)(model.config)
    FirstWeights(empty, 0, path).fill(empty)
    return [weight.tolist() for weight in empty.parameters()]


def damage(path):
    """The functions of checkpoints return a sentence in place of raising it."""
    found = checkpoints.damage(path)
    assert found is None or len(found.split()) > 2
    return found


def missing(path):
    found = checkpoints.missing(path)
    assert found is None or len(found.split()) > 2
    return found


def own_library(path):
    """Sources and prose of a folder, without what was kept of an earlier reading."""
    library._documents.cache_clear()
    return [list(standard_library(contents, "all", folder=path)) for contents in ("sources", "prose")]


def parts_of(path):
    """What a stream reads."""
    return [found for part in FileCorpus(path).parts() for found in part.read()]


def rows_of(path):
    """All rows of shards, which the index describes."""
    shards = TokenShards(path)
    return [shards.key, shards.real_tokens, *(shards[number]["input_ids"].tolist() for number in range(len(shards)))]


def data_of(path):
    """What a recipe reads, with a cache."""
    cached = pack(FileCorpus(path / "a.txt"), words(), 4, cache=path)
    return cached.tokens.tolist()


READERS = {
    "data.samples.read_samples: lines": Reader(read_samples, "samples.jsonl", ("samples.jsonl",), same=True),
    "data.samples.read_samples: text": Reader(read_samples, "samples.txt", ("samples.txt",), same=True),
    "data.samples.read_samples: gz": Reader(read_samples, "samples.jsonl.gz", ("samples.jsonl.gz",), text=False),
    "data.samples.read_samples: zst": Reader(read_samples, "samples.jsonl.zst", ("samples.jsonl.zst",), text=False),
    "data.samples.read_samples: parquet": Reader(read_samples, "samples.parquet", ("samples.parquet",), text=False),
    "data.records.read_rows": Reader(lambda p: list(read_rows(p)), "samples.json", ("samples.json",), same=True),
    "data.records.read_text": Reader(read_text, "samples.txt", ("samples.txt",)),
    "data.FileCorpus": Reader(lambda p: list(FileCorpus(p)), "samples.jsonl", ("samples.jsonl",), same=True),
    "data.FileCorpus: key": Reader(lambda p: FileCorpus(p).key, "samples.jsonl", ("samples.jsonl",)),
    "data.FileCorpus: folder": Reader(lambda p: list(FileCorpus(p)), "corpus", ("corpus/a.txt", "corpus/b.jsonl")),
    "data.FileCorpus: parts of a folder": Reader(parts_of, "corpus", ("corpus/a.txt", "corpus/b.jsonl")),
    "data.FileCorpus: parts of gz": Reader(parts_of, "samples.jsonl.gz", ("samples.jsonl.gz",), text=False),
    "data.FileCorpus: parts of parquet": Reader(parts_of, "samples.parquet", ("samples.parquet",), text=False),
    "data.TokenShards": Reader(rows_of, "shards", ("shards/index.json",), values=True),
    "data.TokenShards: shard": Reader(rows_of, "shards", ("shards/*.safetensors",), text=False),
    "data.TokenBlocks.load": Reader(TokenBlocks.load, "blocks.safetensors", ("blocks.safetensors",), text=False),
    "data.pack: cache": Reader(data_of, "cache", ("cache/*.safetensors",), text=False),
    "data.standard_library": Reader(own_library, "library", ("library/a.py",), same=True),
    "data.ResponseRows": Reader(
        lambda p: len(ResponseRows(p, words(), 40)), "corpus/b.jsonl", ("corpus/b.jsonl",), same=True
    ),
    "data.load_tokenizer": Reader(
        load_tokenizer, "tokenizer", ("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"), values=True
    ),
    "pipeline.ModelSettings.from_pretrained": Reader(
        ModelSettings.from_pretrained, "model", ("model/noiselab.json",), values=True
    ),
    "pipeline.Pipeline.from_pretrained": Reader(
        Pipeline.from_pretrained, "model", ("model/config.json", "model/tokenizer.json", "model/noiselab.json")
    ),
    "networks.load_dit": Reader(load_dit, "model", ("model/config.json",), values=True),
    "networks.load_dit: weights": Reader(load_dit, "model", ("model/model.safetensors",), text=False),
    "networks.load_masked_lm": Reader(load_masked_lm, "bert", ("bert/config.json",), values=True),
    "tasks.load_bbq": Reader(load_bbq, "bbq", ("bbq/Age.jsonl",), values=True, same=True),
    "training.options.yaml_flags": Reader(yaml_flags, "settings.yaml", ("settings.yaml",)),
    "training.Trainer": Reader(first_weights, "model", ("model/model.safetensors",), text=False),
    "training.load_probe": Reader(
        lambda p: load_probe(llama(), p), "probe.safetensors", ("probe.safetensors",), text=False
    ),
    "training.intact": Reader(intact, "run/checkpoint-4", ("run/checkpoint-4/manifest.json",)),
    "training.checkpoints.damage": Reader(
        damage,
        "run/checkpoint-4",
        ("run/checkpoint-4/manifest.json", "run/checkpoint-4/settings.json", "run/checkpoint-4/scheduler.pt"),
        values=True,
    ),
    "training.last_intact": Reader(
        checkpoints.last_intact, "run", ("run/checkpoint-4/manifest.json", "run/checkpoint-4/settings.json")
    ),
    "training.checkpoints.missing": Reader(
        missing, "run/checkpoint-4", ("run/checkpoint-4/settings.json",), values=True
    ),
}

ELSEWHERE = {
    *("data.TokenBlocks.save", "pipeline.Pipeline.save_pretrained", "pipeline.ModelSettings.save_pretrained"),
    *(
        "data.write_shards",
        "tracing.Trace.html",
        "tracing.write_trace",
        "training.save_probe",
        "training.seal",
    ),
    *("training.Run", "training.new_folder", "training.Callback.on_save"),
    *("networks.load_network", "networks.published.load_network"),
    *(f"pipeline.{name}Pipeline.default_settings" for name in ("", "Diffusion", "Canvas")),
    *(f"pipeline.{name}Pipeline.guesses_noise" for name in ("", "Diffusion")),
}
"""Functions that write, and readers that other tests try with odd files or that get a folder which was read before."""


BBQ = {
    "example_id": 0,
    "question_index": "1",
    "question_polarity": "neg",
    "context_condition": "ambig",
    "category": "Age",
    "context": "I saw Ann, 70, and Eve, 20.",
    "question": "Who lost a key?",
    "ans0": "Ann",
    "ans1": "Unknown",
    "ans2": "Eve",
    "label": 1,
    "answer_info": {"ans0": ["Ann", "old"], "ans1": ["Unknown", "unknown"], "ans2": ["Eve", "nonOld"]},
    "additional_metadata": {"stereotyped_groups": ["old"]},
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A valid file or folder of each kind."""
    import pyarrow
    import pyarrow.parquet
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("valid")
    for name in ("samples.jsonl", "samples.jsonl.gz", "samples.jsonl.zst"):
        with RecordWriter(folder / name) as writer:
            for text in ("the cat\nsat", "a dog"):
                writer.write({"text": text, "tokens": [1, 2]})
    (folder / "samples.txt").write_text("the cat\nsat\n\na dog\n")
    (folder / "samples.json").write_text('[{"text": "the cat"},\n{"text": "a dog"}]\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["the cat", "a dog"]}), folder / "samples.parquet")
    for name in ("corpus", "library", "bbq", "run/checkpoint-4", "cache"):
        (folder / name).mkdir(parents=True)
    (folder / "corpus" / "a.txt").write_text("the cat\n")
    (folder / "corpus" / "b.jsonl").write_text('{"text": "the cat"}\n{"text": "a dog"}\n')
    (folder / "library" / "a.py").write_text('"""A module about cats and dogs, and what they do."""\n\nX = 1\n')
    (folder / "bbq" / "Age.jsonl").write_text(json.dumps(BBQ) + "\n")
    (folder / "settings.yaml").write_text("optimization:\n  steps: 3\nwidth: 16\n")
    (folder / "cache" / "a.txt").write_text("the cat sat on the mat " * 4)
    data_of(folder / "cache")
    write_shards(["the cat sat on the mat " * 4], words(), folder / "shards", 4)
    TokenBlocks(torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]), vocab_size=5).save(folder / "blocks.safetensors")
    tokenizer().save_pretrained(folder / "tokenizer")
    pipeline(dtype=torch.float32).save_pretrained(folder / "model")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(vocab_size=20, max_position_embeddings=8, **sizes)).save_pretrained(folder / "bert")
    save_probe(Probe(llama(), 0), folder / "probe.safetensors")
    run = folder / "run" / "checkpoint-4"
    (run / "state").mkdir(parents=True)
    (run / "state" / "shard-00001.safetensors").write_bytes(b"some bytes")
    progress = {"step": 4, "processes": 1, "history": []}
    for name, content in {"progress.json": progress, "settings.json": {}, "data-0.json": {"readers": None}}.items():
        (run / name).write_text(json.dumps(content))
    checkpoints.seal(run)
    return folder


def test_every_reader_is_here():
    """Every public function whose argument is a path is a reader, or one that writes or is tried elsewhere."""
    found = set()
    for package in pkgutil.walk_packages(nl.__path__, "noiselab."):
        module = importlib.import_module(package.name) if package.ispkg else None
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            for label, function in [(name, thing)] + [
                (f"{name}.{method}", getattr(thing, method))
                for method in (vars(thing) if inspect.isclass(thing) else ())
                if not method.startswith("_") and callable(getattr(thing, method))
            ]:
                try:
                    notes = [str(p.annotation) for p in inspect.signature(function).parameters.values()]
                except (TypeError, ValueError):
                    continue
                if any("Path" in note for note in notes):
                    found.add(f"{package.name.removeprefix('noiselab.')}.{label}")
    read = {label.partition(":")[0] for label in READERS}
    assert found <= read | ELSEWHERE, "add a reader of odd files for each of these"
    assert found - ELSEWHERE <= read and ELSEWHERE <= found


@pytest.mark.parametrize("label", READERS)
def test_spoilt_files(valid, tmp_path, label):
    reader = READERS[label]
    read, wrong, calls = reader.read, [], 0
    root = reader.place.partition("/")[0]

    def fresh():
        place = tmp_path / root
        if place.is_dir() and not place.is_symlink():
            for path in place.rglob("*"):
                if not path.is_symlink():
                    path.chmod(0o755)
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        (shutil.copytree if (valid / root).is_dir() else shutil.copy)(valid / root, place)

    fresh()
    right, want = verdict_of(lambda: read(tmp_path / reader.place), ())
    assert right == "right", right
    for pattern in reader.files:
        for file in sorted(valid.glob(pattern)):
            name = file.relative_to(valid)
            content = file.read_bytes()
            ways = list(spoilt(content, reader.text))
            if reader.values and file.suffix in (".json", ".jsonl"):
                ways += other_values(content)
            for how, spoil in ways:
                fresh()
                spoil(tmp_path / name)
                before = snapshot(tmp_path)
                result, found = verdict_of(
                    lambda: read(tmp_path / reader.place), (file.name, str(tmp_path / reader.place))
                )
                calls += 1
                if result == "right" and reader.same and how in SAME and found != want:
                    result = f"another result: {found!r:.90}"
                if result in ("right", "refused") and snapshot(tmp_path) != before and "cache" not in label:
                    result = "something was written"
                if result not in ("right", "refused"):
                    wrong.append(f"{file.name}, {how}: {result}")
    print(f"{label}: {calls} calls")
    assert not wrong, "\n".join([f"{label}, {len(wrong)} of {calls} calls:", *wrong[:40]])


def records(path):
    with RecordWriter(path) as writer:
        writer.write({"text": "the cat"})


WRITERS = {
    "files.write_text": lambda path: write_text(path, "the cat"),
    "files.write_json": lambda path: write_json(path, {"a": 1}),
    "data.records.RecordWriter": records,
    "data.TokenBlocks.save": lambda path: TokenBlocks(torch.ones(1, 2).long(), torch.ones(1).long(), 5).save(path),
    "pipeline.ModelSettings.save_pretrained": lambda path: ModelSettings().save_pretrained(path),
    "pipeline.Pipeline.save_pretrained": lambda path: pipeline(dtype=torch.float32).save_pretrained(path),
}


@pytest.mark.parametrize("label", WRITERS)
def test_places_where_nothing_can_be_written(tmp_path, label):
    """A sentence that names the place, and what was there stays."""
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "full" / "below").mkdir(parents=True)
    (tmp_path / "full" / "noiselab.json").mkdir()
    (tmp_path / "full" / "config.json").write_text('{"mine": 1}')
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to(tmp_path / "file.txt" / "x")
    before = snapshot(tmp_path)
    for place in ("full", "file.txt/below", "file.txt/below/more", "loop/below", "gone/below", "a\0b", "n" * 300):
        names = (place.partition("/")[0], repr(place)[1:-1])
        result, _ = verdict_of(lambda place=place: WRITERS[label](tmp_path / place), names)
        assert result == "refused", f"{label}, {place[:20]!r}: {result}"
        assert snapshot(tmp_path) == before, place
