"""Fast forms of operations beside the reference forms that they equal."""
