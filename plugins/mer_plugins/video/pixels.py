"""Frames as a vision encoder wants them, from the numbers in its `preprocessor_config.json`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_plugins.checkpoints import Source
from mer_plugins.errors import PluginError

if TYPE_CHECKING:
    import torch

Frames = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Pixels:
    """Square frames of `side`, of which the centre `crop` is seen, as `(value * scale - mean) / std`.

    Frames come already cut and scaled to `side` (by the face cropper), so the rest of what a transformers
    image processor does is arithmetic, done on the encoder's device, without torchvision or Pillow.
    """

    side: int
    crop: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, source: Source) -> "Pixels":
        """Read a checkpoint's numbers.

        Raises:
            PluginError: They are missing, or not of square pictures in three colours.
        """
        facts = source.json("preprocessor_config.json")
        side = _side(source, facts.get("size"))
        crop = _side(source, facts.get("crop_size", side)) if facts.get("do_center_crop", False) else side
        scale = float(facts.get("rescale_factor", 1 / 255)) if facts.get("do_rescale", True) else 1.0
        mean: tuple[float, ...] = (0.0,) * 3
        std: tuple[float, ...] = (1.0,) * 3
        if facts.get("do_normalize", True):
            mean, std = (_colours(source, facts, name) for name in ("image_mean", "image_std"))
        return cls(side, min(crop, side), scale, mean, std)

    def made_by(self) -> dict[str, Any]:
        """Return the numbers, for the fingerprint."""
        facts = asdict(self)
        return facts | {"mean": list(self.mean), "std": list(self.std)}

    def seen(self, frames: Frames) -> Frames:
        """Return the centre `[T, crop, crop, 3]` of `[T, side, side, 3]`."""
        edge = (self.side - self.crop) // 2
        return np.ascontiguousarray(frames[:, edge : edge + self.crop, edge : edge + self.crop])

    def tensor(self, frames: Frames, device: "torch.device") -> "torch.Tensor":
        """Return float32 `[T, 3, crop, crop]` on the device."""
        import torch

        raw = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (self.mean, self.std))
        return (raw * self.scale - mean) / std


def _side(source: Source, size: Any) -> int:
    if isinstance(size, Mapping):
        sides = {size[key] for key in ("shortest_edge", "height", "width") if size.get(key)}
        size = sides.pop() if len(sides) == 1 else None
    if not isinstance(size, int) or size < 1:
        raise PluginError(
            f"preprocessor_config.json of {source.model} names no one size of square pictures",
            "models that take pictures of any shape are not supported",
        )
    return size


def _colours(source: Source, facts: Mapping[str, Any], name: str) -> tuple[float, ...]:
    values = facts.get(name)
    if not isinstance(values, list) or len(values) != 3:
        raise PluginError(
            f"preprocessor_config.json of {source.model} has no {name} of three colours",
            "get the file of the model it was made from",
        )
    return tuple(float(value) for value in values)
