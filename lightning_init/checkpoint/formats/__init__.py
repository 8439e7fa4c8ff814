"""What files and folders hold: names and shapes at once, values one at a time."""
