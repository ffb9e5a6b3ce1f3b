"""`make mutants N=200`: a random sample of one-token bugs, each against the fast tests that execute its line."""
