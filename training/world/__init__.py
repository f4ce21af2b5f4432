"""A small drawn world: scenes of coloured shapes with captions, so that every claim has an exact answer.

``scene`` says what a scene is, ``compose`` makes one from a number, ``grammar`` puts it into words,
``paint`` draws it, and ``shards`` writes scenes as WebDataset tars.
"""
