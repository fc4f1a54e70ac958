"""verl's command on a store server; the algorithm for trainers is `agentlightning.VERL`."""
