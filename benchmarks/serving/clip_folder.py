"""An open_clip CLIP written as the Hugging Face folder that Infinity loads: the same weights for both servers.

Names and layouts follow ``transformers``' CLIPModel: query, key and value apart, projections transposed. Written as
plain JSON and safetensors, so nothing here depends on a version of transformers.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import bytes_to_unicode, default_bpe
from safetensors.torch import save_file

from sightline.encoder.checkpoint import Checkpoint
from sightline.images import PixelSpec

_NUM_MERGES = 49152 - 256 - 2
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
_BLOCK_NAMES = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip

Weights = dict[str, torch.Tensor]


def write_clip_folder(folder: Path, checkpoint: Checkpoint) -> None:
    """Write weights, configuration, tokenizer and preprocessing. Raises ValueError for a tower that is no plain ViT."""
    config, model = checkpoint.model_cfg, checkpoint.model
    if "timm_model_name" in config["vision_cfg"] or "hf_tokenizer_name" in config["text_cfg"]:
        raise ValueError(f"{checkpoint.name} is not a CLIP with open_clip's own towers; take ViT-B-32 or ViT-L-14.")
    folder.mkdir(parents=True, exist_ok=True)
    state: Weights = {name: tensor.detach().cpu().float() for name, tensor in model.state_dict().items()}
    weights = {name: tensor.contiguous() for name, tensor in _renamed(state).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", _config(config, state))
    _write_json(folder / "preprocessor_config.json", _preprocessing(checkpoint.pixels))
    _write_tokenizer(folder, config["text_cfg"].get("context_length", 77))


def _renamed(state: Weights) -> Weights:
    renamed: Weights = {
        "logit_scale": state["logit_scale"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_projection.weight": state["text_projection"].T,
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "visual_projection.weight": state["visual.proj"].T,
    }
    norms = {
        "ln_final": "text_model.final_layer_norm",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
    }
    for ours, theirs in norms.items():
        for kind in ("weight", "bias"):
            renamed[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
    for ours, theirs in (("transformer.resblocks", "text_model"), ("visual.transformer.resblocks", "vision_model")):
        renamed.update(_renamed_blocks(state, ours, f"{theirs}.encoder.layers"))
    return renamed


def _renamed_blocks(state: Weights, ours: str, theirs: str) -> Weights:
    renamed: Weights = {}
    for number in range(_num_layers(state, ours)):
        for kind in ("weight", "bias"):
            for name, other in _BLOCK_NAMES.items():
                renamed[f"{theirs}.{number}.{other}.{kind}"] = state[f"{ours}.{number}.{name}.{kind}"]
            together = state[f"{ours}.{number}.attn.in_proj_{kind}"]  # [3 W, W] or [3 W]
            for part, name in zip(together.chunk(3), ("q_proj", "k_proj", "v_proj"), strict=True):
                renamed[f"{theirs}.{number}.self_attn.{name}.{kind}"] = part.clone()
    return renamed


def _num_layers(state: Weights, blocks: str) -> int:
    return len({name[len(blocks) + 1 :].split(".")[0] for name in state if name.startswith(blocks + ".")})


def _config(config: dict[str, Any], state: Weights) -> dict[str, Any]:
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    vision, text = config["vision_cfg"], config["text_cfg"]
    width, text_width = state["visual.conv1.weight"].shape[0], state["token_embedding.weight"].shape[1]
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config["embed_dim"],
        "logit_scale_init_value": float(state["logit_scale"]),
        "torch_dtype": "float32",
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": width,
            "intermediate_size": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": vision["layers"], "num_attention_heads": width // vision.get("head_width", 64),
            "image_size": vision["image_size"], "patch_size": vision["patch_size"],
            "hidden_act": activation, "layer_norm_eps": 1e-5, "projection_dim": config["embed_dim"],
        },
        "text_config": {
            "model_type": "clip_text_model", "hidden_size": text_width,
            "intermediate_size": state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": text["layers"], "num_attention_heads": text["heads"],
            "vocab_size": text["vocab_size"], "max_position_embeddings": text.get("context_length", 77),
            "hidden_act": activation, "layer_norm_eps": 1e-5, "projection_dim": config["embed_dim"],
            "bos_token_id": text["vocab_size"] - 2, "eos_token_id": text["vocab_size"] - 1,
            "pad_token_id": text["vocab_size"] - 1,
        },
    }  # fmt: skip


def _preprocessing(pixels: PixelSpec) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor", "feature_extractor_type": "CLIPFeatureExtractor",
        "processor_class": "CLIPProcessor", "do_convert_rgb": True,
        "do_resize": True, "size": {"shortest_edge": pixels.height_px}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": pixels.height_px, "width": pixels.width_px},
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(pixels.mean), "image_std": list(pixels.std),
    }  # fmt: skip


def _write_tokenizer(folder: Path, context_length: int) -> None:
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : _NUM_MERGES + 1]
    letters = list(bytes_to_unicode().values())
    words = letters + [letter + "</w>" for letter in letters] + ["".join(merge.split()) for merge in merges]
    vocabulary = {word: number for number, word in enumerate([*words, _BEGIN, _END])}
    _write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    special = {"bos_token": _BEGIN, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    _write_json(folder / "special_tokens_map.json", special)
    described = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", {**described, **special})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
