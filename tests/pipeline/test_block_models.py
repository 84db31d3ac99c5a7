"""Pipelines of models that were trained in blocks: block by block by default, and never as if they were not."""

from dataclasses import replace

import pytest
import torch
from small import LENGTH, network, pipeline, random
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.denoisers import BlockDenoiser, Support
from noiselab.evaluation import validation_bound
from noiselab.networks.block_cache import BlockCausal, CachedBlockCausal
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.pipeline import DiffusionPipeline, ModelSettings, Pipeline

QUIET, SIZE = {"show_progress": False}, 4


@pytest.fixture(scope="module", params=["gidd", "masked"])
def pipe(request):
    made = pipeline(request.param)
    return DiffusionPipeline(made.network, made.tokenizer, replace(made.settings, block_size=SIZE)).eval()


def test_generation_goes_block_by_block(pipe):
    """As the sampler of blocks with the network's own block-causal attention."""
    own = Support(BlockCausal(pipe.network, SIZE), pipe.support)
    sampler = nl.samplers.BlockSampler(nl.AncestralSampler(pipe.process, own), SIZE, context="past")
    wanted = sampler.sample((3, LENGTH), steps=3, generator=random())
    found = pipe.generate(3, 3, generator=random(), **QUIET)
    assert [list(text.tokens) for text in found] == wanted.tolist()
    assert found == pipe.generate(3, 3, block_length=SIZE, generator=random(), **QUIET)
    assert found == pipe.generate(3, 3, sampler=sampler, generator=random(), **QUIET)
    whole = DiffusionPipeline(pipe.network, pipe.tokenizer, replace(pipe.settings, block_size=None)).eval()
    assert found != whole.generate(3, 3, generator=random(), **QUIET)
    longer = pipe.generate(2, 3, block_length=2 * SIZE, generator=random(), **QUIET)
    assert len(longer[0].tokens) == LENGTH
    with pytest.raises(ValueError, match="block_size must be a multiple of 4"):
        pipe.generate(block_length=3, **QUIET)
    with pytest.raises(ValueError, match="as_released generates whole texts"):
        pipe.generate(as_released=True, **QUIET)


def evaluated(pipe):
    """The tokens that the network reads while texts of two prompts are written, and the texts."""
    network, seen = pipe.network.base_model if hasattr(pipe.network, "lm_head") else pipe.network.vocab_embed, []
    count = lambda module, args, options: seen.append((options.get("input_ids") if options else args[0]).numel())  # noqa: E731
    handle = network.register_forward_pre_hook(count, with_kwargs=True)
    texts = pipe.generate(2, 3, prompts=["the cat", "a"], stop=True, seed=0, **QUIET)
    handle.remove()
    return sum(seen), texts


def llama_of(pipe):
    """The pipeline of a model of transformers in blocks."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=pipe.process.vocab_size, max_position_embeddings=LENGTH, **sizes)
    settings = replace(pipe.settings, predicts="leave_one_out")
    return DiffusionPipeline(MaskedLanguageModel(LlamaForCausalLM(config)), pipe.tokenizer, settings).eval()


@pytest.mark.parametrize("kind", ["DiT", "Llama"])
def test_texts_are_those_without_cached_keys_from_fewer_tokens(pipe, kind):
    made = pipe if kind == "DiT" else llama_of(pipe)
    assert isinstance(made.denoiser.inner, CachedBlockCausal)
    few, cached = evaluated(made)
    made.keeps_keys = False
    try:
        assert isinstance(made.denoiser.inner, BlockDenoiser)
        many, whole = evaluated(made)
    finally:
        made.keeps_keys = True
    assert cached == whole and few < 0.7 * many


def test_prompts_gaps_and_corrections(pipe):
    texts = pipe.generate(1, 3, prompts=["the cat", "a"], generator=random(), **QUIET)
    assert texts[0].startswith("the cat") and texts[1].startswith("a")
    (filled,) = pipe.infill(["the [MASK] sat on[MASK]"], 3, generator=random(), **QUIET)
    assert filled.startswith("the") and pipe.tokenizer.mask_token_id not in filled.tokens
    if pipe.settings.noise["family"] == "gidd":
        fixed = pipe.self_correction(texts, 2, generator=random(), **QUIET)
        assert [len(text.tokens) for text in fixed] == [len(text.tokens) for text in texts]
    stopped = pipe.generate(2, 3, stop=True, generator=random(), **QUIET)
    assert len(stopped) == 2


def test_the_bound_is_that_of_blocks_and_the_size_is_saved(pipe, tmp_path):
    rows = torch.randint(4, 200, (3, LENGTH), generator=random())
    rows = torch.where(pipe.support[rows], rows, int(pipe.support.nonzero()[-1]))
    found = validation_bound(pipe.process, pipe.denoiser, rows, generator=random())
    plain = BlockDenoiser(TransformersDenoiser(pipe.network, vocab_size=pipe.process.vocab_size), SIZE)
    wanted = validation_bound(pipe.process, Support(plain, pipe.support), rows, generator=random())
    torch.testing.assert_close(found.nats, wanted.nats)
    pipe.save_pretrained(tmp_path / "blocks")
    again = Pipeline.from_pretrained(tmp_path / "blocks")
    assert again.settings.block_size == SIZE
    assert again.generate(1, 3, generator=random(), **QUIET) == pipe.generate(1, 3, generator=random(), **QUIET)
    pipeline("masked").save_pretrained(tmp_path / "whole")
    assert "block_size" not in (tmp_path / "whole" / "noiselab.json").read_text()
    with pytest.raises(ValueError, match="block_size must be"):
        ModelSettings(pipe.settings.noise, block_size=0)


def test_a_trainer_refuses_settings_of_other_blocks(tmp_path):
    from noiselab.data import TokenBlocks
    from noiselab.training import Optimization, Run, Trainer

    made = pipeline("masked")
    size = made.process.vocab_size
    rows = TokenBlocks(torch.full((4, LENGTH), 7), torch.full((4,), LENGTH), vocab_size=size)
    run = Run(tmp_path / "run", cpu=True, progress=False, save_every=0)
    trainer = Trainer(
        network(size), Optimization(steps=1, batch=4), run, train_dataset=rows, process=made.process, blocks=SIZE
    )
    trainer.train()
    for block_size in (None, 8):
        with pytest.raises(
            ValueError, match=f"block_size of the settings must be that of training, 4; got {block_size}"
        ):
            trainer.save_final(tmp_path / "final", parts=[replace(made.settings, block_size=block_size)])
    trainer.save_final(tmp_path / "final", tokenizer=made.tokenizer, parts=[replace(made.settings, block_size=SIZE)])
    assert Pipeline.from_pretrained(tmp_path / "final").settings.block_size == SIZE
