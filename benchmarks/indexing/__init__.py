"""Building a collection: images a second beside a peer and beside what the machine can do at best, and memory."""
