"""``python -m benchmarks.search``: recall against latency of our plans, beside plain FAISS in the same run."""
