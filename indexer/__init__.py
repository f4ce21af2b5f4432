"""The batch job: a collection of pictures in, a verified collection generation out."""
