"""Running: Luigi's worker with the state of one run beside it. No task and no target knows of it."""
