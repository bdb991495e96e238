"""Known values of the fusion models: what their papers' equations give, computed here another way."""

import itertools
import math
from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from mer_zoo.contract import Batch, ModelCard, Sequences
from mer_zoo.errors import ZooError
from mer_zoo.models import losses, mult
from mer_zoo.models.align_attention import AlignAttention
from mer_zoo.models.attention_topn import AttentionTopN
from mer_zoo.models.blocks import Dropout
from mer_zoo.models.cards import BASELINES
from mer_zoo.models.lmf import LMF
from mer_zoo.models.logreg import LogisticRegression
from mer_zoo.models.mctn import MCTN, Chance
from mer_zoo.models.misa import MISA
from mer_zoo.models.tfn import TFN, outer_product

DIMS = {"audio": 6, "video": 5, "text": 7}
LENGTHS = {"audio": 5, "video": 4, "text": 3}
SMALL = {"hidden": 8, "memory": 4, "heads": 2, "layers": 2, "inner": 5}
CARDS = {card.name: card for card in BASELINES}
ALL = pytest.mark.parametrize("card", BASELINES, ids=list(CARDS))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_batch(n: int = 6, dims: dict[str, int] = DIMS) -> dict[str, Sequences]:
    """Make clips of unequal lengths, everything there, NaN in the padding."""
    batch = {}
    for name, width in dims.items():
        frames = LENGTHS[name.split("-")[0]]
        mask = torch.arange(frames) < torch.randint(1, frames + 1, (n, 1))
        features = torch.where(mask.unsqueeze(-1), torch.randn(n, frames, width), torch.nan)
        batch[name] = Sequences(features, mask)
    return batch


def without(batch: Batch, name: str, clips: Tensor | slice = slice(None)) -> dict[str, Sequences]:
    """Return the batch with a modality missing for some clips."""
    mask = batch[name].mask.clone()
    mask[clips] = False
    return {**batch, name: Sequences(batch[name].features, mask)}


def small(card: ModelCard, **params: float) -> nn.Module:
    """Build a tiny model."""
    sizes = {name: value for name, value in SMALL.items() if name in card.params}
    return card.build(inputs=DIMS, classes=4, **{**sizes, **params})


class TestCards:
    @ALL
    def test_search_draws_parameters(self, card: ModelCard) -> None:
        """What a search draws is a parameter of the model or of training, of its default's type."""
        for name, choices in card.search.items():
            assert name in card.params or name in {"lr", "weight_decay"}
            assert choices
            if name in card.params:
                assert {type(choice) for choice in choices} == {type(card.params[name])}

    @ALL
    def test_defaults_are_the_model_s(self, card: ModelCard) -> None:
        """Building with the card's defaults is building with none: the card does not drift from the model."""
        shapes = [
            {name: p.shape for name, p in card.build(inputs=DIMS, classes=3, **params).named_parameters()}
            for params in ({}, {**card.params})
        ]
        assert shapes[0] == shapes[1]


class TestStacking:
    @ALL
    def test_mapped_over_members(self, card: ModelCard) -> None:
        """Two members in one vmap give what each gives alone, losses included."""
        forced = {"teacher_forcing": 1.0} if "teacher_forcing" in card.params else {}
        members = [small(card, **forced).train() for _ in range(2)]
        for dropout in (d for member in members for d in member.modules() if isinstance(d, Dropout)):
            dropout.rate = 0.0  # misa's own, too
        batch = make_batch()
        state = stack_module_state(members)

        def run(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            out = functional_call(members[0], (parameters, buffers), (batch,))
            return torch.cat([out.logits.flatten(), *(loss.reshape(1) for loss in out.losses.values())])

        together = vmap(run)(*state)
        for got, member in zip(together, members, strict=True):
            out = member(batch)
            want = torch.cat([out.logits.flatten(), *(loss.reshape(1) for loss in out.losses.values())])
            torch.testing.assert_close(got, want)

    def test_members_may_differ_in_loss_weights(self) -> None:
        """Loss weights are stacked with the rest: each member's losses count by its own weight."""
        x = torch.tensor(2.0)
        weights = [losses.LossWeight(0.5), losses.LossWeight(3.0)]
        state = stack_module_state(weights)
        assert vmap(lambda p, b: functional_call(weights[0], (p, b), (x,)))(*state).tolist() == [1.0, 6.0]
        assert not weights[0].state_dict()


class TestLosses:
    NAMES: ClassVar = {
        "misa": {"similarity", "difference", "reconstruction"},
        "mmim": {"contrast", "bound"},
        "mfm": {"prior", "generate_audio", "generate_video", "generate_text"},
        "mctn": {"cycle", "translate_video", "translate_audio"},
        "align-attention": {"alignment"},
    }

    @ALL
    def test_only_while_training(self, card: ModelCard) -> None:
        """A model has the losses it documents while training, and none in evaluation."""
        model = small(card)
        assert set(model(make_batch()).losses) == self.NAMES.get(card.name, set())
        assert not model.eval()(make_batch()).losses

    @pytest.mark.parametrize("name", list(NAMES))
    def test_nothing_to_compare(self, name: str) -> None:
        """With no clip that has two modalities, all is finite, and what compares modalities is 0."""
        batch = make_batch()
        model = small(CARDS[name], **({"align_weight": 1.0} if name == "align-attention" else {}))
        out = model(without(without(without(batch, "audio", slice(0, 4)), "video", slice(2, 6)), "text"))
        for loss_name in {"similarity", "bound", "alignment", "cycle", "translate_video"} & set(out.losses):
            assert out.losses[loss_name].item() == 0.0
        (out.logits.sum() + sum(out.losses.values())).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


class TestTensorFusion:
    def test_outer_product(self) -> None:
        """TFN's product holds every product of one entry of each [1, x]."""
        a, b, c = (torch.randn(2, n) for n in (3, 2, 4))
        extended = [F.pad(x, (1, 0), value=1.0) for x in (a, b, c)]
        got = outer_product([a, b, c])
        for clip in range(2):
            want = [i * j * k for i, j, k in itertools.product(*(x[clip].tolist() for x in extended))]
            torch.testing.assert_close(got[clip], torch.tensor(want))

    def test_missing_modality_leaves_the_others(self) -> None:
        """Without text, the product of the rest stays as it was, and text's terms vanish."""
        model = TFN(DIMS, 3, hidden=4).eval()
        products: list[Tensor] = []
        model.dropout.register_forward_hook(lambda _, args, __: products.append(args[0]))
        batch = make_batch()
        model(batch)
        model(without(batch, "text"))
        full, rest = (x.unflatten(1, (5, 5, 5)) for x in products)
        torch.testing.assert_close(rest[..., 0], full[..., 0])
        assert not rest[..., 1:].any()

    def test_lmf_is_a_low_rank_tensor(self) -> None:
        """LMF equals the contraction of the outer product with the full weight tensor of its factors."""
        model = LMF(DIMS, 3, hidden=4, rank=2).eval()
        batch = make_batch()
        hidden, _ = model.unimodal(batch)
        full = torch.einsum(
            "r,rio,rjo,rko->ijko", model.rank_weights[0], *(model.factors[name] for name in hidden)
        )
        product = outer_product(list(hidden.values()))
        want = model.head(product @ full.flatten(0, 2) + model.bias)
        torch.testing.assert_close(model(batch).logits, want)


class TestMulT:
    def test_visible(self) -> None:
        """Frame i sees up to i + the difference in length, of real frames only."""
        query, key = torch.tensor([[True, True, False]]), torch.tensor([[True, False, True, True]])
        want = [[[True, False, True, False], [True, False, True, True], [False] * 4]]
        assert mult.visible(query, key).tolist() == want
        same = torch.ones(1, 3, dtype=torch.bool)
        assert mult.visible(same, same)[0].tolist() == torch.ones(3, 3).tril().bool().tolist()

    def test_crossmodal_attention_ignores_padding(self) -> None:
        """More padding in the context, and what is in it, changes nothing."""
        stack = mult.Stack(8, 2, 2, 0.0, position=True, cross=True)
        own = Sequences(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
        mask = torch.arange(4) < torch.tensor([[4], [2]])
        other = torch.randn(2, 4, 8)
        got = stack(own, Sequences(other, mask)).features
        junk = F.pad(torch.where(mask.unsqueeze(-1), other, 7.0), (0, 0, 0, 3), value=9.0)
        torch.testing.assert_close(stack(own, Sequences(junk, F.pad(mask, (0, 3)))).features, got)

    def test_convolution(self) -> None:
        """The shifted products are a convolution that keeps the length."""
        conv, x = mult.Convolution(3, 4, 3), torch.randn(2, 6, 3)
        got = conv(Sequences(x, torch.ones(2, 6, dtype=torch.bool))).features
        want = F.conv1d(x.transpose(1, 2), conv.weight, padding=1).transpose(1, 2)
        torch.testing.assert_close(got, want)

    def test_last_frame(self) -> None:
        """The last real frame is taken, zero where there is none."""
        x = torch.randn(2, 3, 4)
        last = mult.last_frame(Sequences(x, torch.tensor([[True, True, False], [False] * 3])))
        torch.testing.assert_close(last, torch.stack([x[0, 1], torch.zeros(4)]))

    @pytest.mark.parametrize(("params", "word"), [({"hidden": 20}, "heads"), ({"kernel": 2}, "kernel")])
    def test_refusals(self, params: dict[str, int], word: str) -> None:
        """A width the heads do not divide and an even kernel are refused."""
        with pytest.raises(ZooError, match=word):
            mult.MulT(DIMS, 3, **params)


class TestMCTN:
    def test_reads_the_source_only(self) -> None:
        """After training, logits depend on the source and on nothing else."""
        model, batch = MCTN(DIMS, 3, hidden=4, source="audio").eval(), make_batch()
        logits = model(batch).logits
        torch.testing.assert_close(model(without(without(batch, "video"), "text")).logits, logits)
        assert not torch.allclose(model(without(batch, "audio")).logits, logits)

    def test_share_of_forced_frames(self) -> None:
        """Teacher forcing takes its share of frames while training, none in evaluation."""
        target = Sequences(torch.zeros(200, 50, 1), torch.ones(200, 50, dtype=torch.bool))
        assert Chance(0.0, 0.3).forced(target).float().mean() == pytest.approx(0.3, abs=0.02)
        assert Chance(0.0, 1.0).forced(target).all()
        assert not Chance(0.0, 0.0).forced(target).any()
        assert not Chance(0.0, 1.0).eval().forced(target).any()

    def test_first_frame_is_never_forced(self) -> None:
        """What is written first depends on the source alone, what follows on the forced target."""
        model = MCTN(DIMS, 3, hidden=4, dropout=0.0)
        joint = Sequences(torch.randn(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))
        target, forced = torch.randn(1, 3, 7), torch.ones(1, 3, dtype=torch.bool)
        written = [model.first.decoder(joint, torch.zeros(1, 4), target * k, forced) for k in (1, 2)]
        torch.testing.assert_close(written[0][:, 0], written[1][:, 0])
        assert not torch.allclose(written[0][:, 1], written[1][:, 1])

    def test_unknown_source(self) -> None:
        """A source that is not among the inputs is refused, with the choices."""
        with pytest.raises(ZooError, match="video, audio"):
            MCTN({"audio": 3, "video": 3}, 3, source="text")


class TestOthers:
    def test_logreg(self) -> None:
        """It is one linear layer on means of unit variance, so that scale and offset do not matter."""
        model, batch = LogisticRegression(DIMS, 3), make_batch()
        scaled = {n: Sequences(s.features * 100 + 5, s.mask) for n, s in batch.items()}
        torch.testing.assert_close(model(scaled).logits, model(batch).logits, rtol=1e-3, atol=1e-3)
        single = {
            n: Sequences(torch.randn(2, 1, d), torch.ones(2, 1, dtype=torch.bool)) for n, d in DIMS.items()
        }
        raw = LogisticRegression(DIMS, 3, normalize=False)
        want = raw.head(torch.cat([seq.features[:, 0] for seq in single.values()], -1))
        torch.testing.assert_close(raw(single).logits, want)

    def test_several_encoders_per_modality(self) -> None:
        """Every input has an encoder and a weight of its own; names that mean no modality are refused."""
        inputs = {"audio": 6, "audio-2": 3, "video": 5, "text": 7}
        model = AttentionTopN(inputs, 3, hidden=8).eval()
        assert model.weights.out_features == 4
        batch = make_batch(dims=inputs)
        logits = model(batch).logits
        assert not torch.allclose(model(without(batch, "audio-2")).logits, logits)
        with pytest.raises(ZooError, match="smell"):
            AttentionTopN({"smell": 3}, 3)

    def test_alignment_is_least_for_twins(self) -> None:
        """The alignment loss is smaller where audio and video of a clip agree than when shuffled."""
        model = AlignAttention({"audio": 6, "video": 6}, 3, hidden=8, align_weight=1.0, dropout=0.0)
        model.tokens["video"].load_state_dict(model.tokens["audio"].state_dict())
        audio = make_batch(dims={"audio": 6})["audio"]
        shuffled = Sequences(audio.features.roll(1, 0), audio.mask.roll(1, 0))
        twins, others = (model({"audio": audio, "video": v}).losses["alignment"] for v in (audio, shuffled))
        assert twins.item() < others.item()
        assert not AlignAttention({"audio": 6, "text": 7}, 3, hidden=8)(make_batch()).losses

    @pytest.mark.parametrize("name", [name for name, card in CARDS.items() if "level" in card.params])
    def test_unknown_level(self, name: str) -> None:
        """A level other than utt and frame is refused."""
        with pytest.raises(ZooError, match="level"):
            CARDS[name].build(inputs=DIMS, classes=3, level="frm")

    def test_misa_hides_what_is_missing(self) -> None:
        """A missing modality's vectors neither reach the classifier nor are attended to by others."""
        model, batch = MISA(DIMS, 3, hidden=8).eval(), make_batch()
        logits = model(without(batch, "video")).logits
        for parameter in (*model.private["video"].parameters(), *model.project["video"].parameters()):
            nn.init.constant_(parameter, 3.0)
        torch.testing.assert_close(model(without(batch, "video")).logits, logits)


def test_logits_start_near_uniform() -> None:
    """An untrained model does not prefer a class by much: cross-entropy is near that of guessing."""
    target = torch.arange(6) % 4
    for card in BASELINES:
        entropy = F.cross_entropy(small(card).eval()(make_batch()).logits, target).item()
        assert entropy < 2 * math.log(4), card.name
