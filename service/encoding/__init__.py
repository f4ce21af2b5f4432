"""From texts and encoded pictures to vectors: decoding, queues, batches."""
