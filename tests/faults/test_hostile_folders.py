"""A folder of a model cannot run code, have a pickle read, or name files outside, whatever is answered on standard input."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from small import SIZES, pipeline, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab
from noiselab.data import load_tokenizer
from noiselab.networks.huggingface import load_dit
from noiselab.networks.masked_lm_files import load_masked_lm
from noiselab.pipeline import Pipeline
from noiselab.pipeline.loading import load_model
from noiselab.processes import process_from

WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
KINDS = ["dit", "llama"]
CODE = """open({mark!r}, "w").close()
import transformers
class T(transformers.PreTrainedTokenizerFast): pass
class C(transformers.LlamaConfig): pass
class M(transformers.LlamaForCausalLM): pass
def generate(*a, **k): pass
"""


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.fixture(params=KINDS)
def folder(request, tmp_path, monkeypatch):
    """A model of each kind, with code beside it and a user who answers "y" to everything."""
    made = tmp_path / "model"
    if request.param == "dit":
        pipeline(dtype=torch.float32).save_pretrained(made)
    else:
        words, sizes = tokenizer(), {**WIDTHS, "max_position_embeddings": SIZES["max_seq_len"]}
        LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes)).save_pretrained(made)
        words.save_pretrained(made)
    (made / "code.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    (made / "custom_generate").mkdir()
    (made / "custom_generate" / "generate.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    return made


def edit(path, **settings):
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **settings}))


def loads(folder, words=None):
    """Load a folder by every door: it is refused in words, or harmless."""
    doors = [Pipeline.from_pretrained, load_tokenizer, load_model, load_masked_lm, load_dit]
    for door in doors:
        try:
            door(folder)
        except ValueError as error:
            said = str(error)
        else:
            said = None
        assert not (folder.parent / "ran").exists(), f"{door} ran the code"
        if door is Pipeline.from_pretrained:
            assert (said is None) if words is None else (words in str(said)), said
    assert sys.stdin.read() == "y\n" * 100, "it asked"


AUTO = {"AutoTokenizer": ["code.T", "code.T"]}


def test_a_harmless_folder_is_loaded(folder):
    loads(folder)


def test_code_of_a_tokenizer(folder):
    edit(folder / "tokenizer_config.json", auto_map=AUTO, tokenizer_class="T")
    loads(folder, "trust_remote_code")


@pytest.mark.parametrize("auto", [AUTO["AutoTokenizer"], {"AutoTokenizer": "code.T"}, {"AutoTokenizer": [7]}, "code.T"])
def test_code_of_a_tokenizer_written_otherwise(folder, auto):
    edit(folder / "tokenizer_config.json", auto_map=auto, tokenizer_class="T")
    loads(folder, "must come with a tokenizer")


@pytest.mark.parametrize("name", ["AutoTokenizer", "AutoModelForCausalLM", "AutoProcessor", "RagRetriever", "pipeline"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_tokenizer_class_that_is_none(folder, name, file):
    settings = {"tokenizer_class": name}
    if file == "config.json":
        edit(folder / "tokenizer_config.json", tokenizer_class=None)
    edit(folder / file, **settings)
    loads(folder, "tokenizer_class must be a tokenizer of transformers")


def test_code_of_a_config_whose_kind_is_known(folder):
    names = {"AutoConfig": "code.C", "AutoModel": "code.M", "AutoModelForCausalLM": "code.M", **AUTO}
    edit(folder / "config.json", auto_map={**names, "AutoModelForMaskedLM": "code.M"})
    edit(folder / "generation_config.json", auto_map=names, custom_generate="code")
    edit(folder / "preprocessor_config.json", auto_map=names)
    loads(folder)


@pytest.mark.parametrize("classes", [["LlamaForCausalLM"], ["M"]])
def test_code_of_a_config_whose_kind_is_not(folder, classes):
    names = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM"), "code.M")
    edit(folder / "config.json", model_type="mine", architectures=classes, auto_map={**names, "AutoConfig": "code.C"})
    loads(folder, "mine")


def shard(folder, name):
    """Move the weights into a file of that name, and name it in an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights


def test_an_index_of_files_in_the_folder(folder):
    weights = shard(folder, "part.safetensors")
    save_file(weights, folder / "part.safetensors", {"format": "pt"})
    loads(folder)


@pytest.mark.parametrize("name", ["part.bin", "pytorch_model.bin", "model.pt", ""])
def test_an_index_that_names_a_pickle(folder, name):
    weights = shard(folder, name)
    if name:
        torch.save({**weights, "evil": Evil(folder.parent / "ran")}, folder / name)
    loads(folder, "")
    with pytest.raises(ValueError):
        load_model(folder)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "{}/outside.safetensors", "..\\outside.safetensors", 7, None]
)
def test_an_index_that_names_a_file_outside(folder, name):
    name = name.format(folder.parent) if isinstance(name, str) else name
    save_file(shard(folder, name), folder.parent / "outside.safetensors", {"format": "pt"})
    save_file({"x": torch.zeros(1)}, folder / "other.safetensors")
    loads(folder, "weights must be safetensors files in the folder of the model")


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": []}', "[" * 100_000])
def test_an_index_that_is_none(folder, text):
    shard(folder, "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(text)
    (folder / "part.safetensors").write_bytes(b"")
    loads(folder, "model.safetensors.index.json must")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"transformers_weights": "../outside.safetensors"}, "weights must be safetensors files in"),
        ({"transformers_weights": "adapter_model.bin"}, "weights must be safetensors files in"),
        ({"attn_implementation": "somebody/kernel"}, "code must not be named"),
        ({"text_config": {"attn_implementation": "somebody/kernel"}}, "code must not be named"),
        ({"configuration_files": ["config.4.0.0.json"]}, "must contain the settings itself"),
    ],
)
def test_a_config_that_names_files_or_code(folder, settings, words):
    edit(folder / "config.json", **settings)
    loads(folder, words)


def test_a_tokenizer_config_that_names_files_outside(folder):
    edit(folder / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.0.0.0.json"])
    loads(folder, "a tokenizer must be in")


def test_an_adapter_that_names_another_model(folder):
    edit(folder / "adapter_config.json", base_model_name_or_path="somebody/else", peft_type="LORA")
    torch.save({"evil": Evil(folder.parent / "ran")}, folder / "adapter_model.bin")
    loads(folder, "merge the adapter first")


def test_pickles_beside_the_weights(folder):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "vocab.pkl"):
        torch.save({"evil": Evil(folder.parent / "ran")}, folder / name)
    loads(folder)


def test_a_chat_template_with_code(folder):
    mark = folder.parent / "ran"
    (folder / "chat_template.jinja").write_text(
        "{{ cycler.__init__.__globals__.__builtins__.open(" + repr(str(mark)) + ", 'w') }}"
    )
    loads(folder)
    with pytest.raises(Exception, match=r"undefined|unsafe"):
        load_tokenizer(folder).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert not mark.exists()


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("text", ["{", "[]", '{"version": 7}', "\0", "[" * 100_000])
def test_damaged_files_are_refused_in_words(folder, file, text):
    (folder / file).write_text(text)
    try:
        Pipeline.from_pretrained(folder)
    except ValueError as error:
        assert "must" in str(error)


ODD = [None, "x", -1, 0, 1e30, 10**40, [], {}, float("nan"), True, [[1]], ""]
SETTINGS = {
    "noiselab.json": ["noise", "predicts", "generation", "network", "more"],
    "config.json": [
        "architectures",
        "model_type",
        "auto_map",
        "dtype",
        "tokenizer_class",
        "attention_dropout",
        "t_eps",
    ],
    "tokenizer_config.json": [
        *("auto_map", "tokenizer_class", "fast_tokenizer_files", "bos_token", "mask_token", "added_tokens_decoder"),
        *("extra_special_tokens", "chat_template", "model_max_length", "backend"),
    ],
}


@pytest.mark.parametrize("file", SETTINGS)
def test_odd_settings_are_harmless_or_refused_in_words(tmp_path, file):
    folder = tmp_path / "model"
    pipeline(dtype=torch.float32).save_pretrained(folder)
    before = json.loads((folder / file).read_text())
    for name in SETTINGS[file]:
        for value in ODD:
            (folder / file).write_text(json.dumps({**before, name: value}))
            try:
                assert Pipeline.from_pretrained(folder).process is not None
            except ValueError as error:
                assert str(error), (name, value)


@pytest.mark.parametrize("value", ODD)
def test_odd_noise_is_refused_in_words(value):
    noise = {"family": "gidd", "vocab_size": 9, "mask_id": 8, "p_uniform": 0.2}
    odd = [{**noise, name: value} for name in [*noise, "signal", "more"]]
    odd += [{"family": "unigram", "frequencies": value}, {**noise, "support": value}]
    for settings in odd:
        try:
            process_from(settings)
        except ValueError as error:
            assert str(error), settings


def test_yaml_with_code(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"x": torch.zeros(1)}, tmp_path / "model.pt")
    (tmp_path / "config.yaml").write_text(f"model: !!python/object/apply:builtins.open ['{mark}', 'w']\n")
    with pytest.raises(ValueError, match=r"config\.yaml must be plain YAML"):
        Pipeline.from_pretrained(tmp_path)
    assert not mark.exists()


def test_a_command_runs_no_code_whatever_is_answered(tmp_path):
    folder = tmp_path / "model"
    pipeline(dtype=torch.float32).save_pretrained(folder)
    edit(folder / "tokenizer_config.json", auto_map=AUTO, tokenizer_class="T")
    (folder / "code.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    command = [sys.executable, "-m", "noiselab", "inspect", str(folder), "--device", "cpu"]
    ran = subprocess.run(command, input="y\n", text=True, capture_output=True)
    assert ran.returncode != 0 and "Traceback" not in ran.stderr and not (tmp_path / "ran").exists()


READERS = re.compile(r"(Auto\w+|LMHeadModel|ForCausalLM|ForMaskedLM|Tokenizer\w*|DiT|kind|loader)\.from_pretrained\(")


def test_nothing_else_opens_folders_of_models():
    """Calls of transformers' loaders are in one file."""
    root = Path(noiselab.__file__).parents[1]
    paths = [path for place in ("noiselab", "recipes") for path in (root / place).rglob("*.py")]
    calls = [path for path in paths if READERS.search(re.sub(r"`.*?`", "", path.read_text(encoding="utf-8")))]
    assert [str(path.relative_to(root)) for path in calls] == ["noiselab/networks/model_folders.py"]


def test_weights_tokenizer_and_settings_are_of_one_revision(tmp_path, monkeypatch):
    """A cache as the Hub's library writes it, with two commits, read offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--somebody--model"
    for name, commit, steps in (("main", "a" * 40, 3), ("R", "b" * 40, 5)):
        pipe = pipeline(seed=steps, dtype=torch.float32)
        pipe.tokenizer.model_max_length = steps
        pipe.save_pretrained(repo / "snapshots" / commit)
        edit(repo / "snapshots" / commit / "noiselab.json", generation={"steps": steps})
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / name).write_text(commit)
    for name, steps in (("main", 3), ("R", 5)):
        assert load_tokenizer("somebody/model", revision=name).model_max_length == steps
        pipe = Pipeline.from_pretrained("somebody/model", revision=name)
        assert pipe.tokenizer.model_max_length == pipe.generation.steps == steps
        wanted = load_file(repo / "snapshots" / (("a" if name == "main" else "b") * 40) / "model.safetensors")
        found = pipe.network.state_dict()
        assert all(torch.equal(found[key], value) for key, value in wanted.items())
    with pytest.raises(ValueError, match="at revision 'nowhere' cannot be read"):
        Pipeline.from_pretrained("somebody/model", revision="nowhere")
