"""Which weights may be used for what.

open_clip serves weights of many origins and says nothing of their licences. The rules below come from the
publishers' own licence files and model cards; a tag that no rule names is reported as ``unknown``. Weights whose
licence forbids ordinary (commercial) use are refused unless the operator accepts the licence explicitly; a fine-tune
inherits the licence of its base, and the bundle carries it.
"""

from __future__ import annotations

import fnmatch

from sightline.errors import LicenceRefused

NON_COMMERCIAL = frozenset({"apple-amlr", "cc-by-nc-4.0"})

# (model pattern, tag pattern, licence); the first match counts.
_RULES = (
    ("*", "random", "none (untrained weights)"),
    ("MobileCLIP*", "*", "apple-amlr"),
    ("*", "dfn*", "apple-amlr"),
    ("*worldwide*", "*", "cc-by-nc-4.0"),
    ("*", "metaclip*", "cc-by-nc-4.0"),
    ("nllb-clip*", "*", "cc-by-nc-4.0"),
    ("PE-*", "*", "apache-2.0"),
    ("ViTamin*", "*", "unknown"),
    ("*SigLIP*", "webli", "apache-2.0"),
    ("ViT-*-CLIPA*", "*", "apache-2.0"),
    ("EVA0*", "*", "mit"),
    ("*", "openai", "mit"),
    ("*", "laion*", "mit"),
    ("*", "datacomp*", "mit"),
    ("*", "commonpool*", "mit"),
)


def licence_of(model: str, tag: str) -> str:
    """The licence (lower-case SPDX where one exists) of ``MODEL:TAG``, or ``unknown``."""
    normalised = tag.lower().replace("-", "_")
    for model_pattern, tag_pattern, licence in _RULES:
        if fnmatch.fnmatchcase(model, model_pattern) and fnmatch.fnmatchcase(normalised, tag_pattern):
            return licence
    return "unknown"


def require_acceptable(name: str, licence: str, *, accepted: str | None) -> None:
    """Raise LicenceRefused for non-commercial weights unless ``accepted`` names exactly their licence."""
    if licence in NON_COMMERCIAL and accepted != licence:
        raise LicenceRefused(
            f"{name} is under {licence}, which forbids commercial use; "
            f"pass --accept-licence {licence} if your use is allowed, or choose other weights.",
            licence=licence,
        )
