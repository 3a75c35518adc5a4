"""Neural low-rank singular value decomposition of a given matrix, real or complex."""
