"""``python -m sightline`` is the ``sightline`` command."""

from sightline.command.root import main

main()
