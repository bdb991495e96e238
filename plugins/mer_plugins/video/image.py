"""Image encoders frame by frame: CLIP, SigLIP, DINOv2, and `hf-image` for other vision transformers.

Frames are sampled in time and cut to the face (see `mer_plugins.video.faces`), one row each. What a row is:

- `embedding`, the model's own image embedding: CLIP's projection, SigLIP's pooled output. The default for
  those, as in the MERTools baseline;
- `mean`, hidden layers averaged over all tokens: the default for the others, and where `--layers` is given.
  The baseline adds the tokens up instead, which is the same but for a constant factor;
- `cls`, hidden layers at the class token, where there is one.

Hidden layers are those before the final norm, as transformers counts them for vision models.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mer_featurestore.records import Clip
from mer_plugins.checkpoints import Checkpoint
from mer_plugins.contract import ExtractorCard, Options
from mer_plugins.errors import ClipError, PluginError
from mer_plugins.media import iter_frames
from mer_plugins.transformer import OPTIONS, TransformerExtractor, adapted_cards, cards
from mer_plugins.video.faces import FACE_OPTIONS, FaceCropper
from mer_plugins.video.pixels import Frames, Pixels

if TYPE_CHECKING:
    from torch import Tensor

STEP = 64  # frames in one forward pass at most


class _Kind(NamedTuple):
    """How to run one model type: transformers class, which output is its image embedding, class token."""

    architecture: str
    embedding: str
    by_embedding: bool
    class_token: bool


_CLIP = _Kind("CLIPVisionModelWithProjection", "image_embeds", by_embedding=True, class_token=True)
_SIGLIP = _Kind("SiglipVisionModel", "pooler_output", by_embedding=True, class_token=False)
_VIT = _Kind("AutoModel", "pooler_output", by_embedding=False, class_token=True)
_KINDS = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "beit": _VIT,
    "data2vec-vision": _VIT,
    "deit": _VIT,
    "dinov2": _VIT,
    "dinov2_with_registers": _VIT,
    "vit": _VIT,
}


class FaceFrames(TransformerExtractor[Frames]):
    """Reads a clip's face frames as a vision encoder wants them; children encode them."""

    batch_cost = float(STEP)  # frames
    tuning_cost = 8.0

    def __init__(self, options: Options, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(options, checkpoint)
        self.pixels = Pixels.of(self.source)
        self.fps = self.say.number("fps", 0.1, 60)
        face = self.say.choice("face", ("detect", "center", "none"))
        faceless = self.say.choice("faceless", ("skip", "center"))
        self.cropper = FaceCropper(face, faceless, size=self.pixels.side)
        self.frame_hz = self.fps

    def reading(self) -> Mapping[str, Any]:
        """Return sampling, crop and pixel arithmetic."""
        return {"fps": self.fps, "crop": self.cropper.made_by(), "pixels": self.pixels.made_by()}

    def prepare(self, clip: Clip) -> Frames:
        """Decode, follow the face and cut it out: uint8 `[T, crop, crop, 3]`.

        Raises:
            ClipError: No video, not readable, or no face where one is wanted.
        """
        if clip.video is None:
            raise ClipError(f"clip {clip.key} has no video")
        path = clip.video
        faces = self.cropper.crop(lambda: (p.rgb for p in iter_frames(path, fps=self.fps)), path)
        return self.pixels.seen(faces)

    def cost(self, prepared: Frames) -> float:
        """Return its frames."""
        return float(len(prepared))

    def seconds(self, prepared: Frames) -> float:
        """Return the clip's seconds, as far as frames were used."""
        return len(prepared) / self.fps

    def trim(self, prepared: Frames, most: float, chance: np.random.Generator) -> Frames:
        """Return at most `most` frames: one of each of as many equal stretches of the clip."""
        count = max(1, int(most))
        if len(prepared) <= count:
            return prepared
        edges = np.arange(count + 1) * len(prepared) // count
        return prepared[chance.integers(edges[:-1], edges[1:])]


class ImageEncoder(FaceFrames):
    """Rows of an image encoder, one per sampled frame."""

    kinds = tuple(_KINDS)
    parts = {"clip": "vision_config", "siglip": "vision_config"}  # noqa: RUF012 - nobody changes it
    options_table = {  # noqa: RUF012 - as above
        "fps": ("5", "frames a second that are looked at"),
        **FACE_OPTIONS,
        "readout": ("auto", "embedding, mean or cls; auto: embedding of CLIP and SigLIP, else mean"),
        **OPTIONS,
    }
    default_layers = "last"

    def __init__(self, options: Options, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(options, checkpoint)
        self.way = _KINDS[self.kind]
        self.readout = self._readout(options)
        if self.readout == "embedding":
            self.row_shape = (self._embedding_width(),)
        else:
            self.spare = (r"(^|\.)pooler\.", r"^visual_projection\.", r"(^|\.)head\.", r"mask_token$")

    def _readout(self, options: Options) -> str:
        said = self.say.choice("readout", ("auto", "embedding", "mean", "cls"))
        if said == "auto":
            return "embedding" if self.way.by_embedding and not options.layers else "mean"
        if said == "embedding" and options.layers:
            raise PluginError(
                "an image embedding has no layers to choose from",
                "leave --layers out, or say --option readout=mean",
            )
        if said == "cls" and not self.way.class_token:
            raise PluginError(f"a {self.kind} model has no class token", "say --option readout=mean")
        return said

    def _embedding_width(self) -> int:
        return self.source.number("projection_dim", self.part) if self.way is _CLIP else self.width

    def made_by(self) -> Mapping[str, Any]:
        """Return checkpoint, readout (and layers, unless it is the embedding), dtype, sampling and crop."""
        facts = {**super().made_by(), "readout": self.readout}
        if self.readout == "embedding":
            facts = {name: value for name, value in facts.items() if not name.startswith("layer")}
        return facts

    @property
    def deepest(self) -> int:
        """The last layer that rows depend on: an embedding depends on all."""
        return self.blocks if self.readout == "embedding" else super().deepest

    def architecture(self) -> Any:
        """Return the class for this kind of model."""
        import transformers

        return getattr(transformers, self.way.architecture)

    def rows(self, batch: Sequence[Frames]) -> "list[Tensor]":
        """Return `[T_i, *row_shape]` per clip."""
        import torch

        if not self.together:
            return [self._frames(clip) for clip in batch]
        return list(torch.split(self._frames(np.concatenate(batch)), [len(clip) for clip in batch]))

    def _frames(self, frames: Frames) -> "Tensor":
        import torch

        return torch.cat([self._rows(frames[t : t + STEP]) for t in range(0, len(frames), STEP)])

    def _rows(self, frames: Frames) -> "Tensor":
        pixels = self.pixels.tensor(frames, self.place)
        if self.readout == "embedding":
            return self.output(self.way.embedding, pixel_values=pixels)
        tokens = self.states(pixel_values=pixels)
        return tokens.mean(dim=1) if self.readout == "mean" else tokens[:, 0]


_OPENAI = "MIT (code repository; the model card names none)"
_APACHE = "Apache-2.0"

TABLE = (
    Checkpoint("clip-vit-base-patch32", "openai/clip-vit-base-patch32", 512, 12, _OPENAI),
    Checkpoint("clip-vit-base-patch16", "openai/clip-vit-base-patch16", 512, 12, _OPENAI),
    Checkpoint("clip-vit-large", "openai/clip-vit-large-patch14", 768, 24, _OPENAI),
    Checkpoint("siglip-base", "google/siglip-base-patch16-224", 768, 12, _APACHE),
    Checkpoint("siglip-so400m", "google/siglip-so400m-patch14-384", 1152, 27, _APACHE),
    Checkpoint("siglip2-base", "google/siglip2-base-patch16-224", 768, 12, _APACHE),
    Checkpoint("siglip2-large", "google/siglip2-large-patch16-256", 1024, 24, _APACHE),
    Checkpoint("dinov2-base", "facebook/dinov2-base", 768, 12, _APACHE),
    Checkpoint("dinov2-large", "facebook/dinov2-large", 1024, 24, _APACHE),
)

_FACTS: dict[str, Any] = {
    "modality": "video",
    "levels": ("utt", "frame"),
    "requires": ("cv2",),
    "install": "pip install 'mer-fs[video]'",
}
CARDS = (
    *cards(ImageEncoder, TABLE, **_FACTS),
    *adapted_cards(ImageEncoder, TABLE, "clip-vit-large", **_FACTS),
    ExtractorCard(
        name="hf-image",
        summary="any vision transformer, frame by frame: --model PATH_OR_ID",
        build=ImageEncoder,
        options=ImageEncoder.options_table,
        needs_model=True,
        layers=ImageEncoder.default_layers,
        takes_adapter=True,
        **_FACTS,
    ),
)
