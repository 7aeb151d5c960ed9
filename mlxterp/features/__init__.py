"""Where model, SAE and texts meet: the pass over a corpus, and what is asked of it."""
