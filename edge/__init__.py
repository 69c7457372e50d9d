"""edge: the recorder that never loses a sample."""
