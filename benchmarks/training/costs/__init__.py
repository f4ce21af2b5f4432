"""What single parts of training cost: gradient caching, cached features of a locked tower, evaluation."""
