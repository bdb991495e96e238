"""`face-expression`: embeddings of face-api's small expression net, one per sampled frame."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip
from mer_plugins.checkpoints import locate, pick_device
from mer_plugins.contract import Extractor, ExtractorCard, Options
from mer_plugins.errors import ClipError, PluginError
from mer_plugins.media import iter_frames
from mer_plugins.pooling import POOL_OPTION, POOLINGS
from mer_plugins.settings import Settings
from mer_plugins.video.faces import FACE_OPTIONS, FaceCropper, Image

SIZE, WIDTH = 112, 256

OPTIONS = {
    "every": ("5", "every k-th frame is looked at"),
    **FACE_OPTIONS,
    "center": ("112", "side of the centre square in pixels, where that is taken"),
    "output": ("embedding", "embedding (256 numbers) or probabilities (7 expressions)"),
    **POOL_OPTION,
}


class FaceExpression(Extractor[Image]):
    """Rows of 256 numbers (or 7 probabilities) per sampled frame.

    Probabilities come in the order neutral, happy, sad, angry, fearful, disgusted, surprised.
    """

    def __init__(self, options: Options) -> None:
        say = Settings(OPTIONS, options)
        self.source = locate(options.model or "", options.revision)
        if options.dtype != "float32":
            raise PluginError("face-expression computes in float32", "leave the compute dtype out")
        self.every = say.integer("every", 1, 10_000)
        face = say.choice("face", ("detect", "center", "none"))
        faceless = say.choice("faceless", ("skip", "center"))
        center = say.integer("center", 8, 10_000)
        self.cropper = FaceCropper(face, faceless, size=SIZE, center=center)
        self.output = say.choice("output", ("embedding", "probabilities"))
        self.pooling = say.choice("pool", POOLINGS)
        self.row_shape = (WIDTH if self.output == "embedding" else 7,)
        self.device = options.device
        self._net: Any = None

    def made_by(self) -> Mapping[str, Any]:
        """Return checkpoint and settings."""
        return {
            "checkpoint": self.source.made_by(),
            "every": self.every,
            "crop": self.cropper.made_by(),
            "output": self.output,
        }

    def load(self) -> None:
        """Load the weights, every tensor of them."""
        from safetensors.torch import load_file

        from mer_plugins.video.face_expression_net import FaceExpressionNet

        net = FaceExpressionNet()
        try:
            net.load_state_dict(load_file(self.source.folder / "model.safetensors"), strict=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise PluginError(
                f"{self.source.folder} does not hold face-api's expression net: {reason[:300]}",
                "name the folder with its model.safetensors: --model PATH",
            ) from error
        self._net = net.eval().requires_grad_(False).to(pick_device(self.device))

    def close(self) -> None:
        """Let go of the weights."""
        self._net = None

    def prepare(self, clip: Clip) -> Image:
        """Decode and crop: uint8 `[T, 112, 112, 3]`."""
        if clip.video is None:
            raise ClipError(f"clip {clip.key} has no video")
        path = clip.video
        return self.cropper.crop(lambda: (p.rgb for p in iter_frames(path, every=self.every)), path)

    def cost(self, prepared: Image) -> float:
        """Return its frames."""
        return float(len(prepared))

    def encode(self, batch: Sequence[Image]) -> list[NDArray[np.float32]]:
        """Return `[T_i, 256]` per clip; a clip is a batch, so its rows are the same in any company."""
        return [self._forward(frames) for frames in batch]

    def _forward(self, frames: Image, at_once: int = 64) -> NDArray[np.float32]:
        import torch

        device = next(self._net.parameters()).device
        rows = []
        with torch.inference_mode():
            for start in range(0, len(frames), at_once):
                part = (
                    torch.from_numpy(frames[start : start + at_once]).to(device).permute(0, 3, 1, 2).float()
                )
                embedding, logits = self._net(part)
                rows.append(embedding if self.output == "embedding" else logits.softmax(dim=1))
            result: NDArray[np.float32] = torch.cat(rows).cpu().numpy()
        return result


CARDS = (
    ExtractorCard(
        name="face-expression",
        modality="video",
        levels=("utt", "frame"),
        summary="embeddings of face-api's expression net, 256 wide; licence: MIT",
        build=FaceExpression,
        requires=("cv2",),
        install="pip install 'mer-fs[video]'",
        options=OPTIONS,
        needs_model=True,
    ),
)
