"""Smaller models: quantization, pruning, distillation and their combinations, as files that are loaded and served like any weights."""
