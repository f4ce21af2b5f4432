"""How good an encoder is: measures over vectors, suites, and the report.

``evaluate`` encodes captioned pictures and measures everything; ``measure_vectors`` starts from vectors;
``text_to_image`` and ``image_to_text`` are single measures; ``report_page`` is the report for people.
"""

from training.evaluation.bootstrap import Bootstrap
from training.evaluation.labelled import Labelled, read_labelled
from training.evaluation.measure import evaluate, measure_vectors
from training.evaluation.page import Heading, report_page
from training.evaluation.report import Measured, Report
from training.evaluation.retrieval import Retrieval, image_to_text, text_to_image
from training.evaluation.text_pairs import pairs_ranked_rightly, read_pairs
from training.evaluation.zero_shot import read_classes

__all__ = [
    "Bootstrap",
    "Heading",
    "Labelled",
    "Measured",
    "Report",
    "Retrieval",
    "evaluate",
    "image_to_text",
    "measure_vectors",
    "pairs_ranked_rightly",
    "read_classes",
    "read_labelled",
    "read_pairs",
    "report_page",
    "text_to_image",
]
