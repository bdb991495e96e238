"""Where torch computes."""

from pathlib import Path
from typing import TYPE_CHECKING

from mer_zoo.errors import ZooError

if TYPE_CHECKING:
    import torch

_CPU_FACTS = Path("/proc/cpuinfo")
_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 and of Arm


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


def has_bfloat16(device: "torch.device") -> bool:
    """Say whether a device multiplies bfloat16 matrices in hardware, as far as is known."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not _CPU_FACTS.exists():
        return False
    return bool(_CPU_FLAGS & set(_CPU_FACTS.read_text(encoding="utf-8").split()))
