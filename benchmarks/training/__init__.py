"""What training claims, as commands: beside open_clip's own trainer, on a drawn world, and what single parts cost."""
