"""Cards of the baselines: what they are, their parameters, and what a search draws from.

Search spaces are those of MERTools (`model-tune.yaml`) in our names, as far as they concern the model. Light:
no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mer_zoo.contract import ModelCard

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

WIDTHS, DROPOUTS, RATES = (64, 128, 256), (0.2, 0.3, 0.4, 0.5), (1e-3, 1e-4)
LOW_DROPOUTS, MEMORY_DROPOUTS = (0.0, 0.1, 0.2, 0.3), (0.0, 0.3, 0.5, 0.7)
GENERATE = (0.01, 0.1, 0.5, 1.0)


def lazy(path: str) -> "Callable[..., nn.Module]":
    """Return a builder that imports `module:Class` when it is called."""
    module, name = path.split(":")

    def build(**kwargs: Any) -> "nn.Module":
        made: nn.Module = getattr(import_module(module), name)(**kwargs)
        return made

    return build


BASELINES = (
    ModelCard(
        name="attention-topn",
        summary="attention over several encoders per modality (audio, audio-2, …)",
        paper="Lian et al. 2024 (MERBench), arXiv 2401.03429",
        build=lazy("mer_zoo.models.attention_topn:AttentionTopN"),
        params={"level": "utt", "hidden": 128, "dropout": 0.3},
        search={"hidden": WIDTHS, "dropout": DROPOUTS, "lr": RATES},
        modalities=(1, 18),
    ),
    ModelCard(
        name="align-attention",
        summary="Attention over adapted acoustic, aligned visual and lexical tokens",
        paper="Zhao et al. 2024, arXiv 2409.05015; fusion reconstructed",
        build=lazy("mer_zoo.models.align_attention:AlignAttention"),
        params={
            "hidden": 128,
            "layers": 1,
            "heads": 4,
            "dropout": 0.3,
            "align_weight": 0.0,
            "temperature": 0.1,
        },
        search={"hidden": WIDTHS, "dropout": DROPOUTS, "align_weight": (0.0, 0.1), "lr": RATES},
    ),
    ModelCard(
        name="lf-dnn",
        summary="Late fusion: encoders, concatenation, two layers",
        paper="Cambria et al., CICLing 2017; Williams et al., Challenge-HML 2018",
        build=lazy("mer_zoo.models.lf_dnn:LFDNN"),
        params={"level": "utt", "hidden": 128, "dropout": 0.3},
        search={"hidden": WIDTHS, "dropout": DROPOUTS, "lr": RATES},
    ),
    ModelCard(
        name="ef-lstm",
        summary="Early fusion: one LSTM over the concatenated frames",
        paper="Williams et al., Challenge-HML 2018",
        build=lazy("mer_zoo.models.ef_lstm:EFLSTM"),
        params={"hidden": 128, "layers": 2, "dropout": 0.3, "steps": 64},
        search={"hidden": (128, 256, 512, 1024), "layers": (2, 3, 4), "dropout": DROPOUTS, "lr": RATES},
    ),
    ModelCard(
        name="tfn",
        summary="Outer product of all modalities, then an MLP",
        paper="Zadeh et al., EMNLP 2017",
        build=lazy("mer_zoo.models.tfn:TFN"),
        params={"level": "utt", "hidden": 64, "dropout": 0.3},
        search={"hidden": (64, 128), "dropout": DROPOUTS, "lr": RATES},
    ),
    ModelCard(
        name="lmf",
        summary="Outer product through a low-rank tensor, never built",
        paper="Liu et al., ACL 2018",
        build=lazy("mer_zoo.models.lmf:LMF"),
        params={"level": "utt", "hidden": 128, "rank": 4, "dropout": 0.3},
        search={"hidden": (32, *WIDTHS), "rank": (3, 4, 5, 6), "dropout": DROPOUTS, "lr": RATES},
    ),
    ModelCard(
        name="mfn",
        summary="LSTMs, attention over two frames' cells, a gated memory",
        paper="Zadeh et al., AAAI 2018",
        build=lazy("mer_zoo.models.mfn:MFN"),
        params={"hidden": 128, "memory": 128, "dropout": 0.3, "steps": 64},
        search={"hidden": (128, 256), "memory": (128,), "dropout": MEMORY_DROPOUTS, "lr": RATES},
    ),
    ModelCard(
        name="graph-mfn",
        summary="mfn with a dynamic fusion graph for its attention",
        paper="Zadeh et al., ACL 2018",
        build=lazy("mer_zoo.models.graph_mfn:GraphMFN"),
        params={"hidden": 128, "memory": 128, "inner": 100, "dropout": 0.3, "steps": 64},
        search={"hidden": (128, 256), "memory": (128,), "dropout": MEMORY_DROPOUTS, "lr": RATES},
        modalities=(2, 3),
    ),
    ModelCard(
        name="mult",
        summary="Crossmodal transformers between every pair of modalities",
        paper="Tsai et al., ACL 2019",
        build=lazy("mer_zoo.models.mult:MulT"),
        params={
            "hidden": 64,
            "layers": 4,
            "heads": 8,
            "kernel": 1,
            "dropout": 0.1,
            "position": True,
            "steps": 128,
        },
        search={
            "hidden": WIDTHS,
            "layers": (2, 4, 6),
            "kernel": (1, 3),
            "dropout": LOW_DROPOUTS,
            "lr": RATES,
        },
        modalities=(2, 3),
    ),
    ModelCard(
        name="misa",
        summary="Private and shared vectors per modality, kept apart and together by losses",
        paper="Hazarika et al., ACM Multimedia 2020",
        build=lazy("mer_zoo.models.misa:MISA"),
        params={
            "level": "utt",
            "hidden": 128,
            "dropout": 0.3,
            "sim_weight": 1.0,
            "diff_weight": 0.3,
            "recon_weight": 1.0,
        },
        search={
            "hidden": WIDTHS,
            "dropout": DROPOUTS,
            "sim_weight": (0.0, 0.1, 0.2),
            "diff_weight": (0.0, 0.1, 0.2),
            "recon_weight": (0.0, 0.1, 0.2),
            "lr": RATES,
        },
        modalities=(2, 3),
    ),
    ModelCard(
        name="mmim",
        summary="Mutual information between modalities, and with the fusion, maximised",
        paper="Han et al., EMNLP 2021; without the entropy term",
        build=lazy("mer_zoo.models.mmim:MMIM"),
        params={
            "level": "utt",
            "hidden": 128,
            "dropout": 0.3,
            "cpc_layers": 1,
            "alpha": 0.1,
            "beta": 0.1,
        },
        search={
            "hidden": WIDTHS,
            "dropout": LOW_DROPOUTS,
            "cpc_layers": (1, 2, 3, 4),
            "alpha": (0.0, 0.1, 0.2),
            "beta": (0.0, 0.1, 0.2),
            "lr": RATES,
        },
        modalities=(2, 3),
    ),
    ModelCard(
        name="mfm",
        summary="A shared factor for the label, own factors to generate each modality again",
        paper="Tsai et al., ICLR 2019",
        build=lazy("mer_zoo.models.mfm:MFM"),
        params={
            "hidden": 128,
            "memory": 128,
            "dropout": 0.3,
            "prior_weight": 10.0,
            "text_weight": 0.1,
            "audio_weight": 0.1,
            "video_weight": 0.1,
            "steps": 64,
        },
        search={
            "hidden": (128, 256),
            "memory": (128,),
            "dropout": MEMORY_DROPOUTS,
            "prior_weight": (10.0, 50.0, 100.0),
            "text_weight": GENERATE,
            "audio_weight": GENERATE,
            "video_weight": GENERATE,
            "lr": RATES,
        },
    ),
    ModelCard(
        name="mctn",
        summary="Translates text to the other modalities and back; reads only text afterwards",
        paper="Pham et al., AAAI 2019; decoder reconstructed",
        build=lazy("mer_zoo.models.mctn:MCTN"),
        params={
            "source": "auto",
            "hidden": 64,
            "dropout": 0.1,
            "teacher_forcing": 0.5,
            "loss_weight": 0.3,
            "steps": 64,
        },
        search={
            "hidden": WIDTHS,
            "dropout": LOW_DROPOUTS,
            "teacher_forcing": (0.3, 0.5),
            "loss_weight": (0.1, 0.3, 0.5, 0.8, 1.0),
            "lr": RATES,
        },
        modalities=(2, 3),
    ),
    ModelCard(
        name="logreg",
        summary="Logistic regression over all modalities' means: the sanity check",
        paper="none; a reference to beat",
        build=lazy("mer_zoo.models.logreg:LogisticRegression"),
        params={"dropout": 0.0, "normalize": True},
        search={
            "dropout": (0.0, *DROPOUTS),
            "lr": (1e-2, *RATES),
            "weight_decay": (1e-5, 1e-4, 1e-3, 1e-2),
        },
        frames=False,
    ),
)
