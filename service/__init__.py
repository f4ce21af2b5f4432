"""The FastAPI app: REST in, dynamic batches through the encoder, exact search, answers and a web page out."""
