"""Where bytes come from: from what a user wrote to a file or folder on this machine."""
