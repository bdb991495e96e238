"""`hf-text`: any text encoder that transformers has (BERT, RoBERTa, MiniLM, BGE …), from a folder or hub id.

A row is a token, special tokens included, so that the mean over rows is the mean over the attention mask, as
sentence-transformers pools (without the normalisation that usually follows there). Texts are cut after 512
tokens, or what the tokenizer or the model's positions allow.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mer_featurestore.records import Clip
from mer_plugins.checkpoints import Checkpoint, quiet
from mer_plugins.contract import ExtractorCard, Options
from mer_plugins.errors import ClipError
from mer_plugins.transformer import OPTIONS, TransformerExtractor, cards

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

LONGEST = 512
_OPTIONS = {
    **OPTIONS,
    "max_tokens": ("auto", "longest text in tokens; auto: what the model takes, at most 512"),
}


class TextEncoder(TransformerExtractor[str]):
    """Rows of a text encoder's hidden layers, one per token."""

    options_table = _OPTIONS
    spare = (r"(^|\.)pooler\.", r"(^|\.)position_ids$")
    batch_cost = 2048.0  # characters
    tuning_cost = 1024.0

    def __init__(self, options: Options, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(options, checkpoint)
        asked = self.say.said["max_tokens"] != "auto"
        self.max_tokens = self.say.integer("max_tokens", 2, 1 << 20) if asked else self._longest()
        self._tokenizer: Any = None

    def _longest(self) -> int:
        """Return how many tokens the model takes, by its files; RoBERTa keeps two positions to itself."""
        config = self.source.config
        positions = config.get("max_position_embeddings")
        if isinstance(positions, int) and "roberta" in self.kind:
            positions -= 2
        settings = self.source.folder / "tokenizer_config.json"
        says = self.source.json(settings.name).get("model_max_length") if settings.is_file() else None
        limits = [n for n in (positions, says) if isinstance(n, (int, float)) and n > 1]
        return int(min([LONGEST, *limits]))

    def reading(self) -> Mapping[str, Any]:
        """Return where texts are cut."""
        return {"max_tokens": self.max_tokens}

    def load(self) -> None:
        """Load weights and tokenizer."""
        from transformers import AutoTokenizer

        super().load()
        with quiet():
            self._tokenizer = AutoTokenizer.from_pretrained(
                self.source.folder, local_files_only=True, trust_remote_code=self.source.trusted
            )

    def close(self) -> None:
        """Let go of both."""
        super().close()
        self._tokenizer = None

    def prepare(self, clip: Clip) -> str:
        """Return the transcript."""
        text = (clip.text or "").strip()
        if not text:
            raise ClipError("the transcript is empty")
        return text

    def cost(self, prepared: str) -> float:
        """Return its characters."""
        return float(len(prepared))

    def trim(self, prepared: str, most: float, chance: "np.random.Generator") -> str:  # noqa: ARG002 - texts are read from their beginning
        """Return its first `most` characters."""
        return prepared[: max(1, int(most))]

    def rows(self, batch: Sequence[str]) -> "list[Tensor]":
        """Return `[tokens_i, *row_shape]` per text."""
        tokens = self._tokenizer(list(batch), truncation=True, max_length=self.max_tokens)["input_ids"]
        out: dict[int, Tensor] = {}
        for group in self._groups([len(ids) for ids in tokens]):
            out |= zip(group, self._forward([tokens[i] for i in group]), strict=True)
        return [out[i] for i in range(len(batch))]

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return what runs together: texts of one length on a GPU, each alone on a CPU, never any padding.

        Without padding nothing of a neighbour can leak in, whatever the architecture; alone on a CPU a text's
        numbers are the same to the last bit in every batch.
        """
        if not self.together:
            return [[i] for i in range(len(lengths))]
        groups: dict[int, list[int]] = {}
        for i, length in enumerate(lengths):
            groups.setdefault(length, []).append(i)
        return list(groups.values())

    def _forward(self, tokens: Sequence[Sequence[int]]) -> "Tensor":
        import torch

        ids = torch.tensor(list(tokens), dtype=torch.long)
        return self.states(input_ids=ids, attention_mask=torch.ones_like(ids))


TABLE = (
    Checkpoint(
        name="hf-text",
        model="sentence-transformers/all-MiniLM-L6-v2",
        width=384,
        blocks=6,
        licence="Apache-2.0",
    ),
)
CARDS: tuple[ExtractorCard, ...] = cards(
    TextEncoder, TABLE, modality="text", levels=("utt", "frame"), takes_code=True
)
