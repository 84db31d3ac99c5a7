"""The loss of rows of documents, compiled whole at the first call, and as it is; in a process of its own, as `one_graph`."""

import torch
from tiny_models import make
from toy_training import L, V, network

import noiselab as nl
from noiselab.denoisers import BlockDenoiser
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.objectives import elbo
from noiselab.training import Place, draw_noise, noisy_loss
from noiselab.training.losses import call_denoiser, call_network


class OfAUser(torch.nn.Module):
    """A network that is checked for masks of pairs when it is first given one."""

    def __init__(self, drops=False):
        super().__init__()
        self.inner, self.drops = network(0.0), drops

    def forward(self, input_ids, timesteps, attention_mask=None, may_attend=None, positions=None):
        pairs = None if self.drops else may_attend
        return self.inner(input_ids, timesteps, attention_mask, may_attend=pairs, positions=positions).logits


process = nl.masked(vocab_size=V, mask_id=V - 1)
ids = torch.randint(V - 2, (6, L), generator=torch.Generator().manual_seed(0))
documents = (torch.arange(L) >= 2).long().expand(6, L)
noisy = draw_noise({"input_ids": ids, "documents": documents}, process=process, objective=elbo, place=Place(3, seed=5))
compiled = torch.compile(noisy_loss, fullgraph=True, backend="eager")
for model, call in (
    (network(0.0), call_network),
    (OfAUser(), call_network),
    (MaskedLanguageModel(make("BertForMaskedLM", vocab_size=V)), call_denoiser),
    (BlockDenoiser(TransformersDenoiser(network(0.0)), 3), call_denoiser),
):
    torch.compiler.reset()
    found = compiled(model, noisy, process=process, call=call)
    torch.testing.assert_close(found, noisy_loss(model, noisy, process=process, call=call), rtol=1e-5, atol=0)
    print("one graph")
try:
    compiled(OfAUser(drops=True), noisy, process=process)
except Exception as error:  # of the compiler, with the words of the check
    print("refused" if "must not attend" in str(error) else error)
