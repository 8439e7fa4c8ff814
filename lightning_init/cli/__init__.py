"""The command line: ``lightning-init plan``, ``inspect`` and ``diff``."""
