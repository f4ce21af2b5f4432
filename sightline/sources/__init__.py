"""Data in: captioned pictures from a folder, WebDataset tars, ``captions.jsonl``, CSV or Parquet, as one stream.

Nothing is unpacked, unpickled or executed: archives are read as streams, only regular members count, names are never
used as paths, ``pipe:`` addresses are refused. Whatever cannot become a record becomes a ``Rejected`` with a reason
code, so that counts add up. Order is stable: the same source gives the same stream, and any part of it by position.
Memory is bounded, whatever a source holds.
"""

from sightline.sources.archives import Archives
from sightline.sources.captions_file import CAPTIONS_NAME, CaptionsFile
from sightline.sources.folder import Folder
from sightline.sources.lists import MAX_LINE_BYTES
from sightline.sources.opening import open_source
from sightline.sources.record import IMAGE_SUFFIXES, MAX_MEMBER_BYTES, Record, Rejected, Source
from sightline.sources.tables import Tables

__all__ = [
    "CAPTIONS_NAME",
    "IMAGE_SUFFIXES",
    "MAX_LINE_BYTES",
    "MAX_MEMBER_BYTES",
    "Archives",
    "CaptionsFile",
    "Folder",
    "Record",
    "Rejected",
    "Source",
    "Tables",
    "open_source",
]
