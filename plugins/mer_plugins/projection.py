"""A head on rows of features: one linear map, or two with a GELU between, in a safetensors file.

It takes rows of one encoder into the space of another (visual into acoustic) after alignment. The file has
`weight` `[D_out, D_in]` and `bias` `[D_out]`, or `weight` `[H, D_in]`, `bias` `[H]`, `weight2` `[D_out, H]`,
`bias2` `[D_out]`.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mer_plugins.errors import PluginError

Floats = NDArray[np.float32]
_ONE, _TWO = ("weight", "bias"), ("weight", "bias", "weight2", "bias2")


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """The map `x -> weight x + bias`, or `x -> weight2 gelu(weight x + bias) + bias2`.

    Attributes:
        weight: float32 `[D_out, D_in]`, or `[H, D_in]` where there are two layers.
        bias: float32, as long as `weight`.
        weight2: float32 `[D_out, H]`, or None.
        bias2: float32 `[D_out]`, or None.
    """

    weight: Floats
    bias: Floats
    weight2: Floats | None = None
    bias2: Floats | None = None

    @classmethod
    def read(cls, file: Path) -> "Projection":
        """Read a head.

        Raises:
            PluginError: The file is missing or damaged, lacks tensors, or their shapes do not fit together.
        """
        from safetensors.numpy import load_file

        shapes_of(file)
        return cls(**{name: tensor.astype(np.float32) for name, tensor in load_file(file).items()})

    def save(self, file: Path) -> None:
        """Write the head where `read` finds it; the folder is made if need be."""
        from safetensors.numpy import save_file

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: np.ascontiguousarray(v, np.float32) for k, v in given.items() if v is not None}, file)

    @property
    def widths(self) -> tuple[int, int]:
        """`(D_in, D_out)`."""
        last = self.weight if self.weight2 is None else self.weight2
        return int(self.weight.shape[1]), int(last.shape[0])

    def __call__(self, rows: Floats) -> Floats:
        """Map `[…, D_in]` to `[…, D_out]`, both float32, row by row.

        Raises:
            PluginError: The rows have another width.
        """
        import torch
        from torch.nn import functional as F

        if rows.shape[-1] != self.widths[0]:
            raise PluginError(
                f"the projection takes rows {self.widths[0]} wide, and these are {rows.shape[-1]}",
                "use it with the encoder, layers and pooling that it was trained on",
            )
        x = torch.from_numpy(np.ascontiguousarray(rows, np.float32))
        with torch.inference_mode():
            out = F.linear(x, torch.from_numpy(self.weight), torch.from_numpy(self.bias))
            if self.weight2 is not None and self.bias2 is not None:
                out = F.linear(F.gelu(out), torch.from_numpy(self.weight2), torch.from_numpy(self.bias2))
        projected: Floats = out.numpy()
        return projected


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a head's tensors, known to fit together.

    Raises:
        PluginError: See `Projection.read`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            shapes = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError as error:
        raise PluginError(f"there is no {file}", "give the folder of a projection") from error
    except SafetensorError as error:
        raise PluginError(f"{file} is no whole safetensors file: {error}", "get the file anew") from error
    if set(shapes) not in (set(_ONE), set(_TWO)):
        raise PluginError(
            f"{file} has the tensors {', '.join(sorted(shapes)) or 'none'}",
            f"a projection has {', '.join(_ONE)}, or {', '.join(_TWO)}",
        )
    if not _fit(shapes):
        told = ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
        raise PluginError(
            f"the shapes in {file} do not fit together: {told}",
            "weight is [D_out, D_in] and bias [D_out]; with a second layer they are [H, D_in] and [H], and "
            "weight2 is [D_out, H] and bias2 [D_out]",
        )
    return shapes


def _fit(shapes: dict[str, tuple[int, ...]]) -> bool:
    first, second = shapes["weight"], shapes.get("weight2")
    if len(first) != 2 or shapes["bias"] != first[:1]:
        return False
    return second is None or (len(second) == 2 and second[1] == first[0] and shapes["bias2"] == second[:1])
