"""Where values from files come from, what their keys mean, and what goes where."""

__all__ = []
