"""Video encoders window by window: VideoMAE.

A window is as many frames as the encoder was built for (16). By default windows follow each other at `fps`
frames a second, the last one ending with the clip, and each gives one row. `sampling=uniform` spreads one
window evenly over the clip and `rows=tubelet` gives a row per pair of frames (8 a window), both together as
in the MERTools baseline. Clips shorter than a window repeat their last frame.

Hidden layers are those before the final norm, averaged over the tokens of a row.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_plugins.checkpoints import Checkpoint
from mer_plugins.contract import Options
from mer_plugins.transformer import OPTIONS, cards
from mer_plugins.video.faces import FACE_OPTIONS
from mer_plugins.video.image import STEP, FaceFrames
from mer_plugins.video.pixels import Frames
from mer_plugins.windows import windows

if TYPE_CHECKING:
    from torch import Tensor


class ClipEncoder(FaceFrames):
    """Rows of a video encoder, one per window or per tubelet."""

    kinds = ("videomae",)
    options_table = {  # noqa: RUF012 - nobody changes it
        "fps": ("8", "frames a second that are looked at"),
        **FACE_OPTIONS,
        "sampling": ("sliding", "sliding windows, or uniform: one window spread over the clip"),
        "rows": ("window", "a row per window, or per tubelet (pair of frames)"),
        **OPTIONS,
    }
    default_layers = "last"
    tuning_cost = 32.0
    spare = (r"^layernorm\.",)  # after the last hidden layer

    def __init__(self, options: Options, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(options, checkpoint)
        self.sampling = self.say.choice("sampling", ("sliding", "uniform"))
        self.per = self.say.choice("rows", ("window", "tubelet"))
        self.length = self.source.number("num_frames")
        self.parts_of_window = (
            self.length // self.source.number("tubelet_size") if self.per == "tubelet" else 1
        )
        self.frame_hz = self.fps * self.parts_of_window / self.length if self.sampling == "sliding" else None

    def reading(self) -> Mapping[str, Any]:
        """Return sampling, rows, crop and pixel arithmetic."""
        return {**super().reading(), "sampling": self.sampling, "rows": self.per}

    def trim(self, prepared: Frames, most: float, chance: np.random.Generator) -> Frames:
        """Return at most `most` frames but a window's: in a row, or of all the clip if uniform."""
        count = max(self.length, int(most))
        if self.sampling == "uniform":
            return super().trim(prepared, count, chance)
        start = int(chance.integers(max(0, len(prepared) - count) + 1))
        return prepared[start : start + count]

    def rows(self, batch: Sequence[Frames]) -> "list[Tensor]":
        """Return `[T_i, *row_shape]` per clip, T windows or tubelets."""
        import torch

        cuts = [clip[indices] for clip in batch for indices in self.windows(len(clip))]
        step = max(1, STEP // self.length) if self.together else 1
        rows = torch.cat([self._rows(cuts[k : k + step]) for k in range(0, len(cuts), step)])
        return list(
            torch.split(rows, [len(self.windows(len(clip))) * self.parts_of_window for clip in batch])
        )

    def windows(self, frames: int) -> list[NDArray[np.intp]]:
        """Return the frame numbers of each window of a clip."""
        if self.sampling == "uniform":
            spread = min(self.length, frames)
            picked = np.arange(spread) * frames // spread
            return [np.pad(picked, (0, self.length - spread), mode="edge")]
        cuts = windows(max(frames, self.length), self.length, 0)
        return [np.minimum(np.arange(cut.start, cut.stop), frames - 1) for cut in cuts]

    def _rows(self, cuts: Sequence[Frames]) -> "Tensor":
        pixels = self.pixels.tensor(np.concatenate(cuts), self.place)
        tokens = self.states(pixel_values=pixels.view(len(cuts), self.length, *pixels.shape[1:]))
        # Tokens come ordered by time, then by place: equal shares of them belong to equal shares of the time.
        return tokens.view(len(cuts) * self.parts_of_window, -1, *self.row_shape).mean(dim=1)


_LICENCE = "CC BY-NC 4.0"

TABLE = (
    Checkpoint("videomae-base", "MCG-NJU/videomae-base", 768, 12, _LICENCE),
    Checkpoint("videomae-large", "MCG-NJU/videomae-large", 1024, 24, _LICENCE),
)

CARDS = cards(
    ClipEncoder,
    TABLE,
    modality="video",
    levels=("utt", "frame"),
    requires=("cv2",),
    install="pip install 'mer-fs[video]'",
)
