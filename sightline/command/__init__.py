"""The ``sightline`` command: its root, what all commands share, and the commands that need the library alone.

The other packages add theirs through the entry point group ``sightline.commands``; an installation without one of
them simply lacks its commands. Nothing in the library imports this package.
"""
