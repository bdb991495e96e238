"""Causal language models as text encoders: BLOOM, Qwen, LLaMA, GLM, GPT-2, OPT … whatever transformers has.

One row per token of the transcript. As in the MERTools baseline, tokens the tokenizer adds are left out: a
decoder's first token collects attention and can have hidden states many times larger than all others, which
would drown the mean. Batches are padded on the right, where a causal model cannot look. Big models:
`--option precision=bfloat16` and `--option device_map=auto`, which spreads them over the GPUs and, when those
are full, the CPU.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip
from mer_plugins.checkpoints import Checkpoint, quiet
from mer_plugins.contract import ExtractorCard, Options
from mer_plugins.errors import ClipError, PluginError
from mer_plugins.transformer import OPTIONS, TransformerExtractor, cards, home

if TYPE_CHECKING:
    from torch import Tensor

Tokens = NDArray[np.int64]


class TextDecoder(TransformerExtractor[Tokens]):
    """Rows of a decoder's hidden layers, one per token."""

    options_table = {  # noqa: RUF012 - nobody changes it
        "max_tokens": ("512", "tokens read of a transcript; longer ones are cut"),
        "device_map": ("none", "auto: spread the model over GPUs and CPU (accelerate)"),
        **OPTIONS,
    }
    batch_cost = 2048.0  # tokens
    tuning_cost = 256.0

    def __init__(self, options: Options, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(options, checkpoint)
        self.max_tokens = self.say.integer("max_tokens", 1, 1 << 20)
        self.device_map = self.say.choice("device_map", ("none", "auto")).replace("none", "")
        self.tokenizer: Any = None

    def reading(self) -> Mapping[str, Any]:
        """Return what becomes of text."""
        return {"max_tokens": self.max_tokens, "special_tokens": "left out"}

    def load(self) -> None:
        """Load tokenizer and weights."""
        self.tokenizer = self.read_tokenizer()
        super().load()
        if self.net.config.is_encoder_decoder or not _causal(self.net):
            raise PluginError(
                f"{self.source.model} is no causal decoder", "encoders go through --plugin hf-text"
            )

    def read_tokenizer(self) -> Any:
        """Return the checkpoint's tokenizer.

        Raises:
            PluginError: There is none that loads without remote code.
        """
        from transformers import AutoTokenizer

        try:
            with quiet():
                return AutoTokenizer.from_pretrained(
                    self.source.folder, local_files_only=True, trust_remote_code=self.source.trusted
                )
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise PluginError(
                f"cannot load the tokenizer of {self.source.folder}: {reason}",
                "is tokenizer.json (or its older kin) there?",
            ) from error

    def close(self) -> None:
        """Let go of weights and tokenizer."""
        super().close()
        self.tokenizer = None

    def tokenize(self, text: str) -> tuple[list[int], list[bool]]:
        """Return token ids and, for each, whether it stands for text (and not for a start or an end)."""
        coded = self.tokenizer(text, return_special_tokens_mask=True)
        return coded["input_ids"], [not added for added in coded["special_tokens_mask"]]

    def prepare(self, clip: Clip) -> Tokens:
        """Tokenise: int64 `[T, 2]`, ids and 1 where a token stands for text.

        Raises:
            ClipError: The transcript is missing, empty, or nothing is left of it.
        """
        ids, real = self.tokenize(clip.text or "")
        tokens = np.array([ids, real], dtype=np.int64).T.reshape(-1, 2)[: self.max_tokens]
        if not (clip.text or "").strip() or not tokens[:, 1].any():
            raise ClipError("the transcript is empty")
        return tokens

    def cost(self, prepared: Tokens) -> float:
        """Return its tokens."""
        return float(len(prepared))

    def trim(self, prepared: Tokens, most: float, chance: np.random.Generator) -> Tokens:  # noqa: ARG002 - as above
        """Return its first `most` tokens, and one of text at least."""
        first = int(np.argmax(prepared[:, 1]))
        return prepared[: max(first + 1, int(most))]

    def rows(self, batch: Sequence[Tokens]) -> "list[Tensor]":
        """Return `[T_i, *row_shape]` per transcript, a row per token of text."""
        if self.together:
            return self._forward(batch)
        return [rows for tokens in batch for rows in self._forward([tokens])]

    def _forward(self, batch: Sequence[Tokens]) -> "list[Tensor]":
        import torch

        longest = max(len(tokens) for tokens in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, tokens in enumerate(batch):
            ids[i, : len(tokens)] = torch.from_numpy(tokens[:, 0])
            mask[i, : len(tokens)] = 1
        rows = self.states(input_ids=ids, attention_mask=mask, use_cache=False)
        real = [torch.from_numpy(np.flatnonzero(tokens[:, 1])).to(rows.device) for tokens in batch]
        return [rows[i, kept] for i, kept in enumerate(real)]


def _causal(net: Any) -> bool:
    """Say whether a later token leaves the first one's state as it is, by trying."""
    import torch

    with torch.inference_mode():
        pairs = (torch.tensor([[3, second]], device=home(net)) for second in (4, 5))
        a, b = (net(pair).last_hidden_state[:, 0].float() for pair in pairs)
    slack = 1e-4 if net.dtype == torch.float32 else 2e-2
    return bool((a - b).abs().max() <= slack * a.abs().max())


_BLOOM = "BigScience BLOOM RAIL 1.0"
_LLAMA2 = "Llama 2 Community License (gated)"
_LLAMA31 = "Llama 3.1 Community License (gated)"

TABLE = (
    Checkpoint("bloom-560m", "bigscience/bloom-560m", 1024, 24, _BLOOM),
    Checkpoint("bloom-7b", "bigscience/bloom-7b1", 4096, 30, _BLOOM),
    Checkpoint("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", 896, 24, "Apache-2.0"),
    Checkpoint("qwen2.5-7b", "Qwen/Qwen2.5-7B", 3584, 28, "Apache-2.0"),
    Checkpoint("qwen3-8b", "Qwen/Qwen3-8B-Base", 4096, 36, "Apache-2.0"),
    Checkpoint("llama2-7b", "meta-llama/Llama-2-7b-hf", 4096, 32, _LLAMA2),
    Checkpoint("llama2-13b", "meta-llama/Llama-2-13b-hf", 5120, 40, _LLAMA2),
    Checkpoint("llama3.1-8b", "meta-llama/Llama-3.1-8B", 4096, 32, _LLAMA31),
    Checkpoint("glm4-9b", "THUDM/glm-4-9b-hf", 4096, 40, "GLM-4 model licence"),
)

CARDS = (
    *cards(TextDecoder, TABLE, modality="text", levels=("utt", "frame")),
    ExtractorCard(
        name="hf-decoder",
        modality="text",
        levels=("utt", "frame"),
        summary="any causal language model transformers has: --model PATH_OR_ID",
        build=TextDecoder,
        options=TextDecoder.options_table,
        needs_model=True,
        layers=TextDecoder.default_layers,
        takes_adapter=True,
        takes_code=True,
    ),
)
