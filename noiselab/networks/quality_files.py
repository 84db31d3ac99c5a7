"""The file of a quality head, beside the weights of its model."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..denoisers import Denoiser, QualityDenoiser
from ..files import as_path, new_file
from .model_folders import finite

FILE = "quality_head.safetensors"


def save_quality_head(denoiser: QualityDenoiser, folder: str | Path) -> None:
    """Write the quality head into the folder of its model, as quality_head.safetensors, atomically.

    The model is saved as without the head, for example by `save_pretrained` of a pipeline or of the network.

    **Arguments:**

    - `denoiser`: the denoiser with the head.
    - `folder`: the folder, which exists.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in denoiser.head.state_dict().items()}
    with new_file(as_path(folder) / FILE) as temporary:
        save_file(weights, temporary, {"format": "pt"})


def load_quality_head(inner: Denoiser, folder: str | Path) -> QualityDenoiser:
    """The denoiser with the quality head that `save_quality_head` has written.

    **Arguments:**

    - `inner`: the denoiser whose hidden states the head was trained on.
    - `folder`: the folder with the head.

    **Raises:** `ValueError` if there is no intact head, or it does not fit the hidden states.
    """
    denoiser, file = QualityDenoiser(inner), as_path(folder) / FILE
    try:
        stored = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the head must be an intact {FILE}; {str(folder)!r}: {error}") from error
    own = denoiser.head.state_dict()
    for name, value in own.items():
        if name not in stored or stored[name].shape != value.shape:
            came = "none" if name not in stored else list(stored[name].shape)
            raise ValueError(f"{name} must have shape {list(value.shape)}; {str(file)!r} has {came}")
        if not finite(stored[name]):
            raise ValueError(f"{name} must be finite; that of {str(file)!r} is not")
    denoiser.head.load_state_dict({name: stored[name] for name in own})
    return denoiser.eval()
