"""The routes, one file for each group. Each builds its router around the engine it is given."""
