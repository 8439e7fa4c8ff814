"""What keys are called, and what goes where."""
