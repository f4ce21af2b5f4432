"""Published shapes of contrastive training, tried on a small drawn world where every answer is known."""
