"""Any model of transformers becomes a diffusion model: its tokens, low-rank updates, checkpointed activations, its folder."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import make
from tokenizers import Tokenizer, models, pre_tokenizers

import noiselab as nl
from noiselab.data import TokenBlocks, vocabulary_size
from noiselab.networks.adapters import weights_hash
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.networks.opening import influence
from noiselab.pipeline import AutoregressivePipeline, DiffusionPipeline, ModelSettings, Pipeline
from noiselab.training import Optimization, Place, Run, Trainer, adapt, merged, noised_loss, with_lora
from noiselab.training.checks import enable_checkpointing
from noiselab.training.losses import call_denoiser

WORDS = 20
T = torch.full((2,), 0.5)


def tokenizer(**special):
    """Twenty words, with only these special tokens."""
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)} | {"?": WORDS}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def network(name="LlamaForCausalLM", vocab_size=WORDS + 1, dtype=torch.float32, **more):
    return make(name, vocab_size=vocab_size, dtype=dtype, **more)


def adapted(name="LlamaForCausalLM", vocab_size=WORDS + 1, **options):
    return adapt(network(name, vocab_size), tokenizer(eos_token="w0"), mask_token="[MASK]", **options)


def settings_for(words):
    size = vocabulary_size(words)
    return ModelSettings({"family": "gidd", "vocab_size": size, "mask_id": words.mask_token_id, "p_uniform": 0.2})


def data(length=8, rows=16):
    return torch.randint(1, WORDS, (rows, length), generator=torch.Generator().manual_seed(5))


def loss_of(denoiser, process, seed=1):
    return noised_loss(
        denoiser,
        {"input_ids": data()},
        process=process,
        objective=nl.objectives.elbo,
        place=Place(step=0, seed=seed),
        call=call_denoiser,
        predicts=denoiser.predicts,
    )


def train(denoiser, process, folder, steps=3):
    ids = data()
    blocks = TokenBlocks(ids, torch.full((len(ids),), ids.shape[1]), vocab_size=process.vocab_size)
    optimization = Optimization(steps, batch=8, learning_rate=0.05, weight_decay=0.0)
    trainer = Trainer(
        denoiser, optimization, Run(folder, cpu=True, progress=False), train_dataset=blocks, process=process
    )
    trainer.train()
    denoiser.eval()
    return trainer


# --- tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rows", [WORDS + 1, WORDS + 11], ids=["enlarged", "rounded up"])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "PhiForCausalLM"])
def test_a_mask_token_is_added_as_the_mean_of_the_others(name, rows, tied):
    given, words = network(name, rows, tie_word_embeddings=tied), tokenizer(eos_token="w0")
    before = {key: p.clone() for key, p in given.state_dict().items()}
    with pytest.warns(
        UserWarning, match=r"no mask token, so that '\[MASK\]' \(id 21\) was added; its embedding is the mean"
    ):
        denoiser, own = adapt(given, words)
    # Neither argument has changed.
    assert words.mask_token_id is None and words.pad_token_id is None and len(words) == WORDS + 1
    assert given.config.vocab_size == rows and given.get_input_embeddings().num_embeddings == rows
    assert all(torch.equal(p, before[key]) for key, p in given.state_dict().items())
    assert own.mask_token_id == WORDS + 1 and own.pad_token_id == own.eos_token_id == 0
    # By hand: the row is the mean of those of tokens 0 to 20, in the output too.
    table, output = denoiser.model.get_input_embeddings().weight, denoiser.model.get_output_embeddings()
    assert len(table) == denoiser.model.config.vocab_size == max(rows, WORDS + 2) and (output.weight is table) == tied
    old = given.get_input_embeddings().weight
    torch.testing.assert_close(table[WORDS + 1], sum(old[i] for i in range(WORDS + 1)) / (WORDS + 1))
    old = given.get_output_embeddings().weight
    torch.testing.assert_close(output.weight[WORDS + 1], sum(old[i] for i in range(WORDS + 1)) / (WORDS + 1))
    assert torch.equal(table[: WORDS + 1], given.get_input_embeddings().weight[: WORDS + 1])
    assert denoiser(torch.full((2, 4), WORDS + 1), T).shape == (2, 4, WORDS + 2)
    # Other weights are shared with the model.
    shared = {p.data_ptr() for p in given.parameters()}
    own_rows = {p.data_ptr() for p in (table, output.weight, getattr(output, "bias", None)) if p is not None}
    assert {p.data_ptr() for p in denoiser.parameters()} - own_rows < shared


def test_a_mask_token_that_is_there_is_used():
    given = network()
    denoiser, own = adapt(given, tokenizer(eos_token="w0", mask_token="w7"))
    assert own.mask_token_id == 7 and denoiser.vocab_size == WORDS + 1
    assert denoiser.model.get_input_embeddings().weight.data_ptr() == given.get_input_embeddings().weight.data_ptr()
    _, own = adapt(given, tokenizer(eos_token="w0"), mask_token="w9")  # one that is in the vocabulary, unused
    assert own.mask_token_id == 9 and vocabulary_size(own) == WORDS + 1


def test_the_random_numbers_of_torch_are_not_used():
    given = network()
    torch.manual_seed(3)
    adapt(given, tokenizer(eos_token="w0"), mask_token="[MASK]")
    drawn = torch.rand(())
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(()))


def test_what_cannot_be_adapted_is_refused_in_words():
    words = tokenizer(eos_token="w0")
    with pytest.raises(
        ValueError, match="must not have more tokens than the model; it has 21, the model embeddings of 20"
    ):
        adapt(network(vocab_size=WORDS), words)
    with pytest.raises(ValueError, match="one of transformers, without adapters; got Linear"):
        adapt(torch.nn.Linear(2, 2), words)
    with pytest.raises(ValueError, match="one of transformers, without adapters; got PeftModel"):
        adapt(with_lora(network(), 1), words)
    config = transformers.BloomConfig(vocab_size=WORDS + 1, hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(ValueError, match="attention of the model must be opened"):
        adapt(transformers.BloomForCausalLM(config), words, mask_token="[MASK]")
    with pytest.raises(ValueError, match="rank of low-rank updates must be at least 1; got 0"):
        adapted(lora=0)


# --- training ----------------------------------------------------------------------------------------------------

NOISES = {
    "masked": lambda size, mask: nl.masked(vocab_size=size, mask_id=mask),
    "hybrid": lambda size, mask: nl.gidd(vocab_size=size, mask_id=mask, p_uniform=0.2),
    "uniform": lambda size, mask: nl.uniform(vocab_size=size),
}


@pytest.mark.parametrize("noise", NOISES)
def test_any_noise_is_learned(noise):
    """The bound of the training data falls: the data repeat, and the network sees both sides."""
    torch.manual_seed(0)
    denoiser, words = adapted()
    process = NOISES[noise](vocabulary_size(words), words.mask_token_id)
    adam = torch.optim.Adam([p for p in denoiser.parameters() if p.requires_grad], 0.02)
    before = torch.stack([loss_of(denoiser, process, seed) for seed in range(8)]).mean().item()
    for seed in range(40):
        adam.zero_grad()
        loss_of(denoiser, process, 100 + seed).backward()
        adam.step()
    after = torch.stack([loss_of(denoiser, process, seed) for seed in range(8)]).mean().item()
    assert after < before - 0.2


@pytest.mark.parametrize("lora", [None, 3], ids=["all weights", "lora"])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "BertForMaskedLM", "ModernBertForMaskedLM"])
def test_checkpointed_activations_give_the_same_gradients(name, lora):
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        denoiser, words = adapted(name, lora=lora)
        if checkpointing:
            enable_checkpointing(denoiser)
        for p in denoiser.parameters():
            if p.requires_grad and (p == 0).all():
                torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(1))
        used = [m for m in denoiser.modules() if getattr(m, "gradient_checkpointing", False)]
        assert bool(used) == checkpointing
        denoiser.train()
        for part in denoiser.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        loss_of(denoiser, settings_for(words).process()).backward()
        grads.append({key: p.grad for key, p in denoiser.named_parameters() if p.requires_grad and p.grad is not None})
    assert len(grads[0]) > 3 and grads[0].keys() == grads[1].keys()
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, rtol=0, atol=1e-6)


def test_padding_that_is_the_end_of_text_is_hidden_by_position():
    """Two batches with the same real tokens and other padding give the same loss; an end of text inside is learned."""
    denoiser, words = adapted()
    process = settings_for(words).process()
    assert words.pad_token_id == words.eos_token_id == 0
    ids = data()
    ids[:, 3] = 0  # a real end of text
    real = torch.ones_like(ids)
    real[:, 6:] = 0

    def loss(padding):
        batch = {"input_ids": torch.where(real.bool(), ids, padding), "attention_mask": real}
        place = Place(step=0, seed=1)
        return noised_loss(
            denoiser, batch, process=process, objective=nl.objectives.elbo, place=place, call=call_denoiser
        )

    torch.testing.assert_close(loss(0), loss(7), rtol=0, atol=1e-6)
    by_value = {"input_ids": torch.where(real.bool(), ids, 0), "attention_mask": (ids != 0) & real.bool()}
    other = noised_loss(
        denoiser,
        by_value,
        process=process,
        objective=nl.objectives.elbo,
        place=Place(step=0, seed=1),
        call=call_denoiser,
    )
    assert abs(other - loss(0)) > 1e-3  # the mistake


def test_low_rank_updates_alone_are_trained_and_change_nothing_at_first(tmp_path):
    given = network("GPT2LMHeadModel")
    before = {key: p.clone() for key, p in given.state_dict().items()}
    whole, words = adapt(given, tokenizer(eos_token="w0"), mask_token="[MASK]")
    denoiser, _ = adapt(given, tokenizer(eos_token="w0"), mask_token="[MASK]", lora=2)
    assert all(p.requires_grad for p in given.parameters())
    z = data(rows=2)
    assert torch.equal(denoiser(z, T), whole.eval()(z, T)) and (influence(denoiser) > 0).all()
    train(denoiser, settings_for(words).process(), tmp_path)
    assert not torch.allclose(denoiser(z, T), whole(z, T), atol=1e-3)
    assert all(torch.equal(p, before[key]) for key, p in given.state_dict().items())
    trained = {key.split(".")[-3] for key, p in denoiser.named_parameters() if p.requires_grad}
    assert all("lora" in key for key, p in denoiser.named_parameters() if p.requires_grad) and trained == {
        "lora_A",
        "lora_B",
    }
    plain = merged(denoiser)
    assert type(plain.model) is transformers.GPT2LMHeadModel
    torch.testing.assert_close(plain.eval()(z, T), denoiser(z, T), rtol=0, atol=1e-4)


# --- folders of adapters -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base, and the adapters that were trained on it for three steps."""
    place = tmp_path_factory.mktemp("adapters")
    network().save_pretrained(place / "base")
    tokenizer(eos_token="w0").save_pretrained(place / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(place / "base")
    torch.manual_seed(0)
    denoiser, words = adapt(base, tokenizer(eos_token="w0"), mask_token="[MASK]", shifted=True, lora=2)
    trainer = train(denoiser, settings_for(words).process(), place / "run")
    trainer.save_final(place / "adapter", tokenizer=words, parts=[settings_for(words)])
    trainer.save_final(place / "whole", tokenizer=words, parts=[settings_for(words)], merge=True)
    with torch.no_grad():
        return place, denoiser(data(rows=2), T)


def logits(pipe):
    with torch.no_grad():
        return pipe.model(data(rows=2), T)


def test_adapters_come_back_on_their_base_bit_for_bit(folders, tmp_path):
    place, wanted = folders
    names = {path.name for path in (place / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "noiselab.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names and "config.json" not in names
    about = json.loads((place / "adapter" / "noiselab.json").read_text())["adapter"]
    assert about["base"] == str(place / "base") and about["dtype"] == "float32" and about["token"] == WORDS + 1
    pipe = Pipeline.from_pretrained(place / "adapter", base=place / "base")
    assert isinstance(pipe, DiffusionPipeline) and pipe.model.shifted and torch.equal(logits(pipe), wanted)
    assert not any(p.requires_grad for p in pipe.parameters())
    pipe.save_pretrained(tmp_path / "again")
    again = Pipeline.from_pretrained(tmp_path / "again", base=place / "base")
    assert torch.equal(logits(again), wanted) and again.settings == pipe.settings
    # Merged, it needs no base, and leaves nothing of the adapters in the same folder.
    (tmp_path / "again" / "notes.txt").write_text("mine")
    again.save_pretrained(tmp_path / "again", merge=True)
    assert not list((tmp_path / "again").glob("adapter*")) and (tmp_path / "again" / "notes.txt").exists()
    for folder in (tmp_path / "again", place / "whole"):
        alone = Pipeline.from_pretrained(folder)
        assert alone.settings.adapter is None
        torch.testing.assert_close(logits(alone), wanted, rtol=0, atol=1e-4)
        assert transformers.AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == WORDS + 2
    pipe.save_pretrained(tmp_path / "again")  # and back: no whole model is left beside the adapters
    assert not (tmp_path / "again" / "model.safetensors").exists()
    assert torch.equal(logits(Pipeline.from_pretrained(tmp_path / "again", base=place / "base")), wanted)


def refused(words, folder, **options):
    with pytest.raises(ValueError, match=words):
        Pipeline.from_pretrained(folder, **options)


def test_a_folder_does_not_open_its_base_by_itself(folders):
    place, _ = folders
    refused(rf"names another model, '{place}/base': pass that model, .* as base= to", place / "adapter")
    refused("base must be given for a folder of adapters only", place / "whole", base=place / "base")
    with pytest.raises(ValueError, match="pass that model"):
        AutoregressivePipeline.from_pretrained(place / "adapter")


def test_adapters_for_another_base_are_refused(folders, tmp_path):
    place, _ = folders
    make("LlamaForCausalLM", vocab_size=WORDS + 1, dtype=torch.float32, seed=9).save_pretrained(tmp_path)
    refused(rf"were trained on '{place}/base', whose weights differ", place / "adapter", base=tmp_path)
    network("GPT2LMHeadModel").save_pretrained(tmp_path / "gpt")
    refused("whose weights differ", place / "adapter", base=tmp_path / "gpt")
    refused("there is no folder", place / "adapter", base=tmp_path / "nothing")


@pytest.fixture
def copied(folders, tmp_path):
    shutil.copytree(folders[0] / "adapter", tmp_path / "adapter")
    return tmp_path / "adapter", folders[0] / "base"


def edit(path, **settings):
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "IA3"}, "must be of peft's type LORA; .* 'IA3'"),
        (
            {"megatron_config": {"x": 1}, "megatron_core": "os"},
            r"must be those of plain LoRA; .* sets \['megatron_config'\]",
        ),
        ({"modules_to_save": ["lm_head"]}, r"sets \['modules_to_save'\]"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"target_modules": ["nothing"]}, "peft must be able to adapt"),
        ({"r": "two"}, "must be"),
        ({"r": 5}, r"must match the base: .* must have shape"),
        ({"target_modules": ["q_proj"]}, "must match the base: .* is unexpected"),
    ],
)
def test_adapters_with_other_settings_are_refused(copied, settings, words):
    folder, base = copied
    edit(folder / "adapter_config.json", **settings)
    refused(words, folder, base=base)


def test_adapters_with_other_weights_are_refused(copied):
    folder, base = copied
    weights = load_file(folder / "adapter_model.safetensors")
    first, *_ = weights
    save_file({**weights, first: weights[first] * torch.nan}, folder / "adapter_model.safetensors")
    refused("is not finite", folder, base=base)
    (folder / "adapter_model.safetensors").unlink()
    torch.save(weights, folder / "adapter_model.bin")
    refused("must be those that peft writes", folder, base=base)
    edit(folder / "noiselab.json", adapter=None)
    refused("noiselab.json of adapters must identify their base", folder, base=base)


def test_the_hash_is_that_of_the_values():
    one, two = network(), network()
    assert weights_hash(one) == weights_hash(two) == weights_hash(two.to(torch.float64))
    rounded = network().to(torch.bfloat16)
    assert weights_hash(rounded) == weights_hash(rounded.to(torch.float32)) != weights_hash(one)
    with torch.no_grad():
        next(two.parameters())[0, 0] += 1e-3
    assert weights_hash(two) != weights_hash(one)


def test_adapters_of_somebody_else_are_not_deleted(folders, tmp_path):
    """A folder with adapters that noiselab did not write keeps them."""
    place, _ = folders
    shutil.copytree(place / "adapter", tmp_path / "theirs")
    (tmp_path / "theirs" / "noiselab.json").unlink()
    Pipeline.from_pretrained(place / "adapter", base=place / "base").save_pretrained(tmp_path / "theirs", merge=True)
    assert (tmp_path / "theirs" / "adapter_config.json").exists()


def test_a_denoiser_with_adapters_is_that_of_the_network_inside(folders):
    place, _ = folders
    pipe = Pipeline.from_pretrained(place / "adapter", base=place / "base")
    assert "LlamaForCausalLM" in repr(pipe.model) and type(pipe.network) is transformers.LlamaForCausalLM
    assert isinstance(pipe.model, MaskedLanguageModel) and pipe.length == 32
    assert len(pipe.generate(2, 2, length=6, generator=torch.Generator().manual_seed(0), show_progress=False)) == 2
