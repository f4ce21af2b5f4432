"""Training on one GPU: pairs per second and how much of its arithmetic is used, beside open_clip's own trainer."""
