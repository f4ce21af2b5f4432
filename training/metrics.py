"""Old name of ``training.evaluation.retrieval``."""

from training.evaluation.retrieval import image_to_text, text_to_image
from training.evaluation.text_pairs import pairs_ranked_rightly

__all__ = ["image_to_text", "pairs_ranked_rightly", "text_to_image"]
