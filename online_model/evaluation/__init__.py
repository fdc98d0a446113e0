"""Test-then-learn (prequential) evaluation: each step of a stream is first predicted, then learned."""
