"""`headrace bench`: our figures, each measured beside its peer's in one run on one machine."""
