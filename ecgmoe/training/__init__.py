"""Training on Ray Train and DeepSpeed: the epoch plan, the loader, the loop, checkpoints and tracking."""
