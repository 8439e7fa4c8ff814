"""`InitWeightsCallback`: the initialisation at its place in a Trainer's run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import callbacks
from lightning.pytorch.utilities import rank_zero_info

from lightning_init import distributed, empty_init, fsdp
from lightning_init.arguments import LABEL, checked
from lightning_init.carried import is_initialised
from lightning_init.config import InitCfg, plain
from lightning_init.engine import execute
from lightning_init.errors import CheckpointError, InitConfigError, InitError
from lightning_init.hooks import arm, configured, disarm, spare_meta
from lightning_init.loggers import log_report, show
from lightning_init.materialize import has_meta
from lightning_init.planning import check_configs
from lightning_init.probing import probe_run
from lightning_init.report import InitReport
from lightning_init.settings import RngDevice, Settings, Sync
from lightning_init.strategies import check_strategy
from lightning_init.tree import Tree
from lightning_init.wrappers import class_name

__all__ = ["InitWeightsCallback"]


class InitWeightsCallback(callbacks.Callback):
    """Initialises the LightningModule at the start of ``fit``, and logs what every layer started from.

    It runs right after ``configure_model``: the layers of ``__init__``, ``setup`` and ``configure_model`` exist, and
    neither a checkpoint is restored, nor an optimizer made, nor the module wrapped for DDP or FSDP. Under
    ``ModelParallelStrategy``, and where FSDP wraps parts in ``configure_model``, the module is sharded by then, and
    each rank fills its share. A model on ``meta`` under FSDP gets storage when it is wrapped, unit by unit, and weights
    right after that, before a checkpoint is restored. A resumed run keeps the
    restored weights. A module is initialised once; a second ``fit`` and ``validate``, ``test`` and ``predict`` leave
    it alone, and so does ``is_init = True`` on it.

    Args:
        init_cfg: A rule or a list of rules, in place of the module's own ``init_cfg``; those of inner modules stand.
        seed: The seed of the random streams. By default that of ``seed_everything`` if it was called, else one draw
            from torch's default generator on rank zero.
        rng_device: ``"auto"`` draws on a parameter's device, ``"cpu"`` gives the same bits on every kind of device.
        strict: A rule without a match, and whatever else would be a warning, is an error.
        require_all: A parameter that nothing wrote, or a checkpoint key that nothing took, is an error.
        sync: ``"rank_zero_first"`` lets every rank read a checkpoint, rank zero before the others; with
            ``"broadcast"`` rank zero alone reads, and the others receive.
        log: What rank zero writes to the loggers and, for ``"table"``, to the console: some of ``"table"``,
            ``"scalars"``, ``"figure"``, ``"histograms"``, ``"artifact"``; ``()`` for nothing. The README has a table of
            what each logger shows.
        probe: What goes through the module at the start of training, once forward and backward, to measure the signal
            by depth: ``"example_input_array"``, ``"train_dataloader"`` (a first batch of it, which the training
            does not miss), or a batch like those of the train dataloader. Nothing is changed by it.
        threads: How many threads draw numbers and take statistics on the CPU, by default as many as torch may use
            (`torch.get_num_threads`); the numbers do not depend on it.

    Attributes:
        report: What every parameter of the module in the last ``fit`` started from; on every rank, and measured at the
            start of training whatever ``log`` says. None before a ``fit``, for a module whose weights come from
            elsewhere (a resumed run, ``is_init``), and in the main process of a launcher that trains in others
            (``ddp_spawn``, ``ddp_fork``, ``ddp_notebook``).

    Raises:
        InitConfigError: Arguments or rules that cannot be meant.
    """

    def __init__(  # noqa: PLR0913 - each is a choice of its own, given by name
        self,
        init_cfg: InitCfg = None,
        *,
        seed: int | None = None,
        rng_device: RngDevice = "auto",
        strict: bool = False,
        require_all: bool = False,
        sync: Sync = "rank_zero_first",
        log: str | Sequence[str] = ("table", "scalars"),
        probe: Any = None,
        threads: int | None = None,
    ) -> None:
        # Not `log`: the Trainer puts the method of that name on every callback.
        self.settings, self.contents = checked(
            partial(Settings, seed, rng_device, strict, require_all, sync, threads), init_cfg, log, probe
        )
        self.probe = probe
        empty_init.mark(self)
        self.init_cfg = plain(init_cfg)
        self.report: InitReport | None = None
        self._restored = False
        self._unlogged = False
        self._held: InitError | None = None
        self._waits = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Checks the configs, and arranges for the initialisation to follow ``configure_model``."""
        if stage != "fit":
            return
        # Again, for one that was copied or sent to this process.
        empty_init.mark(self)
        # First in line, so that the callbacks that search a batch size or learning rate, and restore a checkpoint of
        # their own after it, do so behind our `on_fit_start`.
        trainer.callbacks = sorted(_callbacks(trainer), key=lambda other: other is not self)  # type: ignore[attr-defined]
        self._restored, self._held, self._waits = False, None, False
        if self.report is None or not self.report.is_of(pl_module):
            self.report, self._unlogged = None, False
        if is_initialised(pl_module):
            distributed.together("nothing, since is_init is True", lambda: None)
            rank_zero_info(f"{class_name(pl_module)} is initialised already (is_init is True): its weights are kept")
            return
        distributed.together("the check of the configs", partial(self._check, trainer, pl_module))
        fsdp.prepare(trainer.strategy)
        arm(pl_module, "setup", _after_setup)

    def on_load_checkpoint(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Learns that the run is a resumed one."""
        self._restored = True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Initialises what has storage only now; raises what was wrong with a checkpoint, unless the run is resumed."""
        if self._waits:
            self._waits = False
            distributed.together("the look at what FSDP has wrapped", partial(fsdp.refuse_meta, pl_module))
            self._initialise(trainer, pl_module)
        fsdp.release(trainer.strategy)
        if trainer.strategy.restore_checkpoint_after_setup:
            # The run is restored behind this hook of all callbacks, some of which restore checkpoints of their own.
            arm(pl_module, "on_fit_start", _after_on_fit_start)
        else:
            self._settle(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the report's statistics on every rank, and logs it on rank zero."""
        if trainer.strategy.restore_checkpoint_after_setup:
            self._settle(pl_module)
        if self.report is None or not self._unlogged:
            return
        self._unlogged = False
        if self.probe is not None:
            self.report.signal, self.report.probe_error = probe_run(trainer, pl_module, self.probe)
        distributed.together("the log", partial(self._measure_and_log, self.report, trainer, pl_module))

    def _settle(self, pl_module: pl.LightningModule) -> None:
        """What follows from the run being a resumed one, or a new one."""
        if self._restored:
            rank_zero_info("The run is resumed: the restored weights stand, whatever the init_cfg says")
            pl_module.is_init = True  # type: ignore[assignment]  # a plain attribute
            if self._unlogged:
                self.report, self._unlogged = None, False
            self._held = None
        if self._held is not None:
            raise self._held

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leaves no trace on the module, and no error behind another."""
        self._leave(trainer, pl_module)
        if isinstance(exception, InitError) and has_meta(Tree(pl_module)):
            # The strategy's teardown moves the module to the CPU, whose error would be told in place of ours.
            spare_meta(pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leaves no trace on the module."""
        self._leave(trainer, pl_module)

    def _leave(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        disarm(pl_module)
        fsdp.release(trainer.strategy)

    def forget_searches(self) -> None:
        """What was restored up to now was restored by the search of another callback: the run may yet be a new one."""
        self._restored = False

    def initialise(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Initialises the module, once; a checkpoint's error is held until the run is known to be new.

        What FSDP has yet to give storage to waits for `on_fit_start`.

        Raises:
            InitError: Everything that `lightning_init.init_weights` raises, except a `CheckpointError`.
        """
        self._waits = fsdp.gets_storage_later(trainer.strategy, pl_module)
        if not self._waits:
            self._initialise(trainer, pl_module)

    def _initialise(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # It may differ between processes, as `seed_everything(seed + rank)` makes it.
        everything = distributed.from_rank_zero("the seed of seed_everything", _seed_everything)
        seed = self.settings.seed if self.settings.seed is not None else everything
        # The flat parameters of FSDP hang on its wrapper.
        module, storage = trainer.strategy.model or pl_module, fsdp.storage(trainer.strategy, pl_module)
        storage.blank = storage.blank | empty_init.unset(module)
        try:
            self.report = execute(
                module,
                replace(self.settings, seed=seed),
                init_cfg=self.init_cfg,
                label=LABEL,
                storage=storage,
                tell=rank_zero_info,
            )
        except InitError as error:
            if not (isinstance(error, CheckpointError) or storage.may_be_restored(Tree(module), error)):
                raise
            self._held = error
            # A restore, and the strategy, need storage.
            storage.for_restore(module)
        else:
            self._unlogged = True
        for callback in _callbacks(trainer):
            if _copies_weights(callback):
                # Its copy, if it made one already, is of before, and a restore needs all layers in an average.
                with configured(pl_module):
                    callback.setup(trainer, pl_module, "fit")

    def _measure_and_log(self, report: InitReport, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        report.measure(
            trainer.strategy.model,
            histograms="histograms" in self.contents,
            compare_ranks=True,
            threads=self.settings.threads,
        )
        if distributed.rank() != 0:
            return
        if self.contents:
            log_report(report, trainer.loggers, self.contents)
        if "table" in self.contents:
            show(report)

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if len(_of(trainer)) > 1:
            raise InitConfigError(
                "a Trainer takes one InitWeightsCallback; give it a list of rules instead of a second"
            )
        check_strategy(trainer.strategy)
        check_configs(Tree(pl_module), self.init_cfg, LABEL)


def _seed_everything() -> int | None:
    """The seed that ``seed_everything`` left for the processes of the run."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return None if seed is None else int(seed)


def _callbacks(trainer: pl.Trainer) -> list[callbacks.Callback]:
    found: list[callbacks.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by the Trainer's connector
    return found


def _of(trainer: pl.Trainer) -> list[InitWeightsCallback]:
    return [callback for callback in _callbacks(trainer) if isinstance(callback, InitWeightsCallback)]


def _copies_weights(callback: callbacks.Callback) -> bool:
    """In its ``setup`` it copies weights: to average them, or to prune and go back to them (the lottery ticket)."""
    # Lightning has the former since 2.6.
    averaging = getattr(callbacks, "WeightAveraging", callbacks.ModelPruning)
    return isinstance(callback, (averaging, callbacks.ModelPruning))


# `configure_model` is armed only after `setup`, because `WeightAveraging.setup` calls it before the module has made its
# layers.


def _after_setup(pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
    distributed.together("LightningModule.setup", partial(pl_module.setup, *args, **kwargs))
    arm(pl_module, "configure_model", _after_configure_model)


def _after_configure_model(pl_module: pl.LightningModule) -> None:
    distributed.together("LightningModule.configure_model", pl_module.configure_model)
    for callback in _of(pl_module.trainer):
        callback.initialise(pl_module.trainer, pl_module)


def _after_on_fit_start(pl_module: pl.LightningModule) -> None:
    pl_module.on_fit_start()
    for callback in _of(pl_module.trainer):
        callback.forget_searches()
