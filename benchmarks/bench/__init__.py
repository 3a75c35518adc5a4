"""`make bench`: this package beside its peers, see benchmarks/README.md."""
