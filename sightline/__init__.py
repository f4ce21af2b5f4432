"""Sightline's library: what must be identical offline and online.

Four nouns, two formats and two runtimes. ``bundle`` (an encoder on disk) and ``collection`` (a searchable set on disk)
are formats and need no heavy library; ``encoder`` (pixels and texts to unit vectors) and ``index`` (vectors to scores
and rows) are the runtimes that load them. ``images``, ``texts`` and ``sources`` turn bytes into what the runtimes take.
Nothing here speaks HTTP, parses a command line (``sightline.command`` apart) or reads the environment.
"""

__version__ = "0.1.0"
