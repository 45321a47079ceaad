"""Training: from a request and a recipe to a job; its steps, the trainer that yields what happens, and the monitor."""
