"""The initializers: laws, how they fill tensors, and a file for each family."""
