"""Captions and images in, an encoder bundle out: recipes, the loop, evaluation and the drawn world."""
