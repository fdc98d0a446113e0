"""Full training of the Transformer from a recorded past; `fine_tuning.py` is what goes on from there, event by event."""
