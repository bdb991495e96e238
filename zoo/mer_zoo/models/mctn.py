"""MCTN, the Multimodal Cyclic Translation Network.

Pham, Liang, Manzini, Morency, Póczos, *Found in Translation: Learning Robust Joint Representations by Cyclic
Translations Between Modalities*, AAAI 2019; the hierarchical trimodal form, arranged as in the classification
variant of MERTools (MERBench, arXiv 2401.03429): modalities padded to the widest, one network for both
directions of the cycle. *Reconstructed* where that code departs from any sequence-to-sequence model (it reads
the batch as time and gives the decoder no state): a bidirectional LSTM encoder, and an LSTM decoder with
additive attention that starts from it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer_zoo.contract import Batch, Output, Sequences
from mer_zoo.errors import ZooError
from mer_zoo.models.blocks import Dropout, complete, in_order, masked_softmax
from mer_zoo.models.losses import LossWeight, squared_error
from mer_zoo.models.recurrent import LSTM, shorten

ORDER = ("text", "video", "audio")
Encoded = tuple[Sequences, Tensor]


class Encoder(nn.Module):
    """Bidirectional LSTM, both directions added.

    Args:
        features: Input width.
        dim: State width d.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.forwards, self.backwards = LSTM(features, dim), LSTM(features, dim)
        self.linear = nn.Linear(dim, dim, bias=False)

    def forward(self, sequences: Sequences) -> tuple[Sequences, Tensor]:
        """Map `[B, T, D]` to the joint `[B, T, d]`, zero where masked, and a summary `[B, d]`."""
        features, mask = sequences
        there, _ = self.forwards(features, mask)
        back, _ = self.backwards(features, mask, reverse=True)
        joint = torch.where(mask.unsqueeze(-1), there + back, 0.0)
        return Sequences(joint, mask), torch.tanh(self.linear(there[:, -1] + back[:, 0]))


class Decoder(nn.Module):
    """LSTM that writes a sequence while attending to the joint representation (Bahdanau et al. 2015).

    Args:
        features: Width of the frames it writes.
        dim: State width d.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.attention = nn.Linear(2 * dim, dim, bias=False)
        self.score = nn.Linear(dim, 1, bias=False)
        self.lstm = LSTM(features + dim, dim)
        self.out = nn.Linear(2 * dim, features)

    def forward(self, joint: Sequences, state: Tensor, target: Tensor, forced: Tensor) -> Tensor:
        """Write as many frames as `target` `[B, T, D]` has.

        Where `forced` `[B, T]` a frame is written after the target's own previous frame (teacher forcing),
        elsewhere after the one just written; the first after zeros.
        """
        h, c = state, torch.zeros_like(state)
        width = h.shape[-1]
        keys = F.linear(joint.features, self.attention.weight[:, width:])
        written: list[Tensor] = []
        read = torch.zeros_like(target[:, 0])
        for t in range(target.shape[1]):
            if t:
                read = torch.where(forced[:, t].unsqueeze(-1), target[:, t - 1], written[-1])
            query = F.linear(h, self.attention.weight[:, :width]).unsqueeze(1)
            scores = self.score(torch.tanh(query + keys)).squeeze(-1)
            context = (masked_softmax(scores, joint.mask).unsqueeze(-1) * joint.features).sum(1)
            h, c = self.lstm.step(self.lstm.project(torch.cat([read, context], -1)), h, c)
            written.append(self.out(torch.cat([h, context], -1)))
        return torch.stack(written, 1)


class Chance(nn.Module):
    """What is random in one translation: dropout, and which frames follow the true previous frame.

    Args:
        dropout: On the joint representation.
        teacher_forcing: Share of forced frames.
    """

    def __init__(self, dropout: float, teacher_forcing: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        # A frame is forced where dropout keeps a one, so that the draw comes from the same generator.
        self.choice = Dropout(1 - teacher_forcing) if teacher_forcing else None

    def forced(self, target: Sequences) -> Tensor:
        """Draw `[B, T]` bool; all False when not training."""
        if not self.training or self.choice is None:
            return torch.zeros_like(target.mask)
        drawn: Tensor = self.choice(torch.ones_like(target.features[..., 0]))
        return drawn > 0


class Translator(nn.Module):
    """Sequence-to-sequence model from one modality to another.

    Args:
        features: Input width.
        out: Width of the frames it writes.
        dim: State width d.
        chance: Its randomness on the way there; another is passed in for the way back.
    """

    def __init__(self, features: int, out: int, dim: int, chance: Chance) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(features, dim), Decoder(out, dim)
        self.chance = chance

    def encode(self, source: Sequences, chance: Chance | None = None) -> Encoded:
        """Return the joint representation of `source` `[B, T, d]` and the decoder's first state `[B, d]`."""
        joint, state = self.encoder(source)
        chance = chance or self.chance
        return Sequences(chance.dropout(joint.features), joint.mask), state

    def write(self, read: Encoded, target: Sequences, chance: Chance | None = None) -> Sequences:
        """Return what is written for `target` from what was encoded, `[B, T, out]` under its mask."""
        forced = (chance or self.chance).forced(target)
        return Sequences(self.decoder(*read, target.features, forced), target.mask)


class MCTN(nn.Module):
    """Translate the source to a second modality and back, what was learnt to a third; classify from that.

    Only the source is read for the logits: the others teach while training, and need not be there afterwards.
    A clip without the source gets the same logits whatever else it has.

    Losses: `translate_<modality>`, the squared error of each translation over the target's real frames, and
    `cycle`, that of the translation back.

    Args:
        inputs: Width D per modality, two or three; sequences `[B, T, D]` each, of any lengths.
        classes: Number of classes C.
        source: What is read: a modality, or `auto` for text (the paper's), or video without text. The others
            are targets in the order text, video, audio.
        hidden: State width of all LSTMs.
        dropout: On the joint representations and before the classifier.
        teacher_forcing: Share, 0 to 1, of frames written after the true previous frame while training.
        loss_weight: Weight of each loss.
        steps: Longest sequence; longer ones are averaged down to it.

    Raises:
        ZooError: A source that is not among the inputs.
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        classes: int,
        *,
        source: str = "auto",
        hidden: int = 64,
        dropout: float = 0.1,
        teacher_forcing: float = 0.5,
        loss_weight: float = 0.3,
        steps: int = 64,
    ) -> None:
        super().__init__()
        rank = {name: i for i, name in enumerate(ORDER)}
        names = sorted(in_order(inputs), key=lambda name: rank.get(name, len(rank)))
        if source not in ("auto", *names):
            raise ZooError(f"mctn cannot read {source!r}", "source is auto or one of: " + ", ".join(names))
        self.inputs, self.steps = dict(inputs), steps
        self.source = names[0] if source == "auto" else source
        self.targets = [name for name in names if name != self.source]
        self.width = max(inputs.values())
        random = [Chance(dropout, teacher_forcing) for _ in range(3)]
        self.first = Translator(self.width, self.width, hidden, random[0])
        self.back = random[1]
        self.second = Translator(hidden, self.width, hidden, random[2]) if self.targets[1:] else None
        self.summary = LSTM(hidden, hidden)
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, classes)
        self.loss_weights = nn.ModuleDict(
            {
                name: LossWeight(loss_weight)
                for name in ("cycle", *(f"translate_{t}" for t in self.targets[:2]))
            }
        )

    def forward(self, batch: Batch) -> Output:
        """Map a batch of sequences to logits `[B, C]` and, while training, the losses named above."""
        found = {name: self._prepare(seq) for name, seq in complete(batch, self.inputs).items()}
        read = first = self.first.encode(found[self.source])
        second = None
        if self.second is not None:
            read = second = self.second.encode(first[0])
        states, _ = self.summary(*read[0])
        logits = self.head(self.linear(self.dropout(states[:, -1])))
        return Output(logits, self._losses(found, first, second) if self.training else {})

    def _losses(
        self, found: dict[str, Sequences], first: Encoded, second: Encoded | None
    ) -> dict[str, Tensor]:
        source, target = found[self.source], found[self.targets[0]]
        written = self.first.write(first, target)
        again = self.first.encode(written, self.back)
        back = self.first.write(again, source, self.back)
        errors = {
            f"translate_{self.targets[0]}": _error(written, target, source),
            "cycle": _error(back, source, target),
        }
        if self.second is not None and second is not None:
            target = found[self.targets[1]]
            written = self.second.write(second, target)
            errors[f"translate_{self.targets[1]}"] = _error(written, target, source)
        return {name: self.loss_weights[name](error) for name, error in errors.items()}

    def _prepare(self, sequences: Sequences) -> Sequences:
        features, mask = shorten(sequences, self.steps)
        return Sequences(F.pad(features, (0, self.width - features.shape[-1])), mask)


def _error(written: Sequences, target: Sequences, other: Sequences) -> Tensor:
    there = target.mask & other.mask.any(1, keepdim=True)
    return squared_error(written.features, target.features, there)
