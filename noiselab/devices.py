"""The device that commands and recipes use."""

import torch


def select_device(name: str | None = None) -> torch.device:
    """The device of this name; without one, the accelerator if this machine has one, otherwise the CPU.

    A build of PyTorch for an accelerator on a machine without it gives the CPU.

    **Arguments:**

    - `name`: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"` and so on.

    **Raises:** `ValueError` for a device that this machine does not have.

    **Example:**

    ```python
    from noiselab.devices import select_device

    assert select_device("cpu").type == "cpu"
    ```
    """
    here = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        return here or torch.device("cpu")
    count = torch.accelerator.device_count() if here else 0
    known = ["cpu", *([here.type, *(f"{here.type}:{i}" for i in range(count))] if here else [])]
    if name not in known:
        raise ValueError(f"device must be one of this machine's: {', '.join(known)}; got {name!r}")
    return torch.device(name)
