"""Tiny checkpoints with random weights in the published layouts, made on the spot."""

import json
from pathlib import Path
from typing import Any

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "i", "am", "so", "happy", "today", "!", "no", "was", "ist", "denn", "?", *"我很高兴a"]


def whisper(folder: Path, **changes: Any) -> Path:
    """Save a whole Whisper (encoder and decoder) of two blocks, 8 wide, that hears 2 s."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes: dict[str, Any] = {
        "d_model": 8,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "num_mel_bins": 16,
        "max_source_positions": 100,
        "vocab_size": 32,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    torch.manual_seed(0)
    save(WhisperForConditionalGeneration(WhisperConfig(**sizes | changes)), folder)
    return folder


def bert(folder: Path, **changes: Any) -> Path:
    """Save a BERT of three blocks, 8 wide, with a tokenizer of a few words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
        "vocab_size": len(WORDS),
    }
    torch.manual_seed(0)
    save(BertForMaskedLM(BertConfig(**sizes | changes)), folder)
    vocabulary = {word: k for k, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def face_expression(folder: Path) -> Path:
    """Save a face-expression net of random weights."""
    import torch
    from safetensors.torch import save_file

    from mer_plugins.video.face_expression_net import FaceExpressionNet

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(FaceExpressionNet().state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "face-expression"}))
    return folder


def save(model: Any, folder: Path) -> None:
    """Save a transformers model, saying nothing."""
    from mer_plugins.checkpoints import quiet

    with quiet():
        model.save_pretrained(folder)
