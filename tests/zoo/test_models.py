"""Every registered model passes the conformance kit, and the kit catches models that should fail it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mer_zoo.contract import Batch, ModelCard, Output, Sequences
from mer_zoo.models.blocks import complete
from mer_zoo.registry import find_model, models
from mer_zoo.testing import CLASSES, ModelTests, random_batch

VARIANTS = [
    ("agt", {"guide": "none"}),
    ("agt", {"guide": "video", "layers": 2}),
    ("agt", {"cbt": False}),
    ("agt", {"amf": False}),
    ("agt", {"layers": 0, "cbt": False, "amf": False, "guide": "text"}),
    ("attention", {"level": "frame"}),
    ("mlp", {"layers": 0}),
    ("attention-topn", {"level": "frame"}),
    ("lf-dnn", {"level": "frame"}),
    ("tfn", {"level": "frame"}),
    ("lmf", {"level": "frame"}),
    ("misa", {"level": "frame"}),
    ("mmim", {"level": "frame", "cpc_layers": 2}),
    ("mult", {"kernel": 3, "position": False}),
    ("mctn", {"source": "video", "teacher_forcing": 1.0}),
    ("ef-lstm", {"layers": 1, "steps": 3}),
    ("mfn", {"steps": 2}),
    ("align-attention", {"align_weight": 0.1, "layers": 0}),
    ("logreg", {"normalize": False}),
]
# misa's losses grow as (clips / width)²: in a narrow one, or in large steps, they push the classes out.
SIZES: dict[str, dict[str, Any]] = {"misa": {"hidden": 64}, "mult": {"layers": 1}}
RATES = {"misa": 1e-3}
CHECKS = [name for name in dir(ModelTests) if name.startswith("test_")]


def kit(card: ModelCard, **params: Any) -> ModelTests:
    """Return the kit for one small model."""
    small = {name: value for name, value in (("hidden", 16), ("heads", 2)) if name in card.params}
    tests = ModelTests()
    tests.card, tests.params = card, {**small, **SIZES.get(card.name, {}), **params}
    tests.lr = RATES.get(card.name, ModelTests.lr)
    return tests


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", models())
def test_every_registered_model_conforms(name: str, check: str) -> None:
    """A model that is offered is what a model of this zoo must be."""
    getattr(kit(find_model(name)), check)()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=str)
def test_variants_conform(name: str, params: dict[str, Any], check: str) -> None:
    """So is each variant a parameter makes of it."""
    getattr(kit(find_model(name), **params), check)()


class Careless(nn.Module):
    """Averages over padding, centres over the batch, and has a parameter that does nothing."""

    def __init__(self, inputs: dict[str, int], classes: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.head = nn.Linear(sum(inputs.values()), classes)
        self.idle = nn.Parameter(torch.zeros(3))

    def forward(self, batch: Batch) -> Output:
        """Map a batch to logits, as carelessly."""
        means = [batch[name].features.mean(1) for name in self.inputs]
        joined = torch.cat(means, -1)
        return Output(self.head(joined - joined.mean(0)))


@pytest.mark.parametrize(
    "check",
    [
        "test_padding_never_changes_an_output",
        "test_padding_never_changes_a_gradient",
        "test_companions_never_change_an_output",
        "test_gradients_reach_every_parameter",
        "test_a_missing_modality_is_not_read",
    ],
)
def test_the_kit_catches_a_careless_model(check: str) -> None:
    """A model that reads padding or its companions, or has dead parameters, fails the kit."""
    card = ModelCard(name="careless", summary="", paper="", build=Careless)
    with pytest.raises(AssertionError):
        getattr(kit(card), check)()


def logits(module: nn.Module, batch: Batch) -> Tensor:
    """Return logits in evaluation mode."""
    out: Output = module.eval()(batch)
    return out.logits


def test_agt_without_its_guide_uses_the_token() -> None:
    """A clip without audio depends on the learned token; one with audio does not."""
    tests = kit(find_model("agt"))
    model, batch = tests.model(), random_batch(tests.inputs)
    batch["audio"] = Sequences(batch["audio"].features, batch["audio"].mask.clone())
    batch["audio"].mask[0] = False
    before = logits(model, batch)
    with torch.no_grad():
        model.token += 1.0
    changed = (logits(model, batch) != before).any(1)
    assert changed.tolist() == [True] + [False] * 5


def test_agt_audio_guides_through_cbt_only() -> None:
    """Without CBT, AMF and the concatenation's own audio, audio cannot reach what is made of video."""
    inputs = {"audio": 7, "video": 6}
    batch = random_batch(inputs)
    other = {**batch, "audio": Sequences(batch["audio"].features + 1, batch["audio"].mask)}
    for cbt in (True, False):
        model = (
            find_model("agt").build(inputs=inputs, classes=3, hidden=16, heads=2, cbt=cbt, amf=False).eval()
        )
        with torch.no_grad():
            model.head[1].weight[:, :16] = 0  # what the head takes from audio itself
        assert torch.equal(logits(model, batch), logits(model, other)) is not cbt


def test_amf_turns_down_what_disagrees() -> None:
    """The gate is larger for a vector like the guide than for its opposite."""
    amf = find_model("agt").build(inputs={"audio": 4, "video": 4}, classes=2, hidden=8, heads=2).amf
    with torch.no_grad():
        for linear in (amf.project, amf.project_guided["video"]):
            linear.weight.copy_(torch.eye(8))
            linear.bias.zero_()
    z = torch.randn(5, 8)
    like, unlike = amf(z, {"video": z})["video"] / z, amf(z, {"video": -z})["video"] / -z
    assert bool((like > unlike).all())
    torch.testing.assert_close(like, torch.full_like(like, float(torch.sigmoid(torch.tensor(2.0)))))


def test_attention_is_the_published_baseline() -> None:
    """Parameter shapes are those of the baseline's code, and fusion weights are free (no softmax)."""
    model = find_model("attention").build(inputs={"audio": 10, "video": 9, "text": 8}, classes=4, hidden=16)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["encoders.audio.mlp.linears.0.weight"] == (16, 10)
    assert shapes["encoders.audio.mlp.linears.2.weight"] == (16, 16)
    assert shapes["mlp.linears.0.weight"] == (16, 48)
    assert shapes["weights.weight"] == (3, 16)
    assert shapes["head.weight"] == (4, 16)
    batch = random_batch({"audio": 10, "video": 9, "text": 8}, frames=1)
    hidden = [model.eval().encoders[name](batch[name]) for name in ("audio", "video", "text")]
    weights = model.weights(model.mlp(torch.cat(hidden, -1)))
    expected = sum(weights[:, i : i + 1] * h for i, h in enumerate(hidden))
    torch.testing.assert_close(logits(model, batch), model.head(expected))


def test_the_lstm_reads_the_last_real_frame() -> None:
    """The frame encoder's state is that of an LSTM run over the clip's own frames alone."""
    encoder = find_model("attention").build(inputs={"audio": 5}, classes=2, hidden=8, level="frame").eval()
    lstm = encoder.encoders["audio"]
    features = torch.randn(1, 6, 5)
    mask = torch.tensor([[True, False, True, True, False, False]])
    alone, _ = lstm.lstm(features[:, [0, 2, 3]])
    torch.testing.assert_close(lstm(Sequences(features, mask)), lstm.linear(alone[:, -1]))


def test_complete_orders_and_fills() -> None:
    """Modalities come in one order, absent ones masked, padding zeroed."""
    batch = {"text": Sequences(torch.ones(2, 3, 4), torch.tensor([[True, False, False]] * 2))}
    found = complete(batch, {"text": 4, "audio": 5})
    assert list(found) == ["audio", "text"]
    assert not found["audio"].mask.any()
    assert found["text"].features.sum(1).tolist() == [[1.0] * 4] * 2


def test_a_mean_of_nothing_is_zero() -> None:
    """The probe gives a clip without any modality the same output whatever its features hold."""
    model = find_model("mlp").build(inputs={"audio": 3}, classes=CLASSES, hidden=4).eval()
    none = torch.zeros(1, 2, dtype=torch.bool)
    a, b = (logits(model, {"audio": Sequences(torch.randn(1, 2, 3), none)}) for _ in range(2))
    assert torch.equal(a, b)
