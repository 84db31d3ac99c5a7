"""Folders of adapters in transformers and peft, in a fresh process: right where they load, and refused where they cannot be."""

import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_adapting import WORDS, settings_for, tokenizer
from tiny_models import make

from noiselab.pipeline import Pipeline
from noiselab.training import adapt
from noiselab.training.model_files import describe_network, stored_network, write_model

pytestmark = pytest.mark.long

AUTO = {
    "GPT2LMHeadModel": transformers.AutoModelForCausalLM,
    "LlamaForCausalLM": transformers.AutoModelForCausalLM,
    "BertForMaskedLM": transformers.AutoModelForMaskedLM,
}
# The rows of the base for 21 words, and the mask token: one of the words; a new one, for which there is room; one without.
MASKS = {"a word": (WORDS + 1, "w7"), "room": (WORDS + 11, "[MASK]"), "no room": (WORDS + 1, "[MASK]")}
CASES = [
    (f"{name}, {mask}, {'tied' if tied else 'untied'}", name, *MASKS[mask], tied)
    for name in AUTO
    for mask in MASKS
    for tied in (False, True)
]
LOAD = """
import pathlib, sys, torch, transformers, peft

transformers.logging.set_verbosity_error()
for place in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    z, found = torch.load(place / "tokens.pt"), {}
    auto = getattr(transformers, (place / "auto").read_text())
    base = auto.from_pretrained(place / "base")

    def resized():
        base.resize_token_embeddings(max(base.config.vocab_size, int(z.max()) + 1))
        return peft.PeftModel.from_pretrained(base, place / "adapter")

    for name, load in {"auto": lambda: auto.from_pretrained(place / "adapter"), "peft": resized}.items():
        try:
            model = load()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
            continue
        with torch.no_grad():
            found[name] = model.eval()(input_ids=z).logits
    torch.save(found, place / "found.pt")
"""


def write(place, name, rows, mask, tied):
    """Adapters as after a training, and the logits of their network."""
    make(name, vocab_size=rows, dtype=torch.float32, tie_word_embeddings=tied).save_pretrained(place / "base")
    base = AUTO[name].from_pretrained(place / "base")
    denoiser, words = adapt(base, tokenizer(eos_token="w0"), mask_token=mask, lora=2)
    random = torch.Generator().manual_seed(1)
    for p in denoiser.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2, generator=random)
    stored = stored_network(denoiser.eval())
    write_model(denoiser, place / "adapter", stored)
    words.save_pretrained(place / "adapter")
    settings_for(words).save_pretrained(place / "adapter")
    describe_network(place / "adapter", stored)
    z = torch.tensor([[1, 2, words.mask_token_id, 4, 5]])
    torch.save(z, place / "tokens.pt")
    (place / "auto").write_text(AUTO[name].__name__)
    with torch.no_grad():
        return z, denoiser.model(input_ids=z).logits, denoiser(z, torch.tensor([0.5]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """All cases, loaded by one fresh process that does not import noiselab."""
    top = tmp_path_factory.mktemp("adapters")
    wanted = {}
    for number, (case, *how) in enumerate(CASES):
        wanted[case] = (top / f"{number:02}", *write(top / f"{number:02}", *how))
    done = subprocess.run([sys.executable, "-c", LOAD, top], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return wanted


@pytest.mark.parametrize("case", [case for case, *_ in CASES])
def test_adapters_are_right_in_transformers_and_peft_or_refused_when_they_are_loaded(folders, case):
    """The network is that of the training, with its own attention; a base without a row for the mask token cannot be right."""
    place, z, logits, denoised = folders[case]
    found = torch.load(place / "found.pt")
    torch.testing.assert_close(found["peft"], logits, rtol=0, atol=1e-5)
    if "no room" in case:
        assert found["auto"].startswith("IndexError") and str(int(z.max())) in found["auto"]
    else:
        torch.testing.assert_close(found["auto"], logits, rtol=0, atol=1e-5)
    pipe = Pipeline.from_pretrained(place / "adapter", base=place / "base")
    with torch.no_grad():
        assert torch.equal(pipe.denoiser.inner(z, torch.tensor([0.5])), denoised)


@pytest.mark.parametrize("mask", ["room", "no room"])
def test_the_embedding_of_a_new_token_is_that_of_the_folder(folders, mask, tmp_path):
    """It is read, not computed anew; one that is missing or of another shape is refused."""
    place, *_ = folders[f"LlamaForCausalLM, {mask}, untied"]
    token = WORDS + 1
    for file in (place / "adapter").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "adapter_model.safetensors")
    (row, head) = sorted(name for name in weights if name.endswith("trainable_tokens_delta"))[::-1]
    assert "embed_tokens" in row and "lm_head" in head
    save_file({**weights, row: torch.full_like(weights[row], 3.0)}, tmp_path / "adapter_model.safetensors")
    pipe = Pipeline.from_pretrained(tmp_path, base=place / "base")
    assert (pipe.network.get_input_embeddings().weight[token] == 3).all()
    before = load_file(place / "base" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(pipe.network.get_input_embeddings().weight[:token], before[:token])
    for broken, words in (
        ({name: one for name, one in weights.items() if name != head}, "is missing"),
        ({**weights, row: weights[row][:, :-1].clone()}, "must have shape"),
        ({**weights, row: weights[row] * torch.nan}, "is not finite"),
    ):
        save_file(broken, tmp_path / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=f"the adapters of .* must match the base: .*{words}"):
            Pipeline.from_pretrained(tmp_path, base=place / "base")
