"""Tiny checkpoints of every family, of the true configuration classes, saved as published ones are."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS = 330  # tokens of the tiny vocabularies
VOCABULARY = ["the", "cat", "sat", "on", "a", "mat", "i", "am", "so", "happy", "today", "why", "not", "hello"]
_VIT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
_DECODER = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
}


def large_weights(net: torch.nn.Module) -> Any:
    """Make weights so large that every part of the network matters; return the network."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith("class_embedding"):
                weight.zero_()  # CLIP draws it from the global generator, which other tests have moved
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.15)
            else:
                weight.add_(torch.rand(weight.shape, generator=generator) * 0.2)
    return net.eval()


def speech(kind: str, *, norm: str = "group", head: str = "Model", **more: Any) -> Callable[[Path], None]:
    """Return a maker of a wav2vec2-like checkpoint with its feature extractor."""

    def make(folder: Path) -> None:
        import transformers

        sizes: dict[str, Any] = {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4,
            "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
        }  # fmt: skip
        stable = {"do_stable_layer_norm": True} if norm == "layer" and kind != "Data2VecAudio" else {}
        config = getattr(transformers, f"{kind}Config")(
            **(sizes | stable | {"feat_extract_norm": norm} | more)
        )
        net = getattr(transformers, kind + head)(config)
        large_weights(net).save_pretrained(folder)
        transformers.Wav2Vec2FeatureExtractor(do_normalize=norm == "layer").save_pretrained(folder)

    return make


def _processor(folder: Path, **facts: Any) -> None:
    base = {"do_resize": True, "do_normalize": True, "resample": 3, "do_rescale": True}
    base |= {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(base | facts))


def clip(folder: Path) -> None:
    """Save a whole CLIP, as OpenAI did, with its processor."""
    from transformers import CLIPConfig, CLIPModel

    text = {**_DECODER, "projection_dim": 24, "eos_token_id": 2, "bos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config=_VIT | {"projection_dim": 24}, projection_dim=24)
    large_weights(CLIPModel(config)).save_pretrained(folder)
    kind = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 28, "crop_size": 28}
    _processor(folder, **kind, do_center_crop=True)


def siglip(folder: Path) -> None:
    """Save a whole SigLIP with its processor."""
    from transformers import SiglipConfig, SiglipModel

    config = SiglipConfig(text_config=_DECODER, vision_config=_VIT)
    large_weights(SiglipModel(config)).save_pretrained(folder)
    _processor(folder, image_processor_type="SiglipImageProcessor", size={"height": 28, "width": 28})


def dinov2(folder: Path) -> None:
    """Save a DINOv2, whose processor cuts off a border, with its processor."""
    from transformers import Dinov2Config, Dinov2Model

    large_weights(Dinov2Model(Dinov2Config(**_VIT))).save_pretrained(folder)
    crop = {"crop_size": {"height": 28, "width": 28}, "do_center_crop": True}
    _processor(folder, image_processor_type="BitImageProcessor", size={"shortest_edge": 32}, **crop)


def vit(folder: Path) -> None:
    """Save a classifier on a plain vision transformer, with its processor."""
    from transformers import ViTConfig, ViTForImageClassification

    large_weights(ViTForImageClassification(ViTConfig(**_VIT))).save_pretrained(folder)
    _processor(folder, image_processor_type="ViTImageProcessor", size={"height": 28, "width": 28})


def videomae(folder: Path) -> None:
    """Save a VideoMAE with its pre-training head, as published, and its processor."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    decoder = {"decoder_num_hidden_layers": 1, "decoder_hidden_size": 16, "decoder_num_attention_heads": 2}
    config = VideoMAEConfig(**_VIT, **decoder, decoder_intermediate_size=16, num_frames=8, tubelet_size=2)
    large_weights(VideoMAEForPreTraining(config)).save_pretrained(folder)
    crop = {"crop_size": {"height": 28, "width": 28}, "do_center_crop": True}
    _processor(folder, image_processor_type="VideoMAEImageProcessor", size={"shortest_edge": 28}, **crop)


def tokenizer(folder: Path, kind: str) -> None:
    """Save a byte-pair tokenizer of one of transformers' classes; LLaMA's puts `<s>` in front."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS - 10, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([" ".join(VOCABULARY)] * 3, trainer)
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    if kind == "PreTrainedTokenizerFast":
        transformers.PreTrainedTokenizerFast(tokenizer_object=core, **named).save_pretrained(folder)
        return
    if kind == "LlamaTokenizer":
        pieces = [*special[:3], *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnop"]
        vocabulary, merges = {piece: i for i, piece in enumerate(pieces)}, []
        named["add_bos_token"] = True
    else:
        facts = json.loads(core.to_str())["model"]
        vocabulary, merges = facts["vocab"], [tuple(pair) for pair in facts["merges"]]
    getattr(transformers, kind)(vocab=vocabulary, merges=merges, **named).save_pretrained(folder)


def encoder(kind: str) -> Callable[[Path], None]:
    """Return a maker of a masked language model, as published: a head to leave out, no pooler."""

    def make(folder: Path) -> None:
        import transformers

        config = getattr(transformers, f"{kind}Config")(**_DECODER, pad_token_id=1)
        large_weights(getattr(transformers, f"{kind}ForMaskedLM")(config)).save_pretrained(folder)
        tokenizer(folder, "PreTrainedTokenizerFast")

    return make


def decoder(
    kind: str, tokens: str = "PreTrainedTokenizerFast", head: str = "ForCausalLM", **sizes: Any
) -> Callable[[Path], None]:
    """Return a maker of a causal language model with its head and a tokenizer."""

    def make(folder: Path) -> None:
        import transformers

        config = getattr(transformers, f"{kind}Config")(**(sizes or _DECODER))
        large_weights(getattr(transformers, kind + head)(config)).save_pretrained(folder)
        tokenizer(folder, tokens)

    return make


def sentencepiece_model(folder: Path) -> None:
    """Train and save a byte-pair `tokenizer.model`, as Baichuan's: byte fallback, no added prefix."""
    import sentencepiece

    lines = ["今天天气真好", "你为什么不高兴", " ".join(VOCABULARY), "so happy today", "the cat sat on a mat"]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 3), model_writer=out, vocab_size=340, model_type="bpe",
        byte_fallback=True, add_dummy_prefix=False, hard_vocab_limit=False, minloglevel=2,
        normalization_rule_name="identity",
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(out.getvalue())


def baichuan(*, rotary: bool, pickled: bool = False) -> Callable[[Path], None]:
    """Return a maker of a Baichuan checkpoint; `pickled` saves `pytorch_model-*.bin` shards."""

    def make(folder: Path) -> None:
        from mer_plugins.text.baichuan_net import BaichuanConfig, BaichuanForCausalLM

        config = BaichuanConfig(**(_DECODER | {"vocab_size": 340}), rotary=rotary)
        net = large_weights(BaichuanForCausalLM(config))
        net.save_pretrained(folder)
        (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
        sentencepiece_model(folder)
        if pickled:
            _as_pickled_shards(folder, net.state_dict())

    return make


def _as_pickled_shards(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    places: dict[str, str] = {}
    for part, chosen in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-0000{part}-of-00002.bin"
        torch.save({name: weights[name] for name in chosen}, folder / file)
        places |= dict.fromkeys(chosen, file)
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


MAKERS: dict[str, Callable[[Path], None]] = {
    "hubert-base": speech("Hubert"),
    "hubert-large": speech("Hubert", norm="layer"),
    "wav2vec2-base": speech("Wav2Vec2", head="ForCTC", vocab_size=32),
    "wav2vec2-large": speech("Wav2Vec2", norm="layer", head="ForPreTraining"),
    "wavlm-base": speech("WavLM"),
    "wavlm-large": speech("WavLM", norm="layer"),
    "data2vec-audio-base": speech(
        "Data2VecAudio", norm="layer", conv_pos_kernel_size=5, num_conv_pos_embeddings=3
    ),
    "hf-audio": speech("Wav2Vec2Conformer", norm="layer"),
    "clip-vit-large": clip,
    "siglip-base": siglip,
    "dinov2-base": dinov2,
    "hf-image": vit,
    "videomae-base": videomae,
    "roberta-large": encoder("Roberta"),
    "chinese-macbert-large": encoder("Bert"),
    "bloom-560m": decoder("Bloom", vocab_size=WORDS, hidden_size=32, n_layer=5, n_head=4),
    "qwen2.5-0.5b": decoder("Qwen2", "Qwen2Tokenizer", **_DECODER, num_key_value_heads=2),
    "llama2-7b": decoder("Llama", "LlamaTokenizer"),
    "glm4-9b": decoder("Glm", **_DECODER, num_key_value_heads=2, head_dim=8, pad_token_id=3),
    "hf-decoder": decoder(
        "GPT2", "GPT2Tokenizer", "LMHeadModel", vocab_size=WORDS, n_embd=32, n_layer=5, n_head=4
    ),
    "baichuan-13b": baichuan(rotary=False, pickled=True),
    "baichuan2-7b": baichuan(rotary=True),
}
