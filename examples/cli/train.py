"""A classifier of handwritten digits under LightningCLI, with its initialisation in a YAML file.

Run it from any folder, with one process or with two; it takes some ten seconds, fetches nothing, and writes to
``logs/`` in the folder that it is started from:

    python examples/cli/train.py fit --config examples/cli/config.yaml
    python examples/cli/train.py fit --config examples/cli/config.yaml --trainer.strategy ddp --trainer.devices 2

``init.yaml`` says how the weights start, ``config.yaml`` everything else. The same ``init.yaml`` can be looked at, or
guarded in CI, without a Trainer and without memory for the weights:

    lightning-init plan examples/cli/train.py:LitNet --init_cfg examples/cli/init.yaml --strict --require_all
"""

from __future__ import annotations

import warnings

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

from lightning_init import InitCfg


class Residual(nn.Module):
    """A hidden layer with a way around it.

    Args:
        width: Of its input and its output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, given: Tensor) -> Tensor:
        """What comes in, and what the layer adds to it."""
        added: Tensor = self.down(F.relu(self.up(self.norm(given))))
        return given + added


class LitNet(L.LightningModule):
    """Tells ten digits apart.

    Args:
        width: How many features the hidden layers have.
        depth: How many hidden layers there are.
        lr: The learning rate.
        init_cfg: How the weights start: a rule or a list of rules.
    """

    def __init__(self, width: int = 64, depth: int = 3, lr: float = 2e-3, init_cfg: InitCfg = None) -> None:
        super().__init__()
        self.lr = lr
        self.init_cfg = init_cfg
        self.stem = nn.Linear(64, width)
        self.blocks = nn.Sequential(*[Residual(width) for _ in range(depth)])
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """One number per picture and digit: how much the picture looks like the digit."""
        logits: Tensor = self.head(self.blocks(self.stem(images)))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """The loss and the accuracy of a batch."""
        images, labels = batch
        logits = self(images)
        self.log("val_loss", F.cross_entropy(logits, labels), sync_dist=True)
        self.log("val_accuracy", (logits.argmax(1) == labels).float().mean(), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Tells how far it is; before the first step, the loss of a fair guess is log(10) = 2.303."""
        told = self.trainer.callback_metrics
        self.print(f"step {self.global_step:3d}: loss {told['val_loss']:.3f}, accuracy {told['val_accuracy']:.1%}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Digits(L.LightningDataModule):
    """The handwritten digits that come with scikit-learn, 8 by 8 pixels.

    Args:
        batch_size: How many pictures a batch has, in each process.
    """

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:  # noqa: ARG002  # Lightning fixes the signature
        """Reads the pictures, and keeps three of ten for validation."""
        pixels, labels = load_digits(return_X_y=True)
        everything = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels))
        self.train: Dataset[tuple[Tensor, ...]]
        self.validation: Dataset[tuple[Tensor, ...]]
        self.train, self.validation = random_split(everything, [0.7, 0.3], torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The pictures to learn from."""
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The others."""
        return DataLoader(self.validation, 256)


if __name__ == "__main__":
    # The pictures are in memory already: worker processes would only slow this down.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    # Lightning 2.6 calls what torch 2.13 and jsonargparse 4.53 deprecate.
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
    LightningCLI(LitNet, Digits, save_config_kwargs={"overwrite": True})
