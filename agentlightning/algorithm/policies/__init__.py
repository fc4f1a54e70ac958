"""What algorithms that train a policy have in common: its server, and what its calls leave in the store."""
