"""The steps of a release, one module each: ``STEP`` says when it is done and how it is run."""
