"""The zoo's own models, votes and selections, offered through the public hooks; torch is not imported."""

from mer_plugins.hookspecs import hookimpl
from mer_zoo import selections, votes
from mer_zoo.ballots import Select, Vote
from mer_zoo.contract import ModelCard
from mer_zoo.models.cards import BASELINES, DROPOUTS, RATES, WIDTHS, lazy

MODELS = (
    ModelCard(
        name="agt",
        summary="Audio-guided transformer: audio guides video and text, gated by similarity",
        paper="Shi and Gao 2024, arXiv 2409.05007; equations reconstructed",
        build=lazy("mer_zoo.models.agt:AGT"),
        params={
            "guide": "audio",
            "cbt": True,
            "amf": True,
            "hidden": 64,
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
        build=lazy("mer_zoo.models.attention:AttentionFusion"),
        params={"level": "utt", "hidden": 128, "dropout": 0.3},
        search={"hidden": WIDTHS, "dropout": DROPOUTS, "lr": RATES},
    ),
    ModelCard(
        name="mlp",
        summary="Probe: one modality, or several concatenated, as means over frames",
        paper="none; a reference to beat",
        build=lazy("mer_zoo.models.mlp:Probe"),
        params={"hidden": 128, "layers": 1, "dropout": 0.3},
        search={"hidden": WIDTHS, "layers": (0, 1, 2), "dropout": DROPOUTS, "lr": RATES},
        frames=False,
    ),
)


@hookimpl
def mer_models() -> tuple[ModelCard, ...]:
    """Offer the built-in models."""
    return (*MODELS, *BASELINES)


@hookimpl
def mer_votes() -> tuple[Vote, ...]:
    """Offer the built-in ways of voting."""
    return votes.CARDS


@hookimpl
def mer_selections() -> tuple[Select, ...]:
    """Offer the built-in ways of selecting."""
    return selections.CARDS
