from __future__ import annotations

import open_clip
import pytest

from sightline.errors import LicenceRefused
from sightline.licences import licence_of, require_acceptable


@pytest.mark.parametrize(
    ("model", "tag", "licence"),
    [
        ("ViT-B-32-SigLIP2-256", "webli", "apache-2.0"),
        ("ViT-B-32", "laion2b_s34b_b79k", "mit"),
        ("PE-Core-L-14-336", "meta", "apache-2.0"),
        ("ViT-B-16", "dfn2b", "apple-amlr"),
        ("MobileCLIP2-S0", "dfndr2b", "apple-amlr"),
        ("ViT-H-14-quickgelu", "metaclip_fullcc", "cc-by-nc-4.0"),
        ("nllb-clip-base-siglip", "v1", "cc-by-nc-4.0"),
        ("ViT-B-32", "somebody-elses", "unknown"),
    ],
)
def test_known_licences(model: str, tag: str, licence: str) -> None:
    assert licence_of(model, tag) == licence


def test_no_research_only_family_of_open_clip_slips_through() -> None:
    for model, tag in open_clip.list_pretrained():
        if any(word in f"{model}:{tag}".lower() for word in ("mobileclip", "dfn", "metaclip", "nllb", "worldwide")):
            with pytest.raises(LicenceRefused, match="--accept-licence"):
                require_acceptable(f"{model}:{tag}", licence_of(model, tag), accepted=None)


def test_acceptance_must_name_the_licence() -> None:
    with pytest.raises(LicenceRefused):
        require_acceptable("x", "apple-amlr", accepted="cc-by-nc-4.0")
    require_acceptable("x", "apple-amlr", accepted="apple-amlr")
    require_acceptable("x", "mit", accepted=None)
