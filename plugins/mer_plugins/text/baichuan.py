"""Baichuan and Baichuan 2, 7B and 13B, without the remote code they are published with.

The network is `mer_plugins.text.baichuan_net`. The tokenizer is the published sentencepiece model as it is,
with its own normalisation and prefix, which a converted tokenizer would not keep. Rows are as for other
decoders. The 13B models take 26 GB in half precision: `--option precision=bfloat16`, and
`--option device_map=auto` where one GPU is too small.
"""

from typing import Any

from mer_plugins.checkpoints import Checkpoint
from mer_plugins.errors import PluginError
from mer_plugins.text.decoder import TextDecoder
from mer_plugins.transformer import adapted_cards, cards


class Baichuan(TextDecoder):
    """Rows of a Baichuan decoder's hidden layers, one per token."""

    kinds = ("baichuan",)

    def architecture(self) -> Any:
        """Return this package's own class."""
        from mer_plugins.text.baichuan_net import BaichuanModel

        return BaichuanModel

    def read_tokenizer(self) -> Any:
        """Return the sentencepiece model `tokenizer.model`.

        Raises:
            PluginError: There is none, or it is damaged.
        """
        import sentencepiece

        file = self.source.folder / "tokenizer.model"
        if not file.is_file():
            raise PluginError(f"{self.source.folder} has no tokenizer.model", "is the checkpoint whole?")
        try:
            return sentencepiece.SentencePieceProcessor(model_file=str(file))
        except RuntimeError as error:
            raise PluginError(f"{file} is no sentencepiece model", "get the file anew") from error

    def tokenize(self, text: str) -> tuple[list[int], list[bool]]:
        """Return token ids; a start is put before them only where `tokenizer_config.json` says so."""
        ids = list(self.tokenizer.encode(text))
        real = [not self.tokenizer.is_control(token) for token in ids]
        if self._starts():
            return [self.tokenizer.bos_id(), *ids], [False, *real]
        return ids, real

    def _starts(self) -> bool:
        name = "tokenizer_config.json"
        facts = self.source.json(name) if (self.source.folder / name).is_file() else {}
        return bool(facts.get("add_bos_token", False))


_FIRST = "Baichuan model community licence (commercial use on application)"
_SECOND = "Baichuan 2 model community licence (commercial use on application)"

TABLE = (
    Checkpoint("baichuan-7b", "baichuan-inc/Baichuan-7B", 4096, 32, _FIRST),
    Checkpoint("baichuan-13b", "baichuan-inc/Baichuan-13B-Base", 5120, 40, _FIRST),
    Checkpoint("baichuan2-7b", "baichuan-inc/Baichuan2-7B-Base", 4096, 32, _SECOND),
    Checkpoint("baichuan2-13b", "baichuan-inc/Baichuan2-13B-Base", 5120, 40, _SECOND),
)

_FACTS: dict[str, Any] = {
    "modality": "text",
    "levels": ("utt", "frame"),
    "requires": ("sentencepiece",),
    "install": "pip install 'mer-fs[text]'",
}
CARDS = (*cards(Baichuan, TABLE, **_FACTS), *adapted_cards(Baichuan, TABLE, "baichuan-13b", **_FACTS))
