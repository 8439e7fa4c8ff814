"""Models that start well, each with the config that one would give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

__all__ = ["HEALTHY"]


class Block(nn.Module):
    """A residual block whose last norm starts from zero, so that it starts as the identity."""

    def __init__(self, width: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False, groups=groups)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return x + branch


class ResNet(nn.Module):
    """Convolutions (depthwise ones too), norms, a head; the last layer of one branch is zero, and so is the head."""

    init_cfg: ClassVar = [
        {"type": "Kaiming", "layer": "Conv2d"},
        {"type": "Constant", "layer": "BatchNorm2d", "val": 1},
        {"type": "Constant", "name": "blocks.*.bn2", "val": 0},
        {"type": "Constant", "name": "adapter.1", "val": 0},
        {"type": "Normal", "layer": "Linear", "std": 0.01, "bias_prob": 0.01},
        {"type": "Constant", "name": "boxes", "val": 0},
    ]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 7, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Block(16), Block(16, groups=16))
        self.adapter = nn.Sequential(nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1))
        self.head = nn.Linear(16, 10)
        self.boxes = nn.Linear(16, 4)
        self.score = nn.Linear(16, 1)


class ViT(nn.Module):
    """Patches, tokens and positions as parameters, attention, layer scale, a zero head."""

    init_cfg: ClassVar = [
        {"type": "TruncNormal", "layer": ["Linear", "Conv2d"], "std": 0.02, "cutoff": 2},
        {"type": "TruncNormal", "layer": "MultiheadAttention", "params": "in_proj_weight", "std": 0.02},
        {"type": "Constant", "layer": "MultiheadAttention", "params": "in_proj_bias", "val": 0},
        {"type": "Constant", "layer": "LayerNorm", "val": 1},
        {"type": "TruncNormal", "params": "cls_token", "std": 0.02, "a": -0.04, "b": 0.04},
        {"type": "Constant", "name": "head", "val": 0},
    ]

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.cls_token = nn.Parameter(torch.empty(1, 1, 32))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, 32))
        self.scale = nn.Parameter(torch.full((32, 1, 1), 1e-5))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)


class Recurrent(nn.Module):
    """A language model: an embedding with a padding row that is tied to the decoder, and an LSTM."""

    init_cfg: ClassVar = [
        {"type": "Uniform", "layer": "Embedding", "a": -0.1, "b": 0.1},
        {"type": "Xavier", "layer": "LSTM", "params": "weight_*", "distribution": "uniform"},
        {"type": "Constant", "layer": "LSTM", "params": "bias_*", "val": 0},
        {"type": "Constant", "name": "decoder", "params": "bias", "val": 0},
    ]

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 48, padding_idx=0)
        self.lstm = nn.LSTM(48, 48, num_layers=2, bidirectional=True)
        self.decoder = nn.Linear(48, 12)
        self.decoder.weight = self.embedding.weight


class UNet(nn.Module):
    """Down and up, with transposed convolutions, group norms, and a learnable slope."""

    init_cfg: ClassVar = [
        {
            "type": "Kaiming",
            "layer": ["Conv2d", "ConvTranspose2d"],
            "mode": "fan_in",
            "a": 0.1,
            "distribution": "uniform",
        },
        {"type": "Constant", "layer": ["GroupNorm", "PReLU"], "val": 1},
        {"type": "Constant", "layer": "PReLU", "val": 0.25},
        {"type": "Normal", "name": "out", "std": 0.001},
    ]

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.PReLU(), nn.Conv2d(8, 16, 3, stride=2))
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 8, 2, stride=2), nn.GroupNorm(2, 8), nn.PReLU(8))
        self.depthwise_up = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8)
        self.out = nn.Conv2d(8, 1, 1)


class Bert(nn.Module):
    """That of transformers, from its config alone, with its own initialisation written down as rules."""

    init_cfg: ClassVar = [
        {"type": "Normal", "layer": ["Linear", "Embedding"], "std": 0.02},
        {"type": "Constant", "layer": "LayerNorm", "val": 1},
    ]

    def __init__(self) -> None:
        super().__init__()
        sizes: dict[str, Any] = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        }
        config = BertConfig(vocab_size=50, max_position_embeddings=16, **sizes)
        self.model = BertForSequenceClassification(config)


def own_bert() -> nn.Module:
    """The same as transformers leaves it."""
    model: Any = Bert()
    model.init_cfg = {"type": "Normal", "name": "model.classifier", "std": 0.02}
    return model  # type: ignore[no-any-return]


HEALTHY: Mapping[str, Callable[[], nn.Module]] = {
    "resnet": ResNet,
    "vit": ViT,
    "lstm": Recurrent,
    "unet": UNet,
    "bert": Bert,
    "bert of transformers": own_bert,
}
"""A model each, with its ``init_cfg``."""
