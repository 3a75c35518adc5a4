"""Few states instead of many modes: metastable sets, Markov models between them, the test of Markovianity."""
