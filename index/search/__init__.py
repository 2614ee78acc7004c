"""Search: requests, candidates, reranking, pages and cursors."""
