"""The loss in blocks, compiled whole and as it is; in a process of its own, because checks of shapes cannot be traced."""

import torch
from tiny_models import make
from toy_training import L, V, network

import noiselab as nl
from noiselab.denoisers import BlockDenoiser
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.objectives import elbo
from noiselab.training import Place, TimesPerBlock, draw_noise, noisy_loss
from noiselab.training.losses import call_denoiser

process = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
ids = torch.randint(V - 2, (6, L), generator=torch.Generator().manual_seed(0))
real = torch.arange(L) < torch.tensor([[3], [3], [L], [L], [L], [L]])
options = {"objective": elbo, "place": Place(3, seed=5), "times": TimesPerBlock(4), "multiple": 8}
noisy = draw_noise({"input_ids": ids, "attention_mask": real}, process=process, **options)
for inner in (
    TransformersDenoiser(network(0.0)).double(),
    MaskedLanguageModel(make("GPT2LMHeadModel", vocab_size=V)),
    MaskedLanguageModel(make("Qwen2ForCausalLM", vocab_size=V), shifted=True),
):
    torch.compiler.reset()
    denoiser, found = BlockDenoiser(inner, 4), []
    for loss in (torch.compile(noisy_loss, fullgraph=True, backend="aot_eager"), noisy_loss):
        denoiser.zero_grad(set_to_none=True)
        value = loss(denoiser, noisy, process=process, call=call_denoiser)
        value.backward()
        found.append([value.detach(), *(p.grad for p in denoiser.parameters() if p.grad is not None)])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
    print("one graph")
