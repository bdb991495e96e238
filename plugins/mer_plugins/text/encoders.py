"""Named encoders for `mer_plugins.text.hf_text`: BERT, RoBERTa, MacBERT, BGE; English and Chinese."""

from mer_plugins.checkpoints import Checkpoint
from mer_plugins.text.hf_text import TextEncoder
from mer_plugins.transformer import cards

_APACHE, _MIT = "Apache-2.0", "MIT"

TABLE = (
    Checkpoint("minilm", "sentence-transformers/all-MiniLM-L6-v2", 384, 6, _APACHE),
    Checkpoint("bert-base", "google-bert/bert-base-uncased", 768, 12, _APACHE),
    Checkpoint("roberta-base", "FacebookAI/roberta-base", 768, 12, _MIT),
    Checkpoint("roberta-large", "FacebookAI/roberta-large", 1024, 24, _MIT),
    Checkpoint("xlm-roberta-large", "FacebookAI/xlm-roberta-large", 1024, 24, _MIT),
    Checkpoint("bge-base-en", "BAAI/bge-base-en-v1.5", 768, 12, _MIT),
    Checkpoint("bge-large-zh", "BAAI/bge-large-zh-v1.5", 1024, 24, _MIT),
    Checkpoint("bge-m3", "BAAI/bge-m3", 1024, 24, _MIT),
    Checkpoint("chinese-roberta-base", "hfl/chinese-roberta-wwm-ext", 768, 12, _APACHE),
    Checkpoint("chinese-roberta-large", "hfl/chinese-roberta-wwm-ext-large", 1024, 24, _APACHE),
    Checkpoint("chinese-macbert-base", "hfl/chinese-macbert-base", 768, 12, _APACHE),
    Checkpoint("chinese-macbert-large", "hfl/chinese-macbert-large", 1024, 24, _APACHE),
)

CARDS = cards(TextEncoder, TABLE, modality="text", levels=("utt", "frame"))
