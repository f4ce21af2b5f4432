"""Load on a running service: generators, ceilings, a peer beside us, and the bars that are met or missed."""
