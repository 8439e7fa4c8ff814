"""A report in Lightning's loggers and on the console."""

from lightning_init.loggers.console import show
from lightning_init.loggers.dispatch import log_report
from lightning_init.loggers.material import CONTENTS, Content

__all__ = ["CONTENTS", "Content", "log_report", "show"]
