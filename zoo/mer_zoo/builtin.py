"""The zoo's own models, offered through the public hook. Listing them imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mer_plugins.hookspecs import hookimpl
from mer_zoo.contract import ModelCard

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

WIDTHS, DROPOUTS, RATES = (64, 128, 256), (0.2, 0.3, 0.4, 0.5), (1e-3, 1e-4)


def _lazy(path: str) -> "Callable[..., nn.Module]":
    module, name = path.split(":")

    def build(**kwargs: Any) -> "nn.Module":
        made: nn.Module = getattr(import_module(module), name)(**kwargs)
        return made

    return build


MODELS = (
    ModelCard(
        name="agt",
        summary="Audio-guided transformer: audio guides video and text, gated by similarity",
        paper="Shi and Gao 2024, arXiv 2409.05007; equations reconstructed",
        build=_lazy("mer_zoo.models.agt:AGT"),
        params={
            "guide": "audio",
            "cbt": True,
            "amf": True,
            "hidden": 128,
            "layers": 1,
            "heads": 4,
            "dropout": 0.3,
            "temperature": 0.5,
        },
        search={"hidden": WIDTHS, "layers": (1, 2), "dropout": DROPOUTS, "lr": RATES},
    ),
    ModelCard(
        name="attention",
        summary="The field's baseline: weighted sum of the modalities, weights from their concatenation",
        paper="Lian et al. 2024 (MER2024 baseline), arXiv 2404.17113",
        build=_lazy("mer_zoo.models.attention:AttentionFusion"),
        params={"level": "utt", "hidden": 128, "dropout": 0.3},
        search={"hidden": WIDTHS, "dropout": DROPOUTS, "lr": RATES},
    ),
    ModelCard(
        name="mlp",
        summary="Probe: one modality, or several concatenated, as means over frames",
        paper="none; a reference to beat",
        build=_lazy("mer_zoo.models.mlp:Probe"),
        params={"hidden": 128, "layers": 1, "dropout": 0.3},
        search={"hidden": WIDTHS, "layers": (0, 1, 2), "dropout": DROPOUTS, "lr": RATES},
        frames=False,
    ),
)


@hookimpl
def mer_models() -> tuple[ModelCard, ...]:
    """Offer the built-in models."""
    return MODELS
