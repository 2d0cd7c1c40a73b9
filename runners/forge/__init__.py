"""Made LTX-2.3 checkpoints: the official files, or tensors straight on a device, from a preset and a seed."""
