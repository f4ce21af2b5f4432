"""The encoder runtime: pixels and texts to unit vectors, from a bundle or from any open_clip checkpoint."""

from sightline.encoder.export import write_bundle
from sightline.encoder.load import load_encoder
from sightline.encoder.runtime import Encoder, EncoderIdentity

__all__ = ["Encoder", "EncoderIdentity", "load_encoder", "write_bundle"]
