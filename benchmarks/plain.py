"""The usual way to train the baseline: an honest reference, written as the field's scripts are.

A dataset that gives one dict per clip, a DataLoader that collates them, one fold after the other, torch's
own modules and eager Adam. The features are in memory as float32 from the start, which is kinder than the
scripts, and nothing is scored but the validation part, as in ours.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset


class Clips(Dataset[dict[str, Any]]):
    """One dict per clip.

    Args:
        features: float32 `[n, D]` per modality.
        label: int64 `[n]`.
    """

    def __init__(self, features: Mapping[str, NDArray[np.float32]], label: NDArray[np.int64]) -> None:
        self.features, self.label = features, label

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {**{name: torch.from_numpy(x[i]) for name, x in self.features.items()}, "label": self.label[i]}

    def collate(self, clips: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Stack the fields of the clips."""
        batch = {name: torch.stack([clip[name] for clip in clips]) for name in self.features}
        return {**batch, "label": torch.tensor(np.array([clip["label"] for clip in clips]))}


class Encoder(nn.Module):
    """Dropout, then three times linear and ReLU."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, D]` to `[B, h]`."""
        x = torch.relu(self.first(self.dropout(x)))
        return torch.relu(self.third(torch.relu(self.second(x))))


class Attention(nn.Module):
    """The baseline: the weighted sum of the modalities, weights from all of them, without softmax."""

    def __init__(self, widths: Mapping[str, int], classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {name: Encoder(width, hidden, dropout) for name, width in widths.items()}
        )
        self.attention = Encoder(hidden * len(widths), hidden, dropout)
        self.weights = nn.Linear(hidden, len(widths))
        self.head = nn.Linear(hidden, classes)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Map features to logits `[B, C]`."""
        hidden = [encoder(batch[name]) for name, encoder in self.encoders.items()]
        weights = self.weights(self.attention(torch.cat(hidden, 1))).unsqueeze(2)
        fused = torch.matmul(torch.stack(hidden, 2), weights).squeeze(2)
        out: Tensor = self.head(fused)
        return out


@dataclass(frozen=True)
class Trained:
    """What plain training came to.

    Attributes:
        predicted: int64 `[n]`, of each clip by the fold that held it out, at that fold's best epoch.
        waf: Mean over folds of the best validation WAF.
        seconds: Wall time.
    """

    predicted: NDArray[np.int64]
    waf: float
    seconds: float


def train(
    clips: Clips,
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    *,
    hidden: int,
    dropout: float,
    epochs: int,
    rate: float = 1e-3,
    classes: int = 6,
    device: str = "cpu",
) -> Trained:
    """Train the folds one after the other: batches of 32, Adam, weight decay 1e-5.

    Args:
        clips: All clips.
        folds: Clips that train and that validate, per fold.
        hidden: Width h.
        dropout: Rate.
        epochs: All of them are trained; the best by validation WAF counts.
        rate: Of learning.
        classes: C.
        device: Where.
    """
    began, best = time.perf_counter(), []
    predicted = np.zeros(len(clips), np.int64)
    for number, (learned, held) in enumerate(folds):
        torch.manual_seed(number)
        widths = {name: x.shape[1] for name, x in clips.features.items()}
        model = Attention(widths, classes, hidden, dropout).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=1e-5)
        loader = DataLoader(Subset(clips, learned.tolist()), 32, shuffle=True, collate_fn=clips.collate)
        valid = DataLoader(Subset(clips, held.tolist()), 32, collate_fn=clips.collate)
        best.append(-1.0)
        for _ in range(epochs):
            _epoch(model, loader, optimizer, device)
            guess = _predict(model, valid, device)
            waf = float(f1_score(clips.label[held], guess, average="weighted"))
            if waf > best[-1]:
                best[-1], predicted[held] = waf, guess
    return Trained(predicted, float(np.mean(best)), time.perf_counter() - began)


def _epoch(
    model: nn.Module, loader: DataLoader[Any], optimizer: torch.optim.Optimizer, device: str
) -> list[float]:
    model.train()
    criterion, losses = nn.CrossEntropyLoss(), []
    for batch in loader:
        moved = {name: x.to(device) for name, x in batch.items()}
        loss = criterion(model(moved), moved["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def _predict(model: nn.Module, loader: DataLoader[Any], device: str) -> NDArray[np.int64]:
    model.eval()
    guesses = [model({name: x.to(device) for name, x in batch.items()}).argmax(1).cpu() for batch in loader]
    found: NDArray[np.int64] = torch.cat(guesses).numpy()
    return found
