"""Small helpers that know nothing of rollouts."""
