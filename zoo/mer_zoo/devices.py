"""Where torch computes."""

from typing import TYPE_CHECKING

from mer_zoo.errors import ZooError

if TYPE_CHECKING:
    import torch


def find_device(name: str = "auto") -> "torch.device":
    """Return a torch device: `auto` is the first GPU where there is one, else the CPU.

    Raises:
        ZooError: There is no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ZooError(
            f"cannot compute on the device {name!r}: {reason}", "use --device cpu, or auto"
        ) from error
    return device
