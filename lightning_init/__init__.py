"""Weight initialisation for PyTorch Lightning: declared, exact, the same on every rank, and visible."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.config import InitCfg
from lightning_init.engine import init_weights, initialize
from lightning_init.errors import CheckpointError, InitConfigError, InitError, InitWarning, RankError
from lightning_init.functional import (
    bias_init_with_prob,
    caffe2_xavier_init,
    constant_init,
    kaiming_init,
    normal_init,
    trunc_normal_init,
    uniform_init,
    xavier_init,
)
from lightning_init.initializers.base import INITIALIZERS, Initializer, LawInitializer, TensorInitializer
from lightning_init.initializers.constant import ConstantInit
from lightning_init.initializers.dirac import DiracInit
from lightning_init.initializers.normal import NormalInit, TruncNormalInit
from lightning_init.initializers.orthogonal import OrthogonalInit
from lightning_init.initializers.residual import DepthScaledInit, ZeroLastInit
from lightning_init.initializers.scaling import HeInit, LeCunInit, VarianceScalingInit
from lightning_init.initializers.uniform import UniformInit
from lightning_init.initializers.variance import Caffe2XavierInit, KaimingInit, XavierInit
from lightning_init.lazily import lazily
from lightning_init.modules import BaseModule, ModuleDict, ModuleList, Sequential
from lightning_init.plan import InitPlan
from lightning_init.planning import build_plan
from lightning_init.report import InitReport
from lightning_init.skipping import skip_default_init

if TYPE_CHECKING:
    from lightning_init.callback import InitWeightsCallback
    from lightning_init.metrics import WeightStatistics

__all__ = [
    "INITIALIZERS",
    "BaseModule",
    "Caffe2XavierInit",
    "CheckpointError",
    "ConstantInit",
    "DepthScaledInit",
    "DiracInit",
    "HeInit",
    "InitCfg",
    "InitConfigError",
    "InitError",
    "InitPlan",
    "InitReport",
    "InitWarning",
    "InitWeightsCallback",
    "Initializer",
    "KaimingInit",
    "LawInitializer",
    "LeCunInit",
    "ModuleDict",
    "ModuleList",
    "NormalInit",
    "OrthogonalInit",
    "PretrainedInit",
    "RankError",
    "Sequential",
    "TensorInitializer",
    "TruncNormalInit",
    "UniformInit",
    "VarianceScalingInit",
    "WeightStatistics",
    "XavierInit",
    "ZeroLastInit",
    "__version__",
    "bias_init_with_prob",
    "build_plan",
    "caffe2_xavier_init",
    "constant_init",
    "init_weights",
    "initialize",
    "kaiming_init",
    "normal_init",
    "skip_default_init",
    "trunc_normal_init",
    "uniform_init",
    "xavier_init",
]

# Lightning and torchmetrics take seconds to import, and plain PyTorch and the command line need neither.
__getattr__ = lazily(
    __name__,
    {
        "InitWeightsCallback": ("lightning_init.callback", "lightning.pytorch"),
        "WeightStatistics": ("lightning_init.metrics", "torchmetrics"),
    },
)

__dir__ = __all__.copy

__version__ = version("lightning-init")
