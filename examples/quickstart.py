"""A small ConvNet reads handwritten digits, and every weight starts from where its config says.

Run it from any folder, as often as you like: ``make demo``, or ``python examples/quickstart.py``. It takes some
fifteen seconds on two CPU cores, fetches nothing, and writes to ``logs/`` in the folder that it is started from.

What happens, in the order of this file:

1. A network learns the digits 0 to 4, in one process. Its checkpoint is what the second network starts from.
2. A second network is to learn the digits 5 to 9. Its backbone comes from that checkpoint, its neck and head are new.
   All of this is declared in ``init_cfg``.
3. The plan says which rule writes which parameter. No weight has been touched at that point.
4. The network is trained by two processes. `InitWeightsCallback` initialises it in both, before the first step, and
   writes to the loggers what every parameter started from.
"""

# ruff: noqa: C408 - rules are written as dict(type=...), as in the configs of OpenMMLab

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import ClassVar

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

from lightning_init import InitWeightsCallback, Sequential, build_plan

LOGS = Path("logs")
CHECKPOINT = LOGS / "quickstart" / "digits_0_to_4.ckpt"

# The pictures are in memory already: worker processes would only slow this down.
warnings.filterwarnings("ignore", message=".*does not have many workers")
# Lightning 2.6 calls what torch 2.13 deprecates.
warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)


# --- The network -----------------------------------------------------------------------------------------------------


class DigitNet(L.LightningModule):
    """Tells five digits apart.

    Args:
        checkpoint: Where the backbone's weights come from; None to start it like the rest.
    """

    # Every Conv2d by Kaiming, every BatchNorm2d as the identity. The head starts small, and with a bias that makes it
    # answer "yes" for 1 picture in 5, which is how often each of the five digits occurs.
    init_cfg: ClassVar = [
        dict(type="Kaiming", layer="Conv2d", override=dict(name="head", type="Normal", std=0.01, bias_prob=0.2)),
        dict(type="Constant", layer="BatchNorm2d", val=1),
    ]

    def __init__(self, checkpoint: Path | None = None) -> None:
        super().__init__()
        # A part may carry rules of its own. The keys in the checkpoint are "backbone.0.weight" and so on; of those
        # below the prefix, each goes to the parameter (or the running mean of a BatchNorm2d) of that name. A
        # checkpoint beats the rules above, so the backbone's Conv2d layers are not filled by Kaiming first.
        pretrained = dict(type="Pretrained", checkpoint=checkpoint, prefix="backbone.") if checkpoint else None
        self.backbone = Sequential(*conv_block(1, 16), *conv_block(16, 32), nn.MaxPool2d(2), init_cfg=pretrained)
        self.neck = nn.Sequential(*conv_block(32, 32), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Linear(32 * 2 * 2, 5)
        self.accuracy = MulticlassAccuracy(num_classes=5)

    def forward(self, images: Tensor) -> Tensor:
        """One number per picture and digit: how much the picture looks like the digit."""
        logits: Tensor = self.head(self.neck(self.backbone(images)))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Five yes-or-no questions per picture."""
        images, labels = batch
        loss = F.binary_cross_entropy_with_logits(self(images), F.one_hot(labels, 5).float())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Counts what is right."""
        images, labels = batch
        self.accuracy.update(self(images), labels)

    def on_validation_epoch_end(self) -> None:
        """Counts over both processes together."""
        accuracy = self.accuracy.compute()
        self.accuracy.reset()
        self.log("accuracy", accuracy, sync_dist=True)
        self.print(f"accuracy after {self.global_step:3d} steps: {accuracy:.1%}")

    def on_train_start(self) -> None:
        """Shows that the processes start from the same weights."""
        print(f"rank {self.global_rank} starts from the weights {fingerprint(self)}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with a step that suits this size."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def conv_block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """A convolution that keeps the size of the picture, normalised and rectified."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def fingerprint(module: nn.Module) -> str:
    """Equal for equal weights, and for nothing else."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()[:16]


# --- The data --------------------------------------------------------------------------------------------------------


def digits(first: int) -> tuple[Dataset[tuple[Tensor, ...]], Dataset[tuple[Tensor, ...]]]:
    """Pictures of five digits from `first` on, 8 by 8 pixels, with labels 0 to 4; for training and for validation."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    chosen = torch.tensor(labels) - first
    five = (chosen >= 0) & (chosen < 5)
    train, validation = random_split(
        TensorDataset(images[five], chosen[five]), [0.7, 0.3], torch.Generator().manual_seed(0)
    )
    return train, validation


# --- The two trainings -----------------------------------------------------------------------------------------------


# DDP starts this script a second time for its second process. What is marked like this happens in the first one only.
@rank_zero_only
def pretrain() -> None:
    """Learns the digits 0 to 4 and leaves a checkpoint."""
    train, validation = digits(first=0)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=4,
        callbacks=[InitWeightsCallback(log=())],
        logger=False,
        num_sanity_val_steps=-1,  # the whole validation set before the first step: the accuracy to start from
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(DigitNet(), DataLoader(train, batch_size=32, shuffle=True), DataLoader(validation, batch_size=64))
    trainer.save_checkpoint(CHECKPOINT, weights_only=True)


@rank_zero_only
def say(text: object) -> None:
    """Prints once."""
    print(text, flush=True)


def main() -> None:
    """Runs the whole example."""
    L.seed_everything(0, verbose=False)

    say("\n=== 1. Pretraining on the digits 0 to 4\n")
    pretrain()

    say("\n=== 2. The plan for the digits 5 to 9: which rule writes which parameter\n")
    net = DigitNet(checkpoint=CHECKPOINT)
    say(build_plan(net))

    say("\n=== 3. Training with two processes\n")
    train, validation = digits(first=5)
    csv = CSVLogger(LOGS, name="quickstart")
    tensorboard = TensorBoardLogger(LOGS, name="quickstart", version=csv.version)
    trainer = L.Trainer(
        strategy="ddp",
        accelerator="cpu",
        devices=2,
        max_epochs=3,
        callbacks=[InitWeightsCallback()],
        logger=[csv, tensorboard],
        log_every_n_steps=5,
        num_sanity_val_steps=-1,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(net, DataLoader(train, batch_size=32, shuffle=True), DataLoader(validation, batch_size=64))

    say(f"""
=== 4. Where to look

{Path(csv.log_dir).resolve()}
  init_stats.csv  what every parameter started from, as a table
  metrics.csv     loss and accuracy, and the totals of the initialisation at step 0
  events.out.*    the same for TensorBoard: tensorboard --logdir {LOGS.resolve()}
                  (tab "Text": the table; tab "Scalars": init/<parameter>/<statistic>)
""")


if __name__ == "__main__":
    main()
